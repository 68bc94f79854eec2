"""Group commit: pushes that wait are joined into one transaction, of one stream or of many.

A stream is in at most one transaction at a time and its pushes keep their order of arrival; each gets its own contiguous
range of sequence numbers. The heads of all streams in a batch stay locked to the commit, so rows become visible in the order
of their numbers. All that is slow (decoding, hashing, measuring) was done before; what failed in one push fails only that push.

The first try assumes that nothing was pushed before, and lets the unique index say otherwise. Numbers given to duplicates
would leave holes, so then everything is rolled back and done again with the duplicates looked up first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hapta.db.database import Database, Row, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unavailable
from hapta.kit.ids import Ids
from hapta.sync import store
from hapta.sync.errors import AccountGone, QuotaExceeded, TooManyVaults, UnknownKeyEpoch
from hapta.sync.models import EMPTY_CHAIN, Push, Pushed, Stored, Stream, Vault, extend_chain

Announce = Callable[[Sequence[Pushed]], Awaitable[None]]
Outcome = Pushed | HaptaError
ONE_STREAMS_SHARE = 0.25
"""Of the queue: what one stream's waiting pushes may fill. A push that finds none of its stream waiting is never over it."""


class _DuplicatesFound(Exception):
    """The first try met logs that are stored already; nothing of it may stay."""


@dataclass(slots=True, eq=False)
class _Waiting:
    push: Push
    result: asyncio.Future[Pushed]


