"""Direct uploads: the client sends its bytes straight to an S3 store, and asks afterwards for a file to be made of them.

The address that it gets leads to a place of its own. From there the bytes are copied while they are judged, so that what was judged is
what is kept, whatever the client sends to its address later.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import NamedTuple

from hapta.blobs.blobs import BlobMissing, Signed
from hapta.db.database import WriteTx
from hapta.files import records, store
from hapta.files.errors import (
    InvalidCategory,
    InvalidUpload,
    MissingFile,
    NoDirectAccess,
    SizeExceeded,
    UploadRefused,
)
from hapta.files.examination import max_bytes
from hapta.files.models import Description, File, Upload, category_of
from hapta.files.service import blob_key, new_id
from hapta.files.ways import Means, WayInSteps

LATE_MS = 60_000
"""An upload may be completed for so long after its address has ended: the bytes may have been on their way."""


class Begun(NamedTuple):
    """A direct upload, and where its bytes go."""

    upload: Upload
    signed: Signed


class DirectUploads(WayInSteps):
    """Direct uploads of all accounts."""

    def __init__(self, means: Means) -> None:
        super().__init__(means, "direct")

    async def begin(self, user_id: str, described: Description, size: int) -> Begun:
        """Gives out an address for so many bytes.

        Raises:
            NoDirectAccess: the store is a folder.
            InvalidCategory, SizeExceeded, QuotaExceeded, TooManyFiles, TooManyUploads: it would come to nothing.
        """
        category = category_of(described.category)
        if category is None:
            raise InvalidCategory
        if size > (limit := max_bytes(self._settings, category)):
            raise SizeExceeded(limit)
        upload_id = new_id(self._ids)
        key = f"incoming/{user_id}/{upload_id}"
        signed = await self._blobs.signed(
            "PUT", key, self._settings.direct_seconds, size=size, media_type=described.media_type
        )
        if signed is None:
            raise NoDirectAccess
        now = self._clock.now_ms()
        upload = Upload(
            user_id=user_id,
            id=upload_id,
            kind=self._kind,
            blob_key=key,
            length=size,
            metadata="",
            name=described.name,
            media_type=described.media_type,
            category=category,
            reuse_key=described.reuse_key,
            file_id=None,
            created_at=now,
            expires_at=signed.expires_at + LATE_MS,
        )
        await self._begin(upload)
        return Begun(upload, signed)

    async def complete(self, user_id: str, upload_id: str) -> File:
        """Makes a file of what was sent; asked again, it gives the same file.

        Raises:
            UploadNotFound: the account has no such upload, or it is over.
            MissingFile: nothing has arrived yet.
            InvalidUpload: what arrived has another size than was announced.
            UploadRefused, QuotaExceeded, TooManyFiles: it is not stored; the upload is gone.
        """
        upload = await self._find(user_id, upload_id)
        if upload.file_id is not None:
            return await self._find_file(user_id, upload.file_id)
        stat = await self._blobs.stat(upload.blob_key)
        if stat is None:
            raise MissingFile("Nothing has been uploaded yet")
        if stat.size != upload.length:
            raise InvalidUpload("The size is not the one that was announced")
        async with self._holds.slot(user_id):
            return await self._admitted(upload)

    async def _admitted(self, upload: Upload) -> File:
        described = Description(upload.name, upload.media_type, upload.category, upload.reuse_key)
        examination = self._intake.examination(described)
        # An id of its own for each attempt: two that run at once do not write over each other.
        file_id = new_id(self._ids)
        key = blob_key(upload.user_id, file_id)

        async def settle(tx: WriteTx, made: str) -> bool:
            if not made:
                await self._forget(tx, upload)
            elif await records.finish_upload(tx, upload.user_id, upload.id, made):
                await self._leave(tx, upload)
            else:
                return False
            return await store.release(tx, upload.user_id, key)

        try:
            async with self._holds.held(
                upload.user_id, key, lambda tx: self._intake.require_room(tx, upload.user_id, 0)
            ):
                opened = await self._blobs.get(upload.blob_key)
                async with aclosing(opened.chunks), aclosing(examination.passed(opened.chunks)) as passed:
                    await self._blobs.put(key, passed)
                file = await self._intake.admit(
                    upload.user_id, file_id, key, described, examination.result(), settle, "direct"
                )
            self._removals_wait()
            return file
        except BlobMissing:
            raise MissingFile("Nothing has been uploaded yet") from None
        except UploadRefused:
            self._counts.uploaded("direct", "refused")
            await self._dropped(upload)
            raise

    async def _dropped(self, upload: Upload) -> None:
        await self._db.write(lambda tx: self._forget(tx, upload))
        self._removals_wait()

    async def _forget(self, tx: WriteTx, upload: Upload) -> None:
        gone = await records.delete_upload(tx, upload.user_id, upload.id)
        if gone is not None and gone.file_id is None:
            await self._leave(tx, upload)

    async def _leave(self, tx: WriteTx, upload: Upload) -> None:
        """Lets the bytes go now, and once more when nobody can send any to the address again: no quota counts those."""
        now = self._clock.now_ms()
        await store.remove_later(tx, upload.user_id, upload.blob_key, now)
        await store.hold(tx, upload.user_id, upload.blob_key, max(now, upload.expires_at))
