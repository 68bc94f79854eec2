"""Encrypted snapshots: the merged state of a vault, cut into sealed parts (docs/sync.md, snapshots).

Each part is sealed under a key derived for snapshots only, bound to its vault, snapshot, sequence and place. The first
bytes of the state carry the history chain at that sequence, so a device that starts here can still check what follows.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hapta.client.envelope import NONCE_BYTES, b64, unb64
from hapta.client.errors import DecryptFailed, HistoryForked
from hapta.client.store import Cell
from hapta.client.wire import SnapshotInfo

if TYPE_CHECKING:
    from hapta.client.vault import Vault

PART_BYTES = 512 * 1024


class State(msgspec.Struct, frozen=True, array_like=True):
    """One part: the chain at the snapshot's sequence, and registers."""

    chain: str
    cells: list[tuple[str, str, str, str, str, str | None, bytes | None]]


def build(vault: Vault, snapshot_id: str) -> tuple[dict[str, object], int]:
    """The body of an upload, and the sequence it stands for. The vault must have nothing unsent.

    Raises:
        DecryptFailed: some logs cannot be read here.
    """
    with vault.store.transaction():
        if vault.store.outbox_size():
            raise RuntimeError("a snapshot stands for logs the server has; sync first")
        if vault.store.quarantined():
            # They would be missing in the snapshot, and the server may drop the logs that a snapshot stands for.
            raise DecryptFailed("This device cannot read every log, so it must not make a snapshot")
        upto, chain = vault.cursor, vault.store.get("chain")
        states = list(_cut(vault.store.cells(), chain))
    epoch = vault.ring.newest
    cipher = AESGCM(vault.ring.subkey("snapshot", epoch))
    parts: list[dict[str, str]] = []
    for index, plain in enumerate(states):
        nonce = os.urandom(NONCE_BYTES)
        sealed = cipher.encrypt(nonce, plain, _aad(vault.id, snapshot_id, upto, index, len(states)))
        parts.append({"encryptedData": b64(sealed), "nonce": b64(nonce)})
    body: dict[str, object] = {
        "snapshotId": snapshot_id,
        "uptoSequence": upto,
        "keyEpoch": epoch,
        "deviceId": vault.device_id,
        "parts": parts,
    }
    return body, upto


def load(vault: Vault, info: SnapshotInfo) -> int:
    """Merges a snapshot into the vault and moves its cursor there; gives the sequence.

    Raises:
        DecryptFailed: a part is altered, missing or of another place.
        HistoryForked: it stands for less than this device has already seen.
    """
    if info.key_epoch not in vault.ring.keys:
        raise DecryptFailed(f"No key for epoch {info.key_epoch}")
    cipher = AESGCM(vault.ring.subkey("snapshot", info.key_epoch))
    states: list[State] = []
    for index, part in enumerate(info.parts):
        aad = _aad(vault.id, info.snapshot_id, info.upto_sequence, index, len(info.parts))
        try:
            plain = cipher.decrypt(unb64(part.nonce), unb64(part.encrypted_data), aad)
            states.append(msgspec.msgpack.decode(plain, type=State))
        except (InvalidTag, msgspec.DecodeError) as error:
            raise DecryptFailed("A part of the snapshot cannot be decrypted") from error
    if not states:
        raise DecryptFailed("The snapshot is empty")
    with vault.store.transaction():
        if info.upto_sequence < vault.cursor:
            raise HistoryForked("The snapshot is older than what this device has seen")
        for state in states:
            vault.merge_all([Cell(*values) for values in state.cells])
        vault.store.set(cursor=info.upto_sequence, chain=states[0].chain, first_sync_done=0)
        vault.store.forget_own(info.upto_sequence)
    return info.upto_sequence


def _cut(cells: Iterator[Cell], chain: str) -> Iterator[bytes]:
    batch: list[tuple[str, str, str, str, str, str | None, bytes | None]] = []
    size = 0
    for cell in cells:
        batch.append((cell.table, cell.row, cell.column, cell.stamp, cell.log_id, cell.value, cell.blob))
        size += len(cell.row) + len(cell.value or "") + len(cell.blob or b"") + 150
        if size >= PART_BYTES:
            yield msgspec.msgpack.encode(State(chain, batch))
            batch, size = [], 0
    yield msgspec.msgpack.encode(State(chain, batch))


def _aad(vault_id: str, snapshot_id: str, upto: int, index: int, count: int) -> bytes:
    places = struct.pack(">QII", upto, index, count)
    return b"hapta-snapshot-v2" + uuid.UUID(vault_id).bytes + uuid.UUID(snapshot_id).bytes + places
