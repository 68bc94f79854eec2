"""Resumable uploads (tus 1.0: core, creation, checksum, termination, expiration). Knows no HTTP.

How far an upload has come, the store alone says (`Blobs.appended`), so that no crash and no other worker can make row and bytes
disagree. When its last byte is there, it is judged like any other upload and becomes a file; whoever asks for an upload that was
cut off just before that finishes it first.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import IO, NamedTuple

from hapta.blobs.blobs import BlobMissing, Chunks, UploadBusy, WrongOffset
from hapta.db.database import WriteTx
from hapta.files import records, store
from hapta.files.errors import (
    ChecksumMismatch,
    InvalidCategory,
    InvalidUpload,
    OffsetConflict,
    QuotaExceeded,
    SizeExceeded,
    TooManyFiles,
    UploadLocked,
    UploadLost,
    UploadNotFound,
    UploadRefused,
)
from hapta.files.examination import max_bytes
from hapta.files.models import Category, Description, File, Upload, category_of
from hapta.files.service import blob_key, new_id
from hapta.files.tus.metadata import Checksum
from hapta.files.ways import Means, WayInSteps

STALLED_SECONDS = 2.0
"""A piece of which nothing came for so long gives way to the next request: its client has most likely gone, and come back."""
_SPOOLED_BYTES = 1024 * 1024


class State(NamedTuple):
    """An upload, how many of its bytes are durable, and the id of the file that came of it (None: not complete)."""

    upload: Upload
    offset: int
    file_id: str | None


class TusService(WayInSteps):
    """Resumable uploads of all accounts."""

    def __init__(self, means: Means) -> None:
        super().__init__(means, "tus")
        self._pieces = _Pieces()

    async def create(self, user_id: str, length: int | None, metadata: str, described: Description) -> Upload:
        """Begins an upload.

        Args:
            length: in bytes; None: it will be told later.
            metadata: as it came, to be given back.

        Raises:
            InvalidCategory, SizeExceeded, QuotaExceeded, TooManyFiles, TooManyUploads: it would come to nothing.
        """
        category = category_of(described.category)
        if category is None:
            raise InvalidCategory
        self._require_length(length, category)
        upload_id = new_id(self._ids)
        now = self._clock.now_ms()
        upload = Upload(
            user_id=user_id,
            id=upload_id,
            kind=self._kind,
            blob_key=blob_key(user_id, upload_id),
            length=length,
            metadata=metadata,
            name=described.name,
            media_type=described.media_type,
            category=category,
            reuse_key=described.reuse_key,
            file_id=None,
            created_at=now,
            expires_at=self._expiry(now),
        )
        await self._begin(upload)
        return upload

    async def state(self, user_id: str, upload_id: str) -> State:
        """How far an upload has come.

        Raises:
            UploadNotFound: the account has none of that id, or it is over.
            UploadRefused: it was complete, and is not a file that may be stored.
        """
        upload = await self._find(user_id, upload_id)
        return await self._state_of(upload)

    async def append(
        self,
        user_id: str,
        upload_id: str,
        offset: int,
        chunks: AsyncIterator[bytes],
        *,
        length: int | None = None,
        checksum: Checksum | None = None,
    ) -> State:
        """Adds a piece. What came of it before an error is kept, unless it was to be checked as a whole.

        Args:
            length: of the whole upload, where it was not told before.

        Raises:
            UploadNotFound: as `state`.
            OffsetConflict: the upload ends elsewhere.
            UploadLocked: another piece is arriving.
            ChecksumMismatch: nothing of the piece was kept.
            UploadRefused, QuotaExceeded, TooManyFiles: the upload is complete and will never be a file; it is gone.
        """
        upload = await self._find(user_id, upload_id)
        state = await self._state_of(upload)
        if state.offset != offset:
            raise OffsetConflict(state.offset)
        upload = await self._told(upload, length, offset)
        if state.file_id is not None:
            return state
        async with self._holds.slot(user_id):
            if checksum is None:
                reached = await self._written(upload, offset, chunks)
            else:
                async with _checked(chunks, checksum, self._room(upload, offset)) as checked:
                    reached = await self._written(upload, offset, checked)
            if reached == upload.length:
                return State(upload, reached, (await self._finished(upload)).id)
        now = self._clock.now_ms()
        upload = upload._replace(expires_at=self._expiry(now))
        await self._db.write(lambda tx: records.extend_upload(tx, user_id, upload_id, upload.expires_at))
        return State(upload, reached, None)

    async def terminate(self, user_id: str, upload_id: str) -> None:
        """Ends an upload and forgets its bytes; a file that came of it stays.

        Raises:
            UploadNotFound: as `state`.
        """
        upload = await self._find(user_id, upload_id)
        self._pieces.interrupt(upload.blob_key, stalled_seconds=0)
        await self._dropped(upload)

    async def _state_of(self, upload: Upload) -> State:
        if upload.file_id is not None:
            return State(upload, upload.length or 0, upload.file_id)
        offset = await self._blobs.appended(upload.blob_key)
        if offset == 0 and upload.length:  # perhaps a server died between the last byte and the row of the file
            stat = await self._blobs.stat(upload.blob_key)
            offset = 0 if stat is None else stat.size
        if offset != upload.length:
            return State(upload, offset, None)
        return State(upload, offset, (await self._finished(upload)).id)

    async def _told(self, upload: Upload, length: int | None, offset: int) -> Upload:
        if length is None or upload.length == length:
            return upload
        if upload.length is not None:
            raise OffsetConflict(upload.length)
        if length < offset:
            raise InvalidUpload("The upload is longer than that already")
        self._require_length(length, upload.category)

        async def body(tx: WriteTx) -> bool:
            await self._intake.require_room(tx, upload.user_id, length)
            return await records.tell_length(tx, upload.user_id, upload.id, length)

        if not await self._db.write(body):
            raise UploadLocked
        return upload._replace(length=length)

    def _require_length(self, length: int | None, category: Category) -> None:
        limit = max_bytes(self._settings, category)
        if length is not None and length > limit:
            raise SizeExceeded(limit)

    def _room(self, upload: Upload, offset: int) -> int:
        whole = max_bytes(self._settings, upload.category) if upload.length is None else upload.length
        return whole - offset

    def _expiry(self, now: int) -> int:
        return now + self._settings.upload_keep_seconds * 1000

    async def _written(self, upload: Upload, offset: int, chunks: AsyncIterator[bytes]) -> int:
        key = upload.blob_key
        if self._pieces.interrupt(key, stalled_seconds=STALLED_SECONDS):
            await self._pieces.ended(key)
        broken = _Broken()
        try:
            async with self._pieces.taking(key, _within(chunks, self._room(upload, offset))) as bounded:
                reached = await self._blobs.append(key, offset, broken.before(bounded))
        except WrongOffset as error:
            raise OffsetConflict(error.size) from None
        except UploadBusy:
            raise UploadLocked from None
        if broken.error is not None:
            raise broken.error
        return reached

    async def _finished(self, upload: Upload) -> File:
        """Makes a file of an upload whose bytes are all there."""
        described = Description(upload.name, upload.media_type, upload.category, upload.reuse_key)
        examination = self._intake.examination(described)

        async def settle(tx: WriteTx, file_id: str) -> bool:
            if not file_id:
                return await records.delete_upload(tx, upload.user_id, upload.id) is not None
            return await records.finish_upload(tx, upload.user_id, upload.id, file_id)

        try:
            source = await self._bytes_of(upload)
            async with aclosing(source), aclosing(examination.passed(source)) as passed:
                async for _ in passed:
                    pass
            await self._blobs.complete(upload.blob_key)
            return await self._intake.admit(
                upload.user_id, upload.id, upload.blob_key, described, examination.result(), settle, "tus"
            )
        except UploadLost:
            return await self._by_somebody_else(upload)
        except (UploadRefused, QuotaExceeded, TooManyFiles):
            self._counts.uploaded("tus", "refused")
            await self._dropped(upload)
            raise

    async def _bytes_of(self, upload: Upload) -> Chunks:
        if not upload.length:
            # Nothing was ever appended, and yet the file is to be there.
            if await self._blobs.stat(upload.blob_key) is None:
                await self._blobs.put(upload.blob_key, _nothing())
            return (await self._blobs.get(upload.blob_key)).chunks
        try:
            return (await self._blobs.read_appended(upload.blob_key)).chunks
        except BlobMissing:
            return (await self._blobs.get(upload.blob_key)).chunks

    async def _by_somebody_else(self, upload: Upload) -> File:
        """The file that another request made of the upload at the same time."""
        current = await self._find(upload.user_id, upload.id)
        if current.file_id is None:
            raise UploadNotFound
        return await self._find_file(upload.user_id, current.file_id)

    async def _dropped(self, upload: Upload) -> None:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            gone = await records.delete_upload(tx, upload.user_id, upload.id)
            if gone is not None and gone.file_id is None:
                await store.remove_later(tx, upload.user_id, upload.blob_key, now, unfinished=True)

        await self._db.write(body)
        self._removals_wait()


class _Broken:
    """Lets a piece that breaks off end early in place of failing, so that the store keeps all of it that has come: over a bad line
    there would be no progress otherwise."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def before(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:  # whatever the sender's side throws; it is raised again when the bytes are safe
            self.error = error


