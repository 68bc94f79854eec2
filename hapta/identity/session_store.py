"""All SQL of sessions and revocations (`auth_*`), and nothing but SQL.

A session's row is never moved or renamed while its keys roll, and what ends a session writes its revocation in the same
transaction."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Param, ReadTx, WriteTx
from hapta.identity.models import Grant, Origin, Revocation, Session, SessionState
from hapta.kit.access import SessionId, UserId

_INSERT = """
    INSERT INTO auth_sessions (user_id, id, generation, rolled_at, token_version, device_id, device_label, user_agent,
        provider, amr, authenticated_at, created_at, last_seen_at, token_expires_at, absolute_expires_at, expires_at)
    VALUES (:user_id, :id, :generation, :now, :token_version, :device_id, :device_label, :user_agent,
        :provider, :amr, :now, :now, :now, :token_expires_at, :absolute_expires_at, :expires_at)"""
_STATE = """
    SELECT generation, previous_generation, rolled_at, token_version, device_id, last_seen_at, expires_at, revoked_at
    FROM auth_sessions WHERE user_id = :user_id AND id = :id"""
_LIVE = """
    SELECT id, device_id, device_label, user_agent, created_at, last_seen_at, expires_at FROM auth_sessions
    WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > :now ORDER BY last_seen_at DESC, id DESC"""
# Every way to end sessions is this one statement with another choice of rows.
_END = """
    UPDATE auth_sessions SET revoked_at = :now, revoked_reason = :reason, expires_at = least(expires_at, :now)
    WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > :now AND {choice} RETURNING id"""
_END_ONE = _END.format(choice="id = :id")
_END_DEVICE = _END.format(choice="device_id = :device_id")
_END_OTHERS = _END.format(choice="id <> :keep")
_END_OLDEST = _END.format(choice="""id = any(:ids::text[])""")
_SURPLUS = """
    SELECT id FROM auth_sessions WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > :now
    ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET :keep"""
_ROLL = """
    UPDATE auth_sessions SET generation = generation + 1, previous_generation = NULL, rolled_at = :now,
        token_version = :token_version, authenticated_at = :now, last_seen_at = :now,
        token_expires_at = least(absolute_expires_at, :token_end),
        expires_at = least(absolute_expires_at, :token_end, :idle_end)
    WHERE user_id = :user_id AND id = :id AND revoked_at IS NULL AND expires_at > :now
    RETURNING generation, device_id, token_expires_at"""
_TOUCH = """
    UPDATE auth_sessions SET last_seen_at = :at, expires_at = least(absolute_expires_at, token_expires_at, :idle_end)
    WHERE user_id = :user_id AND id = :id AND revoked_at IS NULL AND last_seen_at < :at"""
_DELETE_ALL = "DELETE FROM auth_sessions WHERE user_id = :user_id"
_SWEEP = """
    DELETE FROM auth_sessions WHERE (user_id, id) IN
        (SELECT user_id, id FROM auth_sessions WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)"""
_SWEEP_REVOCATIONS = """
    DELETE FROM auth_revocations WHERE (user_id, id) IN
        (SELECT user_id, id FROM auth_revocations WHERE at < :before ORDER BY at LIMIT :limit)"""
_REVOCATIONS_SINCE = """
    SELECT id, user_id, session_id, before_generation, at FROM auth_revocations WHERE at >= :since ORDER BY at"""
_REVOCATION_COLUMNS = (
    ("id", "text"),
    ("user_id", "text"),
    ("session_id", "text"),
    ("before_generation", "bigint"),
    ("at", "bigint"),
)


async def insert_session(
    tx: WriteTx, grant: Grant, origin: Origin, *, provider: str, amr: str, absolute_expires_at: int, expires_at: int
) -> None:
    await tx.execute(
        _INSERT,
        user_id=grant.user_id,
        id=grant.session_id,
        generation=grant.generation,
        now=grant.issued_at,
        token_version=grant.token_version,
        device_id=origin.device_id,
        device_label=origin.device_label,
        user_agent=origin.user_agent,
        provider=provider,
        amr=amr,
        token_expires_at=grant.expires_at,
        absolute_expires_at=absolute_expires_at,
        expires_at=expires_at,
    )


async def find_state(tx: ReadTx, user_id: str, session_id: str) -> SessionState | None:
    row = await tx.fetch_one(_STATE, user_id=user_id, id=session_id)
    return None if row is None else SessionState(*row)


async def list_live(tx: ReadTx, user_id: UserId, now: int) -> list[Session]:
    return [Session(*row) for row in await tx.fetch_all(_LIVE, user_id=user_id, now=now)]


async def end_session(tx: WriteTx, user_id: UserId, session_id: str, now: int, reason: str) -> list[SessionId]:
    """Ends one session; the ids of those that were alive until now (so: one or none)."""
    return _ids(await tx.fetch_all(_END_ONE, user_id=user_id, id=session_id, now=now, reason=reason))


async def end_device(tx: WriteTx, user_id: UserId, device_id: str, now: int, reason: str) -> list[SessionId]:
    return _ids(await tx.fetch_all(_END_DEVICE, user_id=user_id, device_id=device_id, now=now, reason=reason))


async def end_others(tx: WriteTx, user_id: UserId, keep: str, now: int, reason: str) -> list[SessionId]:
    """Ends all sessions but `keep`; an empty text keeps none."""
    return _ids(await tx.fetch_all(_END_OTHERS, user_id=user_id, keep=keep, now=now, reason=reason))


async def end_oldest(tx: WriteTx, user_id: UserId, keep: int, now: int, reason: str) -> list[SessionId]:
    """Ends the oldest sessions until `keep` are left."""
    surplus = _ids(await tx.fetch_all(_SURPLUS, user_id=user_id, now=now, keep=keep))
    if not surplus:
        return []
    return _ids(await tx.fetch_all(_END_OLDEST, user_id=user_id, ids=surplus, now=now, reason=reason))


async def roll_session(
    tx: WriteTx, user_id: UserId, session_id: str, token_version: int, now: int, token_end: int, idle_end: int
) -> tuple[int, str | None, int] | None:
    """Starts a new generation at once; its number, the device and the end of the token. None: the session is over."""
    row = await tx.fetch_one(
        _ROLL,
        user_id=user_id,
        id=session_id,
        token_version=token_version,
        now=now,
        token_end=token_end,
        idle_end=idle_end,
    )
    return None if row is None else (row[0], row[1], row[2])


async def touch_sessions(tx: WriteTx, seen: Sequence[tuple[str, str, int]], idle_ms: int) -> None:
    """Notes when sessions were last seen: `(user, session, at)`."""
    rows: list[dict[str, Param]] = [
        {"user_id": user, "id": session, "at": at, "idle_end": at + idle_ms} for user, session, at in seen
    ]
    await tx.execute_many(_TOUCH, rows)


async def delete_sessions(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute(_DELETE_ALL, user_id=user_id)


async def insert_revocations(tx: WriteTx, revocations: Sequence[Revocation]) -> None:
    if revocations:
        await tx.insert_rows("auth_revocations", _REVOCATION_COLUMNS, revocations)


async def revocations_since(tx: ReadTx, since: int) -> list[Revocation]:
    return [Revocation(*row) for row in await tx.fetch_all(_REVOCATIONS_SINCE, since=since)]


async def sweep_sessions(tx: WriteTx, before: int, limit: int) -> int:
    """Removes sessions that ended before an instant, at most `limit`; how many."""
    return await tx.execute(_SWEEP, before=before, limit=limit)


async def sweep_revocations(tx: WriteTx, before: int, limit: int) -> int:
    return await tx.execute(_SWEEP_REVOCATIONS, before=before, limit=limit)


def _ids(rows: Sequence[tuple[str, ...]]) -> list[SessionId]:
    return [SessionId(row[0]) for row in rows]
