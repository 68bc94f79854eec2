"""All SQL of consents, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, Row, WriteTx
from hapta.kit.access import UserId
from hapta.oauth.consents.models import Consent

_COLUMNS = (
    """user_id, client_id, scopes, refused_scopes, resources, metadata_version, address_hash, allowed_at, created_at"""
)
_FIND = f"SELECT {_COLUMNS} FROM auth_consents WHERE user_id = :user_id AND client_id = :client_id"  # noqa: S608
_LOCK = f"{_FIND} FOR UPDATE"
_LIST = f"""
    SELECT {_COLUMNS} FROM auth_consents WHERE user_id = :user_id
    ORDER BY allowed_at DESC, client_id LIMIT 1000"""  # noqa: S608
_ADD = """
    INSERT INTO auth_consents (user_id, client_id, scopes, refused_scopes, resources, metadata_version, address_hash,
        allowed_at, created_at)
    VALUES (:user_id, :client_id, '', '', '', 0, NULL, 0, :now) ON CONFLICT (user_id, client_id) DO NOTHING"""
_PUT = """
    UPDATE auth_consents SET scopes = :scopes, refused_scopes = :refused_scopes, resources = :resources,
        metadata_version = :metadata_version, address_hash = :address_hash, allowed_at = :allowed_at
    WHERE user_id = :user_id AND client_id = :client_id"""
_DELETE = "DELETE FROM auth_consents WHERE user_id = :user_id AND client_id = :client_id"
_DELETE_OF_USER = "DELETE FROM auth_consents WHERE user_id = :user_id RETURNING client_id"
_DELETE_OF_CLIENT = "DELETE FROM auth_consents WHERE client_id = :client_id"


async def find(tx: ReadTx, user_id: UserId, client_id: str) -> Consent | None:
    return _one(await tx.fetch_one(_FIND, user_id=user_id, client_id=client_id))


async def lock(tx: WriteTx, user_id: UserId, client_id: str) -> Consent | None:
    """As `find`, and nobody else changes it before this transaction ends."""
    return _one(await tx.fetch_one(_LOCK, user_id=user_id, client_id=client_id))


async def lock_or_add(tx: WriteTx, user_id: UserId, client_id: str, now: int) -> Consent | None:
    """As `lock`; where there is none, a row for `put` to fill, so that of two first decisions one waits for the other."""
    while True:
        found = await lock(tx, user_id, client_id)
        if found is not None or await tx.execute(_ADD, user_id=user_id, client_id=client_id, now=now):
            return found


async def list_of(tx: ReadTx, user_id: UserId) -> list[Consent]:
    return [_consent(row) for row in await tx.fetch_all(_LIST, user_id=user_id)]


async def put(tx: WriteTx, consent: Consent) -> None:
    """Writes a consent over the row that `lock_or_add` holds."""
    await tx.execute(
        _PUT,
        user_id=consent.user_id,
        client_id=consent.client_id,
        scopes=" ".join(consent.scopes),
        refused_scopes=" ".join(consent.refused_scopes),
        resources=" ".join(consent.resources),
        metadata_version=consent.metadata_version,
        address_hash=consent.address_hash,
        allowed_at=consent.allowed_at,
    )


async def delete(tx: WriteTx, user_id: UserId, client_id: str) -> bool:
    """Forgets a consent; whether there was one."""
    return await tx.execute(_DELETE, user_id=user_id, client_id=client_id) > 0


async def delete_of_user(tx: WriteTx, user_id: UserId) -> list[str]:
    """Forgets all consents of a person; for which clients."""
    return [row[0] for row in await tx.fetch_all(_DELETE_OF_USER, user_id=user_id)]


async def delete_of_client(tx: WriteTx, client_id: str) -> None:
    await tx.execute(_DELETE_OF_CLIENT, client_id=client_id)


def _one(row: Row | None) -> Consent | None:
    return None if row is None else _consent(row)


def _consent(row: Row) -> Consent:
    user_id, client_id, scopes, refused, resources, *rest = row
    return Consent(
        UserId(user_id), client_id, tuple(scopes.split()), tuple(refused.split()), tuple(resources.split()), *rest
    )
