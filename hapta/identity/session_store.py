"""All SQL of sessions, their epochs, and revocations (`auth_*`), and nothing but SQL.

A session's row is never moved or renamed while its keys roll, and what ends a session writes its revocation in the same
transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hapta.db.database import Param, ReadTx, WriteTx
from hapta.identity.models import Origin, Revocation, Session, SessionState, Started
from hapta.kit.access import SessionId, UserId

# The row is locked also where nothing changes: a login and a change of its person queue here.
_LOCK_EPOCH = """
    INSERT INTO auth_epochs (user_id, min_version) VALUES (:user_id, :version)
    ON CONFLICT (user_id) DO UPDATE SET min_version = auth_epochs.min_version RETURNING min_version"""
_RAISE_EPOCH = """
    INSERT INTO auth_epochs (user_id, min_version) VALUES (:user_id, :version)
    ON CONFLICT (user_id) DO UPDATE SET min_version = greatest(auth_epochs.min_version, excluded.min_version)"""
_SPEND = """
    INSERT INTO auth_spent (user_id, id, expires_at) VALUES (:user_id, :id, :expires_at)
    ON CONFLICT DO NOTHING RETURNING id"""
_INSERT = """
    INSERT INTO auth_sessions (user_id, id, generation, rolled_at, key_hash, token_version, device_id, device_label,
        user_agent, provider, amr, roles, address, authenticated_at, created_at, last_seen_at, token_expires_at,
        absolute_expires_at, expires_at)
    VALUES (:user_id, :id, :generation, :now, :key_hash, :token_version, :device_id, :device_label,
        :user_agent, :provider, :amr, :roles, :address, :now, :now, :now, :token_expires_at,
        :absolute_expires_at, :expires_at)"""
_STATE = """
    SELECT generation, previous_generation, rolled_at, token_version, device_id, last_seen_at, expires_at, revoked_at,
        key_hash, previous_key_hash, successor, provider, amr, roles, authenticated_at, absolute_expires_at,
        token_expires_at
    FROM auth_sessions WHERE user_id = :user_id AND id = :id"""
_LOCK_STATE = f"{_STATE} FOR UPDATE"
_LIVE = """
    SELECT id, device_id, device_label, user_agent, created_at, last_seen_at, expires_at, address, provider, amr
    FROM auth_sessions
    WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > :now ORDER BY last_seen_at DESC, id DESC"""
# Every way to end sessions is this one statement with another choice of rows.
_END = """
    UPDATE auth_sessions SET revoked_at = :now, revoked_reason = :reason, expires_at = least(expires_at, :now)
    WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > :now AND {choice} RETURNING id"""
_END_ONE = _END.format(choice="id = :id")
_END_DEVICE = _END.format(choice="device_id = :device_id")
_END_OTHERS = _END.format(choice="id <> :keep")
_END_OLDER = _END.format(choice="token_version < :version")
_END_OLDEST = _END.format(choice="""id = any(:ids::text[])""")
# Most accounts have few sessions, and to count to the cap along the key costs a fraction of putting them in order.
_IS_OVER = "SELECT 1 FROM auth_sessions WHERE user_id = :user_id LIMIT 1 OFFSET :keep"
_SURPLUS = """
    SELECT id FROM auth_sessions WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > :now
    ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET :keep"""
_ROLL = """
    UPDATE auth_sessions SET generation = :generation, previous_generation = :previous_generation, rolled_at = :now,
        key_hash = :key_hash, previous_key_hash = :previous_key_hash, successor = :successor,
        token_version = :token_version, amr = :amr, roles = :roles, authenticated_at = :authenticated_at,
        last_seen_at = :now, token_expires_at = :token_expires_at, expires_at = :expires_at
    WHERE user_id = :user_id AND id = :id"""
_CARRY_OVER = """
    UPDATE auth_sessions SET token_version = :version
    WHERE user_id = :user_id AND id = :id AND token_version < :version AND revoked_at IS NULL AND expires_at > :now
    RETURNING generation"""
_ERASE = """
    UPDATE auth_sessions SET successor = NULL WHERE (user_id, id) IN
        (SELECT user_id, id FROM auth_sessions WHERE successor IS NOT NULL AND rolled_at < :before LIMIT :limit)"""
_TOUCH = """
    UPDATE auth_sessions SET last_seen_at = :at,
        expires_at = greatest(expires_at, least(absolute_expires_at, token_expires_at, :idle_end))
    WHERE user_id = :user_id AND id = :id AND revoked_at IS NULL AND last_seen_at < :at"""
_DELETE_ALL = "DELETE FROM auth_sessions WHERE user_id = :user_id"
_SWEEP = """
    DELETE FROM auth_sessions WHERE (user_id, id) IN
        (SELECT user_id, id FROM auth_sessions WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)"""
_SWEEP_REVOCATIONS = """
    DELETE FROM auth_revocations WHERE (user_id, id) IN
        (SELECT user_id, id FROM auth_revocations WHERE at < :before ORDER BY at LIMIT :limit)"""
_SWEEP_SPENT = """
    DELETE FROM auth_spent WHERE (user_id, id) IN
        (SELECT user_id, id FROM auth_spent WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)"""
_REVOCATIONS_SINCE = """
    SELECT id, user_id, session_id, before_generation, at, subject FROM auth_revocations WHERE at >= :since ORDER BY at"""
_ROLLED_SINCE = """
    SELECT user_id, id, generation, rolled_at FROM auth_sessions
    WHERE rolled_at >= :since AND previous_generation IS NOT NULL"""
_MARKS_SINCE = """
    SELECT id, user_id, session_id, before_generation, at, subject FROM auth_revocations
    WHERE at >= :since AND subject IS NOT NULL ORDER BY at"""
_MARKED = """
    SELECT subject, max(at) FROM auth_revocations WHERE subject = any(:subjects::text[]) GROUP BY subject"""
_REVOCATION_COLUMNS = (
    ("id", "text"),
    ("user_id", "text"),
    ("session_id", "text"),
    ("before_generation", "bigint"),
    ("at", "bigint"),
    ("subject", "text"),
)


async def lock_epoch(tx: WriteTx, user_id: UserId, version: int) -> int:
    """The least version of the person that may sign in, locked to the commit."""
    return await tx.fetch_value(_LOCK_EPOCH, user_id=user_id, version=version)


async def raise_epoch(tx: WriteTx, user_id: UserId, version: int) -> None:
    await tx.execute(_RAISE_EPOCH, user_id=user_id, version=version)


async def spend(tx: WriteTx, user_id: UserId, spent: str, expires_at: int) -> bool:
    """Whether this is the first time: of any number of callers at once exactly one hears yes."""
    return await tx.fetch_one(_SPEND, user_id=user_id, id=spent, expires_at=expires_at) is not None


async def insert_session(
    tx: WriteTx,
    started: Started,
    origin: Origin,
    *,
    key_hash: bytes | None,
    address: str | None,
    token_end: int,
) -> None:
    await tx.execute(
        _INSERT,
        user_id=started.user_id,
        id=started.session_id,
        generation=started.generation,
        now=started.issued_at,
        key_hash=key_hash,
        token_version=started.token_version,
        device_id=origin.device_id,
        device_label=origin.device_label,
        user_agent=origin.user_agent,
        provider=started.provider,
        amr=" ".join(started.amr),
        roles=" ".join(started.roles),
        address=address,
        token_expires_at=token_end,
        absolute_expires_at=started.absolute_expires_at,
        expires_at=started.expires_at,
    )


async def find_state(tx: ReadTx, user_id: str, session_id: str) -> SessionState | None:
    row = await tx.fetch_one(_STATE, user_id=user_id, id=session_id)
    return None if row is None else SessionState(*row)


async def lock_state(tx: WriteTx, user_id: str, session_id: str) -> SessionState | None:
    """The session, its row locked to the commit: all who roll its keys queue here."""
    row = await tx.fetch_one(_LOCK_STATE, user_id=user_id, id=session_id)
    return None if row is None else SessionState(*row)


async def list_live(tx: ReadTx, user_id: UserId, now: int) -> list[Session]:
    rows = await tx.fetch_all(_LIVE, user_id=user_id, now=now)
    return [Session(*row)._replace(amr=tuple(row[9].split())) for row in rows]


async def end_session(tx: WriteTx, user_id: UserId, session_id: str, now: int, reason: str) -> list[SessionId]:
    """Ends one session; the ids of those that were alive until now (so: one or none)."""
    return _ids(await tx.fetch_all(_END_ONE, user_id=user_id, id=session_id, now=now, reason=reason))


async def end_device(tx: WriteTx, user_id: UserId, device_id: str, now: int, reason: str) -> list[SessionId]:
    return _ids(await tx.fetch_all(_END_DEVICE, user_id=user_id, device_id=device_id, now=now, reason=reason))


async def end_others(tx: WriteTx, user_id: UserId, keep: str, now: int, reason: str) -> list[SessionId]:
    """Ends all sessions but `keep`; an empty text keeps none."""
    return _ids(await tx.fetch_all(_END_OTHERS, user_id=user_id, keep=keep, now=now, reason=reason))


async def end_older(tx: WriteTx, user_id: UserId, version: int, now: int, reason: str) -> list[SessionId]:
    """Ends all sessions that were made with an older version of the person."""
    return _ids(await tx.fetch_all(_END_OLDER, user_id=user_id, version=version, now=now, reason=reason))


async def carry_over(tx: WriteTx, user_id: UserId, session_id: str, version: int, now: int) -> int | None:
    """Lets one session live on with a newer version of the person; its generation, None if it is over."""
    return await tx.fetch_value(_CARRY_OVER, user_id=user_id, id=session_id, version=version, now=now)


async def end_oldest(tx: WriteTx, user_id: UserId, keep: int, now: int, reason: str) -> list[SessionId]:
    """Ends the oldest sessions until `keep` are left."""
    if await tx.fetch_value(_IS_OVER, user_id=user_id, keep=keep) is None:
        return []
    surplus = _ids(await tx.fetch_all(_SURPLUS, user_id=user_id, now=now, keep=keep))
    if not surplus:
        return []
    return _ids(await tx.fetch_all(_END_OLDEST, user_id=user_id, ids=surplus, now=now, reason=reason))


async def roll_session(
    tx: WriteTx,
    started: Started,
    *,
    previous_generation: int | None,
    key_hash: bytes | None,
    previous_key_hash: bytes | None,
    successor: bytes | None,
    token_end: int,
) -> None:
    """Writes a session's new generation over a row that `lock_state` has locked."""
    await tx.execute(
        _ROLL,
        user_id=started.user_id,
        id=started.session_id,
        generation=started.generation,
        previous_generation=previous_generation,
        now=started.issued_at,
        key_hash=key_hash,
        previous_key_hash=previous_key_hash,
        successor=successor,
        token_version=started.token_version,
        amr=" ".join(started.amr),
        roles=" ".join(started.roles),
        authenticated_at=started.authenticated_at,
        token_expires_at=token_end,
        expires_at=started.expires_at,
    )


