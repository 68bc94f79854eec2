"""SQL of usage reports and of the limits that vendors told."""

from __future__ import annotations

from hapta.db.database import ReadTx, Row, WriteTx
from hapta.relay.usage.models import Report


async def upsert(
    tx: WriteTx, account_id: str, session_id: str, key: str, report_id: str, data: str, now_ms: int
) -> Report:
    """Stores a report; one of the same session and key is replaced and keeps its id."""
    sql = """
        INSERT INTO res_relay_usage (account_id, session_id, key, id, data, created_at, updated_at)
        VALUES (:account, :session, :key, :id, :data, :now, :now)
        ON CONFLICT (account_id, session_id, key) DO UPDATE SET data = excluded.data, updated_at = excluded.updated_at
        RETURNING id, created_at, updated_at"""
    row = await tx.fetch_one(sql, account=account_id, session=session_id, key=key, id=report_id, data=data, now=now_ms)
    if row is None:
        raise RuntimeError("an upsert always has a row")
    return Report(*row)


async def page(
    tx: ReadTx,
    account_id: str,
    session_id: str | None,
    from_ms: int,
    to_ms: int,
    before: tuple[int, str, str],
    limit: int,
) -> list[Row]:
    """(created_at, session, key, data) of reports, the newest first, below the `before` of the same order.

    Args:
        session_id: only of this session; None: of all, and of none.
    """
    of_session = "" if session_id is None else " AND session_id = :session"
    sql = f"""
        SELECT created_at, session_id, key, data FROM res_relay_usage
        WHERE account_id = :account AND created_at >= :from_ms AND created_at <= :to_ms
            AND (created_at, session_id, key) < (:at, :of, :key){of_session}
        ORDER BY created_at DESC, session_id DESC, key DESC LIMIT :limit"""  # noqa: S608 - a constant
    at, of, key = before
    params: dict[str, str | int] = {
        "account": account_id, "from_ms": from_ms, "to_ms": to_ms, "at": at, "of": of, "key": key, "limit": limit,
    }  # fmt: skip
    if session_id is not None:
        params["session"] = session_id
    return await tx.fetch_all(sql, **params)


async def save_limits(tx: WriteTx, account_id: str, data: str, now_ms: int) -> None:
    sql = """
        INSERT INTO res_relay_usage_limits (account_id, data, updated_at) VALUES (:account, :data, :now)
        ON CONFLICT (account_id) DO UPDATE SET data = excluded.data, updated_at = excluded.updated_at"""
    await tx.execute(sql, account=account_id, data=data, now=now_ms)


async def limits(tx: ReadTx, account_id: str) -> tuple[str, int] | None:
    """The limits as JSON, and when they were told."""
    sql = "SELECT data, updated_at FROM res_relay_usage_limits WHERE account_id = :account"
    row = await tx.fetch_one(sql, account=account_id)
    return None if row is None else (row[0], row[1])


async def delete_of_session(tx: WriteTx, account_id: str, session_id: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_usage WHERE account_id = :account AND session_id = :session",
        account=account_id,
        session=session_id,
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_usage WHERE account_id = :account", account=account_id)
    await tx.execute("DELETE FROM res_relay_usage_limits WHERE account_id = :account", account=account_id)
