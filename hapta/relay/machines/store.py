"""All SQL of machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.machines.models import Machine

Part = Literal["metadata", "daemon_state"]

# S608: only names of columns are put into statements, from constants.
_SEEN: Final = ", ".join(Machine._fields)
_ONE = f"SELECT {_SEEN} FROM res_relay_machines WHERE account_id = :account_id AND id = :machine_id"  # noqa: S608
_SIZE: Final = "/*postgres: octet_*/length(metadata) + coalesce(/*postgres: octet_*/length(daemon_state), 0)"
_LATEST = f"""
    SELECT {_SEEN} FROM (
        SELECT {_SEEN}, sum({_SIZE}) OVER (ORDER BY last_active_at DESC, id ROWS UNBOUNDED PRECEDING) - ({_SIZE}) AS before
        FROM res_relay_machines WHERE account_id = :account_id AND active >= :least) AS sized
    WHERE before < :max_bytes ORDER BY last_active_at DESC, id LIMIT :limit"""  # noqa: S608
_CHANGED = f"""
    SELECT {_SEEN} FROM res_relay_machines WHERE account_id = :account_id AND changed_seq > :seq
    ORDER BY changed_seq LIMIT :limit"""  # noqa: S608
_INSERT = f"""
    INSERT INTO res_relay_machines ({_SEEN}) VALUES ({", ".join(f":{name}" for name in Machine._fields)})"""  # noqa: S608
_SET: dict[Part, str] = {
    "metadata": f"""
        UPDATE res_relay_machines
        SET metadata = :value, metadata_version = metadata_version + 1, changed_seq = :seq,
            updated_at = :now_ms
        WHERE account_id = :account_id AND id = :machine_id AND metadata_version = :expected
        RETURNING {_SEEN}""",  # noqa: S608
    "daemon_state": f"""
        UPDATE res_relay_machines
        SET daemon_state = :value, daemon_state_version = daemon_state_version + 1, changed_seq = :seq, active = 1,
            last_active_at = greatest(last_active_at, :now_ms::bigint), updated_at = :now_ms
        WHERE account_id = :account_id AND id = :machine_id AND daemon_state_version = :expected
        RETURNING {_SEEN}""",  # noqa: S608
}
_OVERWRITE = f"""
    UPDATE res_relay_machines
    SET active = coalesce(:active::bigint, active),
        metadata = coalesce(:metadata::text, metadata),
        metadata_version = metadata_version + :metadata_step::bigint,
        daemon_state = coalesce(:daemon_state::text, daemon_state),
        daemon_state_version = daemon_state_version + :daemon_state_step::bigint,
        last_active_at = :now_ms, changed_seq = :seq, updated_at = :now_ms
    WHERE account_id = :account_id AND id = :machine_id
    RETURNING {_SEEN}"""  # noqa: S608


async def find(tx: ReadTx, account_id: str, machine_id: str) -> Machine | None:
    row = await tx.fetch_one(_ONE, account_id=account_id, machine_id=machine_id)
    return None if row is None else Machine(*row)


async def owned(tx: ReadTx, account_id: str, machine_id: str) -> bool:
    found = await tx.fetch_value(
        "SELECT 1 FROM res_relay_machines WHERE account_id = :account_id AND id = :machine_id",
        account_id=account_id,
        machine_id=machine_id,
    )
    return found is not None


async def list_latest(tx: ReadTx, account_id: str, limit: int, max_bytes: int, *, active_only: bool) -> list[Machine]:
    """As many as the limits hold, at least one.

    Args:
        max_bytes: of metadata and states together.
    """
    rows = await tx.fetch_all(_LATEST, account_id=account_id, least=int(active_only), limit=limit, max_bytes=max_bytes)
    return [Machine(*row) for row in rows]


async def changed_since(tx: ReadTx, account_id: str, seq: int, limit: int) -> list[Machine]:
    """By the number of their last change, from the lowest."""
    rows = await tx.fetch_all(_CHANGED, account_id=account_id, seq=seq, limit=limit)
    return [Machine(*row) for row in rows]


async def count(tx: ReadTx, account_id: str) -> int:
    return await tx.fetch_value(
        "SELECT count(*) FROM res_relay_machines WHERE account_id = :account_id", account_id=account_id
    )


async def insert(tx: WriteTx, machine: Machine) -> None:
    await tx.execute(_INSERT, **machine._asdict())


async def compare_and_set(
    tx: WriteTx, account_id: str, machine_id: str, part: Part, value: str, expected: int, seq: int, now_ms: int
) -> Machine | None:
    """The machine as it is now; None when the part has another version, or when there is no such machine."""
    row = await tx.fetch_one(
        _SET[part],
        value=value,
        seq=seq,
        now_ms=now_ms,
        account_id=account_id,
        machine_id=machine_id,
        expected=expected,
    )
    return None if row is None else Machine(*row)


async def overwrite(
    tx: WriteTx,
    account_id: str,
    machine_id: str,
    *,
    active: bool | None,
    metadata: str | None,
    daemon_state: str | None,
    seq: int,
    now_ms: int,
) -> Machine | None:
    """Sets what is given, whatever its version; None: there is no such machine."""
    row = await tx.fetch_one(
        _OVERWRITE,
        active=None if active is None else int(active),
        metadata=metadata,
        metadata_step=int(metadata is not None),
        daemon_state=daemon_state,
        daemon_state_step=int(daemon_state is not None),
        seq=seq,
        now_ms=now_ms,
        account_id=account_id,
        machine_id=machine_id,
    )
    return None if row is None else Machine(*row)


async def delete(tx: WriteTx, account_id: str, machine_id: str) -> bool:
    """Whether it was there."""
    return bool(
        await tx.execute(
            "DELETE FROM res_relay_machines WHERE account_id = :account_id AND id = :machine_id",
            account_id=account_id,
            machine_id=machine_id,
        )
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_machines WHERE account_id = :account_id", account_id=account_id)


# -- for presence ------------------------------------------------------------------------------------------------------


async def mark_alive(tx: WriteTx, beats: Sequence[tuple[str, str, int]]) -> None:
    await tx.execute_many(
        # A heartbeat that was on its way when the machine's socket closed is older than the close.
        "UPDATE res_relay_machines SET active = 1, last_active_at = :at"
        " WHERE account_id = :account_id AND id = :machine_id AND last_active_at < :at",
        [{"account_id": account_id, "machine_id": machine_id, "at": at} for account_id, machine_id, at in beats],
    )


async def set_active(tx: WriteTx, machines: Sequence[tuple[str, str]], at_ms: int, *, active: bool) -> None:
    await tx.execute_many(
        "UPDATE res_relay_machines SET active = :active, last_active_at = greatest(last_active_at, :at::bigint)"
        " WHERE account_id = :account_id AND id = :machine_id",
        [
            {"account_id": account_id, "machine_id": machine_id, "at": at_ms, "active": int(active)}
            for account_id, machine_id in machines
        ],
    )


async def silent(tx: WriteTx, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
    """Active ones that were not heard of since: account, id, and when they last were."""
    rows = await tx.fetch_all(
        "SELECT account_id, id, last_active_at FROM res_relay_machines WHERE active = 1 AND last_active_at < :before_ms"
        " ORDER BY last_active_at LIMIT :limit FOR UPDATE SKIP LOCKED",
        before_ms=before_ms,
        limit=limit,
    )
    return [(account_id, machine_id, at) for account_id, machine_id, at in rows]