class Committer:
    """Commits pushes in groups. One for each worker; `close()` waits for all that were accepted.

    Args:
        announce: called after each commit with the pushes that stored something. It must not raise.
        quota_bytes_default: for streams without a quota of their own; 0 means none.
        max_vaults: live vaults that one stream may have.
        lanes: transactions that may be in flight at once (disjoint streams).
        max_waiting_bytes: beyond this, and beyond `max_waiting` pushes, new ones are refused; those of one stream beyond a
            quarter of it, so that no account can keep the others out.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        announce: Announce,
        *,
        quota_bytes_default: int = 0,
        max_vaults: int = 1000,
        lanes: int | None = None,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 256 * 1024 * 1024,
        max_batch_logs: int = 10_000,
        max_batch_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._announce = announce
        self._quota_bytes_default = quota_bytes_default
        self._max_vaults = max_vaults
        # SQLite has one writer: more lanes would only make smaller groups.
        self._free_lanes = lanes or (1 if db.engine == "sqlite" else 4)
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._max_batch_logs = max_batch_logs
        self._max_batch_bytes = max_batch_bytes
        self._queues: dict[str, deque[_Waiting]] = {}
        self._ready: deque[str] = deque()  # streams with waiting pushes and no transaction in flight, first come first
        self._in_flight: set[str] = set()
        self._waiting = 0
        self._waiting_bytes = 0
        self._bytes_of: dict[str, int] = {}  # of the streams in `_queues`
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_planned = False
        self._closed = False

    async def push(self, push: Push) -> Pushed:
        """Stores a push; returns after the commit. A caller that goes away does not undo it.

        Raises:
            QuotaExceeded, TooManyVaults, UnknownKeyEpoch, AccountGone: nothing of this push was stored.
            Unavailable: too many pushes wait, the database is away, or the server stops; nothing was stored.
        """
        return await self.submit(push)

    def submit(self, push: Push) -> asyncio.Future[Pushed]:
        """Like `push`, without waiting: pushes submitted one after another commit in that order."""
        if self._closed:
            raise Unavailable("The server is stopping")
        if self._waiting >= self._max_waiting or self._waiting_bytes + push.size > self._max_waiting_bytes:
            raise Unavailable("Too many pushes are waiting")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(push, loop.create_future())
        queue = self._queues.get(push.stream_id)
        queued_bytes = self._bytes_of.get(push.stream_id, 0)
        if queue and (
            len(queue) >= self._max_waiting * ONE_STREAMS_SHARE
            or queued_bytes + push.size > self._max_waiting_bytes * ONE_STREAMS_SHARE
        ):
            raise Unavailable("Too many pushes of this account are waiting")
        self._bytes_of[push.stream_id] = queued_bytes + push.size
        if queue is None:
            self._queues[push.stream_id] = deque((waiting,))
            if push.stream_id not in self._in_flight:
                self._ready.append(push.stream_id)
        else:
            queue.append(waiting)
        self._waiting += 1
        self._waiting_bytes += push.size
        self._plan_start(loop)
        return waiting.result

    async def close(self) -> None:
        """Takes no more pushes and waits until all accepted ones are committed and announced."""
        self._closed = True
        while self._tasks or self._start_planned:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0)

    def _plan_start(self, loop: asyncio.AbstractEventLoop) -> None:
        # One turn of the loop later, so that all requests of this turn join.
        if self._free_lanes and not self._start_planned:
            self._start_planned = True
            loop.call_soon(self._start)

    def _start(self) -> None:
        self._start_planned = False
        while self._free_lanes and self._ready:
            batch = self._take_batch()
            self._free_lanes -= 1
            task = asyncio.get_running_loop().create_task(self._commit(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        logs = size = 0
        # Lanes share what is ready; with one lane that is everything.
        streams = -(-len(self._ready) // self._free_lanes)
        while self._ready and streams:
            stream_id = self._ready[0]
            queue = self._queues[stream_id]
            taken = False
            while queue:
                push = queue[0].push
                if batch and (logs + len(push.keys) > self._max_batch_logs or size + push.size > self._max_batch_bytes):
                    break
                batch.append(queue.popleft())
                logs += len(push.keys)
                size += push.size
                self._bytes_of[stream_id] -= push.size
                taken = True
            if not taken:
                break
            self._ready.popleft()
            self._in_flight.add(stream_id)
            streams -= 1
            if queue:
                break  # the batch is full
            del self._queues[stream_id], self._bytes_of[stream_id]
        self._waiting -= len(batch)
        self._waiting_bytes -= size
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        pushes = [waiting.push for waiting in batch]
        outcomes: Sequence[Outcome | Exception]
        try:
            outcomes = await self._write(pushes)
        except Unavailable as error:  # it would be the same for each of them
            outcomes = [error] * len(batch)
        except Exception as error:  # boundary: one of them is at fault, and only that one may hear of it
            outcomes = await self._write_apart(pushes) if len(batch) > 1 else [error]
        finally:
            self._release(pushes)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.result.done():  # the client went away; the push stays
                continue
            if isinstance(outcome, Exception):
                waiting.result.set_exception(outcome)
            else:
                waiting.result.set_result(outcome)
        stored = [outcome for outcome in outcomes if isinstance(outcome, Pushed) and outcome.inserted]
        if stored:
            await self._announce(stored)

    def _release(self, pushes: Sequence[Push]) -> None:
        self._free_lanes += 1
        for stream_id in dict.fromkeys(push.stream_id for push in pushes):
            self._in_flight.discard(stream_id)
            if stream_id in self._queues:
                self._ready.append(stream_id)
        if self._ready:
            self._plan_start(asyncio.get_running_loop())

    async def _write_apart(self, pushes: Sequence[Push]) -> list[Outcome | Exception]:
        outcomes: list[Outcome | Exception] = []
        for push in pushes:
            try:
                outcomes += await self._write([push])
            except Exception as error:  # boundary, as above
                outcomes.append(error)
        return outcomes

    async def _write(self, pushes: Sequence[Push]) -> list[Outcome]:
        try:
            return await self._db.write(lambda tx: self._body(tx, pushes, look_up=False))
        except _DuplicatesFound:
            return await self._db.write(lambda tx: self._body(tx, pushes, look_up=True))

    async def _body(self, tx: WriteTx, pushes: Sequence[Push], *, look_up: bool) -> list[Outcome]:
        now_ms = self._clock.now_ms()
        streams = await self._locked_streams(tx, sorted({push.stream_id for push in pushes}), now_ms)
        batch = _Batch(streams, now_ms, self._quota_bytes_default, self._max_vaults)
        await batch.load(tx, pushes)
        outcomes: list[Outcome] = []
        for push in pushes:
            known = await batch.look_up(tx, push) if look_up else None
            outcomes.append(batch.place(push, known))
        if not look_up and await batch.knows_dropped(tx, pushes):
            raise _DuplicatesFound
        await batch.save(tx, expect_all_new=not look_up)
        return outcomes

    async def _locked_streams(self, tx: WriteTx, ids: list[str], now_ms: int) -> dict[str, Stream]:
        streams = await store.lock_streams(tx, ids)
        missing = [id_ for id_ in ids if id_ not in streams]
        if missing:  # the first contact of an account
            await store.add_streams(tx, [(id_, self._ids.uuid()) for id_ in missing], now_ms)
            streams = await store.lock_streams(tx, ids)
        return streams


Known = dict[bytes, tuple[int, int, str | None]]


class _Batch:
    """The state of one transaction: heads as they grow, and the rows to be written."""

    def __init__(self, streams: dict[str, Stream], now_ms: int, quota_bytes_default: int, max_vaults: int) -> None:
        self.streams = streams
        self.vaults: dict[tuple[str, str], Vault] = {}
        self._epochs: set[tuple[str, str, int]] = set()
        self._now_ms = now_ms
        self._quota_bytes_default = quota_bytes_default
        self._max_vaults = max_vaults
        self._vault_counts: dict[str, int] = {}  # of streams to which a push brings a new vault
        self._rows: list[Row] = []
        self._new_vaults: dict[tuple[str, str], Vault] = {}
        self._grown_vaults: set[tuple[str, str]] = set()
        self._grown_streams: set[str] = set()
        self._placed: dict[tuple[str, str], Known] = {}

    async def load(self, tx: WriteTx, pushes: Sequence[Push]) -> None:
        """Reads what the pushes need, under the lock."""
        vault_ids = sorted({push.vault_id for push in pushes})
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
            _DuplicatesFound: only a look-up can tell whether the push fits the quota.
        """
        stream = self.streams.get(push.stream_id)
        if stream is None or stream.kind == "gone":
            return AccountGone()
        for epoch in push.epochs_used:
            if (push.stream_id, push.vault_id, epoch) not in self._epochs:
                return UnknownKeyEpoch(keyEpoch=epoch)
        if self._needs_vault(push) and self._vault_counts.get(stream.id, 0) >= self._max_vaults:
            return TooManyVaults(limits={"maxVaults": self._max_vaults})
        new = range(len(push.keys)) if known is None else _first_seen(push.keys, known)
        size = push.size if known is None else sum(push.sizes[index] for index in new)
        refusal = self._over_quota(stream, size)
        if refusal:
            if known is None:
                raise _DuplicatesFound
            return refusal
        return self._append(stream, push, new, size, known)

    def _over_quota(self, stream: Stream, size: int) -> QuotaExceeded | None:
        maximum = self._quota_bytes_default if stream.quota_bytes is None else stream.quota_bytes
        if not maximum or not size or stream.bytes + size <= maximum:
            return None
        return QuotaExceeded(quota={"maxBytes": maximum, "usedBytes": stream.bytes, "neededBytes": size})

    def _append(self, stream: Stream, push: Push, new: Sequence[int], size: int, known: Known | None) -> Pushed:
        if not push.keys:
            vault = self.vaults.get((stream.id, push.vault_id))
            head, chain = (vault.head, vault.chain) if vault else (0, EMPTY_CHAIN)
            return Pushed(stream.id, push.vault_id, push.device_id, (), 0, head, chain, stream.epoch, head)
        vault = self._vault(stream, push.vault_id)
        stream = self.streams[stream.id]
        at = (stream.id, push.vault_id)
        sequence, chain, now_ms = stream.last_sequence, vault.chain, self._now_ms
        placed: dict[int, Stored] = {}
        entries: list[Stored] = []
        for index in new:
            sequence += 1
            key = push.keys[index]
            chain = extend_chain(chain, key, sequence)
            stamp = push.timestamps[index]
            self._rows.append(
                (
                    stream.id,
                    vault.vault_no,
                    sequence,
                    push.sizes[index],
                    now_ms,
                    push.key_epochs[index],
                    push.device_id,
                    key,
                    chain,
                    stamp,
                    push.nonces[index],
                    push.data[index],
                )
            )
            entry = Stored(sequence, now_ms, stamp, False)
            if known is None:
                entries.append(entry)
            else:
                placed[index] = entry
        if known is not None:
            self._remember(at, push, placed, known)
            entries = [placed.get(index) or _duplicate(push, index, known) for index in range(len(push.keys))]
        if new:
            self.streams[stream.id] = stream._replace(
                last_sequence=sequence, bytes=stream.bytes + size, logs=stream.logs + len(new)
            )
            grown = vault._replace(
                head=sequence,
                chain=chain,
                logs=vault.logs + len(new),
                bytes=vault.bytes + size,
                largest=max(vault.largest, *push.sizes),
                last_push_at=now_ms,
            )
            self.vaults[at] = grown
            self._grown_streams.add(stream.id)
            self._grown_vaults.add(at)
        head = self.vaults[at].head
        return Pushed(
            stream.id, push.vault_id, push.device_id, entries, len(new), head, chain, stream.epoch, vault.head
        )

    def _remember(self, at: tuple[str, str], push: Push, placed: dict[int, Stored], known: Known) -> None:
        for index, entry in placed.items():
            key = push.keys[index]
            known[key] = self._placed[at][key] = (entry.sequence, entry.created_at, entry.haex_timestamp)

    def _vault(self, stream: Stream, vault_id: str) -> Vault:
        """The live vault; made when there is none, for instance after the previous one was deleted."""
        at = (stream.id, vault_id)
        vault = self.vaults.get(at)
        if vault is None:
            vault = store.new_vault(stream.id, stream.next_vault_no, vault_id, self._now_ms)
            self.streams[stream.id] = stream._replace(next_vault_no=stream.next_vault_no + 1)
            self.vaults[at] = self._new_vaults[at] = vault
            self._vault_counts[stream.id] = self._vault_counts.get(stream.id, 0) + 1
        return vault

    async def save(self, tx: WriteTx, *, expect_all_new: bool) -> None:
        """Writes rows and heads.

        Raises:
            _DuplicatesFound: some rows were stored before.
        """
        if self._new_vaults:
            await store.add_vaults(tx, list(self._new_vaults.values()))
        if not self._rows:
            return
        streams = [self.streams[id_] for id_ in sorted(self._grown_streams)]
        vaults = [self.vaults[at] for at in sorted(self._grown_vaults)]
        inserted = await store.append(tx, self._rows, streams, vaults, ignore_conflicts=expect_all_new)
        if inserted != len(self._rows):
            raise _DuplicatesFound


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