class _Piece:
    """A piece that is arriving at this worker."""

    def __init__(self, scope: asyncio.Timeout) -> None:
        self.scope = scope
        self.heard_at = asyncio.get_running_loop().time()
        self.over = asyncio.Event()


class _Pieces:
    """The pieces that arrive at this worker, so that one whose client has gone can give way."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Piece] = {}

    @asynccontextmanager
    async def taking(self, key: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
        if key in self._by_key:
            raise UploadLocked
        try:
            async with asyncio.timeout(None) as scope:
                piece = self._by_key[key] = _Piece(scope)
                try:
                    yield _heard(chunks, piece)
                finally:
                    del self._by_key[key]
                    piece.over.set()
        except TimeoutError:
            raise UploadLocked from None

    def interrupt(self, key: str, *, stalled_seconds: float) -> bool:
        """Stops the piece of this key if nothing came of it for so long."""
        piece = self._by_key.get(key)
        loop = asyncio.get_running_loop()
        if piece is None or loop.time() - piece.heard_at < stalled_seconds:
            return False
        piece.scope.reschedule(loop.time())
        return True

    async def ended(self, key: str) -> None:
        """Comes back when no piece of this key arrives any more."""
        piece = self._by_key.get(key)
        if piece is not None:
            await piece.over.wait()


async def _heard(chunks: AsyncIterator[bytes], piece: _Piece) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        piece.heard_at = asyncio.get_running_loop().time()
        yield chunk


async def _within(chunks: AsyncIterator[bytes], room: int) -> AsyncIterator[bytes]:
    """The chunks, as long as there is room for them."""
    left = room
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise SizeExceeded(room)
        yield chunk


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in ():
        yield chunk


@asynccontextmanager
async def _checked(chunks: AsyncIterator[bytes], checksum: Checksum, room: int) -> AsyncGenerator[AsyncIterator[bytes]]:
    """The piece, kept aside until all of it is there and hashes to what it should: a wrong one must leave no trace (tus 1.0)."""
    digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as file:
        async for chunk in _within(chunks, room):
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
        if digest.digest() != checksum.digest:
            raise ChecksumMismatch
        file.seek(0)
        yield _read(file)


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, 256 * 1024):
        yield chunk
