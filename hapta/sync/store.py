"""The SQL of streams, vaults and logs, and nothing but SQL (keys, devices and snapshots: `records.py`).

Every statement leads with the stream, so it touches one account's part of each index. `lock_streams` is the lock that the
order of sequence numbers rests on: whoever holds it sees all that earlier holders committed (docs/sync.md, NO-SKIP).
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Param, ReadTx, Row, WriteTx
from hapta.sync import store_postgres
from hapta.sync.models import EMPTY_CHAIN, Growth, Stream, Vault

_STREAM = "id, kind, last_sequence, bytes, logs, removed, epoch, quota_bytes, next_vault_no"
VAULT_FIELDS = """stream_id, vault_no, vault_id, head, chain, logs, bytes, largest, created_at, last_push_at,
    dropped_upto, dropped_at, removed_upto, base_chain, encrypted_name, name_nonce"""

# A statement of its own, before any other: statements after it take a fresh snapshot (READ COMMITTED), which the duplicate
# check depends on. Sorted, so that two workers that want the same streams cannot wait for each other.
_LOCK_STREAMS = f"SELECT {_STREAM} FROM sync_streams WHERE id = any(:ids::text[]) ORDER BY id FOR NO KEY UPDATE"  # noqa: S608
_STREAM_BY_ID = f"SELECT {_STREAM} FROM sync_streams WHERE id = :id"  # noqa: S608

_STREAM_COLUMNS = [
    ("id", "text"),
    ("kind", "text"),
    ("owner_id", "text"),
    ("last_sequence", "bigint"),
    ("bytes", "bigint"),
    ("logs", "bigint"),
    ("removed", "bigint"),
    ("epoch", "text"),
    ("quota_bytes", "bigint"),
    ("next_vault_no", "bigint"),
    ("created_at", "bigint"),
]
_VAULT_COLUMNS = [
    ("stream_id", "text"),
    ("vault_no", "bigint"),
    ("vault_id", "text"),
    ("created_at", "bigint"),
    ("head", "bigint"),
    ("chain", "bytea"),
    ("logs", "bigint"),
    ("bytes", "bigint"),
    ("largest", "bigint"),
    ("dropped_upto", "bigint"),
    ("removed_upto", "bigint"),
    ("base_chain", "bytea"),
]
_LOG_COLUMNS = [
    ("stream_id", "text"),
    ("vault_no", "bigint"),
    ("sequence", "bigint"),
    ("size", "bigint"),
    ("created_at", "bigint"),
    ("key_epoch", "bigint"),
    ("device_id", "text"),
    ("dedupe_key", "bytea"),
    ("chain", "bytea"),
    ("haex_timestamp", "text"),
    ("nonce", "text"),
    ("encrypted_data", "text"),
]

_UPDATE_STREAM = """
    UPDATE sync_streams SET last_sequence = :last_sequence, bytes = :bytes, logs = :logs, next_vault_no = :next_vault_no
    WHERE id = :id"""
_UPDATE_VAULT = """
    UPDATE sync_vaults SET head = :head, chain = :chain, logs = :logs, bytes = :bytes, largest = :largest,
        last_push_at = :last_push_at
    WHERE stream_id = :stream_id AND vault_no = :vault_no"""
# What a push builds on, compared and changed at once: the row is only written when it is still as it was believed to be.
_MOVE_STREAM = """
    UPDATE sync_streams SET last_sequence = :last_sequence, bytes = :bytes, logs = :logs
    WHERE id = :id AND last_sequence = :was_last AND bytes = :was_bytes AND logs = :was_logs AND next_vault_no = :next_no
        AND epoch = :epoch AND quota_bytes IS NOT DISTINCT FROM :quota_bytes AND kind = 'user'"""
_GROW_VAULT = """
    UPDATE sync_vaults
    SET head = :head, chain = :chain, logs = :logs, bytes = :bytes, largest = :largest, last_push_at = :pushed_at
    WHERE stream_id = :stream AND vault_no = :vault AND head = :was_head AND chain = :was_chain AND logs = :was_logs
        AND bytes = :was_bytes AND largest = :was_largest AND removed_upto = 0 AND deleted_at IS NULL"""

_LIVE_VAULTS = f"""
    SELECT {VAULT_FIELDS} FROM sync_vaults
    WHERE stream_id = any(:streams::text[]) AND vault_id = any(:vaults::text[]) AND deleted_at IS NULL"""  # noqa: S608
# Of many streams: one walk over each stream's few vaults, not a look-up for every pair. `|| ''` keeps the planner off that.
_LIVE_VAULTS_OF_MANY = _LIVE_VAULTS.replace("vault_id = any", "(vault_id || '') = any")
_FIND_VAULT = (
    f"SELECT {VAULT_FIELDS} FROM sync_vaults WHERE stream_id = :stream AND vault_id = :vault AND deleted_at IS NULL"  # noqa: S608
)
_LIST_VAULTS = (
    f"SELECT {VAULT_FIELDS} FROM sync_vaults WHERE stream_id = :stream AND deleted_at IS NULL ORDER BY vault_no"  # noqa: S608
)
_COUNT_VAULTS = """
    SELECT stream_id, count(*) FROM sync_vaults
    WHERE stream_id = any(:streams::text[]) AND deleted_at IS NULL GROUP BY stream_id"""

_KEY_EPOCHS = """
    SELECT stream_id, vault_id, key_epoch FROM sync_vault_keys
    WHERE stream_id = any(:streams::text[]) AND (vault_id || '') = any(:vaults::text[])"""

_STORED = """
    SELECT dedupe_key, sequence, created_at, haex_timestamp FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND dedupe_key = any(:keys::bytea[])"""
_DROPPED = """
    SELECT dedupe_key, sequence, created_at FROM sync_dropped_keys
    WHERE stream_id = :stream AND vault_no = :vault AND dedupe_key = any(:keys::bytea[])"""

# The head row comes with the vault in one statement, so a pull of nothing new costs a single look-up of two rows.
_PULL_HEAD = """
    SELECT s.id, s.epoch, v.vault_no, v.head, v.chain, v.dropped_upto, v.largest
    FROM sync_streams s
    LEFT JOIN sync_vaults v ON v.stream_id = s.id AND v.vault_id = :vault AND v.deleted_at IS NULL
    WHERE s.id = :stream"""
_PULL = """
    SELECT sequence, encrypted_data, nonce, haex_timestamp, created_at, key_epoch, device_id, size, dedupe_key
    FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND sequence > :after
    ORDER BY sequence LIMIT :limit"""

_PULL_SIZES = """
    SELECT sequence, size FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND sequence > :after
    ORDER BY sequence LIMIT :limit"""


async def lock_streams(tx: WriteTx, ids: Sequence[str]) -> dict[str, Stream]:
    """Locks the head rows of `ids` to the end of the transaction; those that do not exist are left out."""
    return {row[0]: Stream(*row) for row in await tx.fetch_all(_LOCK_STREAMS, ids=ids)}


async def find_stream(tx: ReadTx, stream_id: str) -> Stream | None:
    row = await tx.fetch_one(_STREAM_BY_ID, id=stream_id)
    return None if row is None else Stream(*row)


async def epochs(tx: ReadTx, ids: Sequence[str]) -> dict[str, str]:
    """Epochs by stream."""
    rows = await tx.fetch_all("SELECT id, epoch FROM sync_streams WHERE id = any(:ids::text[])", ids=ids)
    return {row[0]: row[1] for row in rows}


async def add_streams(tx: WriteTx, ids_and_epochs: Sequence[tuple[str, str]], now_ms: int) -> None:
    """Creates personal streams; those that exist already stay as they are."""
    rows = [(id_, "user", id_, 0, 0, 0, 0, epoch, None, 1, now_ms) for id_, epoch in ids_and_epochs]
    await tx.insert_rows("sync_streams", _STREAM_COLUMNS, rows, ignore_conflicts=True)


async def save_streams(tx: WriteTx, streams: Sequence[Stream]) -> None:
    """Writes heads and counters back. The caller holds the streams' locks."""
    await tx.execute_many(
        _UPDATE_STREAM,
        [
            {
                "id": s.id,
                "last_sequence": s.last_sequence,
                "bytes": s.bytes,
                "logs": s.logs,
                "next_vault_no": s.next_vault_no,
            }
            for s in streams
        ],
    )


