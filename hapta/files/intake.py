"""How bytes that lie in the store become a file: looked at, counted against the quota, and given their row in one transaction.

All ways in meet here - a form, tus, direct upload, avatars - so that none of them has rules of its own. Before the row there is no
file, and nothing was promised; after it the bytes are there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing

import structlog

from hapta.blobs.blobs import Blobs
from hapta.blobs.names import sanitised
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.files import records, store
from hapta.files.counts import Counts, How
from hapta.files.errors import (
    FileInfected,
    InvalidCategory,
    InvalidType,
    InvalidUpload,
    QuotaExceeded,
    TooManyFiles,
    UploadLost,
)
from hapta.files.examination import Examination
from hapta.files.images import RASTER, Images
from hapta.files.models import (
    PROFILE_AVATAR,
    Description,
    Examined,
    File,
    Picture,
    Quarantined,
    Usage,
    category_of,
)
from hapta.files.scanner import Scanner
from hapta.kit.clock import Clock
from hapta.settings import FilesSettings

UsedElsewhere = Callable[[ReadTx, str], Awaitable[int]]
"""What an account keeps in other parts of the server, in bytes."""
QuotaOf = Callable[[ReadTx, str], Awaitable[int]]
"""What an account may keep in all of them together, in bytes; 0 = no limit."""
Settle = Callable[[WriteTx, str], Awaitable[bool]]
"""Ends what the upload was until now, in favour of the file of that id; False: it was ended by somebody else."""

MAX_QUARANTINED_BYTES = 512 * 1024 * 1024
"""Of an account. What is found beyond is not kept: no quota counts it, and who sends more of it does so on purpose."""

_log = structlog.stdlib.get_logger("hapta.files")


class Intake:
    """Makes files of what was uploaded.

    Args:
        removals_wait: called when there are bytes to remove.
    """

    def __init__(
        self,
        db: Database,
        blobs: Blobs,
        clock: Clock,
        settings: FilesSettings,
        images: Images,
        scanner: Scanner | None,
        counts: Counts,
        used_elsewhere: UsedElsewhere,
        quota_of: QuotaOf,
        removals_wait: Callable[[], None],
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._settings = settings
        self._images = images
        self._scanner = scanner
        self._counts = counts
        self._used_elsewhere = used_elsewhere
        self._quota_of = quota_of
        self._removals_wait = removals_wait

    def examination(self, described: Description, types: Collection[str] | None = None) -> Examination:
        """Begins to look at a file.

        Args:
            types: that it may have; None: those of the settings.
        """
        return Examination(self._settings, described, self._scanner, self._settings.types if types is None else types)

    async def require_room(self, tx: ReadTx, user_id: str, size: int, *, usage: Usage | None = None) -> None:
        """Lets one more file of so many bytes pass.

        Args:
            usage: of the account, where its row is locked.

        Raises:
            QuotaExceeded, TooManyFiles: it does not fit.
        """
        usage = usage or await store.used(tx, user_id)
        if usage.files >= self._settings.max_files:
            raise TooManyFiles
        quota = await self._quota_of(tx, user_id)
        if quota <= 0:
            return
        used = usage.bytes + await self._used_elsewhere(tx, user_id)
        if used + size > quota:
            raise QuotaExceeded(quota={"maxBytes": quota, "usedBytes": used, "neededBytes": size})

    async def require_hold(self, tx: WriteTx, user_id: str, blob_key: str) -> None:
        """Ends the hold on a key, whose bytes get a row of their own in this transaction.

        Raises:
            UploadLost: it is over, or the account is gone.
        """
        if not await store.release(tx, user_id, blob_key):
            raise UploadLost

    async def admit(
        self,
        user_id: str,
        file_id: str,
        blob_key: str,
        described: Description,
        examined: Examined,
        settle: Settle,
        how: How,
        *,
        picture: Picture | None = None,
        replace: bool = False,
    ) -> File:
        """The file that comes of bytes in the store: a new one, or the one that has this reuse key already.

        Args:
            picture: where it is known; else raster images are looked at.
            replace: whether the one of that reuse key goes.

        Raises:
            FileInfected, InvalidType, InvalidCategory, QuotaExceeded, TooManyFiles: the bytes belong to nobody.
            InvalidUpload: it has the reuse key of avatars, which anybody may see, and is none that was made here.
            UploadLost: the upload was ended by somebody else.
        """
        category = category_of(described.category)
        if category is None:
            raise InvalidCategory
        if examined.finding is not None:
            await self._apart(user_id, file_id, blob_key, described, examined, settle)
            self._counts.uploaded(how, "quarantined", examined.size)
            raise FileInfected
        if category == "avatars" and examined.media_type not in RASTER:
            raise InvalidType("An avatar is a JPEG, PNG, GIF or WebP image")
        if picture is None:
            picture = await self._picture(blob_key, examined)
        now = self._clock.now_ms()
        file = File(
            user_id=user_id,
            id=file_id,
            blob_key=blob_key,
            category=category,
            name=sanitised(described.name),
            media_type=examined.media_type,
            size=examined.size,
            sha256=examined.sha256,
            width=None if picture is None else picture.width,
            height=None if picture is None else picture.height,
            thumbhash=None if picture is None else picture.thumbhash,
            reuse_key=described.reuse_key,
            created_at=now,
            updated_at=now,
        )
        stored = await self._db.write(lambda tx: self._insert(tx, file, settle, replace=replace))
        self._counts.uploaded(how, "stored" if stored.id == file_id else "reused", examined.size)
        if replace or stored.id != file_id:
            self._removals_wait()
        return stored

    async def read_all(self, blob_key: str) -> bytes:
        """The bytes of an object that is known to be small."""
        opened = await self._blobs.get(blob_key)
        async with aclosing(opened.chunks):
            return b"".join([chunk async for chunk in opened.chunks])

    async def _insert(self, tx: WriteTx, file: File, settle: Settle, *, replace: bool) -> File:
        usage = await store.lock_account(tx, file.user_id)  # from here on uploads of this account take turns
        existing = None if file.reuse_key is None else await store.find_by_reuse_key(tx, file.user_id, file.reuse_key)
        if existing is not None and not replace:
            if not await settle(tx, existing.id):
                raise UploadLost
            await store.remove_later(tx, file.user_id, file.blob_key, file.created_at)
            return existing
        if file.reuse_key == PROFILE_AVATAR and not replace:
            raise InvalidUpload(f"{PROFILE_AVATAR} is the key of pictures that are sent as avatars")
        if existing is not None:
            await store.delete_file(tx, file.user_id, existing.id)
            await store.remove_later(tx, file.user_id, existing.blob_key, file.created_at)
            await store.add_usage(tx, file.user_id, -existing.size, -1)
            usage = Usage(usage.bytes - existing.size, usage.files - 1)
        await self.require_room(tx, file.user_id, file.size, usage=usage)
        if not await settle(tx, file.id):
            raise UploadLost
        await store.insert_file(tx, file)
        await store.add_usage(tx, file.user_id, file.size, 1)
        return file

    async def _picture(self, blob_key: str, examined: Examined) -> Picture | None:
        if examined.media_type not in RASTER or examined.size > self._settings.max_image_bytes:
            return None
        return await self._images.look_at(examined.media_type, lambda: self.read_all(blob_key))

    async def _apart(
        self, user_id: str, file_id: str, blob_key: str, described: Description, examined: Examined, settle: Settle
    ) -> None:
        """Moves a file to where no route reads, while there is room there for files of the account."""
        apart = f"quarantine/{user_id}/{file_id}"
        kept = await self._db.read(lambda tx: records.quarantined_bytes(tx, user_id), snapshot=False)
        keeps = kept + examined.size <= MAX_QUARANTINED_BYTES
        if keeps:
            opened = await self._blobs.get(blob_key)
            async with aclosing(opened.chunks):
                await self._blobs.put(apart, _passed(opened.chunks))
        now = self._clock.now_ms()
        quarantined = Quarantined(
            user_id=user_id,
            id=file_id,
            blob_key=apart,
            name=sanitised(described.name),
            media_type=examined.media_type,
            size=examined.size,
            sha256=examined.sha256,
            finding=examined.finding or "",
            created_at=now,
            expires_at=now + self._settings.quarantine_seconds * 1000,
        )

        async def body(tx: WriteTx) -> None:
            if not await settle(tx, ""):
                raise UploadLost
            await store.remove_later(tx, user_id, blob_key, now)
            if keeps:
                await records.insert_quarantined(tx, quarantined)

        await self._db.write(body)
        self._removals_wait()
        _log.warning("the scanner found something", account=user_id, file=file_id, finding=examined.finding)


async def _passed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
