"""What an account may keep and what it keeps, for every feature that counts against the same quota."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hapta.db.database import ReadTx
from hapta.sync import store
from hapta.sync.models import Stream

UsedElsewhere = Callable[[ReadTx, str], Awaitable[int]]
"""`(tx, user_id)`: bytes that other features keep for an account."""


async def quota_of(tx: ReadTx, user_id: str, default_bytes: int) -> int:
    """The bytes that an account may keep; 0 for no limit.

    Args:
        default_bytes: of accounts without a quota of their own.
    """
    return maximum_of(await store.find_stream(tx, user_id), default_bytes)


async def used_by(tx: ReadTx, user_id: str) -> int:
    """The bytes that sync keeps for an account: logs, snapshots and blobs of its live vaults."""
    stream = await store.find_stream(tx, user_id)
    return 0 if stream is None else stream.bytes


def maximum_of(stream: Stream | None, default_bytes: int) -> int:
    """The quota that a head row says, or the server's own."""
    return default_bytes if stream is None or stream.quota_bytes is None else stream.quota_bytes


async def nothing_elsewhere(tx: ReadTx, user_id: str) -> int:
    """What other features keep where there are none."""
    return 0
