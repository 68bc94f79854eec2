"""The SQL of what lies beside the log: vault keys, names, snapshots, acknowledgements and devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hapta.db.database import Param, ReadTx, Row, WriteTx
from hapta.sync.models import Snapshot, VaultKey

_KEY = "vault_id, key_epoch, id, version, encrypted_vault_key, salt, nonce, created_at, updated_at"

_ADD_KEY = f"""
    INSERT INTO sync_vault_keys (stream_id, {_KEY})
    VALUES (:stream, :vault, :key_epoch, :id, :version, :key, :salt, :nonce, :created_at, :updated_at)
    ON CONFLICT DO NOTHING"""  # noqa: S608
_KEYS = f"SELECT {_KEY} FROM sync_vault_keys WHERE stream_id = :stream AND vault_id = :vault ORDER BY key_epoch"  # noqa: S608
_COUNT_KEYS = "SELECT count(*) FROM sync_vault_keys WHERE stream_id = :stream AND vault_id = :vault"
_ALL_KEYS = f"SELECT {_KEY} FROM sync_vault_keys WHERE stream_id = :stream ORDER BY vault_id, key_epoch"  # noqa: S608
_REPLACED = f"""
    SELECT {_KEY} FROM sync_replaced_keys
    WHERE stream_id = :stream AND vault_id = :vault AND key_epoch = :key_epoch AND version = :version
        AND replaced_at > :since"""  # noqa: S608
_REPLACE = """
    UPDATE sync_vault_keys
    SET version = version + 1, encrypted_vault_key = :key, salt = :salt, nonce = :nonce, updated_at = :now
    WHERE stream_id = :stream AND vault_id = :vault AND key_epoch = :key_epoch AND version = :version"""
_KEEP_REPLACED = f"""
    INSERT INTO sync_replaced_keys (stream_id, {_KEY}, replaced_at)
    SELECT stream_id, {_KEY}, :now::bigint FROM sync_vault_keys
    WHERE stream_id = :stream AND vault_id = :vault AND key_epoch = :key_epoch AND version = :version
    ON CONFLICT DO NOTHING"""  # noqa: S608
KEPT_REPLACED = 10
"""Replaced versions of one wrapped key that stay readable; more would be a store that no quota counts."""
_FORGET_REPLACED = f"""
    DELETE FROM sync_replaced_keys
    WHERE stream_id = :stream AND vault_id = :vault AND key_epoch = :key_epoch
        AND version <= :version::bigint - {KEPT_REPLACED}"""  # noqa: S608
_NAME = """
    UPDATE sync_vaults SET encrypted_name = :name, name_nonce = :nonce
    WHERE stream_id = :stream AND vault_no = :vault"""
_VAULTS_WITH_KEY = "SELECT DISTINCT vault_id FROM sync_vault_keys WHERE stream_id = :stream"

_SNAPSHOT = "vault_no, snapshot_id, upto_sequence, chain, key_epoch, device_id, parts, bytes, created_at"
_SNAPSHOTS = f"""
    SELECT {_SNAPSHOT} FROM sync_snapshots WHERE stream_id = :stream AND vault_no = :vault
    ORDER BY upto_sequence DESC, created_at DESC, snapshot_id"""  # noqa: S608
_ADD_SNAPSHOT = f"""
    INSERT INTO sync_snapshots (stream_id, {_SNAPSHOT})
    VALUES (:stream, :vault, :snapshot_id, :upto, :chain, :key_epoch, :device_id, :parts, :bytes, :created_at)"""  # noqa: S608
_PART_COLUMNS = [
    ("stream_id", "text"),
    ("vault_no", "bigint"),
    ("snapshot_id", "text"),
    ("part_no", "bigint"),
    ("encrypted_data", "text"),
    ("nonce", "text"),
]
_PARTS = """
    SELECT encrypted_data, nonce FROM sync_snapshot_parts
    WHERE stream_id = :stream AND vault_no = :vault AND snapshot_id = :snapshot_id ORDER BY part_no"""
_ONE_PART = """
    SELECT encrypted_data, nonce FROM sync_snapshot_parts
    WHERE stream_id = :stream AND vault_no = :vault AND snapshot_id = :snapshot_id AND part_no = :part"""
_DROP_SNAPSHOT = "WHERE stream_id = :stream AND vault_no = :vault AND snapshot_id = :snapshot_id"
_CHAIN_AT = """
    SELECT sequence, chain FROM sync_logs
    WHERE stream_id = :stream AND vault_no = :vault AND sequence <= :upto ORDER BY sequence DESC LIMIT 1"""

_ACK = """
    INSERT INTO sync_acks (stream_id, vault_no, device_id, sequence, updated_at)
    VALUES (:stream, :vault, :device_id, :sequence, :now)
    ON CONFLICT (stream_id, vault_no, device_id) DO UPDATE
    SET sequence = greatest(sync_acks.sequence, excluded.sequence), updated_at = excluded.updated_at
    RETURNING sequence"""
_ACKS = """
    SELECT a.device_id, v.vault_id, a.sequence FROM sync_acks a
    JOIN sync_vaults v ON v.stream_id = a.stream_id AND v.vault_no = a.vault_no AND v.deleted_at IS NULL
    WHERE a.stream_id = :stream ORDER BY a.device_id, v.vault_id"""
REVOKED_GRACE_MS = 5_000
"""Contacts of a revoked device that mean nothing yet: other workers hear of a revocation within two seconds."""
_TOUCH = f"""
    INSERT INTO sync_devices (stream_id, device_id, first_seen_at, last_seen_at, revoked_at)
    VALUES (:stream, :device_id, :seen, :seen, NULL)
    ON CONFLICT (stream_id, device_id) DO UPDATE
    SET last_seen_at = greatest(sync_devices.last_seen_at, excluded.last_seen_at),
        revoked_at = CASE WHEN sync_devices.revoked_at + {REVOKED_GRACE_MS} < excluded.last_seen_at THEN NULL
            ELSE sync_devices.revoked_at END"""  # noqa: S608
# Of many streams: one walk over each stream's few devices, not a look-up for every pair (see `store.live_vaults`).
_KNOWN_DEVICES = """
    SELECT stream_id, device_id FROM sync_devices
    WHERE stream_id = any(:streams::text[]) AND (device_id || '') = any(:devices::text[])"""
_COUNT_DEVICES = """
    SELECT stream_id, count(*) FROM sync_devices WHERE stream_id = any(:streams::text[]) GROUP BY stream_id"""
_FORGET_ACKS = """
    DELETE FROM sync_acks WHERE stream_id = any(:streams::text[]) AND EXISTS (
        SELECT 1 FROM sync_devices d
        WHERE d.stream_id = sync_acks.stream_id AND d.device_id = sync_acks.device_id AND d.revoked_at < :before)"""
_FORGET_REVOKED = "DELETE FROM sync_devices WHERE stream_id = any(:streams::text[]) AND revoked_at < :before"
_KNOWS_DEVICE = "SELECT 1 FROM sync_devices WHERE stream_id = :stream AND device_id = :device_id"
_DEVICES = """
    SELECT device_id, first_seen_at, last_seen_at FROM sync_devices
    WHERE stream_id = :stream AND revoked_at IS NULL ORDER BY first_seen_at, device_id"""
_REVOKE = """
    UPDATE sync_devices SET revoked_at = :now
    WHERE stream_id = :stream AND device_id = :device_id AND revoked_at IS NULL"""
_BEHIND = """
    SELECT d.device_id FROM sync_devices d
    LEFT JOIN sync_acks a ON a.stream_id = d.stream_id AND a.vault_no = :vault AND a.device_id = d.device_id
    WHERE d.stream_id = :stream AND d.revoked_at IS NULL AND (a.sequence IS NULL OR a.sequence < :upto)
    LIMIT 1"""
_ANY_ACK = "SELECT 1 FROM sync_acks WHERE stream_id = :stream AND vault_no = :vault LIMIT 1"


# -- keys --------------------------------------------------------------------------------------------------------------


async def add_key(tx: WriteTx, stream_id: str, key: VaultKey) -> bool:
    """Stores a wrapped key; False when the vault has one for that epoch."""
    added = await tx.execute(
        _ADD_KEY,
        stream=stream_id,
        vault=key.vault_id,
        key_epoch=key.key_epoch,
        id=key.id,
        version=key.version,
        key=key.encrypted_vault_key,
        salt=key.salt,
        nonce=key.nonce,
        created_at=key.created_at,
        updated_at=key.updated_at,
    )
    return added == 1


async def list_keys(tx: ReadTx, stream_id: str, vault_id: str) -> list[VaultKey]:
    """The wrapped keys of one vault, by epoch."""
    return [VaultKey(*row) for row in await tx.fetch_all(_KEYS, stream=stream_id, vault=vault_id)]


async def count_keys(tx: ReadTx, stream_id: str, vault_id: str) -> int:
    return await tx.fetch_value(_COUNT_KEYS, stream=stream_id, vault=vault_id)


async def list_all_keys(tx: ReadTx, stream_id: str) -> list[VaultKey]:
    return [VaultKey(*row) for row in await tx.fetch_all(_ALL_KEYS, stream=stream_id)]


async def find_replaced_key(
    tx: ReadTx, stream_id: str, vault_id: str, key_epoch: int, version: int, since_ms: int
) -> VaultKey | None:
    """A wrapped key that was replaced after `since_ms`."""
    row = await tx.fetch_one(
        _REPLACED, stream=stream_id, vault=vault_id, key_epoch=key_epoch, version=version, since=since_ms
    )
    return None if row is None else VaultKey(*row)


async def replace_key(
    tx: WriteTx, stream_id: str, vault_id: str, key_epoch: int, version: int, wrapped: tuple[str, str, str], now_ms: int
) -> bool:
    """Puts (encrypted key, salt, nonce) in place of `version` and keeps what it replaces; False for another version."""
    at = {"stream": stream_id, "vault": vault_id, "key_epoch": key_epoch, "version": version}
    if not await tx.execute(_KEEP_REPLACED, **at, now=now_ms):
        return False
    await tx.execute(_FORGET_REPLACED, **at)
    key, salt, nonce = wrapped
    return await tx.execute(_REPLACE, **at, now=now_ms, key=key, salt=salt, nonce=nonce) == 1


async def delete_keys(tx: WriteTx, stream_id: str, vault_id: str) -> None:
    for table in ("sync_vault_keys", "sync_replaced_keys"):
        await tx.execute(
            f"DELETE FROM {table} WHERE stream_id = :stream AND vault_id = :vault",  # noqa: S608
            stream=stream_id,
            vault=vault_id,
        )


async def name_vault(tx: WriteTx, stream_id: str, vault_no: int, name: str, nonce: str) -> None:
    await tx.execute(_NAME, stream=stream_id, vault=vault_no, name=name, nonce=nonce)


async def vaults_with_key(tx: ReadTx, stream_id: str) -> set[str]:
    return {row[0] for row in await tx.fetch_all(_VAULTS_WITH_KEY, stream=stream_id)}


async def delete_account(tx: WriteTx, stream_id: str) -> None:
    """Keys and devices of an account; vaults are marked and removed apart."""
    for table in ("sync_vault_keys", "sync_replaced_keys", "sync_devices"):
        await tx.execute(f"DELETE FROM {table} WHERE stream_id = :stream", stream=stream_id)  # noqa: S608


# -- snapshots ---------------------------------------------------------------------------------------------------------


async def list_snapshots(tx: ReadTx, stream_id: str, vault_no: int) -> list[Snapshot]:
    """Newest first."""
    return [Snapshot(*row) for row in await tx.fetch_all(_SNAPSHOTS, stream=stream_id, vault=vault_no)]


async def add_snapshot(tx: WriteTx, stream_id: str, snapshot: Snapshot, parts: Sequence[tuple[str, str]]) -> None:
    await tx.execute(
        _ADD_SNAPSHOT,
        stream=stream_id,
        vault=snapshot.vault_no,
        snapshot_id=snapshot.snapshot_id,
        upto=snapshot.upto_sequence,
        chain=snapshot.chain,
        key_epoch=snapshot.key_epoch,
        device_id=snapshot.device_id,
        parts=snapshot.parts,
        bytes=snapshot.bytes,
        created_at=snapshot.created_at,
    )
    rows = [
        (stream_id, snapshot.vault_no, snapshot.snapshot_id, number, data, nonce)
        for number, (data, nonce) in enumerate(parts)
    ]
    await tx.insert_rows("sync_snapshot_parts", _PART_COLUMNS, rows)


async def snapshot_parts(tx: ReadTx, stream_id: str, vault_no: int, snapshot_id: str) -> list[Row]:
    """(encrypted_data, nonce) of all parts, in order."""
    return await tx.fetch_all(_PARTS, stream=stream_id, vault=vault_no, snapshot_id=snapshot_id)


async def snapshot_part(tx: ReadTx, stream_id: str, vault_no: int, snapshot_id: str, part: int) -> Row | None:
    """(encrypted_data, nonce) of one part."""
    return await tx.fetch_one(_ONE_PART, stream=stream_id, vault=vault_no, snapshot_id=snapshot_id, part=part)


async def drop_snapshot(tx: WriteTx, stream_id: str, vault_no: int, snapshot_id: str) -> None:
    for table in ("sync_snapshot_parts", "sync_snapshots"):
        await tx.execute(
            f"DELETE FROM {table} {_DROP_SNAPSHOT}",  # noqa: S608
            stream=stream_id,
            vault=vault_no,
            snapshot_id=snapshot_id,
        )


async def chain_at(tx: ReadTx, stream_id: str, vault_no: int, upto: int) -> tuple[int, bytes] | None:
    """(sequence, chain) of the last log at or before `upto`."""
    row = await tx.fetch_one(_CHAIN_AT, stream=stream_id, vault=vault_no, upto=upto)
    return None if row is None else (row[0], row[1])


# -- acknowledgements and devices --------------------------------------------------------------------------------------


async def acknowledge(tx: WriteTx, stream_id: str, vault_no: int, device_id: str, sequence: int, now_ms: int) -> int:
    """Raises a device's acknowledged sequence; the one that counts now."""
    return await tx.fetch_value(
        _ACK, stream=stream_id, vault=vault_no, device_id=device_id, sequence=sequence, now=now_ms
    )


