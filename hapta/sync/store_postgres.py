"""What PostgreSQL can do in one round trip where SQLite has no round trips to save: the whole write of a batch of pushes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hapta.db.database import Row, WriteTx
from hapta.sync.models import Growth, Stream, Vault

# The locks were taken by a statement before this one, so all three parts see what earlier holders committed. The parts do
# not see each other, and need not: they write different tables.
_APPEND = """
    WITH moved AS (
        UPDATE sync_streams s
        SET last_sequence = n.last_sequence, bytes = n.bytes, logs = n.logs, next_vault_no = n.next_vault_no
        FROM unnest(:s_id::text[], :s_last::bigint[], :s_bytes::bigint[], :s_logs::bigint[], :s_next::bigint[])
            AS n(id, last_sequence, bytes, logs, next_vault_no)
        WHERE s.id = n.id
    ), grown AS (
        UPDATE sync_vaults v
        SET head = n.head, chain = n.chain, logs = n.logs, bytes = n.bytes, largest = n.largest, last_push_at = n.pushed_at
        FROM unnest(:v_stream::text[], :v_no::bigint[], :v_head::bigint[], :v_chain::bytea[], :v_logs::bigint[],
                    :v_bytes::bigint[], :v_largest::bigint[], :v_pushed::bigint[])
            AS n(stream_id, vault_no, head, chain, logs, bytes, largest, pushed_at)
        WHERE v.stream_id = n.stream_id AND v.vault_no = n.vault_no
    ), added AS (
        INSERT INTO sync_logs (stream_id, vault_no, sequence, size, created_at, key_epoch, device_id, dedupe_key, chain,
                               haex_timestamp, nonce, encrypted_data)
        SELECT * FROM unnest(:l_stream::text[], :l_vault::bigint[], :l_sequence::bigint[], :l_size::bigint[],
                             :l_created::bigint[], :l_epoch::bigint[], :l_device::text[], :l_key::bytea[], :l_chain::bytea[],
                             :l_stamp::text[], :l_nonce::text[], :l_data::text[])
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT count(*) FROM added"""

# One statement that is a transaction by itself. Its snapshot is older than the locks that it waits for, so nothing in it may rest
# on what the snapshot shows of others: a locked row is compared again as it is once the lock is there (that is what a row lock
# under READ COMMITTED does), the new values come from the caller, and a log that is stored already breaks the unique index,
# which no snapshot hides. What is not referred to runs last, so all locks are held before anything is written.
_APPEND_IF_UNMOVED = """
    WITH held AS (
        SELECT s.id, v.vault_no
        FROM unnest(:w_stream::text[], :w_last::bigint[], :w_bytes::bigint[], :w_logs::bigint[], :w_next::bigint[],
                    :w_epoch::text[], :w_quota::bigint[], :v_no::bigint[], :w_head::bigint[], :w_chain::bytea[],
                    :w_vault_logs::bigint[], :w_vault_bytes::bigint[], :w_largest::bigint[])
            AS w(id, last_sequence, bytes, logs, next_vault_no, epoch, quota_bytes, vault_no, head, chain, vault_logs,
                 vault_bytes, largest)
        JOIN sync_streams s ON s.id = w.id
        JOIN sync_vaults v ON v.stream_id = w.id AND v.vault_no = w.vault_no
        WHERE s.last_sequence = w.last_sequence AND s.bytes = w.bytes AND s.logs = w.logs
            AND s.next_vault_no = w.next_vault_no AND s.epoch = w.epoch
            AND s.quota_bytes IS NOT DISTINCT FROM w.quota_bytes AND s.kind = 'user'
            AND v.head = w.head AND v.chain = w.chain AND v.logs = w.vault_logs AND v.bytes = w.vault_bytes
            AND v.largest = w.largest AND v.removed_upto = 0 AND v.deleted_at IS NULL
        ORDER BY s.id, v.vault_no
        FOR NO KEY UPDATE OF s, v
    ), unmoved AS (
        SELECT count(*) = cardinality(:v_no::bigint[]) AS all_of_them FROM held
    ), moved AS (
        UPDATE sync_streams s
        SET last_sequence = n.last_sequence, bytes = n.bytes, logs = n.logs
        FROM unnest(:s_id::text[], :s_last::bigint[], :s_bytes::bigint[], :s_logs::bigint[])
            AS n(id, last_sequence, bytes, logs)
        WHERE s.id = n.id AND (SELECT all_of_them FROM unmoved)
    ), grown AS (
        UPDATE sync_vaults v
        SET head = n.head, chain = n.chain, logs = n.logs, bytes = n.bytes, largest = n.largest, last_push_at = n.pushed_at
        FROM unnest(:w_stream::text[], :v_no::bigint[], :v_head::bigint[], :v_chain::bytea[], :v_logs::bigint[],
                    :v_bytes::bigint[], :v_largest::bigint[], :v_pushed::bigint[])
            AS n(stream_id, vault_no, head, chain, logs, bytes, largest, pushed_at)
        WHERE v.stream_id = n.stream_id AND v.vault_no = n.vault_no AND (SELECT all_of_them FROM unmoved)
    ), added AS (
        INSERT INTO sync_logs (stream_id, vault_no, sequence, size, created_at, key_epoch, device_id, dedupe_key, chain,
                               haex_timestamp, nonce, encrypted_data)
        SELECT * FROM unnest(:l_stream::text[], :l_vault::bigint[], :l_sequence::bigint[], :l_size::bigint[],
                             :l_created::bigint[], :l_epoch::bigint[], :l_device::text[], :l_key::bytea[], :l_chain::bytea[],
                             :l_stamp::text[], :l_nonce::text[], :l_data::text[])
        WHERE (SELECT all_of_them FROM unmoved)
    )
    SELECT all_of_them FROM unmoved"""

_S = ("s_id", "s_last", "s_bytes", "s_logs", "s_next")
_V = ("v_stream", "v_no", "v_head", "v_chain", "v_logs", "v_bytes", "v_largest", "v_pushed")
_WAS = (
    "w_stream", "w_last", "w_bytes", "w_logs", "w_next", "w_epoch", "w_quota",
    "v_no", "w_head", "w_chain", "w_vault_logs", "w_vault_bytes", "w_largest",
)  # fmt: skip
_NOW = ("v_head", "v_chain", "v_logs", "v_bytes", "v_largest", "v_pushed")
_L = (
    "l_stream", "l_vault", "l_sequence", "l_size", "l_created", "l_epoch",
    "l_device", "l_key", "l_chain", "l_stamp", "l_nonce", "l_data",
)  # fmt: skip


async def append(tx: WriteTx, rows: Sequence[Row], streams: Sequence[Stream], vaults: Sequence[Vault]) -> int:
    """Stores logs and writes heads and counters back; the number of logs really stored.

    When that is fewer than `rows`, some were stored before, and the caller must roll back: the heads have moved.
    """
    heads = [(s.id, s.last_sequence, s.bytes, s.logs, s.next_vault_no) for s in streams]
    grown = [(v.stream_id, v.vault_no, v.head, v.chain, v.logs, v.bytes, v.largest, v.last_push_at) for v in vaults]
    params: dict[str, Any] = {
        **dict(zip(_S, zip(*heads, strict=True), strict=True)),
        **dict(zip(_V, zip(*grown, strict=True), strict=True)),
        **dict(zip(_L, zip(*rows, strict=True), strict=True)),
    }
    return await tx.fetch_value(_APPEND, **params)


async def append_if_unmoved(
    tx: WriteTx, rows: Sequence[Row], streams: Sequence[Growth[Stream]], vaults: Sequence[Growth[Vault]]
) -> int | None:
    """The same for a caller without locks, in a single statement.

    Returns:
        None, with nothing written, when a stream or vault is not as it was believed to be.

    Raises:
        UniqueViolation: some logs are stored already; nothing was written.
    """
    befores = {was.id: was for was, _ in streams}
    was_rows: list[Row] = []
    for was, _ in vaults:
        s = befores[was.stream_id]
        was_rows.append(
            (
                s.id, s.last_sequence, s.bytes, s.logs, s.next_vault_no, s.epoch, s.quota_bytes,
                was.vault_no, was.head, was.chain, was.logs, was.bytes, was.largest,
            )
        )  # fmt: skip
    heads = [(s.id, s.last_sequence, s.bytes, s.logs) for _, s in streams]
    grown = [(v.head, v.chain, v.logs, v.bytes, v.largest, v.last_push_at) for _, v in vaults]
    params: dict[str, Any] = {
        **dict(zip(_WAS, zip(*was_rows, strict=True), strict=True)),
        **dict(zip(_S[:-1], zip(*heads, strict=True), strict=True)),
        **dict(zip(_NOW, zip(*grown, strict=True), strict=True)),
        **dict(zip(_L, zip(*rows, strict=True), strict=True)),
    }
    return len(rows) if await tx.fetch_value(_APPEND_IF_UNMOVED, **params) else None
