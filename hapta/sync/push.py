"""Group commit: pushes that wait are joined into one transaction, of one stream or of many.

A stream's pushes keep their order of arrival (`hapta.db.group_commit`); each gets its own contiguous range of sequence numbers.
The heads of all streams in a batch stay locked to the commit, so rows become visible in the order of their numbers. All that
is slow (decoding, hashing, measuring) was done before; what failed in one push fails only that push.

The first try assumes that nothing was pushed before, and lets the unique index say otherwise. Numbers given to duplicates
would leave holes, so then everything is rolled back and done again with the duplicates looked up first. Where this worker knows
how its last commit left the heads, it does not even read them: the write compares and does nothing if they have moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from hapta.db.database import Database, UniqueViolation, WriteTx
from hapta.db.group_commit import GroupCommit, Limits, default_lanes
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.sync import store
from hapta.sync.batch import Batch, DuplicatesFound, Outcome, VaultAt
from hapta.sync.heads import Heads
from hapta.sync.models import Push, Pushed, Stream, Vault
from hapta.sync.quota import Quota, nothing_elsewhere

Announce = Callable[[Sequence[Pushed]], Awaitable[None]]
MEANWHILE_LOGS = 16
"""Answers with fewer entries are not worth preparing."""
MAX_BELIEVED_LOGS = 2_000
"""More in one batch are numbered where the transaction runs: off the event loop on SQLite."""


def _nothing(pushed: Pushed) -> None:
    """Prepares nothing."""


class _HeadsMoved(Exception):
    """The heads were not as they were believed to be; nothing was written."""


class Committer:
    """Commits pushes in groups. One for each worker; `close()` waits for all that were accepted.

    Args:
        announce: called after each commit with the pushes that stored something. It must not raise.
        prepare: may prepare what a push will be answered with while the database is at work. It must not tell anybody: the push
            may still fail.
        quota: of accounts; None: there is none.
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
        prepare: Callable[[Pushed], None] = _nothing,
        quota: Quota | None = None,
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
        self._prepare = prepare
        self._quota = quota or Quota(0, nothing_elsewhere, clock)
        self._max_vaults = max_vaults
        self._heads = Heads()
        limits = Limits(max_waiting, max_waiting_bytes, max_batch_logs, max_batch_bytes)
        self._group = GroupCommit[Push, Pushed, Pushed](
            self._written, announce, limits, plural="pushes", lanes=lanes or default_lanes(db.engine)
        )

    async def push(self, push: Push) -> Pushed:
        """Stores a push; returns after the commit. A caller that goes away does not undo it.

        Raises:
            QuotaExceeded, TooManyVaults, UnknownKeyEpoch, AccountGone: nothing of this push was stored.
            Unavailable: too many pushes wait, the database is away, or the server stops; nothing was stored.
        """
        return await self.submit(push)

    def submit(self, push: Push) -> asyncio.Future[Pushed]:
        """Like `push`, without waiting: pushes submitted one after another commit in that order."""
        return self._group.submit(push, push.stream_id, len(push.keys), push.size)

    async def close(self) -> None:
        """Takes no more pushes and waits until all accepted ones are committed and announced."""
        await self._group.close()

    async def _written(self, pushes: Sequence[Push]) -> tuple[list[Outcome], list[Pushed]]:
        outcomes = await self._write(pushes)
        return outcomes, [outcome for outcome in outcomes if isinstance(outcome, Pushed) and outcome.inserted]

    async def _write(self, pushes: Sequence[Push]) -> list[Outcome]:
        ids = sorted({push.stream_id for push in pushes})
        believed = self._heads.of(pushes)
        elsewhere = self._quota.remembered(believed[0].values()) if believed else None
        if elsewhere is None:
            believed = None
        self._heads.forget(ids)  # until the commit is certain
        look_up = False
        try:
            outcomes = await self._write_believed(pushes, *believed, elsewhere or {}) if believed else None
            if outcomes is not None:
                return outcomes
        except (DuplicatesFound, UniqueViolation):
            look_up = True
        try:
            batch, outcomes = await self._db.write(lambda tx: self._body(tx, ids, pushes, look_up=look_up))
        except DuplicatesFound:
            batch, outcomes = await self._db.write(lambda tx: self._body(tx, ids, pushes, look_up=True))
        if believed and not look_up:
            self._heads.found_moved([id_ for id_, stream in believed[0].items() if batch.read_otherwise(stream)])
        self._heads.learn(batch.heads())
        self._quota.remember(batch.elsewhere)
        return outcomes

    async def _write_believed(
        self,
        pushes: Sequence[Push],
        streams: dict[str, Stream],
        vaults: dict[VaultAt, Vault],
        elsewhere: Mapping[str, int],
    ) -> list[Outcome] | None:
        """Everything in one step, built on rows as this worker last left them; None, with nothing written, if they are not so.

        Raises:
            DuplicatesFound, UniqueViolation: some logs are stored already, or only a look-up can tell.
        """
        if sum(len(push.keys) for push in pushes) > MAX_BELIEVED_LOGS:
            return None  # numbering so many is not for the event loop
        batch = self._batch(streams, self._clock.now_ms(), vaults, elsewhere)
        outcomes = [batch.place(push, None) for push in pushes]

        async def body(tx: WriteTx) -> None:
            if not await batch.save_believed(tx):
                raise _HeadsMoved

        large = [outcome for outcome in outcomes if isinstance(outcome, Pushed) and outcome.inserted >= MEANWHILE_LOGS]

        def prepare_answers() -> None:
            for outcome in large:
                self._prepare(outcome)

        try:
            await self._db.write(body, single=True, meanwhile=prepare_answers if large else None)
        except _HeadsMoved:
            return None
        self._heads.learn(batch.heads())
        return outcomes

    def _batch(
        self,
        streams: dict[str, Stream],
        now_ms: int,
        vaults: dict[VaultAt, Vault] | None = None,
        elsewhere: Mapping[str, int] | None = None,
    ) -> Batch:
        return Batch(streams, now_ms, self._quota, self._max_vaults, vaults, elsewhere)

    async def _body(
        self, tx: WriteTx, ids: list[str], pushes: Sequence[Push], *, look_up: bool
    ) -> tuple[Batch, list[Outcome]]:
        now_ms = self._clock.now_ms()
        batch = self._batch(await self._locked_streams(tx, ids, now_ms), now_ms)
        await batch.load(tx, pushes)
        outcomes: list[Outcome] = []
        for push in pushes:
            known = await batch.look_up(tx, push) if look_up else None
            outcomes.append(batch.place(push, known))
        if not look_up and await batch.knows_dropped(tx, pushes):
            raise DuplicatesFound
        await batch.save(tx, expect_all_new=not look_up)
        return batch, outcomes

    async def _locked_streams(self, tx: WriteTx, ids: list[str], now_ms: int) -> dict[str, Stream]:
        streams = await store.lock_streams(tx, ids)
        missing = [id_ for id_ in ids if id_ not in streams]
        if missing:  # the first contact of an account
            await store.add_streams(tx, [(id_, self._ids.uuid()) for id_ in missing], now_ms)
            streams = await store.lock_streams(tx, ids)
        return streams
