"""All SQL of authorization codes, and nothing but SQL. "Use once" is one statement: whoever sets `consumed_at` has the code."""

from __future__ import annotations

import msgspec

from hapta.db.database import WriteTx
from hapta.kit.access import UserId
from hapta.oauth.models import Authorization

_INSERT = """
    INSERT INTO auth_codes (client_id, hash, user_id, session_id, content, expires_at)
    VALUES (:client_id, :hash, :user_id, :session_id, :content, :expires_at)"""
_CONSUME = """
    UPDATE auth_codes SET consumed_at = :now, family_id = :family_id
    WHERE client_id = :client_id AND hash = :hash AND consumed_at IS NULL RETURNING content, expires_at"""
_REPLAY = """
    UPDATE auth_codes SET replayed_at = :now
    WHERE client_id = :client_id AND hash = :hash AND consumed_at IS NOT NULL AND replayed_at IS NULL
    RETURNING user_id, session_id, family_id"""
_WITHDRAW = """
    DELETE FROM auth_codes WHERE user_id = :user_id AND client_id = :client_id AND consumed_at IS NULL"""
_DELETE_CLIENT = "DELETE FROM auth_codes WHERE client_id = :client_id"
_DELETE_USER = "DELETE FROM auth_codes WHERE user_id = :user_id"
_SWEEP = """
    DELETE FROM auth_codes WHERE (client_id, hash) IN
        (SELECT client_id, hash FROM auth_codes WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)"""


async def insert(tx: WriteTx, digest: bytes, authorization: Authorization, expires_at: int) -> None:
    await tx.execute(
        _INSERT,
        client_id=authorization.client_id,
        hash=digest,
        user_id=authorization.user_id,
        session_id=authorization.session_id,
        content=msgspec.msgpack.encode(authorization),
        expires_at=expires_at,
    )


async def consume(
    tx: WriteTx, client_id: str, digest: bytes, family_id: str, now: int
) -> tuple[Authorization, int] | None:
    """Uses the code up; what it stands for and its end. None: this client has no such code, or it was used."""
    row = await tx.fetch_one(_CONSUME, client_id=client_id, hash=digest, family_id=family_id, now=now)
    return None if row is None else (msgspec.msgpack.decode(row[0], type=Authorization), row[1])


async def note_replay(tx: WriteTx, client_id: str, digest: bytes, now: int) -> tuple[UserId, str, str] | None:
    """User, session and family of a code that is used a second time; None: it is unknown, or this was noted before."""
    row = await tx.fetch_one(_REPLAY, client_id=client_id, hash=digest, now=now)
    return None if row is None else (UserId(row[0]), row[1], row[2])


async def withdraw(tx: WriteTx, user_id: UserId, client_id: str) -> None:
    await tx.execute(_WITHDRAW, user_id=user_id, client_id=client_id)


async def delete_client(tx: WriteTx, client_id: str) -> None:
    await tx.execute(_DELETE_CLIENT, client_id=client_id)


async def delete_user(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute(_DELETE_USER, user_id=user_id)


async def sweep(tx: WriteTx, before: int, limit: int) -> int:
    return await tx.execute(_SWEEP, before=before, limit=limit)