async def live_vaults(tx: ReadTx, stream_ids: Sequence[str], vault_ids: Sequence[str]) -> dict[tuple[str, str], Vault]:
    """Vaults by (stream, vault id); may hold pairs that nobody asked for."""
    sql = _LIVE_VAULTS if len(stream_ids) == 1 else _LIVE_VAULTS_OF_MANY
    rows = await tx.fetch_all(sql, streams=stream_ids, vaults=vault_ids)
    return {(row[0], row[2]): Vault(*row) for row in rows}


async def find_vault(tx: ReadTx, stream_id: str, vault_id: str) -> Vault | None:
    row = await tx.fetch_one(_FIND_VAULT, stream=stream_id, vault=vault_id)
    return None if row is None else Vault(*row)


async def list_vaults(tx: ReadTx, stream_id: str) -> list[Vault]:
    return [Vault(*row) for row in await tx.fetch_all(_LIST_VAULTS, stream=stream_id)]


async def count_vaults(tx: ReadTx, stream_ids: Sequence[str]) -> dict[str, int]:
    """How many live vaults each stream has; streams without one are left out."""
    rows = await tx.fetch_all(_COUNT_VAULTS, streams=stream_ids)
    return {row[0]: row[1] for row in rows}


def new_vault(stream_id: str, vault_no: int, vault_id: str, now_ms: int) -> Vault:
    """An empty vault, not stored yet."""
    return Vault(
        stream_id, vault_no, vault_id, 0, EMPTY_CHAIN, 0, 0, 0, now_ms, None, 0, None, 0, EMPTY_CHAIN, None, None
    )  # fmt: skip


