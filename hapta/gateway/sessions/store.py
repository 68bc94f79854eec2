"""All SQL of the gateway's sessions, and nothing but SQL.

A generation is replaced by one statement that names the generation it replaces: of two calls at a time one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.gateway.sessions.models import SessionInfo, SessionRow

_COLUMNS = ", ".join(SessionRow._fields)
_INSERT = f"""
    INSERT INTO res_gateway_sessions ({_COLUMNS}) VALUES ({", ".join(f":{name}" for name in SessionRow._fields)})"""  # noqa: S608 - names of columns
_OWN = "collection_id = :collection_id AND record_id = :record_id"
_LIVE = "revoked_at IS NULL AND expires_at > :now"
_FIND = f"SELECT {_COLUMNS} FROM res_gateway_sessions WHERE {_OWN} AND id = :id"  # noqa: S608
_LIVE_ROWS = f"SELECT {_COLUMNS} FROM res_gateway_sessions WHERE {_OWN} AND {_LIVE} ORDER BY created_at, id"  # noqa: S608
_INFO = f"SELECT {', '.join(SessionInfo._fields)} FROM res_gateway_sessions"  # noqa: S608
_LIST = f"{_INFO} WHERE {_OWN} AND {_LIVE} ORDER BY last_seen_at DESC, id DESC LIMIT 1000"
_PAGE = f"{_INFO} WHERE {_LIVE} AND id > :after ORDER BY id LIMIT :limit"
_ROLL = f"""
    UPDATE res_gateway_sessions SET user_id = :user_id, generation = :generation, token_id = :token_id, previous_token_id = :previous_token_id,
        issued_at = :issued_at, token_expires_at = :token_expires_at, acknowledged_at = NULL, retired = :retired,
        upstream_token = :upstream_token, upstream_at = :upstream_at, upstream_expires_at = :upstream_expires_at,
        checked_at = greatest(checked_at, :checked_at), last_seen_at = :last_seen_at, expires_at = :expires_at
    WHERE {_OWN} AND id = :id AND generation = :generation - 1 AND revoked_at IS NULL AND expires_at > :now RETURNING id"""  # noqa: S608
_ACKNOWLEDGE = f"""
    UPDATE res_gateway_sessions SET acknowledged_at = :now
    WHERE {_OWN} AND id = :id AND generation = :generation AND acknowledged_at IS NULL"""  # noqa: S608
_RENEW = f"""
    UPDATE res_gateway_sessions SET upstream_token = :upstream_token, upstream_at = :upstream_at,
        upstream_expires_at = :upstream_expires_at, checked_at = greatest(checked_at, :checked_at)
    WHERE {_OWN} AND id = :id AND revoked_at IS NULL"""  # noqa: S608
_DOUBT = f"UPDATE res_gateway_sessions SET checked_at = 0 WHERE {_OWN} AND {_LIVE}"  # noqa: S608
_TOUCH = f"""
    UPDATE res_gateway_sessions SET last_seen_at = :at,
        expires_at = greatest(expires_at, least(absolute_expires_at, token_expires_at, :idle_end))
    WHERE {_OWN} AND id = :id AND {_LIVE} AND last_seen_at < :at"""  # noqa: S608
# Every way to end sessions is this one statement with another choice of rows.
_END = """
    UPDATE res_gateway_sessions SET revoked_at = :now, revoked_reason = :reason
    WHERE revoked_at IS NULL AND {choice} RETURNING id"""
_END_ONE = _END.format(choice="id = :id")
_END_OWN = _END.format(choice=f"{_OWN} AND id = :id")
_END_RECORD = _END.format(choice=_OWN)
_END_THESE = _END.format(choice=f"{_OWN} AND id = any(:ids::text[])")
_END_OVER = _END.format(choice="id = any(:ids::text[]) AND expires_at <= :now")
_OVER = """
    SELECT id FROM res_gateway_sessions WHERE expires_at <= :now AND revoked_at IS NULL ORDER BY expires_at LIMIT :limit"""
_SURPLUS = f"""
    SELECT id FROM res_gateway_sessions WHERE {_OWN} AND {_LIVE}
    ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET :keep"""  # noqa: S608
_ENDED_SINCE = "SELECT id FROM res_gateway_sessions WHERE revoked_at >= :since AND revoked_at IS NOT NULL"
_SWEEP = """
    DELETE FROM res_gateway_sessions WHERE id IN
        (SELECT id FROM res_gateway_sessions WHERE revoked_at < :before AND revoked_at IS NOT NULL LIMIT :limit)"""


async def insert(tx: WriteTx, row: SessionRow) -> None:
    await tx.execute(_INSERT, **row._asdict())


async def find(tx: ReadTx, collection_id: str, record_id: str, session_id: str) -> SessionRow | None:
    row = await tx.fetch_one(_FIND, collection_id=collection_id, record_id=record_id, id=session_id)
    return None if row is None else SessionRow(*row)


async def live_of_record(tx: ReadTx, collection_id: str, record_id: str, now: int) -> list[SessionRow]:
    rows = await tx.fetch_all(_LIVE_ROWS, collection_id=collection_id, record_id=record_id, now=now)
    return [SessionRow(*row) for row in rows]


async def list_of_record(tx: ReadTx, collection_id: str, record_id: str, now: int) -> list[SessionInfo]:
    rows = await tx.fetch_all(_LIST, collection_id=collection_id, record_id=record_id, now=now)
    return [SessionInfo(*row) for row in rows]


async def page(tx: ReadTx, now: int, after: str, limit: int) -> list[SessionInfo]:
    """Live sessions of everybody, by their ids."""
    return [SessionInfo(*row) for row in await tx.fetch_all(_PAGE, now=now, after=after, limit=limit)]


async def roll(tx: WriteTx, row: SessionRow, now: int) -> bool:
    """Puts the next generation in the place of the one before it; False: that one was not current any more."""
    values = row._asdict()
    for name in ("acknowledged_at", "user_agent", "address", "created_at", "absolute_expires_at"):
        del values[name]
    del values["revoked_at"], values["revoked_reason"]
    return await tx.fetch_one(_ROLL, now=now, **values) is not None


async def acknowledge(tx: WriteTx, row: SessionRow, now: int) -> None:
    """Notes the first use of a generation."""
    await tx.execute(
        _ACKNOWLEDGE,
        collection_id=row.collection_id,
        record_id=row.record_id,
        id=row.id,
        generation=row.generation,
        now=now,
    )


async def renew(tx: WriteTx, row: SessionRow) -> bool:
    """Keeps another token of PocketBase; False: the session is over."""
    changed = await tx.execute(
        _RENEW,
        collection_id=row.collection_id,
        record_id=row.record_id,
        id=row.id,
        upstream_token=row.upstream_token,
        upstream_at=row.upstream_at,
        upstream_expires_at=row.upstream_expires_at,
        checked_at=row.checked_at,
    )
    return changed == 1


async def doubt(tx: WriteTx, collection_id: str, record_id: str, now: int) -> None:
    """Has PocketBase asked about every session of a record before its next use."""
    await tx.execute(_DOUBT, collection_id=collection_id, record_id=record_id, now=now)


async def touch(tx: WriteTx, collection_id: str, record_id: str, session_id: str, at: int, idle_ms: int) -> None:
    """Notes a use."""
    await tx.execute(
        _TOUCH, collection_id=collection_id, record_id=record_id, id=session_id, at=at, now=at, idle_end=at + idle_ms
    )


async def end(tx: WriteTx, session_id: str, now: int, reason: str) -> list[str]:
    return _ids(await tx.fetch_all(_END_ONE, id=session_id, now=now, reason=reason))


async def end_own(tx: WriteTx, collection_id: str, record_id: str, session_id: str, now: int, reason: str) -> list[str]:
    """Ends a session if it is this record's."""
    rows = await tx.fetch_all(
        _END_OWN, collection_id=collection_id, record_id=record_id, id=session_id, now=now, reason=reason
    )
    return _ids(rows)


