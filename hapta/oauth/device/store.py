"""All SQL of the device grant, and nothing but SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hapta.db.database import WriteTx
from hapta.kit.access import SessionId, UserId
from hapta.oauth.device.models import Pending, Polled
from hapta.oauth.models import Authorization

AcrOf = Callable[[Sequence[str]], str]

_INSERT = """
    INSERT INTO auth_device (client_id, code_hash, user_code_hash, scopes, resources, address, user_agent, created_at,
        expires_at, interval_ms)
    VALUES (:client_id, :code_hash, :user_code_hash, :scopes, :resources, :address, :user_agent, :now,
        :expires_at, :interval_ms)
    ON CONFLICT DO NOTHING"""
_PENDING = """
    SELECT client_id, code_hash, scopes, resources, address, user_agent, created_at, expires_at FROM auth_device
    WHERE user_code_hash = :user_code_hash AND decision IS NULL AND expires_at > :now"""
_DENY = """
    UPDATE auth_device SET decision = 'denied', user_id = :user_id
    WHERE client_id = :client_id AND code_hash = :code_hash AND decision IS NULL AND expires_at > :now"""
_ALLOW = """
    UPDATE auth_device SET decision = 'allowed', user_id = :user_id, session_id = :session_id, granted_scopes = :scopes,
        authenticated_at = :authenticated_at, amr = :amr, person_version = :person_version
    WHERE client_id = :client_id AND code_hash = :code_hash AND decision IS NULL AND expires_at > :now"""
_POLLED = """
    SELECT interval_ms, polled_at, expires_at, decision, consumed_at FROM auth_device
    WHERE client_id = :client_id AND code_hash = :code_hash FOR UPDATE"""
_NOTE_POLL = """
    UPDATE auth_device SET polled_at = :now, interval_ms = :interval_ms
    WHERE client_id = :client_id AND code_hash = :code_hash"""
_REDEEM = """
    UPDATE auth_device SET consumed_at = :now
    WHERE client_id = :client_id AND code_hash = :code_hash AND decision = 'allowed' AND consumed_at IS NULL
        AND expires_at > :now
    RETURNING user_id, session_id, granted_scopes, resources, authenticated_at, amr, person_version"""
_MISS = """
    INSERT INTO auth_device_misses (who, misses, expires_at) VALUES (:who, 1, :until)
    ON CONFLICT (who) DO UPDATE SET
        misses = CASE WHEN auth_device_misses.expires_at <= :now THEN 1 ELSE auth_device_misses.misses + 1 END,
        expires_at = CASE WHEN auth_device_misses.expires_at <= :now THEN excluded.expires_at
            ELSE auth_device_misses.expires_at END
    RETURNING misses, expires_at"""
_UNMISS = "UPDATE auth_device_misses SET misses = misses - 1 WHERE who = :who AND misses > 0"
_DROP = """
    UPDATE auth_device SET decision = 'denied'
    WHERE user_id = :user_id AND client_id = :client_id AND consumed_at IS NULL"""
_SWEEP = """
    DELETE FROM auth_device WHERE (client_id, code_hash) IN
        (SELECT client_id, code_hash FROM auth_device WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)"""
_SWEEP_MISSES = """
    DELETE FROM auth_device_misses WHERE who IN
        (SELECT who FROM auth_device_misses WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)"""


async def insert(tx: WriteTx, pending: Pending, user_code_hash: bytes, interval_ms: int) -> bool:
    """Keeps a device that waits; False when its user code is taken."""
    count = await tx.execute(
        _INSERT,
        client_id=pending.client_id,
        code_hash=pending.code_hash,
        user_code_hash=user_code_hash,
        scopes=" ".join(pending.scopes),
        resources=" ".join(pending.resources),
        address=pending.address,
        user_agent=pending.user_agent,
        now=pending.created_at,
        expires_at=pending.expires_at,
        interval_ms=interval_ms,
    )
    return count > 0


async def pending(tx: WriteTx, user_code_hash: bytes, now: int) -> Pending | None:
    row = await tx.fetch_one(_PENDING, user_code_hash=user_code_hash, now=now)
    if row is None:
        return None
    client_id, code_hash, scopes, resources, *rest = row
    return Pending(client_id, bytes(code_hash), tuple(scopes.split()), tuple(resources.split()), *rest)


async def deny(tx: WriteTx, found: Pending, user_id: UserId, now: int) -> bool:
    """Writes a no down; whether it was the first decision."""
    return await tx.execute(_DENY, client_id=found.client_id, code_hash=found.code_hash, user_id=user_id, now=now) > 0


async def allow(tx: WriteTx, found: Pending, allowed: Authorization, now: int) -> bool:
    """Writes a yes down; whether it was the first decision."""
    count = await tx.execute(
        _ALLOW,
        client_id=found.client_id,
        code_hash=found.code_hash,
        user_id=allowed.user_id,
        session_id=allowed.session_id,
        scopes=" ".join(allowed.scopes),
        authenticated_at=allowed.authenticated_at,
        amr=" ".join(allowed.amr),
        person_version=allowed.person_version,
        now=now,
    )
    return count > 0


async def polled(tx: WriteTx, client_id: str, code_hash: bytes) -> Polled | None:
    row = await tx.fetch_one(_POLLED, client_id=client_id, code_hash=code_hash)
    return None if row is None else Polled(*row)


async def note_poll(tx: WriteTx, client_id: str, code_hash: bytes, now: int, interval_ms: int) -> None:
    await tx.execute(_NOTE_POLL, client_id=client_id, code_hash=code_hash, now=now, interval_ms=interval_ms)


async def redeem(tx: WriteTx, client_id: str, code_hash: bytes, now: int, acr_of: AcrOf) -> Authorization | None:
    """Uses a code up that was allowed; what was."""
    row = await tx.fetch_one(_REDEEM, client_id=client_id, code_hash=code_hash, now=now)
    if row is None:
        return None
    user_id, session_id, scopes, resources, authenticated_at, amr, person_version = row
    methods = tuple(amr.split())
    return Authorization(
        client_id=client_id,
        user_id=UserId(user_id),
        session_id=SessionId(session_id),
        scopes=tuple(scopes.split()),
        resources=tuple(resources.split()),
        redirect_uri=None,
        redirect_uri_sent=False,
        code_challenge=None,
        nonce=None,
        dpop_jkt=None,
        authenticated_at=authenticated_at,
        amr=methods,
        acr=acr_of(methods),
        wants_auth_time=False,
        person_version=person_version,
    )


async def miss(tx: WriteTx, who: bytes, now: int, until: int) -> tuple[int, int]:
    """Counts a guess before it is judged; how many there are, and when the count begins anew."""
    row = await tx.fetch_one(_MISS, who=who, now=now, until=until)
    return (0, 0) if row is None else (row[0], row[1])


async def unmiss(tx: WriteTx, who: bytes) -> None:
    """Takes back the guess that was right."""
    await tx.execute(_UNMISS, who=who)


async def drop(tx: WriteTx, user_id: UserId, client_id: str) -> None:
    """Takes back what a person allowed devices of a client that have not fetched their tokens yet."""
    await tx.execute(_DROP, user_id=user_id, client_id=client_id)


async def sweep(tx: WriteTx, before: int, limit: int) -> int:
    return await tx.execute(_SWEEP, before=before, limit=limit) + await tx.execute(
        _SWEEP_MISSES, before=before, limit=limit
    )