async def list_acks(tx: ReadTx, stream_id: str) -> list[Row]:
    """(device_id, vault_id, sequence)."""
    return await tx.fetch_all(_ACKS, stream=stream_id)


async def all_acknowledged(tx: ReadTx, stream_id: str, vault_no: int, upto: int) -> bool:
    """Whether every device of the account that is not revoked has acknowledged `upto` in this vault, and at least one has."""
    if await tx.fetch_one(_BEHIND, stream=stream_id, vault=vault_no, upto=upto) is not None:
        return False
    return await tx.fetch_one(_ANY_ACK, stream=stream_id, vault=vault_no) is not None


async def touch_devices(tx: WriteTx, seen: Sequence[tuple[str, str, int]], max_devices: int) -> set[tuple[str, str]]:
    """Records (stream, device, when). A revoked device that was seen after its revocation signed in again: it counts.

    Returns:
        The (stream, device) that were not recorded: new ones of streams that have `max_devices` rows. Revoked devices make
        room for them. Without a lock, so workers that add at the same moment may overstep the cap by what they add.
    """
    unknown = await _unknown_devices(tx, seen)
    room = await _room_for_devices(tx, unknown, max_devices)
    full = sorted({stream for stream, _ in unknown if room[stream] < 0})
    if full:
        before = min(at for _, _, at in seen) - REVOKED_GRACE_MS
        await tx.execute(_FORGET_ACKS, streams=full, before=before)
        if await tx.execute(_FORGET_REVOKED, streams=full, before=before):
            unknown = await _unknown_devices(tx, seen)
            room = await _room_for_devices(tx, unknown, max_devices)
    refused: set[tuple[str, str]] = set()
    for at in reversed(unknown):
        if room[at[0]] < 0:
            refused.add(at)
            room[at[0]] += 1
    rows: list[dict[str, Param]] = [
        {"stream": stream, "device_id": device, "seen": when}
        for stream, device, when in seen
        if (stream, device) not in refused
    ]
    if rows:
        await tx.execute_many(_TOUCH, rows)
    return refused