async def end_record(tx: WriteTx, collection_id: str, record_id: str, now: int, reason: str) -> list[str]:
    return _ids(
        await tx.fetch_all(_END_RECORD, collection_id=collection_id, record_id=record_id, now=now, reason=reason)
    )


async def end_surplus(tx: WriteTx, collection_id: str, record_id: str, now: int, keep: int) -> list[str]:
    """Ends the oldest sessions of a record beyond so many."""
    surplus = _ids(await tx.fetch_all(_SURPLUS, collection_id=collection_id, record_id=record_id, now=now, keep=keep))
    if not surplus:
        return []
    rows = await tx.fetch_all(
        _END_THESE, collection_id=collection_id, record_id=record_id, ids=surplus, now=now, reason="too_many"
    )
    return _ids(rows)


async def end_over(tx: WriteTx, now: int, limit: int) -> list[str]:
    """Ends sessions whose time is over."""
    over = _ids(await tx.fetch_all(_OVER, now=now, limit=limit))
    return _ids(await tx.fetch_all(_END_OVER, ids=over, now=now, reason="expired")) if over else []


async def ended_since(tx: ReadTx, since: int) -> list[str]:
    return _ids(await tx.fetch_all(_ENDED_SINCE, since=since))


async def sweep(tx: WriteTx, before: int, limit: int) -> int:
    """Removes sessions that ended long ago."""
    return await tx.execute(_SWEEP, before=before, limit=limit)


def _ids(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [row[0] for row in rows]
