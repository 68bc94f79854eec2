"""The SQL of compaction and cleaning: all of it in bounded steps, all of it led by the stream."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import ReadTx, Row, WriteTx
from hapta.sync.models import Vault
from hapta.sync.store import VAULT_FIELDS

EXPIRE_AT_ONCE = 20_000

_WITH_SNAPSHOTS = f"""
    SELECT {VAULT_FIELDS} FROM sync_vaults v
    WHERE deleted_at IS NULL
        AND (stream_id > :stream OR (stream_id = :stream AND vault_no > :vault))
        AND EXISTS (
            SELECT 1 FROM sync_snapshots s
            WHERE s.stream_id = v.stream_id AND s.vault_no = v.vault_no AND s.upto_sequence > v.dropped_upto)
    ORDER BY stream_id, vault_no LIMIT :limit"""  # noqa: S608
_TO_REMOVE = f"""
    SELECT {VAULT_FIELDS} FROM sync_vaults
    WHERE deleted_at IS NULL AND removed_upto < dropped_upto AND dropped_at <= :before
    ORDER BY stream_id, vault_no LIMIT :limit"""  # noqa: S608
_EDGE = """
    SELECT max(sequence), count(*), coalesce(sum(size), 0)::bigint FROM (
        SELECT sequence, size FROM sync_logs
        WHERE stream_id = :stream AND vault_no = :vault AND sequence <= :upto ORDER BY sequence LIMIT :limit) AS chunk"""
_KEEP_KEYS = """
    INSERT INTO sync_dropped_keys (stream_id, vault_no, dedupe_key, sequence, created_at, removed_at)
    SELECT stream_id, vault_no, dedupe_key, sequence, created_at, :now::bigint FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND sequence <= :upto"""
_DELETE_LOGS = "DELETE FROM sync_logs WHERE stream_id = :stream AND vault_no = :vault AND sequence <= :upto"
_DELETED = """
    SELECT stream_id, vault_no FROM sync_vaults WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT :limit"""
_OF_VAULT = "WHERE stream_id = :stream AND vault_no = :vault"
_DELETE_DROPPED_KEYS = f"""
    DELETE FROM sync_dropped_keys {_OF_VAULT} AND dedupe_key IN (
        SELECT dedupe_key FROM sync_dropped_keys {_OF_VAULT} LIMIT :limit)"""  # noqa: S608
_GONE = """
    DELETE FROM sync_streams WHERE kind = 'gone' AND created_at <= :before
        AND NOT EXISTS (SELECT 1 FROM sync_vaults v WHERE v.stream_id = sync_streams.id)"""
_EXPIRE_KEYS = """
    DELETE FROM sync_dropped_keys WHERE removed_at <= (
        SELECT max(removed_at) FROM (
            SELECT removed_at FROM sync_dropped_keys WHERE removed_at <= :before ORDER BY removed_at LIMIT :limit) AS old)"""
_EXPIRE_REPLACED = """
    DELETE FROM sync_replaced_keys WHERE replaced_at <= (
        SELECT max(replaced_at) FROM (
            SELECT replaced_at FROM sync_replaced_keys WHERE replaced_at <= :before
            ORDER BY replaced_at LIMIT :limit) AS old)"""


class Edge(NamedTuple):
    """The end of a chunk of rows: its last sequence, and what it holds."""

    sequence: int
    logs: int
    size: int


async def vaults_with_snapshots(tx: ReadTx, after: tuple[str, int], limit: int) -> list[Vault]:
    """Vaults that have a snapshot beyond what was dropped already."""
    rows = await tx.fetch_all(_WITH_SNAPSHOTS, stream=after[0], vault=after[1], limit=limit)
    return [Vault(*row) for row in rows]


async def vaults_to_remove_from(tx: ReadTx, before_ms: int, limit: int) -> list[Vault]:
    """Vaults whose dropped rows have been kept for long enough."""
    return [Vault(*row) for row in await tx.fetch_all(_TO_REMOVE, before=before_ms, limit=limit)]


async def chunk_edge(tx: ReadTx, vault: Vault, upto: int, limit: int) -> Edge | None:
    """The end of the oldest `limit` rows up to `upto`; None when there are none."""
    row = await tx.fetch_one(_EDGE, stream=vault.stream_id, vault=vault.vault_no, upto=upto, limit=limit)
    return None if row is None or row[0] is None else Edge(row[0], row[1], row[2])


async def oldest_logs(tx: ReadTx, stream_id: str, vault_no: int, limit: int) -> Edge | None:
    row = await tx.fetch_one(_EDGE, stream=stream_id, vault=vault_no, upto=2**62, limit=limit)
    return None if row is None or row[0] is None else Edge(row[0], row[1], row[2])


async def keep_keys(tx: WriteTx, vault: Vault, upto: int, now_ms: int) -> None:
    """Remembers the dedupe keys of rows that are about to go."""
    await tx.execute(_KEEP_KEYS, stream=vault.stream_id, vault=vault.vault_no, upto=upto, now=now_ms)


async def delete_logs(tx: WriteTx, stream_id: str, vault_no: int, upto: int) -> int:
    return await tx.execute(_DELETE_LOGS, stream=stream_id, vault=vault_no, upto=upto)


async def deleted_vaults(tx: ReadTx, limit: int) -> list[Row]:
    """(stream_id, vault_no) of vaults that are deleted and still have a row."""
    return await tx.fetch_all(_DELETED, limit=limit)


async def delete_dropped_keys(tx: WriteTx, stream_id: str, vault_no: int, limit: int) -> int:
    """Forgets some dedupe keys of a deleted vault's compacted logs; how many."""
    return await tx.execute(_DELETE_DROPPED_KEYS, stream=stream_id, vault=vault_no, limit=limit)


async def forget_vault(tx: WriteTx, stream_id: str, vault_no: int) -> None:
    """Removes a deleted vault that has no logs left, with all that hangs on it. Its dropped keys should be few by then."""
    for table in ("sync_snapshot_parts", "sync_snapshots", "sync_dropped_keys", "sync_acks", "sync_vaults"):
        await tx.execute(f"DELETE FROM {table} {_OF_VAULT}", stream=stream_id, vault=vault_no)  # noqa: S608


async def count_purged(tx: WriteTx, stream_id: str, numbers: int) -> None:
    await tx.execute(
        "UPDATE sync_streams SET removed = removed + :numbers WHERE id = :id", id=stream_id, numbers=numbers
    )


async def remove_gone_streams(tx: WriteTx, before_ms: int) -> int:
    """Streams of accounts that were deleted before then, once nothing hangs on them."""
    return await tx.execute(_GONE, before=before_ms)


async def expire_replaced_keys(tx: WriteTx, before_ms: int) -> int:
    """Forgets wrapped keys that were replaced before then, a bounded number at once."""
    return await tx.execute(_EXPIRE_REPLACED, before=before_ms, limit=EXPIRE_AT_ONCE)


async def expire_dropped_keys(tx: WriteTx, before_ms: int) -> int:
    """Forgets dedupe keys past the retry window, a bounded number at once."""
    return await tx.execute(_EXPIRE_KEYS, before=before_ms, limit=EXPIRE_AT_ONCE)
