"""SQL of the heads and of what is written under their numbers. The log as it is read is `log.py`."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, Row, WriteTx

_LOG = [
    ("account_id", "text"),
    ("seq", "bigint"),
    ("id", "text"),
    ("audience", "text"),
    ("audience_id", "text"),
    ("body", "bytea"),
    ("ref", "text"),
    ("sender", "text"),
    ("created_at", "bigint"),
]


async def lock_heads(tx: WriteTx, account_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Locks heads in the order of their ids: (number of the last update, of the last item of the feed) by account; one that has
    no row yet is left out."""
    rows = await tx.fetch_all(
        "SELECT account_id, seq, feed_seq FROM res_relay_heads WHERE account_id = any(:ids::text[])"
        " ORDER BY account_id FOR UPDATE",
        ids=sorted(set(account_ids)),
    )
    return {account_id: (seq, feed_seq) for account_id, seq, feed_seq in rows}


async def insert_heads(tx: WriteTx, account_ids: Sequence[str]) -> None:
    """Makes heads, as far as others have not made them meanwhile."""
    await tx.execute(
        "INSERT INTO res_relay_heads (account_id, seq, feed_seq)"
        " SELECT missing.value, 0, 0 FROM unnest(:ids::text[]) AS missing(value) WHERE true ON CONFLICT DO NOTHING",
        ids=sorted(set(account_ids)),
    )


async def save_heads(tx: WriteTx, heads: Sequence[tuple[str, int, int]], log: Sequence[Row]) -> None:
    """Writes heads as (account id, number of the last update, of the feed's last item), and new rows of the log.

    Args:
        log: rows of (account id, seq, id, audience, its id, body or None, ref, sender, created at in Unix ms).
    """
    await tx.execute_many(
        "UPDATE res_relay_heads SET seq = :seq, feed_seq = :feed_seq WHERE account_id = :account_id",
        [{"seq": seq, "feed_seq": feed_seq, "account_id": account_id} for account_id, seq, feed_seq in heads],
    )
    if log:
        await tx.insert_rows("res_relay_updates", _LOG, log)


async def head_seqs(tx: ReadTx, account_ids: Sequence[str]) -> dict[str, int]:
    """The number of the last update of each account that has a head."""
    rows = await tx.fetch_all(
        "SELECT account_id, seq FROM res_relay_heads WHERE account_id = any(:ids::text[])", ids=list(account_ids)
    )
    return dict(rows)
