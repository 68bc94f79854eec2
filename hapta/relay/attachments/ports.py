"""What attachments need of the rest of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from hapta.blobs.blobs import Opened
from hapta.db.database import ReadTx, WriteTx

Owned = Callable[[ReadTx, str, str], Awaitable[bool]]
"""`(tx, account_id, session_id)`: whether the account has this session."""


class AttachmentFiles(Protocol):
    """Who keeps the bytes: `hapta/files/attachments.py`, which also says what its calls raise."""

    async def put(
        self, user_id: str, session_id: str, name: str, chunks: AsyncIterator[bytes], size: int | None = None
    ) -> int: ...

    async def open(self, user_id: str, session_id: str, name: str) -> Opened: ...

    async def purge_session(self, tx: WriteTx, user_id: str, session_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where attachments are kept, and how large one may be in bytes."""

    files: AttachmentFiles
    max_bytes: int
