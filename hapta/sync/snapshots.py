"""Encrypted snapshots: a client folds a vault's logs into one state that a new device can start from.

The server cannot check a ciphertext, so a snapshot only ever adds. Dropping what it covers is `Upkeep`'s decision, and it
needs two snapshots and every device's word (or a long time).
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, ReadTx, Row, WriteTx
from hapta.kit.clock import Clock
from hapta.sync import records, store
from hapta.sync.errors import (
    BadSnapshot,
    PushTooLarge,
    QuotaExceeded,
    SnapshotExists,
    SnapshotNotFound,
    UnknownKeyEpoch,
    VaultNotFound,
)
from hapta.sync.models import EMPTY_CHAIN, LOG_OVERHEAD_BYTES, Snapshot, Stream, Vault, find_uuid, measure
from hapta.sync.quota import Quota

KEPT_SNAPSHOTS = 3
MAX_PART_BYTES = 16 * 1024 * 1024
MAX_NONCE_CHARACTERS = 256


class Snapshots:
    """Snapshots of all vaults."""

    def __init__(self, db: Database, clock: Clock, quota: Quota) -> None:
        self._db = db
        self._clock = clock
        self._quota = quota

    async def put(
        self,
        user_id: str,
        vault_id: str,
        snapshot_id: str,
        upto: int,
        parts: Sequence[tuple[str, str]],
        key_epoch: int = 0,
        device_id: str | None = None,
    ) -> Snapshot:
        """Stores a state that equals all logs up to `upto`. The same snapshot again is answered as the first time.

        Raises:
            VaultNotFound: no such vault of this account.
            BadSnapshot: `upto` is beyond the vault's head, or among logs that are gone.
            SnapshotExists: the id belongs to another state.
            PushTooLarge, QuotaExceeded, UnknownKeyEpoch: nothing was stored.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise VaultNotFound
        size = self._measure(parts)
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> Snapshot:
            stream = (await store.lock_streams(tx, [user_id])).get(user_id)
            vault = await store.find_vault(tx, user_id, found) if stream else None
            if stream is None or vault is None:
                raise VaultNotFound
            kept = await records.list_snapshots(tx, user_id, vault.vault_no)
            same = next((one for one in kept if one.snapshot_id == snapshot_id.lower()), None)
            if same is not None:
                if same.upto_sequence != upto:
                    raise SnapshotExists
                return same
            if key_epoch and (user_id, found, key_epoch) not in await store.key_epochs(tx, [user_id], [found]):
                raise UnknownKeyEpoch(keyEpoch=key_epoch)
            chain = await self._chain_at(tx, vault, upto)
            snapshot = Snapshot(
                vault.vault_no, snapshot_id.lower(), upto, chain, key_epoch, device_id, len(parts), size, now_ms
            )
            freed = await self.thin_out(tx, vault, [snapshot, *kept])
            await self._check_quota(tx, stream, size - freed)
            await records.add_snapshot(tx, user_id, snapshot, parts)
            await store.save_streams(tx, [stream._replace(bytes=stream.bytes + size - freed)])
            await store.save_vaults(tx, [vault._replace(bytes=vault.bytes + size - freed)])
            return snapshot

        return await self._db.write(body)

    async def thin_out(self, tx: WriteTx, vault: Vault, snapshots: Sequence[Snapshot]) -> int:
        """Removes all but the newest snapshots; the bytes that this frees. The first one given is never removed."""
        newest = sorted(snapshots, key=lambda one: (one.upto_sequence, one.created_at), reverse=True)
        freed = 0
        for old in newest[KEPT_SNAPSHOTS:]:
            if old is not snapshots[0]:
                await records.drop_snapshot(tx, vault.stream_id, vault.vault_no, old.snapshot_id)
                freed += old.bytes
        return freed

    async def newest(self, user_id: str, vault_id: str) -> tuple[Snapshot, list[Row], str, str]:
        """(snapshot, its (encrypted_data, nonce) parts, the vault's id in canonical form, epoch).

        Raises:
            SnapshotNotFound: the vault has none, or is not this account's.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise SnapshotNotFound

        async def body(tx: ReadTx) -> tuple[Snapshot, list[Row], str, str]:
            stream = await store.find_stream(tx, user_id)
            vault = await store.find_vault(tx, user_id, found)
            kept = await records.list_snapshots(tx, user_id, vault.vault_no) if vault else []
            if stream is None or vault is None or not kept:
                raise SnapshotNotFound
            parts = await records.snapshot_parts(tx, user_id, vault.vault_no, kept[0].snapshot_id)
            return kept[0], parts, found, stream.epoch

        return await self._db.read(body)

    def _measure(self, parts: Sequence[tuple[str, str]]) -> int:
        if any(len(nonce) > MAX_NONCE_CHARACTERS or measure(data) > MAX_PART_BYTES for data, nonce in parts):
            raise PushTooLarge(limits={"maxPartBytes": MAX_PART_BYTES, "maxNonceCharacters": MAX_NONCE_CHARACTERS})
        return sum(measure(data) + measure(nonce) + LOG_OVERHEAD_BYTES for data, nonce in parts)

    async def _chain_at(self, tx: WriteTx, vault: Vault, upto: int) -> bytes:
        if upto > vault.head or upto < vault.removed_upto:
            raise BadSnapshot
        last = await records.chain_at(tx, vault.stream_id, vault.vault_no, upto)
        return last[1] if last else (vault.base_chain if vault.removed_upto else EMPTY_CHAIN)

    async def _check_quota(self, tx: WriteTx, stream: Stream, size: int) -> None:
        maximum = self._quota.maximum(stream)
        used = await self._quota.used(tx, stream)
        if maximum and size > 0 and used + size > maximum:
            raise QuotaExceeded(quota={"maxBytes": maximum, "usedBytes": used, "neededBytes": size})
