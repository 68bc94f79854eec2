"""SQL of access keys."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.access_keys.models import AccessKey


async def find(tx: ReadTx, account_id: str, session_id: str, machine_id: str) -> AccessKey | None:
    row = await tx.fetch_one(
        "SELECT data, data_version, created_at, updated_at FROM res_relay_access_keys"
        " WHERE account_id = :account AND session_id = :session AND machine_id = :machine",
        account=account_id,
        session=session_id,
        machine=machine_id,
    )
    return None if row is None else AccessKey(*row)


async def insert(tx: WriteTx, account_id: str, session_id: str, machine_id: str, data: str, now_ms: int) -> bool:
    """Whether it is new: there may be one already, which stays as it is."""
    sql = """
        INSERT INTO res_relay_access_keys (account_id, session_id, machine_id, data, data_version, created_at, updated_at)
        VALUES (:account, :session, :machine, :data, 1, :now, :now) ON CONFLICT DO NOTHING"""
    inserted = await tx.execute(sql, account=account_id, session=session_id, machine=machine_id, data=data, now=now_ms)
    return inserted > 0


async def compare_and_set(
    tx: WriteTx, account_id: str, session_id: str, machine_id: str, data: str, expected: int, now_ms: int
) -> int | None:
    """Writes data if it is at the expected version; its new version, or None with nothing written."""
    sql = """
        UPDATE res_relay_access_keys SET data = :data, data_version = data_version + 1, updated_at = :now
        WHERE account_id = :account AND session_id = :session AND machine_id = :machine AND data_version = :expected
        RETURNING data_version"""
    return await tx.fetch_value(
        sql,
        account=account_id,
        session=session_id,
        machine=machine_id,
        data=data,
        expected=expected,
        now=now_ms,
    )


async def delete_of_session(tx: WriteTx, account_id: str, session_id: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_access_keys WHERE account_id = :account AND session_id = :session",
        account=account_id,
        session=session_id,
    )


async def delete_of_machine(tx: WriteTx, account_id: str, machine_id: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_access_keys WHERE account_id = :account AND machine_id = :machine",
        account=account_id,
        machine=machine_id,
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_access_keys WHERE account_id = :account", account=account_id)
