"""All SQL of who is online: which worker holds sockets of which account's apps, as long as the worker says so again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hapta.db.database import ReadTx, WriteTx


class Friendship(NamedTuple):
    """An account and one of its friends.

    Args:
        shows, friend_shows: whether each lets its friends see that it is online.
        friend_online: whether the friend is connected.
    """

    account_id: str
    friend_id: str
    shows: bool
    friend_shows: bool
    friend_online: bool


_FRIENDS = """
    SELECT r.account_id, r.other_id, coalesce(mine.show_online_status, 1), coalesce(theirs.show_online_status, 1),
        EXISTS (SELECT 1 FROM res_relay_online o WHERE o.account_id = r.other_id AND o.seen_at >= :after_ms)
    FROM res_relay_relationships r
    LEFT JOIN res_relay_accounts mine ON mine.account_id = r.account_id
    LEFT JOIN res_relay_accounts theirs ON theirs.account_id = r.other_id
    WHERE r.account_id = any(:accounts::text[]) AND r.status = 'friend'"""


async def with_friends(tx: ReadTx, accounts: Sequence[str]) -> set[str]:
    """Which of these accounts have a friend at all."""
    rows = await tx.fetch_all(
        "SELECT DISTINCT account_id FROM res_relay_relationships"
        " WHERE account_id = any(:accounts::text[]) AND status = 'friend'",
        accounts=accounts,
    )
    return {account_id for (account_id,) in rows}


async def friendships(tx: ReadTx, accounts: Sequence[str], after_ms: int) -> list[Friendship]:
    """The friends of these accounts; one is online whose worker has been heard of since `after_ms`."""
    rows = await tx.fetch_all(_FRIENDS, accounts=accounts, after_ms=after_ms)
    return [Friendship(row[0], row[1], bool(row[2]), bool(row[3]), bool(row[4])) for row in rows]


async def put(tx: WriteTx, worker_id: str, accounts: Sequence[str], now_ms: int) -> None:
    """The worker holds sockets of these accounts."""
    await tx.execute_many(
        "INSERT INTO res_relay_online (account_id, worker_id, seen_at) VALUES (:account_id, :worker_id, :now_ms)"
        " ON CONFLICT (account_id, worker_id) DO UPDATE SET seen_at = excluded.seen_at",
        [{"account_id": account_id, "worker_id": worker_id, "now_ms": now_ms} for account_id in accounts],
    )


async def remove(tx: WriteTx, worker_id: str, accounts: Sequence[str]) -> None:
    """The worker holds no socket of these accounts any more."""
    await tx.execute(
        "DELETE FROM res_relay_online WHERE worker_id = :worker_id AND account_id = any(:accounts::text[])",
        worker_id=worker_id,
        accounts=accounts,
    )


async def renew(tx: WriteTx, worker_id: str, now_ms: int) -> int:
    """The worker is still there; how many accounts it holds by what is written."""
    return await tx.execute(
        "UPDATE res_relay_online SET seen_at = :now_ms WHERE worker_id = :worker_id", worker_id=worker_id, now_ms=now_ms
    )


async def remove_stale(tx: WriteTx, before_ms: int, limit: int) -> dict[str, int]:
    """Ends what workers held that have not been heard of since; the accounts, and when theirs was heard of last."""
    rows = await tx.fetch_all(
        "DELETE FROM res_relay_online WHERE seen_at < :before_ms AND (account_id, worker_id) IN ("
        " SELECT account_id, worker_id FROM res_relay_online WHERE seen_at < :before_ms"
        " ORDER BY seen_at LIMIT :limit) RETURNING account_id, seen_at",
        before_ms=before_ms,
        limit=limit,
    )
    return dict(sorted((account_id, seen_at) for account_id, seen_at in rows))


async def online(tx: ReadTx, accounts: Sequence[str], after_ms: int) -> set[str]:
    """Which of these accounts some worker holds that has been heard of since `after_ms`."""
    if not accounts:
        return set()
    rows = await tx.fetch_all(
        "SELECT DISTINCT account_id FROM res_relay_online"
        " WHERE account_id = any(:accounts::text[]) AND seen_at >= :after_ms",
        accounts=accounts,
        after_ms=after_ms,
    )
    return {account_id for (account_id,) in rows}


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_online WHERE account_id = :account_id", account_id=account_id)
