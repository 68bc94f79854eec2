"""Compaction and cleaning: what is dropped because snapshots cover it, and what was deleted, goes in small transactions.

Dropping has two steps. First the logs become invisible (a pull below them gets 410) while their rows stay for some days; then
the rows go and only their dedupe keys remain, so that a late retry is still known. Nothing is dropped on one client's word:
it takes two snapshots, and every device's acknowledgement or a long time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import structlog

from hapta.db.database import Database, WriteTx
from hapta.kit.background import Routine, in_turn
from hapta.kit.clock import Clock
from hapta.settings import SyncSettings
from hapta.sync import cleanup, records, store
from hapta.sync.blobs import store as blob_store
from hapta.sync.keys import REPLACED_READABLE_MS
from hapta.sync.models import Vault

CHUNK = 5_000
EVERY_SECONDS = 600.0
DAY_MS = 24 * 3600 * 1000
GONE_KEEP_MS = DAY_MS
"""How long a deleted account's head row stays to turn away requests that began before, such as a long import."""

_log = structlog.stdlib.get_logger("hapta.sync.upkeep")


class UpkeepDone(NamedTuple):
    """What one round did."""

    dropped_vaults: int
    removed_logs: int
    purged_logs: int
    expired_keys: int


class Upkeep:
    """The rounds. Several workers may run them at once: every step is one transaction under the stream's lock."""

    def __init__(self, db: Database, clock: Clock, settings: SyncSettings) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._done: dict[str, int] = {}
        parts = {f"upkeep: {name}": partial(self._noted, name, part) for name, part in self._parts().items()}
        self._all_parts = in_turn(parts)
        self._rounds = Routine("upkeep", self._round, EVERY_SECONDS)

    def start(self) -> None:
        """Runs rounds from now on until `close`."""
        self._rounds.start()

    async def close(self) -> None:
        await self._rounds.stop()

    async def _round(self) -> None:
        self._done.clear()
        await self._all_parts()
        if any(self._done.values()):
            _log.info("upkeep", **self._done)

    async def _noted(self, name: str, part: Callable[[], Awaitable[int]]) -> None:
        self._done[name] = await part()

    def _parts(self) -> dict[str, Callable[[], Awaitable[int]]]:
        return {
            "dropped_vaults": self._drop,
            "removed_logs": self._remove_dropped,
            "purged_logs": self._purge_deleted,
            "expired_keys": self._expire,
        }

    async def run(self) -> UpkeepDone:
        """One round, to its end."""
        return UpkeepDone(**{name: await part() for name, part in self._parts().items()})

    # -- dropping ----------------------------------------------------------------------------------------------------------

    async def _drop(self) -> int:
        count = 0
        after = ("", 0)
        while True:
            vaults = await self._db.read(lambda tx, after=after: cleanup.vaults_with_snapshots(tx, after, 100))
            for vault in vaults:
                count += await self._db.write(lambda tx, vault=vault: self._drop_one(tx, vault))
            if len(vaults) < 100:
                return count
            after = (vaults[-1].stream_id, vaults[-1].vault_no)

    async def _drop_one(self, tx: WriteTx, seen: Vault) -> bool:
        await store.lock_streams(tx, [seen.stream_id])
        vault = await store.find_vault(tx, seen.stream_id, seen.vault_id)
        if vault is None or vault.vault_no != seen.vault_no or vault.removed_upto < vault.dropped_upto:
            return False
        snapshots = await records.list_snapshots(tx, vault.stream_id, vault.vault_no)
        if len(snapshots) < 2:
            return False
        # Up to the older of the two newest: should the newest one be useless, the other and the logs since are there.
        older = snapshots[1]
        if older.upto_sequence <= vault.dropped_upto:
            return False
        now_ms = self._clock.now_ms()
        old_enough = older.created_at <= now_ms - self._settings.compact_after_days * DAY_MS
        if not old_enough and not await records.all_acknowledged(
            tx, vault.stream_id, vault.vault_no, older.upto_sequence
        ):
            return False
        await store.mark_dropped(tx, vault, older.upto_sequence, now_ms)
        return True

    async def _remove_dropped(self) -> int:
        before_ms = self._clock.now_ms() - self._settings.dropped_keep_days * DAY_MS
        total = 0
        while True:
            vaults = await self._db.read(lambda tx: cleanup.vaults_to_remove_from(tx, before_ms, 100))
            for vault in vaults:
                while removed := await self._db.write(lambda tx, vault=vault: self._remove_chunk(tx, vault)):
                    total += removed
            if len(vaults) < 100:
                return total

    async def _remove_chunk(self, tx: WriteTx, seen: Vault) -> int:
        """Removes the rows of the oldest dropped logs and keeps their keys; 0 when there are none left."""
        await store.lock_streams(tx, [seen.stream_id])
        vault = await store.find_vault(tx, seen.stream_id, seen.vault_id)
        if vault is None or vault.vault_no != seen.vault_no or vault.removed_upto >= vault.dropped_upto:
            return 0
        edge = await cleanup.chunk_edge(tx, vault, vault.dropped_upto, CHUNK)
        if edge is None:
            await store.remove_upto(tx, vault, vault.dropped_upto, vault.base_chain, numbers=0, logs=0, size=0)
            return 0
        last = await records.chain_at(tx, vault.stream_id, vault.vault_no, edge.sequence)
        chain = last[1] if last else vault.base_chain
        await cleanup.keep_keys(tx, vault, edge.sequence, self._clock.now_ms())
        await cleanup.delete_logs(tx, vault.stream_id, vault.vault_no, edge.sequence)
        await store.remove_upto(tx, vault, edge.sequence, chain, numbers=edge.logs, logs=edge.logs, size=edge.size)
        return edge.logs

    # -- deleted vaults and accounts ---------------------------------------------------------------------------------------

    async def _purge_deleted(self) -> int:
        total = 0
        while True:
            vaults = await self._db.read(lambda tx: cleanup.deleted_vaults(tx, 100))
            for stream_id, vault_no in vaults:
                while (
                    purged := await self._db.write(
                        lambda tx, stream_id=stream_id, vault_no=vault_no: self._purge_chunk(tx, stream_id, vault_no)
                    )
                ) is not None:
                    total += purged
            if len(vaults) < 100:
                break
        gone_before = self._clock.now_ms() - GONE_KEEP_MS
        await self._db.write(lambda tx: cleanup.remove_gone_streams(tx, gone_before))
        return total

    async def _purge_chunk(self, tx: WriteTx, stream_id: str, vault_no: int) -> int | None:
        """Removes some rows of a deleted vault; None when the vault itself is gone."""
        await store.lock_streams(tx, [stream_id])
        edge = await cleanup.oldest_logs(tx, stream_id, vault_no, CHUNK)
        if edge is None:
            # They may be millions as well, and what takes longer than a statement may would never be done.
            if await cleanup.delete_dropped_keys(tx, stream_id, vault_no, CHUNK) == CHUNK:
                return 0
            if await blob_store.doom_some_of_vault(tx, stream_id, vault_no, CHUNK, self._clock.now_ms()) == CHUNK:
                return 0
            await cleanup.forget_vault(tx, stream_id, vault_no)
            return None
        removed = await cleanup.delete_logs(tx, stream_id, vault_no, edge.sequence)
        await cleanup.count_purged(tx, stream_id, removed)
        return removed

    async def _expire(self) -> int:
        now_ms = self._clock.now_ms()
        total = 0
        for expire, before in (
            (cleanup.expire_replaced_keys, now_ms - REPLACED_READABLE_MS),
            (cleanup.expire_dropped_keys, now_ms - self._settings.dedupe_keep_days * DAY_MS),
        ):
            while count := await self._db.write(lambda tx, expire=expire, before=before: expire(tx, before)):
                total += count
        return total
