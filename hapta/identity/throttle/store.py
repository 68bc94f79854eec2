"""The SQL of the throttle. Rows are locked in the order of their keys, so that two attempts never wait for each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from hapta.db.database import Param, WriteTx


class Counter(NamedTuple):
    """What was counted under one key. Instants are Unix milliseconds."""

    key: bytes
    failures: int
    consecutive: int
    window_at: int
    blocked_until: int


_FIELDS = ("key", "failures", "consecutive", "window_at", "blocked_until", "expires_at")
_FIND = """
    SELECT key, failures, consecutive, window_at, blocked_until FROM auth_throttle WHERE key = any(:keys::bytea[])"""
_UPSERT = """
    INSERT INTO auth_throttle (key, failures, consecutive, window_at, blocked_until, expires_at)
    VALUES {rows} ON CONFLICT (key) DO UPDATE SET {changes}"""
_BEGIN = "(:key_{at}, 0, 0, :now, 0, :expires)"
_LOCK_CHANGES = """expires_at = excluded.expires_at
    RETURNING key, failures, consecutive, window_at, blocked_until"""
_PUT_CHANGES = ", ".join(f"{field} = excluded.{field}" for field in _FIELDS[1:])
_TAKE_BACK = """
    UPDATE auth_throttle SET failures = greatest(failures - 1, 0), consecutive = greatest(consecutive - 1, 0),
        blocked_until = least(blocked_until, :now) WHERE key = :key"""
# Locked in the order of their keys before they go, like everywhere else.
_FORGET = """
    DELETE FROM auth_throttle WHERE key IN
        (SELECT key FROM auth_throttle WHERE key = any(:keys::bytea[]) ORDER BY key FOR UPDATE)"""
_SWEEP = """
    DELETE FROM auth_throttle WHERE key IN
        (SELECT key FROM auth_throttle WHERE expires_at < :now ORDER BY expires_at LIMIT :batch)"""


async def lock(tx: WriteTx, keys: Sequence[bytes], now: int, expires: int) -> dict[bytes, Counter]:
    """The counters under these keys, and nobody else's until the transaction ends; what is missing there begins at nothing."""
    if tx.engine == "sqlite":  # a writer is alone there, so that no row need stand for the lock
        rows = await tx.fetch_all(_FIND, keys=list(keys))
        found = {bytes(row[0]): Counter(bytes(row[0]), *row[1:]) for row in rows}
        return {key: found.get(key) or Counter(key, 0, 0, now, 0) for key in keys}
    params: dict[str, Param] = {f"key_{at}": key for at, key in enumerate(sorted(keys))}
    rows = await tx.fetch_all(_lock_statement(len(keys)), **params, now=now, expires=expires)
    return {bytes(row[0]): Counter(bytes(row[0]), *row[1:]) for row in rows}


async def put(tx: WriteTx, counters: Sequence[tuple[Counter, int]]) -> None:
    """Writes counters that are locked, each with the end of its row."""
    params: dict[str, Param] = {}
    for at, (counter, expires) in enumerate(counters):
        values = zip(_FIELDS, (*counter, expires), strict=True)
        params.update({f"{field}_{at}": value for field, value in values})
    await tx.execute(_put_statement(len(counters)), **params)


async def take_back(tx: WriteTx, keys: Sequence[bytes], now: int) -> None:
    """Undoes one count under each key, with the delay that it caused."""
    for key in sorted(keys):
        await tx.execute(_TAKE_BACK, key=key, now=now)


async def forget(tx: WriteTx, keys: Sequence[bytes]) -> None:
    """Starts anew under these keys."""
    await tx.execute(_FORGET, keys=keys)


async def sweep(tx: WriteTx, now: int, batch: int) -> int:
    """Removes counters that mean nothing any more; how many."""
    return await tx.execute(_SWEEP, now=now, batch=batch)


@cache
def _lock_statement(keys: int) -> str:
    return _UPSERT.format(rows=", ".join(_BEGIN.format(at=at) for at in range(keys)), changes=_LOCK_CHANGES)


@cache
def _put_statement(keys: int) -> str:
    rows = ", ".join("(" + ", ".join(f":{field}_{at}" for field in _FIELDS) + ")" for at in range(keys))
    return _UPSERT.format(rows=rows, changes=_PUT_CHANGES)
