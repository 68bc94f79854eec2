"""A model of everything at once: reads that are slow, writes that may be refused, direct writes and their events, lost streams.

The model keeps the versions of two records. It says of each read the least version it may show: what was written through the
gateway and answered, what events told, and what anybody saw before. An answer below that would be stale.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hapta.gateway.cache.models import Entry, Loaded
from hapta.gateway.cache.service import Cache, Writing
from hapta.gateway.models import NOBODY, Operation
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.cache_house import HOUSE, Schema, operation, visitor

RECORDS = ("1", "2")
READS: dict[str, Operation] = {
    f"{kind} {who.scope}": op
    for who in (NOBODY, visitor("alice"))
    for kind, op in (
        ("list", operation("list", HOUSE["notes"], who=who)),
        ("view1", operation("view", HOUSE["notes"], "1", who=who)),
        ("view2", operation("view", HOUSE["notes"], "2", who=who)),
    )
}

Versions = dict[str, int]


class Read:
    """A read under way. Its fetch, if it has one of its own, looks at the data and ends when the model says so."""

    def __init__(self, op: Operation, least: Versions) -> None:
        self.op = op
        self.least = least
        self.look = asyncio.Event()
        self.end = asyncio.Event()
        self.fetching = False
        self.task: asyncio.Task[Entry] | None = None


class Coherence(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.cache = Cache(
            Schema(HOUSE.values()), GatewaySettings(cache_ttl_seconds=60), self.clock, chance=lambda: 1.0
        )
        self.cache.resume()
        self.data: Versions = dict.fromkeys(RECORDS, 0)
        self.least: Versions = dict(self.data)
        """What every read from now on has to show."""
        self.secret: set[str] = set()
        """Records that were written past the gateway, of which the events are still to come."""
        self.reads: list[Read] = []
        self.writes: list[tuple[Writing, ExitStack, str, int]] = []
        """With the version each one made; 0 before it did."""
        self.events: list[str] = []

    def teardown(self) -> None:
        async def end() -> None:
            for read in self.reads:
                read.look.set()
                read.end.set()
            await asyncio.gather(*(read.task for read in self.reads if read.task is not None))
            await self.cache.close()

        self._run(end())
        for _, held, _, _ in self.writes:
            held.close()
        self.loop.close()

    def _run(self, what: Any) -> Any:
        return self.loop.run_until_complete(what)

    def _settle(self) -> None:
        async def settle() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self._run(settle())
        for read in [read for read in self.reads if read.task is not None and read.task.done()]:
            self.reads.remove(read)
            assert read.task is not None
            self._check(read.op, read.task.result(), read.least)

    def _check(self, op: Operation, entry: Entry, least: Versions) -> None:
        seen: Versions = msgspec.json.decode(entry.body)
        assert set(seen) == ({op.record_id} if op.action == "view" else set(RECORDS))
        for record, version in seen.items():
            assert version >= least[record], f"{op.action} {record} shows {version}, not {least[record]}"
            # Nobody may see less than somebody saw before; not so for direct writes whose event is on its way.
            if record not in self.secret:
                self.least[record] = max(self.least[record], version)

    def _least_now(self) -> Versions:
        # With the streams lost nothing kept is used, so a read shows what there is.
        return dict(self.data) if self.cache.suspended else dict(self.least)

    async def _load(self, read: Read) -> Loaded:
        read.fetching = True
        await read.look.wait()
        records = (read.op.record_id,) if read.op.action == "view" else RECORDS
        body = msgspec.json.encode({record: self.data[record] for record in records})
        await read.end.wait()
        return Loaded(200, (), body)

    @rule(which=st.sampled_from(sorted(READS)), pace=st.sampled_from(["whole", "whole", "looked", "begun"]))
    def read(self, which: str, pace: str) -> None:
        op = READS[which]
        plan = self.cache.plan(op)
        assert plan is not None
        least = self._least_now()
        entry = self.cache.lookup(plan)
        if entry is not None:
            self._check(op, entry, least)
            return
        read = Read(op, least)
        if pace != "begun":
            read.look.set()
        if pace == "whole":
            read.end.set()

        async def fetch() -> Entry:
            return (await self.cache.fetch(plan, lambda: self._load(read)))[0]

        read.task = self.loop.create_task(fetch())
        self.reads.append(read)
        self._settle()

    @precondition(lambda self: any(read.fetching for read in self.reads))
    @rule(data=st.data())
    def read_goes_on(self, data: Any) -> None:
        read = data.draw(st.sampled_from([read for read in self.reads if read.fetching]))
        (read.end if read.look.is_set() else read.look).set()
        self._settle()

    @rule(record=st.sampled_from(RECORDS), pace=st.sampled_from(["whole", "refused", "begun", "done"]))
    def write(self, record: str, pace: str) -> None:
        held = ExitStack()
        writing = held.enter_context(self.cache.writing(operation("update", HOUSE["notes"], record)))
        self.writes.append((writing, held, record, 0))
        if pace in ("whole", "done"):
            self._write_happens(self.writes[-1])
        if pace in ("whole", "refused"):
            self._write_is_answered(self.writes[-1])

    @precondition(lambda self: self.writes)
    @rule(data=st.data(), refused=st.booleans())
    def write_goes_on(self, data: Any, refused: bool) -> None:
        chosen = data.draw(st.sampled_from(self.writes))
        if chosen[3] or refused:
            self._write_is_answered(chosen)
        else:
            self._write_happens(chosen)

    def _write_happens(self, chosen: tuple[Writing, ExitStack, str, int]) -> None:
        self.writes.remove(chosen)
        self.data[chosen[2]] += 1
        self.writes.append((*chosen[:3], self.data[chosen[2]]))
        self.events.append(chosen[2])

    def _write_is_answered(self, chosen: tuple[Writing, ExitStack, str, int]) -> None:
        self.writes.remove(chosen)
        writing, held, record, version = chosen
        writing.answered(200 if version else 400)
        held.close()
        self.least[record] = max(self.least[record], version)

    @rule(record=st.sampled_from(RECORDS), told=st.booleans())
    def direct_write(self, record: str, told: bool) -> None:
        self.data[record] += 1
        if not self.cache.suspended:
            self.events.append(record)
            self.secret.add(record)
            if told:
                self._event(record)

    @precondition(lambda self: self.events and not self.cache.suspended)
    @rule(data=st.data())
    def event_arrives(self, data: Any) -> None:
        self._event(data.draw(st.sampled_from(sorted(set(self.events)))))

    def _event(self, record: str) -> None:
        self.events.remove(record)
        self.cache.on_change("pbc_notes", record, "update")
        if record not in self.events:
            self.secret.discard(record)
            self.least[record] = self.data[record]

    @rule()
    def streams_are_lost_or_found(self) -> None:
        if self.cache.suspended:
            self.cache.resume()
            self.least = dict(self.data)
        else:
            self.cache.suspend("gap")
        # What was to come on the lost streams never does.
        self.events.clear()
        self.secret.clear()

    @rule()
    def time_goes_by(self) -> None:
        self.clock.advance(seconds=31)

    @invariant()
    def at_rest_no_fetch_is_left_over(self) -> None:
        if not self.reads and not self.writes:
            assert self.cache.stats()["flights"] == 0


Coherence.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCoherence = Coherence.TestCase
