"""Encrypted attachments of relay sessions: opaque bytes of at most 10 MiB, without a look at their type (contract relay, section 16).

The relay owns their URLs and says whose session it is; it gets these calls from the wiring.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from hapta.blobs.blobs import Opened
from hapta.db.database import WriteTx
from hapta.files import records, store
from hapta.files.errors import FileNotFound, InvalidUpload, SizeExceeded
from hapta.files.models import Attachment
from hapta.files.service import new_id
from hapta.files.ways import Way

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class Attachments(Way):
    """Attachments of all accounts."""

    async def put(
        self, user_id: str, session_id: str, name: str, chunks: AsyncIterator[bytes], size: int | None = None
    ) -> int:
        """Stores an attachment, in place of an earlier one of this name; its size in bytes.

        Args:
            name: letters, digits, `.`, `_`, `-`, at most 128 of them; not beginning with a dot.
            size: as announced, if it was.

        Raises:
            InvalidUpload: the name has another form.
            SizeExceeded, QuotaExceeded, TooManyFiles, TooManyUploads: nothing was stored.
        """
        if not _NAME.fullmatch(name):
            raise InvalidUpload("The name of the attachment is not valid")
        if (size or 0) > self._settings.max_attachment_bytes:
            raise SizeExceeded(self._settings.max_attachment_bytes)
        key = f"attachments/{user_id}/{new_id(self._ids)}"
        async with self._holds.slot(user_id):
            announced = size or 0
            async with self._holds.held(user_id, key, lambda tx: self._intake.require_room(tx, user_id, announced)):
                stored = await self._blobs.put(key, self._bounded(chunks))
                await self._commit(Attachment(user_id, session_id, name, key, stored, self._clock.now_ms()))
        self._counts.uploaded("attachment", "stored", stored)
        self._removals_wait()
        return stored

    async def open(self, user_id: str, session_id: str, name: str) -> Opened:
        """The bytes of an attachment.

        Raises:
            FileNotFound: the session has none of that name.
            BlobMissing: the row is there, and the bytes are not.
        """
        found = await self._db.read(lambda tx: records.find_attachment(tx, user_id, session_id, name), snapshot=False)
        if found is None:
            raise FileNotFound
        self._counts.sent_bytes += found.size
        return await self._blobs.get(found.blob_key)

    async def purge_session(self, tx: WriteTx, user_id: str, session_id: str) -> None:
        """Removes the attachments of a session, in the transaction that deletes it; the sweeper removes the bytes."""
        await store.lock_account(tx, user_id)
        gone = await records.delete_session(tx, user_id, session_id)
        now = self._clock.now_ms()
        for attachment in gone:
            await store.remove_later(tx, user_id, attachment.blob_key, now)
        if gone:
            await store.add_usage(tx, user_id, -sum(attachment.size for attachment in gone), -len(gone))

    async def _commit(self, attachment: Attachment) -> None:
        user_id = attachment.user_id

        async def body(tx: WriteTx) -> None:
            usage = await store.lock_account(tx, user_id)
            before = await records.delete_attachment(tx, user_id, attachment.session_id, attachment.name)
            if before is not None:
                await store.remove_later(tx, user_id, before.blob_key, attachment.created_at)
                await store.add_usage(tx, user_id, -before.size, -1)
                usage = usage._replace(bytes=usage.bytes - before.size, files=usage.files - 1)
            await self._intake.require_room(tx, user_id, attachment.size, usage=usage)
            await self._intake.require_hold(tx, user_id, attachment.blob_key)
            await records.insert_attachment(tx, attachment)
            await store.add_usage(tx, user_id, attachment.size, 1)

        await self._db.write(body)

    async def _bounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        total = 0
        async for chunk in chunks:
            total += len(chunk)
            if total > self._settings.max_attachment_bytes:
                raise SizeExceeded(self._settings.max_attachment_bytes)
            yield chunk
