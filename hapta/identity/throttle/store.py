"""The SQL of the throttle. Rows are locked in the order of their keys, so that two attempts never wait for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hapta.db.database import WriteTx


class Counter(NamedTuple):
    """What was counted under one key. Instants are Unix milliseconds."""

    key: bytes
    failures: int
    consecutive: int
    window_at: int
    blocked_until: int


_BEGIN = """
    INSERT INTO auth_throttle (key, failures, consecutive, window_at, blocked_until, expires_at)
    VALUES (:key, 0, 0, :now, 0, :expires) ON CONFLICT (key) DO NOTHING"""
_LOCK = """
    SELECT key, failures, consecutive, window_at, blocked_until FROM auth_throttle
    WHERE key = any(:keys::bytea[]) ORDER BY key FOR UPDATE"""
_PUT = """
    UPDATE auth_throttle SET failures = :failures, consecutive = :consecutive, window_at = :window_at,
        blocked_until = :blocked_until, expires_at = :expires WHERE key = :key"""
_TAKE_BACK = """
    UPDATE auth_throttle SET failures = greatest(failures - 1, 0), consecutive = greatest(consecutive - 1, 0),
        blocked_until = least(blocked_until, :now) WHERE key = :key"""
_SWEEP = """
    DELETE FROM auth_throttle WHERE key IN
        (SELECT key FROM auth_throttle WHERE expires_at < :now ORDER BY expires_at LIMIT :batch)"""


async def lock(tx: WriteTx, keys: Sequence[bytes], now: int, expires: int) -> dict[bytes, Counter]:
    """The counters under these keys, made where they are missing, and nobody else's until the transaction ends."""
    for key in sorted(keys):
        await tx.execute(_BEGIN, key=key, now=now, expires=expires)
    rows = await tx.fetch_all(_LOCK, keys=list(keys))
    return {bytes(row[0]): Counter(*row) for row in rows}


async def put(tx: WriteTx, counter: Counter, expires: int) -> None:
    """Writes a counter that is locked."""
    await tx.execute(_PUT, **counter._asdict(), expires=expires)


async def take_back(tx: WriteTx, keys: Sequence[bytes], now: int) -> None:
    """Undoes one count under each key, with the delay that it caused."""
    for key in sorted(keys):
        await tx.execute(_TAKE_BACK, key=key, now=now)


async def forget(tx: WriteTx, keys: Sequence[bytes]) -> None:
    """Starts anew under these keys."""
    for key in sorted(keys):
        await tx.execute("DELETE FROM auth_throttle WHERE key = :key", key=key)


async def sweep(tx: WriteTx, now: int, batch: int) -> int:
    """Removes counters that mean nothing any more; how many."""
    return await tx.execute(_SWEEP, now=now, batch=batch)
