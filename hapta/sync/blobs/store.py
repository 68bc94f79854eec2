"""The SQL of blobs, and nothing but SQL. A blob is found by way of its live vault alone: with the vault it becomes invisible."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.sync.blobs.models import Blob

_FIELDS = "b.stream_id, b.vault_no, b.hash, b.size, b.object_key, b.created_at, b.lost_at"
_FIND = f"""
    SELECT {_FIELDS} FROM sync_vaults v
    JOIN sync_blobs b ON b.stream_id = v.stream_id AND b.vault_no = v.vault_no AND b.hash = :hash
    WHERE v.stream_id = :stream AND v.vault_id = :vault AND v.deleted_at IS NULL"""  # noqa: S608
_IN_VAULT = f"""
    SELECT {_FIELDS} FROM sync_blobs b
    WHERE b.stream_id = :stream AND b.vault_no = :vault AND b.hash = :hash"""  # noqa: S608
_STORED = """
    SELECT hash FROM sync_blobs
    WHERE stream_id = :stream AND vault_no = :vault AND hash = any(:hashes::bytea[]) AND lost_at IS NULL"""
_ADD = """
    INSERT INTO sync_blobs (stream_id, vault_no, hash, size, object_key, created_at)
    VALUES (:stream, :vault, :hash, :size, :object_key, :now)"""
_MOVE = """
    UPDATE sync_blobs SET object_key = :object_key, lost_at = NULL
    WHERE stream_id = :stream AND vault_no = :vault AND hash = :hash"""
_REMOVE = "DELETE FROM sync_blobs WHERE stream_id = :stream AND vault_no = :vault AND hash = :hash"
_BEGIN = """
    INSERT INTO sync_blob_objects (object_key, stream_id, doomed, since) VALUES (:object_key, :stream, 0, :now)"""
_END = "DELETE FROM sync_blob_objects WHERE object_key = :object_key AND doomed = 0"
_DOOM = """
    INSERT INTO sync_blob_objects (object_key, stream_id, doomed, since) VALUES (:object_key, :stream, 1, :now)
    ON CONFLICT (object_key) DO UPDATE SET doomed = 1, since = excluded.since"""
_GIVE_UP = "UPDATE sync_blob_objects SET doomed = 1 WHERE object_key = :object_key AND doomed = 0"
_DOOM_STALE = "UPDATE sync_blob_objects SET doomed = 1 WHERE doomed = 0 AND since <= :before"
_DOOMED = "SELECT object_key FROM sync_blob_objects WHERE doomed = 1 ORDER BY since LIMIT :limit"
_FORGET = "DELETE FROM sync_blob_objects WHERE doomed = 1 AND object_key = any(:keys::text[])"
_SOME_OF_VAULT = """
    SELECT object_key FROM sync_blobs WHERE stream_id = :stream AND vault_no = :vault ORDER BY hash LIMIT :limit"""
_DOOM_MANY = """
    INSERT INTO sync_blob_objects (object_key, stream_id, doomed, since)
    SELECT object_key, stream_id, 1, :now::bigint FROM sync_blobs WHERE object_key = any(:keys::text[])
    ON CONFLICT (object_key) DO UPDATE SET doomed = 1"""
_REMOVE_MANY = "DELETE FROM sync_blobs WHERE object_key = any(:keys::text[])"
_KNOWN = """
    SELECT object_key FROM sync_blobs WHERE object_key = any(:keys::text[])
    UNION ALL SELECT object_key FROM sync_blob_objects WHERE object_key = any(:keys::text[])"""
_BETWEEN = """
    SELECT object_key, lost_at IS NOT NULL FROM sync_blobs
    WHERE object_key > :after AND object_key <= :upto AND created_at <= :before ORDER BY object_key LIMIT :limit"""
_SET_LOST = """
    UPDATE sync_blobs SET lost_at = :now WHERE object_key = any(:keys::text[]) AND lost_at IS NULL"""
_SET_FOUND = "UPDATE sync_blobs SET lost_at = NULL WHERE object_key = any(:keys::text[]) AND lost_at IS NOT NULL"
_SIZES = """
    SELECT vault_no, sum(size + :overhead::bigint)::bigint FROM sync_blobs WHERE stream_id = :stream GROUP BY vault_no"""


async def find(tx: ReadTx, stream_id: str, vault_id: str, digest: bytes) -> Blob | None:
    """The blob of a live vault."""
    row = await tx.fetch_one(_FIND, stream=stream_id, vault=vault_id, hash=digest)
    return None if row is None else Blob(*row)


async def in_vault(tx: ReadTx, stream_id: str, vault_no: int, digest: bytes) -> Blob | None:
    row = await tx.fetch_one(_IN_VAULT, stream=stream_id, vault=vault_no, hash=digest)
    return None if row is None else Blob(*row)


async def stored(tx: ReadTx, stream_id: str, vault_no: int, hashes: Sequence[bytes]) -> set[bytes]:
    """Those of `hashes` that the vault has, and the store as far as is known."""
    return {row[0] for row in await tx.fetch_all(_STORED, stream=stream_id, vault=vault_no, hashes=hashes)}


async def add(tx: WriteTx, stream_id: str, vault_no: int, digest: bytes, size: int, object_key: str, now: int) -> None:
    await tx.execute(_ADD, stream=stream_id, vault=vault_no, hash=digest, size=size, object_key=object_key, now=now)


async def move(tx: WriteTx, blob: Blob, object_key: str) -> None:
    """Lets a blob whose object was lost stand on another one."""
    await tx.execute(_MOVE, stream=blob.stream_id, vault=blob.vault_no, hash=blob.hash, object_key=object_key)


async def remove(tx: WriteTx, blob: Blob) -> None:
    await tx.execute(_REMOVE, stream=blob.stream_id, vault=blob.vault_no, hash=blob.hash)


# -- objects without a blob ---------------------------------------------------------------------------------------------------


async def begin(tx: WriteTx, stream_id: str, object_key: str, now_ms: int) -> None:
    """Notes that an object may come into the store."""
    await tx.execute(_BEGIN, object_key=object_key, stream=stream_id, now=now_ms)


async def end(tx: WriteTx, object_key: str) -> bool:
    """Takes the note away; False when the object was given up meanwhile."""
    return await tx.execute(_END, object_key=object_key) == 1


async def doom(tx: WriteTx, stream_id: str, object_key: str, now_ms: int) -> None:
    """Queues an object for removal from the store."""
    await tx.execute(_DOOM, object_key=object_key, stream=stream_id, now=now_ms)


async def give_up(tx: WriteTx, object_key: str) -> bool:
    """Queues the object of an upload that failed; False when nobody waits for it any more."""
    return await tx.execute(_GIVE_UP, object_key=object_key) == 1


async def doom_stale(tx: WriteTx, before_ms: int) -> int:
    """Gives up uploads that began before then."""
    return await tx.execute(_DOOM_STALE, before=before_ms)


async def doomed(tx: ReadTx, limit: int) -> list[str]:
    return [row[0] for row in await tx.fetch_all(_DOOMED, limit=limit)]


async def forget(tx: WriteTx, keys: Sequence[str]) -> None:
    """Takes objects off the queue that the store has no more."""
    await tx.execute(_FORGET, keys=keys)


async def doom_some_of_vault(tx: WriteTx, stream_id: str, vault_no: int, limit: int, now_ms: int) -> int:
    """Gives up some blobs of a deleted vault; how many."""
    rows = await tx.fetch_all(_SOME_OF_VAULT, stream=stream_id, vault=vault_no, limit=limit)
    keys = [row[0] for row in rows]
    if keys:
        await tx.execute(_DOOM_MANY, keys=keys, now=now_ms)
        await tx.execute(_REMOVE_MANY, keys=keys)
    return len(keys)


# -- the sweep ----------------------------------------------------------------------------------------------------------------


async def known(tx: ReadTx, keys: Sequence[str]) -> set[str]:
    """Those of `keys` that a blob stands for, or that are on their way in or out."""
    return {row[0] for row in await tx.fetch_all(_KNOWN, keys=keys)}


async def between(tx: ReadTx, after: str, upto: str, before_ms: int, limit: int) -> list[tuple[str, bool]]:
    """(object key, whether it counts as lost) of blobs that are older than `before_ms`, in the order of their keys."""
    rows = await tx.fetch_all(_BETWEEN, after=after, upto=upto, before=before_ms, limit=limit)
    return [(row[0], bool(row[1])) for row in rows]


async def set_lost(tx: WriteTx, keys: Sequence[str], now_ms: int) -> int:
    return await tx.execute(_SET_LOST, keys=keys, now=now_ms)


async def set_found(tx: WriteTx, keys: Sequence[str]) -> int:
    return await tx.execute(_SET_FOUND, keys=keys)


async def sizes(tx: ReadTx, stream_id: str, overhead: int) -> dict[int, int]:
    """What the blobs of each vault count for, by its number."""
    return {row[0]: row[1] for row in await tx.fetch_all(_SIZES, stream=stream_id, overhead=overhead)}