async def add_vaults(tx: WriteTx, vaults: Sequence[Vault]) -> None:
    """Stores new vaults. The caller holds the streams' locks and has made sure that no live vault has the id."""
    rows = [
        (
            v.stream_id,
            v.vault_no,
            v.vault_id,
            v.created_at,
            v.head,
            v.chain,
            v.logs,
            v.bytes,
            v.largest,
            0,
            0,
            v.base_chain,
        )
        for v in vaults
    ]
    await tx.insert_rows("sync_vaults", _VAULT_COLUMNS, rows)


async def save_vaults(tx: WriteTx, vaults: Sequence[Vault]) -> None:
    """Writes heads, chains and counters back. The caller holds the streams' locks."""
    await tx.execute_many(
        _UPDATE_VAULT,
        [
            {
                "stream_id": v.stream_id,
                "vault_no": v.vault_no,
                "head": v.head,
                "chain": v.chain,
                "logs": v.logs,
                "bytes": v.bytes,
                "largest": v.largest,
                "last_push_at": v.last_push_at,
            }
            for v in vaults
        ],
    )


async def key_epochs(tx: ReadTx, stream_ids: Sequence[str], vault_ids: Sequence[str]) -> set[tuple[str, str, int]]:
    """Which (stream, vault id, key epoch) have a stored vault key."""
    rows = await tx.fetch_all(_KEY_EPOCHS, streams=stream_ids, vaults=vault_ids)
    return {(row[0], row[1], row[2]) for row in rows}


async def append(
    tx: WriteTx,
    rows: Sequence[Row],
    streams: Sequence[Growth[Stream]],
    vaults: Sequence[Growth[Vault]],
    *,
    ignore_conflicts: bool,
) -> int:
    """Stores logs and writes heads and counters back; the number of logs really stored. The caller holds the locks, and rolls
    back when fewer were stored than given."""
    after = [stream for _, stream in streams], [vault for _, vault in vaults]
    if tx.engine == "postgres":
        return await store_postgres.append(tx, rows, *after)
    inserted = await add_logs(tx, rows, ignore_conflicts=ignore_conflicts)
    await save_streams(tx, after[0])
    await save_vaults(tx, after[1])
    return inserted


async def append_if_unmoved(
    tx: WriteTx, rows: Sequence[Row], streams: Sequence[Growth[Stream]], vaults: Sequence[Growth[Vault]]
) -> int | None:
    """`append` for a caller that holds no lock: takes the locks, and compares all that was built on first.

    Returns:
        The number of logs really stored, as `append`. None when a stream or vault is not as it was believed to be: then the
        caller rolls back.

    Raises:
        UniqueViolation: some logs are stored already (PostgreSQL, where it is one statement).
    """
    if tx.engine == "postgres":
        return await store_postgres.append_if_unmoved(tx, rows, streams, vaults)
    moved = [
        (
            now.last_sequence, now.bytes, now.logs,
            was.id, was.last_sequence, was.bytes, was.logs, was.next_vault_no, was.epoch, was.quota_bytes,
        )
        for was, now in streams
    ]  # fmt: skip
    if await tx.execute_each(_MOVE_STREAM, moved) != len(moved):
        return None
    grown = [
        (
            now.head, now.chain, now.logs, now.bytes, now.largest, now.last_push_at,
            was.stream_id, was.vault_no, was.head, was.chain, was.logs, was.bytes, was.largest,
        )
        for was, now in vaults
    ]  # fmt: skip
    if await tx.execute_each(_GROW_VAULT, grown) != len(grown):
        return None
    return await add_logs(tx, rows, ignore_conflicts=True)


async def add_logs(tx: WriteTx, rows: Sequence[Row], *, ignore_conflicts: bool) -> int:
    """Appends log rows (in the order of the table's columns); the number of rows really stored."""
    return await tx.insert_rows("sync_logs", _LOG_COLUMNS, rows, ignore_conflicts=ignore_conflicts)


async def stored_logs(
    tx: ReadTx, stream_id: str, vault_no: int, keys: Sequence[bytes]
) -> dict[bytes, tuple[int, int, str]]:
    """(sequence, created_at, haex_timestamp) by dedupe key, for those of `keys` that are stored."""
    rows = await tx.fetch_all(_STORED, stream=stream_id, vault=vault_no, keys=keys)
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