async def erase_successors(tx: WriteTx, before: int, limit: int) -> int:
    """Forgets sealed keys of rolls before an instant; how many."""
    return await tx.execute(_ERASE, before=before, limit=limit)


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


async def sweep_spent(tx: WriteTx, before: int, limit: int) -> int:
    return await tx.execute(_SWEEP_SPENT, before=before, limit=limit)


async def rolled_since(tx: ReadTx, since: int) -> list[tuple[UserId, SessionId, int, int]]:
    """Sessions with a key that were rolled since an instant: `(user, session, generation, rolled_at)`."""
    return [(row[0], row[1], row[2], row[3]) for row in await tx.fetch_all(_ROLLED_SINCE, since=since)]


async def marks_since(tx: ReadTx, since: int) -> list[Revocation]:
    return [Revocation(*row) for row in await tx.fetch_all(_MARKS_SINCE, since=since)]


async def marked(tx: ReadTx, subjects: Sequence[str]) -> dict[str, int]:
    """When each of these subjects was last marked, of those that were."""
    rows = await tx.fetch_all(_MARKED, subjects=subjects)
    return {row[0]: row[1] for row in rows}


def _ids(rows: Sequence[tuple[Any, ...]]) -> list[SessionId]:
    return [SessionId(row[0]) for row in rows]
