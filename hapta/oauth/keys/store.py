"""All SQL of signing keys (`auth_keys`), and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.oauth.keys.models import StoredKey

_ALL = """
    SELECT kid, alg, serial, public, sealed, created_at, activates_at, retires_at, revoked_at
    FROM auth_keys ORDER BY alg, serial"""
_OF_ALGORITHM = """
    SELECT kid, alg, serial, public, sealed, created_at, activates_at, retires_at, revoked_at
    FROM auth_keys WHERE alg = :alg ORDER BY serial FOR UPDATE"""
_INSERT = """
    INSERT INTO auth_keys (kid, alg, serial, public, sealed, created_at, activates_at)
    VALUES (:kid, :alg, :serial, :public, :sealed, :created_at, :activates_at) ON CONFLICT DO NOTHING"""
_RETIRE_OLDER = """
    UPDATE auth_keys SET retires_at = :retires_at
    WHERE alg = :alg AND serial < :serial AND revoked_at IS NULL AND retires_at IS NULL"""
_UNRETIRE = "UPDATE auth_keys SET retires_at = NULL WHERE kid = :kid AND revoked_at IS NULL"
_ACTIVATE = "UPDATE auth_keys SET activates_at = :now WHERE kid = :kid AND activates_at > :now"
_REVOKE = "UPDATE auth_keys SET revoked_at = :now, sealed = NULL WHERE kid = :kid AND revoked_at IS NULL"
_FORGET = "UPDATE auth_keys SET sealed = NULL WHERE retires_at <= :now AND sealed IS NOT NULL"
_RESEAL = "UPDATE auth_keys SET sealed = :sealed WHERE kid = :kid AND sealed = :before"


async def all_keys(tx: ReadTx) -> list[StoredKey]:
    return [StoredKey(*row) for row in await tx.fetch_all(_ALL)]


async def lock_algorithm(tx: WriteTx, alg: str) -> list[StoredKey]:
    """The keys of an algorithm, oldest first, held until the commit."""
    return [StoredKey(*row) for row in await tx.fetch_all(_OF_ALGORITHM, alg=alg)]


async def insert(tx: WriteTx, key: StoredKey) -> bool:
    """Adds a key; False when another worker added the same serial first."""
    inserted = await tx.execute(
        _INSERT,
        kid=key.kid,
        alg=key.alg,
        serial=key.serial,
        public=key.public,
        sealed=key.sealed,
        created_at=key.created_at,
        activates_at=key.activates_at,
    )
    return inserted == 1


async def retire_older(tx: WriteTx, alg: str, serial: int, retires_at: int) -> None:
    """Gives every key before `serial` its end, unless it has one."""
    await tx.execute(_RETIRE_OLDER, alg=alg, serial=serial, retires_at=retires_at)


async def unretire(tx: WriteTx, kid: str) -> None:
    """Takes the end from a key whose successor has gone."""
    await tx.execute(_UNRETIRE, kid=kid)


async def activate(tx: WriteTx, kid: str, now: int) -> None:
    """Lets a pending key sign at once."""
    await tx.execute(_ACTIVATE, kid=kid, now=now)


async def revoke(tx: WriteTx, kid: str, now: int) -> bool:
    return await tx.execute(_REVOKE, kid=kid, now=now) == 1


async def forget_retired(tx: WriteTx, now: int) -> int:
    """Destroys the private halves that are not needed any more; how many."""
    return await tx.execute(_FORGET, now=now)


async def reseal(tx: WriteTx, kid: str, before: bytes, sealed: bytes) -> bool:
    return await tx.execute(_RESEAL, kid=kid, before=before, sealed=sealed) == 1