async def dropped_logs(
    tx: ReadTx, stream_id: str, vault_no: int, keys: Sequence[bytes]
) -> dict[bytes, tuple[int, int]]:
    """(sequence, created_at) by dedupe key, for those of `keys` whose log was compacted away."""
    rows = await tx.fetch_all(_DROPPED, stream=stream_id, vault=vault_no, keys=keys)
    return {row[0]: (row[1], row[2]) for row in rows}


async def pull_head(tx: ReadTx, stream_id: str, vault_id: str) -> Row | None:
    """(stream id, epoch, vault_no, head, chain, dropped_upto, largest); None without a stream, None values without a vault."""
    return await tx.fetch_one(_PULL_HEAD, stream=stream_id, vault=vault_id)


async def pull_rows(tx: ReadTx, stream_id: str, vault_no: int, after: int, limit: int) -> list[Row]:
    """The next `limit` logs: (sequence, encrypted_data, nonce, haex_timestamp, created_at, key_epoch, device_id, size, key)."""
    return await tx.fetch_all(_PULL, stream=stream_id, vault=vault_no, after=after, limit=limit)


async def pull_sizes(tx: ReadTx, stream_id: str, vault_no: int, after: int, limit: int) -> list[Row]:
    """(sequence, size) of the next `limit` logs."""
    return await tx.fetch_all(_PULL_SIZES, stream=stream_id, vault=vault_no, after=after, limit=limit)


_MARK_DELETED = """
    UPDATE sync_vaults SET deleted_at = :now WHERE stream_id = :stream AND vault_no = any(:vaults::bigint[])"""


async def mark_deleted(tx: WriteTx, stream_id: str, vault_nos: Sequence[int], now_ms: int) -> None:
    """Makes vaults invisible. The caller holds the stream's lock and takes their counters off the stream."""
    await tx.execute(_MARK_DELETED, stream=stream_id, vaults=vault_nos, now=now_ms)


async def mark_gone(tx: WriteTx, stream_id: str, now_ms: int) -> None:
    """A deleted account's stream: counts nothing and takes nothing more. `created_at` is from now on when it went."""
    sql = "UPDATE sync_streams SET kind = 'gone', bytes = 0, logs = 0, created_at = :now WHERE id = :id"
    await tx.execute(sql, id=stream_id, now=now_ms)


_MARK_DROPPED = """
    UPDATE sync_vaults SET dropped_upto = :upto, dropped_at = :now WHERE stream_id = :stream AND vault_no = :vault"""
_REMOVE_UPTO = """
    UPDATE sync_vaults
    SET removed_upto = :upto, base_chain = :chain, logs = logs - :logs, bytes = bytes - :size
    WHERE stream_id = :stream AND vault_no = :vault"""
_COUNT_REMOVED = """
    UPDATE sync_streams SET removed = removed + :numbers, logs = logs - :logs, bytes = bytes - :size WHERE id = :stream"""


async def mark_dropped(tx: WriteTx, vault: Vault, upto: int, now_ms: int) -> None:
    """Makes logs up to `upto` invisible; their rows stay for now."""
    await tx.execute(_MARK_DROPPED, stream=vault.stream_id, vault=vault.vault_no, upto=upto, now=now_ms)


async def remove_upto(
    tx: WriteTx, vault: Vault, upto: int, chain: bytes, *, numbers: int, logs: int, size: int
) -> None:
    """Accounts for rows that are gone: `numbers` sequence numbers without a row, `logs` rows of `size` bytes.

    The caller holds the stream's lock, and no counters of it in memory that it would write back.
    """
    await tx.execute(
        _REMOVE_UPTO, stream=vault.stream_id, vault=vault.vault_no, upto=upto, chain=chain, logs=logs, size=size
    )
    await tx.execute(_COUNT_REMOVED, stream=vault.stream_id, numbers=numbers, logs=logs, size=size)


async def stream_ids(tx: ReadTx, after: str, limit: int) -> list[str]:
    """Ids of streams in order, after `after`."""
    sql = "SELECT id FROM sync_streams WHERE id > :after ORDER BY id LIMIT :limit"
    return [row[0] for row in await tx.fetch_all(sql, after=after, limit=limit)]


async def set_epochs(tx: WriteTx, epochs_by_id: Sequence[tuple[str, str]]) -> None:
    rows: list[dict[str, Param]] = [{"id": id_, "epoch": epoch} for id_, epoch in epochs_by_id]
    await tx.execute_many("UPDATE sync_streams SET epoch = :epoch WHERE id = :id", rows)


async def set_quota(tx: WriteTx, stream_id: str, max_bytes: int | None) -> bool:
    sql = "UPDATE sync_streams SET quota_bytes = :quota WHERE id = :id"
    return await tx.execute(sql, id=stream_id, quota=max_bytes) == 1
