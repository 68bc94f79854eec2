"""Attachments of sessions: who may put and read them, and under which names. Bytes go straight through to where files are kept."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from hapta.blobs.blobs import Opened
from hapta.db.database import Database, WriteTx
from hapta.kit.errors import NotFound, TooMany
from hapta.kit.ids import Ids
from hapta.kit.ratelimit import Decision, Limiter, Rate
from hapta.relay.attachments.errors import AttachmentNotFound, AttachmentTooLarge, InvalidName, InvalidReference
from hapta.relay.attachments.ports import Keeping, Owned
from hapta.relay.errors import SessionNotFound

RATE = Rate(60, 60, 60)
"""Uploads that an account may ask for."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class AttachmentService:
    """The rules of attachments.

    Args:
        limiter: None: nothing is limited.
    """

    def __init__(self, db: Database, ids: Ids, owns_session: Owned, keeping: Keeping, limiter: Limiter | None) -> None:
        self._db = db
        self._ids = ids
        self._owns_session = owns_session
        self._files = keeping.files
        self._max_bytes = keeping.max_bytes
        self._limiter = limiter

    async def new_name(self, account_id: str, session_id: str, size: int) -> str:
        """A name under which an attachment may be put.

        Args:
            size: as the client announces it, in bytes.

        Raises:
            SessionNotFound, AttachmentTooLarge
            TooMany: 60 a minute.
        """
        await self._check(account_id, session_id)
        if size > self._max_bytes:
            raise AttachmentTooLarge(self._max_bytes)
        if self._limiter is not None:
            drawn = self._limiter.hit(f"relay-attachment:{account_id}", RATE)
            decision = drawn if isinstance(drawn, Decision) else await drawn
            if not decision.allowed:
                raise TooMany(retry_after_seconds=decision.retry_after_seconds)
        return f"{self._ids.uuid()}.enc"

    async def put(
        self, account_id: str, session_id: str, name: str, chunks: AsyncIterator[bytes], size: int | None
    ) -> None:
        """Stores the bytes of an attachment.

        Raises:
            SessionNotFound, InvalidName, AttachmentTooLarge
            HaptaError: what files say of a quota, or of too many uploads.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidName
        if (size or 0) > self._max_bytes:
            raise AttachmentTooLarge(self._max_bytes)
        await self._check(account_id, session_id)
        await self._files.put(account_id, session_id, name, chunks, size)
        if not await self._owned(account_id, session_id):  # it was deleted while the bytes came
            await self._db.write(lambda tx: self._files.purge_session(tx, account_id, session_id))
            raise SessionNotFound

    async def named(self, account_id: str, session_id: str, ref: str) -> str:
        """The name that a reference means.

        Raises:
            SessionNotFound, AttachmentNotFound
            InvalidReference: it is of another session, or none.
        """
        await self._check(account_id, session_id)
        prefix = prefix_of(session_id)
        name = ref.removeprefix(prefix)
        if name == ref or _NAME.fullmatch(name) is None:
            raise InvalidReference
        opened = await self._opened(account_id, session_id, name)
        await opened.chunks.aclose()
        return name

    async def open(self, account_id: str, session_id: str, name: str) -> Opened:
        """The bytes of an attachment; whoever stops reading early closes them.

        Raises:
            SessionNotFound, AttachmentNotFound
        """
        await self._check(account_id, session_id)
        return await self._opened(account_id, session_id, name)

    async def forget(self, tx: WriteTx, account_id: str, session_id: str) -> None:
        """Removes the attachments of a session that is being deleted."""
        await self._files.purge_session(tx, account_id, session_id)

    async def _opened(self, account_id: str, session_id: str, name: str) -> Opened:
        try:
            return await self._files.open(account_id, session_id, name)
        except NotFound:
            raise AttachmentNotFound from None

    async def _check(self, account_id: str, session_id: str) -> None:
        if not await self._owned(account_id, session_id):
            raise SessionNotFound

    async def _owned(self, account_id: str, session_id: str) -> bool:
        return await self._db.read(lambda tx: self._owns_session(tx, account_id, session_id), snapshot=False)


def prefix_of(session_id: str) -> str:
    """What all references of a session begin with."""
    return f"sessions/{session_id}/attachments/"
