"""All SQL of presence: which worker holds sockets of which machine, as long as the worker says so again and again."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx

Key = tuple[str, str]
"""Account and machine."""


async def put(tx: WriteTx, worker_id: str, machines: Sequence[Key], now_ms: int) -> None:
    """The worker holds sockets of these machines."""
    await tx.execute_many(
        "INSERT INTO res_relay_presence (account_id, machine_id, worker_id, seen_at)"
        " VALUES (:account_id, :machine_id, :worker_id, :now_ms)"
        " ON CONFLICT (account_id, machine_id, worker_id) DO UPDATE SET seen_at = excluded.seen_at",
        [
            {"account_id": account_id, "machine_id": machine_id, "worker_id": worker_id, "now_ms": now_ms}
            for account_id, machine_id in machines
        ],
    )


async def remove(tx: WriteTx, worker_id: str, machines: Sequence[Key]) -> None:
    """The worker holds none of these machines any more."""
    await tx.execute_many(
        "DELETE FROM res_relay_presence"
        " WHERE account_id = :account_id AND machine_id = :machine_id AND worker_id = :worker_id",
        [
            {"account_id": account_id, "machine_id": machine_id, "worker_id": worker_id}
            for account_id, machine_id in machines
        ],
    )


async def renew(tx: WriteTx, worker_id: str, now_ms: int) -> int:
    """The worker is still there; how many machines it holds by what is written."""
    return await tx.execute(
        "UPDATE res_relay_presence SET seen_at = :now_ms WHERE worker_id = :worker_id",
        worker_id=worker_id,
        now_ms=now_ms,
    )


async def remove_stale(tx: WriteTx, before_ms: int, limit: int) -> set[Key]:
    """Ends what workers held that have not been heard of since; the machines."""
    rows = await tx.fetch_all(
        "DELETE FROM res_relay_presence WHERE seen_at < :before_ms AND (account_id, machine_id, worker_id) IN ("
        " SELECT account_id, machine_id, worker_id FROM res_relay_presence WHERE seen_at < :before_ms"
        " ORDER BY seen_at LIMIT :limit) RETURNING account_id, machine_id",
        before_ms=before_ms,
        limit=limit,
    )
    return {(account_id, machine_id) for account_id, machine_id in rows}


async def connected(tx: ReadTx, machines: Sequence[Key], after_ms: int) -> set[Key]:
    """Which of these machines some worker holds that has been heard of since `after_ms`."""
    if not machines:
        return set()
    rows = await tx.fetch_all(
        "SELECT DISTINCT account_id, machine_id FROM res_relay_presence"
        " WHERE account_id = any(:accounts::text[]) AND machine_id = any(:machines::text[]) AND seen_at >= :after_ms",
        accounts=list({account_id for account_id, _ in machines}),
        machines=list({machine_id for _, machine_id in machines}),
        after_ms=after_ms,
    )
    return {(account_id, machine_id) for account_id, machine_id in rows} & set(machines)


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_presence WHERE account_id = :account_id", account_id=account_id)
