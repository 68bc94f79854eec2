"""The rules of stored files: upload, avatar, list, read, link, delete. Knows no HTTP; opens the one transaction of each use case.

Everything is asked for by account and id together, so that nobody ever learns of another account's files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from hashlib import sha256

from hapta.blobs.blobs import BlobMissing, Opened, Signed
from hapta.db.database import ReadTx, WriteTx
from hapta.files import store
from hapta.files.errors import FileInfected, FileNotFound, InvalidCategory, UploadRefused
from hapta.files.images import RASTER, Images
from hapta.files.models import (
    PROFILE_AVATAR,
    Description,
    Examined,
    File,
    Incoming,
    Usage,
    category_of,
)
from hapta.files.recent import RecentFiles
from hapta.files.signed import Links
from hapta.files.types import is_passive
from hapta.files.ways import Means, Way
from hapta.kit.background import attempted
from hapta.kit.ids import Ids
from hapta.settings import FilesSettings

OnAvatar = Callable[[str, File | None], Awaitable[None]]
"""`(user_id, file)`: the account has another avatar since a moment ago, or none any more."""
NEWEST = "~"
"""Greater than every id: a list that begins here begins with the newest file."""


class FileService(Way):
    """Stored files of all accounts."""

    def __init__(self, means: Means, images: Images, links: Links) -> None:
        super().__init__(means)
        self._images = images
        self._links = links
        self._recent = RecentFiles(self._db, self._clock)
        self._on_avatar: OnAvatar | None = None

    @property
    def settings(self) -> FilesSettings:
        return self._settings

    # -- in ------------------------------------------------------------------------------------------------------------

    async def upload(self, user_id: str, incoming: Incoming) -> File:
        """Stores a file, or finds the one that has its reuse key already; returns after the commit.

        Raises:
            UploadRefused, QuotaExceeded, TooManyFiles: nothing was stored.
            TooManyUploads: the account sends too many at a time.
            Unavailable: nothing was stored, or (a lost connection at the commit) the list will show it.
        """
        described = incoming.described
        if category_of(described.category) is None:
            raise InvalidCategory
        async with self._holds.slot(user_id):
            existing = await self._known(user_id, described.reuse_key)
            if existing is not None:
                self._counts.uploaded("multipart", "reused")
                return existing
            file_id = new_id(self._ids)
            key = blob_key(user_id, file_id)
            examination = self._intake.examination(described)
            try:
                async with self._holds.held(user_id, key, lambda tx: self._intake.require_room(tx, user_id, 0)):
                    async with aclosing(examination.passed(incoming.chunks())) as chunks:
                        await self._blobs.put(key, chunks)
                    return await self._intake.admit(
                        user_id,
                        file_id,
                        key,
                        described,
                        examination.result(),
                        lambda tx, _: store.release(tx, user_id, key),
                        "multipart",
                    )
            except FileInfected:
                raise
            except UploadRefused:
                self._counts.uploaded("multipart", "refused")
                raise

    async def avatar(self, user_id: str, incoming: Incoming) -> File:
        """Makes a picture the account's avatar, in place of the one before.

        It is cut to a square and encoded anew, upright and without metadata, so that no byte of what was sent is handed out.

        Raises:
            UploadRefused, QuotaExceeded, TooManyUploads, Unavailable: as `upload`; the avatar before stays.
        """
        # Not the description itself: whatever else the form says, this is an avatar.
        said = Description(incoming.described.name, incoming.described.media_type, "avatars")
        async with self._holds.slot(user_id):
            content, examined = await self._whole_picture(said, incoming)
            file_id = new_id(self._ids)
            key = blob_key(user_id, file_id)
            if examined.finding is not None:
                made, picture, described = content, None, said
            else:
                avatar = await self._images.avatar(examined.media_type, content)
                made, picture = avatar.content, avatar.picture
                examined = Examined(avatar.media_type, len(made), sha256(made).digest(), None)
                described = Description(said.name, avatar.media_type, "avatars", PROFILE_AVATAR)
            async with self._holds.held(user_id, key, lambda tx: self._intake.require_room(tx, user_id, 0)):
                await self._blobs.put(key, _one(made))
                try:
                    file = await self._intake.admit(
                        user_id,
                        file_id,
                        key,
                        described,
                        examined,
                        lambda tx, _: store.release(tx, user_id, key),
                        "avatar",
                        picture=picture,
                        replace=True,
                    )
                finally:  # the picture before is gone
                    self._recent.drop(user_id)
        await self._tell_avatar(user_id, file)
        return file

    async def _whole_picture(self, described: Description, incoming: Incoming) -> tuple[bytes, Examined]:
        examination = self._intake.examination(described, types=tuple(RASTER))
        content = bytearray()
        async with aclosing(examination.passed(incoming.chunks())) as chunks:
            async for chunk in chunks:
                content += chunk
        return bytes(content), examination.result()

    async def _known(self, user_id: str, reuse_key: str | None) -> File | None:
        if reuse_key is None:
            return None
        return await self._db.read(lambda tx: store.find_by_reuse_key(tx, user_id, reuse_key), snapshot=False)

    # -- avatars -------------------------------------------------------------------------------------------------------

    def on_avatar(self, listener: OnAvatar) -> None:
        """`listener` is told of each change of an avatar, after its commit. What befalls it changes nothing of the avatar."""
        self._on_avatar = listener

    async def _tell_avatar(self, user_id: str, file: File | None) -> None:
        listener = self._on_avatar
        if listener is not None:
            await attempted("word of an avatar", lambda: listener(user_id, file))

    async def avatars(self, user_ids: Sequence[str]) -> dict[str, File]:
        """The avatars of those accounts that have one."""
        if not user_ids:
            return {}
        found = await self._db.read(
            lambda tx: store.find_all_by_reuse_key(tx, user_ids, PROFILE_AVATAR), snapshot=False
        )
        return {file.user_id: file for file in found if _is_avatar(file)}

    async def public_avatar(self, user_id: str, name: str) -> File:
        """The avatar that lies under a name which profiles tell, for anybody who was told it.

        Raises:
            FileNotFound: this is not (any more) what the account shows of itself.
        """
        file = (await self.avatars([user_id])).get(user_id)
        if file is None or file.path.rpartition("/")[2] != name:
            raise FileNotFound
        return file

    # -- out -----------------------------------------------------------------------------------------------------------

    async def get_file(self, user_id: str, file_id: str) -> File:
        """A file of the account.

        Raises:
            FileNotFound: it has none of that id.
        """
        file = self._recent.get(user_id, file_id)
        if file is None:
            epoch = self._recent.epoch
            file = await self._db.read(lambda tx: store.find_file(tx, user_id, file_id), snapshot=False)
            if file is None:
                raise FileNotFound
            self._recent.put(file, epoch)
        return file

    async def list_files(
        self, user_id: str, category: str | None, cursor: str | None, limit: int
    ) -> tuple[list[File], str | None]:
        """A page of the account's files, the newest first, and the cursor of the next page if there is one.

        Args:
            cursor: id of the last file of the page before; it need not exist any more.

        Raises:
            InvalidCategory: there is no such category.
        """
        if category is not None and category_of(category) is None:
            raise InvalidCategory
        before = cursor or NEWEST
        found = await self._db.read(
            lambda tx: store.list_files(tx, user_id, category or None, before, limit + 1), snapshot=False
        )
        page = found[:limit]
        return page, page[-1].id if len(found) > limit else None

    async def read(self, file: File, start: int = 0, end: int | None = None) -> Opened:
        """Bytes of a file; whoever stops early closes them.

        Raises:
            BlobMissing: the row is there, and the bytes are not.
        """
        opened = await self._blobs.get(file.blob_key, start, end)
        if opened.size != file.size:
            await opened.chunks.aclose()
            raise BlobMissing
        self._counts.sent_bytes += (file.size if end is None else end) - start
        return opened

    def at_once(self, file: File) -> bytes | None:
        """All bytes of a file, if they can be had without waiting. None says nothing of the file; `read` does."""
        found = self._blobs.at_once(file.blob_key)
        if found is None or found[0] != file.size:
            return None
        self._counts.sent_bytes += file.size
        return found[1]

    async def direct(self, file: File) -> Signed | None:
        """A way to the bytes past this server; None where the settings or the store have none, or where only we say how a browser
        must treat them."""
        if not self._settings.download_redirect or not is_passive(file.media_type):
            return None
        return await self._blobs.signed("GET", file.blob_key, self._settings.direct_seconds, media_type=file.media_type)

    async def link(self, user_id: str, file_id: str, seconds: int | None) -> tuple[File, str, int]:
        """A file, the token of a link to it, and when that ends (Unix ms).

        Raises:
            FileNotFound: the account has none of that id.
        """
        file = await self.get_file(user_id, file_id)
        life = min(seconds or self._settings.link_seconds, self._settings.max_link_seconds)
        return file, *self._links.make(user_id, file_id, life)

    async def linked(self, file_id: str, token: str) -> File:
        """The file that a link opens.

        Raises:
            LinkRefused: the token does not count, or is that of another file.
            FileNotFound: it was deleted.
        """
        return await self.get_file(*self._links.read(token, file_id))

    # -- away ----------------------------------------------------------------------------------------------------------

    async def delete_file(self, user_id: str, file_id: str) -> None:
        """Removes a file: gone at once for everybody, its bytes a moment later.

        Raises:
            FileNotFound: the account has none of that id.
        """
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> File | None:
            await store.lock_account(tx, user_id)
            file = await store.delete_file(tx, user_id, file_id)
            if file is not None:
                await store.add_usage(tx, user_id, -file.size, -1)
                await store.remove_later(tx, user_id, file.blob_key, now)
            return file

        try:
            deleted = await self._db.write(body)
        finally:  # also when nobody knows what became of it
            self._recent.drop(user_id)
        if deleted is None:
            raise FileNotFound
        self._removals_wait()
        if _is_avatar(deleted):
            await self._tell_avatar(user_id, None)

    async def purge(self, tx: WriteTx, user_id: str) -> None:
        """Removes all that an account has, in the transaction that deletes the account; the sweeper removes the bytes."""
        self._recent.shut(user_id)
        await store.purge(tx, user_id, self._clock.now_ms())

    # -- numbers -------------------------------------------------------------------------------------------------------

    async def used_by(self, tx: ReadTx, user_ids: Sequence[str]) -> Mapping[str, int]:
        """What accounts keep here, in bytes, for a quota that is shared with others."""
        return await store.used_by(tx, user_ids)

    async def usage(self, user_id: str) -> Usage:
        """What the account keeps here."""
        return await self._db.read(lambda tx: store.used(tx, user_id), snapshot=False)


def _is_avatar(file: File) -> bool:
    return file.reuse_key == PROFILE_AVATAR and file.category == "avatars" and is_passive(file.media_type)


def new_id(ids: Ids) -> str:
    """An id of 32 hex digits that grows with time (contract relay, section 1.3)."""
    return ids.uuid().replace("-", "")


def blob_key(user_id: str, file_id: str) -> str:
    """Where the bytes of a file lie: of ids alone, nothing of it is a client's word."""
    return f"files/{user_id}/{file_id}"


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content
