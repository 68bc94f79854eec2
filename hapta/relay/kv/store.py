"""All SQL of the key-value store, and nothing but SQL."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Param, ReadTx, WriteTx
from hapta.relay.kv.models import Entry

_SOME = """
    SELECT key, value, version FROM res_relay_kv WHERE account_id = :account_id AND key = any(:keys::text[])"""
_RANGE = """
    SELECT key, CASE WHEN size <= :max_bytes THEN value END, version, size FROM (
        SELECT key, value, version, sum(length(value)) OVER (ORDER BY key ROWS UNBOUNDED PRECEDING) AS size FROM (
            SELECT key, value, version FROM res_relay_kv
            WHERE account_id = :account_id AND key >= :first AND (:bounded::bigint = 0 OR key < :end) AND value IS NOT NULL
            ORDER BY key LIMIT :limit
        ) AS first
    ) AS measured
    ORDER BY key"""
_SET = """
    INSERT INTO res_relay_kv (account_id, key, value, version, created_at, updated_at)
    VALUES (:account_id, :key, :value, :version, :now, :now)
    ON CONFLICT (account_id, key) DO UPDATE SET
        value = excluded.value, version = excluded.version, updated_at = excluded.updated_at"""


async def some(tx: ReadTx, account_id: str, keys: Sequence[str]) -> dict[str, Entry]:
    """The entries of these keys that have a row, deleted ones too."""
    rows = await tx.fetch_all(_SOME, account_id=account_id, keys=keys)
    return {row[0]: Entry(*row) for row in rows}


async def between(
    tx: ReadTx, account_id: str, first: str, end: str | None, limit: int, max_bytes: int
) -> list[Entry] | None:
    """Entries that are there, from `first` up to `end`, by key; None when their values together are past `max_bytes`."""
    params: dict[str, Param] = {
        "first": first, "bounded": int(end is not None), "end": end or "", "limit": limit, "max_bytes": max_bytes,
    }  # fmt: skip
    rows = await tx.fetch_all(_RANGE, account_id=account_id, **params)
    return None if rows and rows[-1][3] > max_bytes else [Entry(*row[:3]) for row in rows]


async def count(tx: ReadTx, account_id: str) -> int:
    """Rows of the account, deleted ones too."""
    return await tx.fetch_value(
        "SELECT count(*) FROM res_relay_kv WHERE account_id = :account_id", account_id=account_id
    )


async def put(tx: WriteTx, account_id: str, entries: Sequence[Entry], now: int) -> None:
    """Writes entries whose versions follow on those that stand there."""
    await tx.execute_many(_SET, [{"account_id": account_id, **entry._asdict(), "now": now} for entry in entries])


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_kv WHERE account_id = :account_id", account_id=account_id)
