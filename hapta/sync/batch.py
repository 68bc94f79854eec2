"""One transaction's worth of pushes: heads as they grow, numbers and chains given out, and the rows to be written.

Pure but for `load`, `look_up` and `save`, which read and write under the locks of the caller's transaction. Nothing here is
kept after it: what later transactions may remember of it is `hapta.sync.heads`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

from hapta.db.database import Row, WriteTx
from hapta.kit.errors import HaptaError
from hapta.sync import store
from hapta.sync.errors import AccountGone, QuotaExceeded, TooManyVaults, UnknownKeyEpoch
from hapta.sync.models import (
    EMPTY_CHAIN,
    Growth,
    NewlyStored,
    Push,
    Pushed,
    Stored,
    Stream,
    Vault,
    chains_over,
    extend_chain,
    row,
)
from hapta.sync.quota import Quota

Outcome = Pushed | HaptaError
Known = dict[bytes, tuple[int, int, str | None]]
VaultAt = tuple[str, str]
"""(stream id, vault id)."""


class DuplicatesFound(Exception):
    """A try that assumed new logs met some that are stored already, or cannot tell; nothing of it may stay."""


class Batch:
    """The state of one transaction.

    Args:
        streams: the locked head rows, or what they are believed to be.
        vaults: live vaults, where they are believed as well; else `load` reads them.
        elsewhere: what other features keep for accounts with a quota; else `load` reads it.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        now_ms: int,
        quota: Quota,
        max_vaults: int,
        vaults: dict[VaultAt, Vault] | None = None,
        elsewhere: Mapping[str, int] | None = None,
    ) -> None:
        self.streams = dict(streams)
        self.vaults: dict[VaultAt, Vault] = vaults or {}
        self._streams_before = streams
        self._vaults_before: dict[VaultAt, Vault] = {}  # of those that grow
        self._epochs: set[tuple[str, str, int]] = set()
        self._now_ms = now_ms
        self._quota = quota
        self.elsewhere: Mapping[str, int] = elsewhere or {}
        self._max_vaults = max_vaults
        self._vault_counts: dict[str, int] = {}  # of streams to which a push brings a new vault
        self._rows: list[Row] = []
        self._new_vaults: dict[VaultAt, Vault] = {}
        self._placed: dict[VaultAt, Known] = {}

    async def load(self, tx: WriteTx, pushes: Sequence[Push]) -> None:
        """Reads what the pushes need, under the lock."""
        vault_ids = sorted({push.vault_id for push in pushes})
        self.elsewhere = await self._quota.elsewhere(tx, self.streams.values())
        self.vaults = await store.live_vaults(tx, list(self.streams), vault_ids)
        if any(push.epochs_used for push in pushes):
            self._epochs = await store.key_epochs(tx, list(self.streams), vault_ids)
        growing = {push.stream_id for push in pushes if self._needs_vault(push)}
        if growing:
            self._vault_counts = await store.count_vaults(tx, sorted(growing))

    def _needs_vault(self, push: Push) -> bool:
        return bool(push.keys) and (push.stream_id, push.vault_id) not in self.vaults

    async def look_up(self, tx: WriteTx, push: Push) -> Known:
        """Which of the push's logs are stored already: in the table, compacted away, or placed earlier in this batch."""
        at = (push.stream_id, push.vault_id)
        known: Known = {}
        vault = self.vaults.get(at)
        if vault is not None and at not in self._new_vaults:
            if vault.removed_upto:
                dropped = await store.dropped_logs(tx, vault.stream_id, vault.vault_no, push.keys)
                known.update({key: (sequence, created_at, None) for key, (sequence, created_at) in dropped.items()})
            known.update(await store.stored_logs(tx, vault.stream_id, vault.vault_no, push.keys))
        known.update(self._placed.setdefault(at, {}))
        return known

    async def knows_dropped(self, tx: WriteTx, pushes: Sequence[Push]) -> bool:
        """Whether a push brings back a log whose row was compacted away: the unique index cannot know of it."""
        for push in pushes:
            vault = self.vaults.get((push.stream_id, push.vault_id))
            if (
                vault
                and vault.removed_upto
                and await store.dropped_logs(tx, vault.stream_id, vault.vault_no, push.keys)
            ):
                return True
        return False

    def place(self, push: Push, known: Known | None) -> Outcome:
        """Gives a push its numbers. With `known`, duplicates are answered as they are stored.

        Raises:
            DuplicatesFound: only a look-up can tell whether the push fits the quota.
        """
        at = stream_id, vault_id = push.stream_id, push.vault_id
        stream = self.streams.get(stream_id)
        if stream is None or stream.kind == "gone":
            return AccountGone()
        for epoch in push.epochs_used:
            if (stream_id, vault_id, epoch) not in self._epochs:
                return UnknownKeyEpoch(keyEpoch=epoch)
        vault = self.vaults.get(at)
        if vault is None and push.keys and self._vault_counts.get(stream_id, 0) >= self._max_vaults:
            return TooManyVaults(limits={"maxVaults": self._max_vaults})
        new, size = range(len(push.keys)), push.size
        if known is not None:
            new = _first_seen(push.keys, known)
            size = sum([push.sizes[index] for index in new])
        maximum = self._quota.maximum(stream)
        if maximum and size and (used := stream.bytes + self.elsewhere.get(stream_id, 0)) + size > maximum:
            if known is None:
                raise DuplicatesFound
            return QuotaExceeded(quota={"maxBytes": maximum, "usedBytes": used, "neededBytes": size})
        return self._append(at, stream, vault, push, size, new, known)

    def _append(
        self,
        at: VaultAt,
        stream: Stream,
        vault: Vault | None,
        push: Push,
        size: int,
        new: Sequence[int],
        known: Known | None,
    ) -> Pushed:
        stream_id, vault_id = at
        if not push.keys:
            head, chain = (vault.head, vault.chain) if vault else (0, EMPTY_CHAIN)
            return Pushed(stream_id, vault_id, push.device_id, (), 0, head, chain, stream.epoch, head)
        if vault is None:
            vault = self._new_vault(stream, vault_id)
        first = stream.last_sequence + 1
        before = head = vault.head
        chain = vault.chain
        if new:
            head, chain = self._grow(at, vault, push if known is None else push.only(new), first, size)
        entries: Sequence[Stored] = (
            NewlyStored(first, self._now_ms, push.timestamps)
            if known is None
            else self._entries(at, push, new, first, known)
        )
        outcome = (stream_id, vault_id, push.device_id, entries, len(new), head, chain, stream.epoch, before)
        return row(Pushed, outcome)

    def _grow(self, at: VaultAt, vault: Vault, logs: Push, first: int, size: int) -> tuple[int, bytes]:
        """Numbers logs that are all new; the vault's head and chain after them."""
        stream_id, now_ms, sizes = at[0], self._now_ms, logs.sizes
        if len(sizes) == 1:  # most pushes, at a third of the price
            head, chain = first, extend_chain(vault.chain, logs.keys[0], first)
            (epoch,), (timestamp,), (nonce,), (data,) = logs.key_epochs, logs.timestamps, logs.nonces, logs.data
            start = stream_id, vault.vault_no, first, size, now_ms, epoch, logs.device_id, logs.keys[0], chain
            self._rows.append((*start, timestamp, nonce, data))
        else:
            chains = chains_over(vault.chain, logs.keys, first)
            head, chain = first + len(chains) - 1, chains[-1]
            ids, vaults, now, devices = (
                repeat(stream_id),
                repeat(vault.vault_no),
                repeat(now_ms),
                repeat(logs.device_id),
            )
            numbers, texts = range(first, head + 1), (logs.timestamps, logs.nonces, logs.data)
            # Not `strict`, as some of them never end.
            self._rows += zip(ids, vaults, numbers, sizes, now, logs.key_epochs, devices, logs.keys, chains, *texts)  # noqa: B905
        if at not in self._vaults_before:
            self._vaults_before[at] = vault
        self.vaults[at] = vault.grown(head, chain, sizes, size, now_ms)
        self.streams[stream_id] = self.streams[stream_id].grown(head, size)
        return head, chain

    def _entries(self, at: VaultAt, push: Push, new: Sequence[int], first: int, known: Known) -> list[Stored]:
        placed = {
            index: Stored(sequence, self._now_ms, push.timestamps[index], False)
            for sequence, index in enumerate(new, first)
        }
        self._remember(at, push, placed, known)
        return [placed.get(index) or _duplicate(push, index, known) for index in range(len(push.keys))]

    def _remember(self, at: VaultAt, push: Push, placed: dict[int, Stored], known: Known) -> None:
        for index, entry in placed.items():
            key = push.keys[index]
            known[key] = self._placed[at][key] = (entry.sequence, entry.created_at, entry.haex_timestamp)

    def _new_vault(self, stream: Stream, vault_id: str) -> Vault:
        """A vault where there is no live one, for instance after the previous one was deleted."""
        at = (stream.id, vault_id)
        vault = store.new_vault(stream.id, stream.next_vault_no, vault_id, self._now_ms)
        self.streams[stream.id] = stream._replace(next_vault_no=stream.next_vault_no + 1)
        self.vaults[at] = self._new_vaults[at] = vault
        self._vault_counts[stream.id] = self._vault_counts.get(stream.id, 0) + 1
        return vault

    async def save(self, tx: WriteTx, *, expect_all_new: bool) -> None:
        """Writes rows and heads.

        Raises:
            DuplicatesFound: some rows were stored before.
        """
        if self._new_vaults:
            await store.add_vaults(tx, list(self._new_vaults.values()))
        if not self._rows:
            return
        inserted = await store.append(tx, self._rows, *self._growths(), ignore_conflicts=expect_all_new)
        if inserted != len(self._rows):
            raise DuplicatesFound

    async def save_believed(self, tx: WriteTx) -> bool:
        """Writes everything if streams and vaults are as they were believed to be; False, with nothing to be kept, if they are not.

        Raises:
            DuplicatesFound, UniqueViolation: some rows were stored before.
        """
        inserted = await store.append_if_unmoved(tx, self._rows, *self._growths())
        if inserted is None:
            return False
        if inserted != len(self._rows):
            raise DuplicatesFound
        return True

    def _growths(self) -> tuple[list[Growth[Stream]], list[Growth[Vault]]]:
        grown = sorted(self._vaults_before)
        streams = [(self._streams_before[id_], self.streams[id_]) for id_ in sorted({id_ for id_, _ in grown})]
        return streams, [(self._vaults_before[at], self.vaults[at]) for at in grown]

    def read_otherwise(self, believed: Stream) -> bool:
        """Whether a head row was found to be another one than believed."""
        return self._streams_before.get(believed.id) != believed

    def heads(self) -> list[tuple[Stream, Vault]]:
        """What grew, as it is after the commit."""
        return [(self.streams[at[0]], self.vaults[at]) for at in self._vaults_before]


def _first_seen(keys: Sequence[bytes], known: Known) -> list[int]:
    """Indexes of the logs that are new: neither known nor earlier in the same request."""
    seen: set[bytes] = set()
    new: list[int] = []
    for index, key in enumerate(keys):
        if key not in known and key not in seen:
            seen.add(key)
            new.append(index)
    return new


def _duplicate(push: Push, index: int, known: Known) -> Stored:
    sequence, created_at, haex_timestamp = known[push.keys[index]]
    return Stored(sequence, created_at, push.timestamps[index] if haex_timestamp is None else haex_timestamp, True)
