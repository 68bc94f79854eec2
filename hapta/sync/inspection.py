"""The SQL of `verify`: the shape of a stream from one snapshot, and its rows in chunks."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import ReadTx
from hapta.sync import store
from hapta.sync.blobs import store as blob_store
from hapta.sync.models import LOG_OVERHEAD_BYTES, Stream, Vault

_DELETED = "SELECT vault_no FROM sync_vaults WHERE stream_id = :stream AND deleted_at IS NOT NULL ORDER BY vault_no"
_SNAPSHOT_BYTES = "SELECT vault_no, sum(bytes)::bigint FROM sync_snapshots WHERE stream_id = :stream GROUP BY vault_no"
_ROWS = """
    SELECT sequence, dedupe_key, size, chain,
        /*postgres: octet_length(encrypted_data) + octet_length(nonce)*/
        /*sqlite: length(CAST(encrypted_data AS BLOB)) + length(CAST(nonce AS BLOB))*/
    FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND sequence > :after AND sequence <= :upto
    ORDER BY sequence LIMIT :limit"""
# As bytes: a damaged text need not be one any more. Keys of the other kind are not made of the content.
_CONTENTS = """
    SELECT sequence, dedupe_key,
        /*postgres: convert_to(haex_timestamp, 'UTF8'), convert_to(nonce, 'UTF8'), convert_to(encrypted_data, 'UTF8')*/
        /*sqlite: CAST(haex_timestamp AS BLOB), CAST(nonce AS BLOB), CAST(encrypted_data AS BLOB)*/
    FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND sequence >= :first AND sequence <= :last
        AND dedupe_key < :client_keys
    ORDER BY sequence"""
_OUTSIDE = """
    SELECT count(*) FROM sync_logs WHERE stream_id = :stream AND vault_no = :vault AND sequence <= :removed"""


class Shape(NamedTuple):
    """A stream with its vaults, live and deleted, from one snapshot."""

    stream: Stream
    vaults: list[Vault]
    deleted: list[int]
    other_bytes: dict[int, int]
    """Of snapshots and blobs, by the vault's number."""

    def changed_in(self, later: Shape) -> bool:
        """Whether rows may have gone or changed hands meanwhile; pushes only add beyond the heads."""
        return (
            self.stream.removed != later.stream.removed
            or self.deleted != later.deleted
            or self.other_bytes != later.other_bytes
            or [vault.vault_no for vault in self.vaults]
            != [vault.vault_no for vault in later.vaults][: len(self.vaults)]
        )


async def shape(tx: ReadTx, stream_id: str) -> Shape | None:
    """None when the stream is gone."""
    stream = await store.find_stream(tx, stream_id)
    if stream is None:
        return None
    vaults = await store.list_vaults(tx, stream_id)
    deleted = [row[0] for row in await tx.fetch_all(_DELETED, stream=stream_id)]
    sizes = {row[0]: row[1] for row in await tx.fetch_all(_SNAPSHOT_BYTES, stream=stream_id)}
    for vault_no, size in (await blob_store.sizes(tx, stream_id, LOG_OVERHEAD_BYTES)).items():
        sizes[vault_no] = sizes.get(vault_no, 0) + size
    return Shape(stream, vaults, deleted, sizes)


async def rows(
    tx: ReadTx, stream_id: str, vault_no: int, after: int, upto: int, limit: int
) -> list[tuple[int, bytes, int, bytes, int]]:
    """(sequence, dedupe key, counted size, chain, measured size) of the next rows."""
    found = await tx.fetch_all(_ROWS, stream=stream_id, vault=vault_no, after=after, upto=upto, limit=limit)
    return [(row[0], row[1], row[2], row[3], row[4] + LOG_OVERHEAD_BYTES) for row in found]


async def contents(
    tx: ReadTx, stream_id: str, vault_no: int, first: int, last: int
) -> list[tuple[int, bytes, bytes, bytes, bytes]]:
    """(sequence, dedupe key, haex_timestamp, nonce, encrypted_data) of the logs in a range whose key is their content's."""
    at = {"stream": stream_id, "vault": vault_no, "first": first, "last": last}
    found = await tx.fetch_all(_CONTENTS, **at, client_keys=b"\x01")
    return [(row[0], row[1], row[2], row[3], row[4]) for row in found]


async def rows_outside(tx: ReadTx, stream_id: str, vault: Vault) -> int:
    """How many rows stand where all were removed."""
    return await tx.fetch_value(_OUTSIDE, stream=stream_id, vault=vault.vault_no, removed=vault.removed_upto)
