"""All SQL of tombstones: what was deleted, under the number of the update that told it, so that clients which were away hear of it.

Of those that are removed for their age one row stays, the horizon: up to its number nobody can tell any more what was deleted.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from hapta.db.database import ReadTx, WriteTx

Kind = Literal["session", "machine", "artifact"]

HORIZON: Final = ""
"""Id in the one row of an account and kind that stands for all tombstones which are gone: its `seq` is that of the last of them."""
_FOREVER_MS = 2**62


async def bury(tx: WriteTx, account_id: str, seq: int, kind: Kind, thing_id: str, now_ms: int) -> None:
    """Remembers a deletion; called in the transaction that deletes.

    Args:
        seq: number of the update that tells it.
    """
    await tx.execute(
        "INSERT INTO res_relay_tombstones (account_id, seq, kind, id, created_at)"
        " VALUES (:account_id, :seq, :kind, :id, :now_ms)",
        account_id=account_id,
        seq=seq,
        kind=kind,
        id=thing_id,
        now_ms=now_ms,
    )


async def horizons(tx: ReadTx, account_id: str) -> dict[str, int]:
    """By kind, the number up to which tombstones are gone; a kind that has lost none is left out."""
    return dict(
        await tx.fetch_all(
            "SELECT kind, max(seq) FROM res_relay_tombstones WHERE account_id = :account_id AND id = :horizon GROUP BY kind",
            account_id=account_id,
            horizon=HORIZON,
        )
    )


async def after(tx: ReadTx, account_id: str, kind: Kind, seq: int, limit: int) -> list[tuple[int, str, int]]:
    """Number, id and instant of deletions after an update, by their number."""
    rows = await tx.fetch_all(
        "SELECT seq, id, created_at FROM res_relay_tombstones"
        " WHERE account_id = :account_id AND kind = :kind AND seq > :seq AND id <> :horizon ORDER BY seq LIMIT :limit",
        account_id=account_id,
        kind=kind,
        seq=seq,
        horizon=HORIZON,
        limit=limit,
    )
    return [(number, thing_id, at_ms) for number, thing_id, at_ms in rows]


async def forget_before(tx: WriteTx, cutoff_ms: int, limit: int) -> int:
    """Removes tombstones that are older, some at a time; of how many kinds of how many accounts, added up."""
    rows = await tx.fetch_all(
        "SELECT account_id, kind, max(seq) FROM (SELECT account_id, kind, seq FROM res_relay_tombstones"
        " WHERE created_at < :cutoff_ms ORDER BY created_at LIMIT :limit) AS old"
        " GROUP BY account_id, kind ORDER BY account_id, kind",
        cutoff_ms=cutoff_ms,
        limit=limit,
    )
    each: list[dict[str, Any]] = [
        {"account_id": account_id, "kind": kind, "seq": seq} for account_id, kind, seq in rows
    ]
    if each:
        # Should the clock have gone back meanwhile, younger ones go with them: the horizon speaks for those as well.
        await tx.execute_many(
            "DELETE FROM res_relay_tombstones WHERE account_id = :account_id AND kind = :kind AND seq <= :seq", each
        )
        await tx.execute_many(
            "INSERT INTO res_relay_tombstones (account_id, seq, kind, id, created_at)"
            " VALUES (:account_id, :seq, :kind, :horizon, :forever_ms) ON CONFLICT DO NOTHING",
            [{**one, "horizon": HORIZON, "forever_ms": _FOREVER_MS} for one in each],
        )
    return len(each)


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_tombstones WHERE account_id = :account_id", account_id=account_id)
