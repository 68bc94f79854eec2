"""What PostgreSQL can do in one round trip where SQLite has no round trips to save: the whole write of a batch of pushes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hapta.db.database import Row, WriteTx
from hapta.sync.models import Stream, Vault

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

_S = ("s_id", "s_last", "s_bytes", "s_logs", "s_next")
_V = ("v_stream", "v_no", "v_head", "v_chain", "v_logs", "v_bytes", "v_largest", "v_pushed")
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
