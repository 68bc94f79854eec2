"""All SQL of clients (`auth_clients`, `auth_client_secrets`, `auth_client_assertions`, `auth_initial_tokens`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hapta.db.database import Param, ReadTx, WriteTx
from hapta.oauth.clients.models import Entry, StoredSecret
from hapta.oauth.models import Client

_FIND = """
    SELECT client_id, metadata, metadata_version, created_at, updated_at, last_used_at
    FROM auth_clients WHERE client_id = :client_id"""
_LOCK = _FIND + " FOR UPDATE"
_FIND_REGISTERED = _FIND + " AND registration_hash = :hash"
_LIST = """
    SELECT client_id, metadata, metadata_version, created_at, updated_at, last_used_at
    FROM auth_clients WHERE client_id > :after ORDER BY client_id LIMIT :limit"""
_INSERT = """
    INSERT INTO auth_clients (client_id, source, metadata, metadata_version, registration_hash, created_at, updated_at)
    VALUES (:client_id, :source, :metadata, :metadata_version, :registration_hash, :now, :now)"""
_UPDATE = """
    UPDATE auth_clients SET metadata = :metadata, metadata_version = :metadata_version, updated_at = :now
    WHERE client_id = :client_id"""
_DELETE = "DELETE FROM auth_clients WHERE client_id = :client_id"
_DELETE_SECRETS = "DELETE FROM auth_client_secrets WHERE client_id = :client_id"
_DELETE_ASSERTIONS = "DELETE FROM auth_client_assertions WHERE client_id = :client_id"
_SET_REGISTRATION = "UPDATE auth_clients SET registration_hash = :hash WHERE client_id = :client_id"
_TOUCH = """
    UPDATE auth_clients SET last_used_at = :at
    WHERE client_id = :client_id AND (last_used_at IS NULL OR last_used_at < :at)"""
_UNUSED = """
    SELECT client_id FROM auth_clients
    WHERE source = 'dynamic' AND last_used_at IS NULL AND created_at < :before ORDER BY created_at LIMIT :limit"""
_SECRETS = """
    SELECT client_id, id, hash, created_at, expires_at FROM auth_client_secrets
    WHERE client_id = :client_id AND (expires_at IS NULL OR expires_at > :now) ORDER BY created_at, id"""
_ADD = """
    INSERT INTO auth_client_secrets (client_id, id, hash, created_at, expires_at)
    VALUES (:client_id, :id, :hash, :created_at, :expires_at)"""
_EXPIRE_SECRETS = """
    UPDATE auth_client_secrets SET expires_at = :at
    WHERE client_id = :client_id AND (expires_at IS NULL OR expires_at > :at)"""
_DROP_SECRETS = "DELETE FROM auth_client_secrets WHERE client_id = :client_id AND id = any(:ids::text[])"
_USE_ASSERTION = """
    INSERT INTO auth_client_assertions (client_id, jti_hash, expires_at)
    VALUES (:client_id, :jti_hash, :expires_at) ON CONFLICT DO NOTHING"""
_SWEEP_ASSERTIONS = """
    DELETE FROM auth_client_assertions WHERE (client_id, jti_hash) IN
        (SELECT client_id, jti_hash FROM auth_client_assertions WHERE expires_at < :now ORDER BY expires_at LIMIT :limit)"""
_INSERT_INITIAL = """
    INSERT INTO auth_initial_tokens (hash, label, uses_left, created_at, expires_at)
    VALUES (:hash, :label, :uses, :now, :expires_at)"""
_USE_INITIAL = """
    UPDATE auth_initial_tokens SET uses_left = uses_left - 1
    WHERE hash = :hash AND uses_left > 0 AND expires_at > :now RETURNING uses_left"""
_SWEEP_INITIAL = "DELETE FROM auth_initial_tokens WHERE expires_at < :now OR uses_left <= 0"

# What stands in columns of its own is not kept twice.
_OWN_COLUMNS = frozenset({"client_id", "metadata_version", "created_at", "updated_at", "last_used_at"})


def _client(row: Sequence[object]) -> Client:
    client_id, metadata, version, created_at, updated_at, last_used_at = row
    known: dict[str, object] = msgspec.json.decode(str(metadata))
    known.update(
        client_id=client_id,
        metadata_version=version,
        created_at=created_at,
        updated_at=updated_at,
        last_used_at=last_used_at,
    )
    return msgspec.convert(known, Client)


def _metadata(client: Client) -> str:
    members: Mapping[str, object] = msgspec.to_builtins(client)
    return msgspec.json.encode({name: members[name] for name in members if name not in _OWN_COLUMNS}).decode()


async def find(tx: ReadTx, client_id: str) -> Client | None:
    row = await tx.fetch_one(_FIND, client_id=client_id)
    return None if row is None else _client(row)


async def find_entry(tx: ReadTx, client_id: str, now: int) -> Entry | None:
    """A client with its live secrets."""
    client = await find(tx, client_id)
    if client is None:
        return None
    return Entry(client, tuple(await live_secrets(tx, client_id, now)))


async def find_registered(tx: ReadTx, client_id: str, registration_hash: bytes) -> Client | None:
    """A client by its registration access token."""
    row = await tx.fetch_one(_FIND_REGISTERED, client_id=client_id, hash=registration_hash)
    return None if row is None else _client(row)


async def lock(tx: WriteTx, client_id: str) -> Client | None:
    """The client, held until the commit."""
    row = await tx.fetch_one(_LOCK, client_id=client_id)
    return None if row is None else _client(row)


async def list_clients(tx: ReadTx, after: str, limit: int) -> list[Client]:
    return [_client(row) for row in await tx.fetch_all(_LIST, after=after, limit=limit)]


async def insert(tx: WriteTx, client: Client, registration_hash: bytes | None) -> None:
    await tx.execute(
        _INSERT,
        client_id=client.client_id,
        source=client.source,
        metadata=_metadata(client),
        metadata_version=client.metadata_version,
        registration_hash=registration_hash,
        now=client.created_at,
    )


async def update(tx: WriteTx, client: Client) -> None:
    await tx.execute(
        _UPDATE,
        client_id=client.client_id,
        metadata=_metadata(client),
        metadata_version=client.metadata_version,
        now=client.updated_at,
    )


async def delete(tx: WriteTx, client_id: str) -> bool:
    """Removes a client and all that is kept with it; whether it was there."""
    await tx.execute(_DELETE_SECRETS, client_id=client_id)
    await tx.execute(_DELETE_ASSERTIONS, client_id=client_id)
    return await tx.execute(_DELETE, client_id=client_id) == 1


async def set_registration(tx: WriteTx, client_id: str, registration_hash: bytes) -> None:
    await tx.execute(_SET_REGISTRATION, client_id=client_id, hash=registration_hash)


async def touch(tx: WriteTx, used: Sequence[tuple[str, int]]) -> None:
    """Notes when clients were last used: `(client, at)`."""
    rows: list[dict[str, Param]] = [{"client_id": client_id, "at": at} for client_id, at in used]
    await tx.execute_many(_TOUCH, rows)


async def unused(tx: ReadTx, before: int, limit: int) -> list[str]:
    """Clients that registered themselves before an instant and were never used."""
    return [row[0] for row in await tx.fetch_all(_UNUSED, before=before, limit=limit)]


async def live_secrets(tx: ReadTx, client_id: str, now: int) -> list[StoredSecret]:
    """Oldest first."""
    return [StoredSecret(*row) for row in await tx.fetch_all(_SECRETS, client_id=client_id, now=now)]


async def insert_secret(tx: WriteTx, secret: StoredSecret) -> None:
    await tx.execute(
        _ADD,
        client_id=secret.client_id,
        id=secret.id,
        hash=secret.hash,
        created_at=secret.created_at,
        expires_at=secret.expires_at,
    )


async def expire_secrets(tx: WriteTx, client_id: str, at: int) -> None:
    """Lets all secrets of a client end at an instant, unless they end before."""
    await tx.execute(_EXPIRE_SECRETS, client_id=client_id, at=at)


async def drop_secrets(tx: WriteTx, client_id: str, ids: Sequence[str]) -> None:
    await tx.execute(_DROP_SECRETS, client_id=client_id, ids=list(ids))


async def use_assertion(tx: WriteTx, client_id: str, jti_hash: bytes, expires_at: int) -> bool:
    """Takes note of an assertion; False when it was seen before."""
    return await tx.execute(_USE_ASSERTION, client_id=client_id, jti_hash=jti_hash, expires_at=expires_at) == 1


async def sweep_assertions(tx: WriteTx, now: int, limit: int) -> int:
    return await tx.execute(_SWEEP_ASSERTIONS, now=now, limit=limit)


async def insert_initial(tx: WriteTx, token_hash: bytes, label: str, uses: int, now: int, expires_at: int) -> None:
    await tx.execute(_INSERT_INITIAL, hash=token_hash, label=label, uses=uses, now=now, expires_at=expires_at)


async def use_initial(tx: WriteTx, token_hash: bytes, now: int) -> bool:
    """Draws one use of an initial access token; whether there was one."""
    return await tx.fetch_one(_USE_INITIAL, hash=token_hash, now=now) is not None


async def sweep_initial(tx: WriteTx, now: int) -> int:
    return await tx.execute(_SWEEP_INITIAL, now=now)
