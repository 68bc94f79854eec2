"""All SQL of pairing, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.keylogin.models import Pairing, PairingKind
from hapta.kit.access import SessionId, UserId

_COLUMNS = "kind, public_key, id, supports_v2, response, user_id, session_id"
_FIND = f"""
    SELECT {_COLUMNS} FROM auth_pairings
    WHERE kind = :kind AND public_key = :public_key AND expires_at > :now"""  # noqa: S608 - a constant
_ASK = """
    INSERT INTO auth_pairings (kind, public_key, id, supports_v2, created_at, expires_at)
    VALUES (:kind, :public_key, :id, :supports_v2, :now, :expires_at)
    ON CONFLICT (kind, public_key) DO UPDATE SET
        id = excluded.id, supports_v2 = excluded.supports_v2, response = NULL, user_id = NULL, session_id = NULL,
        created_at = excluded.created_at, answered_at = NULL, expires_at = excluded.expires_at
    WHERE auth_pairings.expires_at <= :now"""
_ANSWER = """
    UPDATE auth_pairings SET response = :response, user_id = :user_id, answered_at = :now, expires_at = :expires_at
    WHERE kind = :kind AND public_key = :public_key AND expires_at > :now AND response IS NULL"""
_BIND = """
    UPDATE auth_pairings SET session_id = :session_id
    WHERE kind = :kind AND public_key = :public_key AND id = :id AND session_id IS NULL RETURNING id"""


async def find(tx: ReadTx, kind: PairingKind, public_key: str, now: int) -> Pairing | None:
    """A request that is not over."""
    row = await tx.fetch_one(_FIND, kind=kind, public_key=public_key, now=now)
    return None if row is None else Pairing(row[0], row[1], row[2], bool(row[3]), *row[4:])


async def ask(
    tx: WriteTx, kind: PairingKind, public_key: str, request_id: str, supports_v2: bool, now: int, expires_at: int
) -> None:
    """Notes a request unless the key has one: the first call decides what it says."""
    await tx.execute(
        _ASK,
        kind=kind,
        public_key=public_key,
        id=request_id,
        supports_v2=int(supports_v2),
        now=now,
        expires_at=expires_at,
    )


async def answer(
    tx: WriteTx, kind: PairingKind, public_key: str, user_id: UserId, response: str, now: int, expires_at: int
) -> None:
    """Answers a request that nobody has answered; the first answer stays."""
    await tx.execute(
        _ANSWER,
        kind=kind,
        public_key=public_key,
        user_id=user_id,
        response=response,
        now=now,
        expires_at=expires_at,
    )


async def bind_session(tx: WriteTx, pairing: Pairing, session_id: SessionId) -> bool:
    """Says which session the new device has; False when it has one already."""
    bound = await tx.fetch_value(
        _BIND, kind=pairing.kind, public_key=pairing.public_key, id=pairing.id, session_id=session_id
    )
    return bound is not None


async def sweep(tx: WriteTx, now: int, limit: int) -> int:
    """Removes requests that are over."""
    sql = """DELETE FROM auth_pairings WHERE (kind, public_key) IN
        (SELECT kind, public_key FROM auth_pairings WHERE expires_at <= :now LIMIT :limit)"""
    return await tx.execute(sql, now=now, limit=limit)


async def delete_person(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute("DELETE FROM auth_pairings WHERE user_id = :user_id", user_id=user_id)