async def _unknown_devices(tx: ReadTx, seen: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
    streams, devices = sorted({stream for stream, _, _ in seen}), sorted({device for _, device, _ in seen})
    rows = await tx.fetch_all(_KNOWN_DEVICES, streams=streams, devices=devices)
    known = {(row[0], row[1]) for row in rows}
    return [(stream, device) for stream, device, _ in seen if (stream, device) not in known]


async def _room_for_devices(tx: ReadTx, unknown: Sequence[tuple[str, str]], max_devices: int) -> dict[str, int]:
    """How many more each stream would hold with the unknown ones in it; below zero: how many are too many."""
    adding = Counter(stream for stream, _ in unknown)
    if not adding:
        return {}
    counts: dict[str, int] = {row[0]: row[1] for row in await tx.fetch_all(_COUNT_DEVICES, streams=sorted(adding))}
    # A stream that is over the cap already (it was lowered) refuses what is new, and keeps what it has.
    return {stream: max(max_devices - counts.get(stream, 0), 0) - count for stream, count in adding.items()}


async def knows_device(tx: ReadTx, stream_id: str, device_id: str) -> bool:
    return await tx.fetch_one(_KNOWS_DEVICE, stream=stream_id, device_id=device_id) is not None


async def list_devices(tx: ReadTx, stream_id: str) -> list[Row]:
    """(device_id, first_seen_at, last_seen_at) of devices that are not revoked."""
    return await tx.fetch_all(_DEVICES, stream=stream_id)


async def revoke_device(tx: WriteTx, stream_id: str, device_id: str, now_ms: int) -> bool:
    return await tx.execute(_REVOKE, stream=stream_id, device_id=device_id, now=now_ms) == 1
