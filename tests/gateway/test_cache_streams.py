"""The cache with the streams of changes of a real PocketBase: direct writes, a PocketBase that dies, a schema that changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from hapta.gateway.cache.models import Entry, Loaded
from hapta.gateway.cache.service import Cache
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.changes import service
from hapta.gateway.changes.service import Changes
from hapta.gateway.errors import UpstreamAway, UpstreamBroken, UpstreamSlow
from hapta.gateway.models import NOBODY, Client, Operation
from hapta.gateway.pocketbase.superuser import Superuser
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.clock import SystemClock
from hapta.settings.gateway import GatewaySettings
from tests.gateway.pocketbase_house import PocketBaseHouse

PATIENCE_SECONDS = 120.0
"""Only to fail instead of hanging."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream is taken for dead because the machine is busy."""
    monkeypatch.setattr(service, "ECHO_SECONDS", PATIENCE_SECONDS)


@dataclass
class Wired:
    """A cache as the gateway wires it."""

    house: PocketBaseHouse
    pb: PocketBase
    catalog: Catalog
    cache: Cache
    events: list[str] = field(default_factory=list[str])
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, what: str) -> None:
        self.events.append(what)
        self.told.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                self.told.clear()
                await self.told.wait()

    def operation(self, name: str, record_id: str = "") -> Operation:
        collection = self.catalog.resolve(name)
        return Operation("view" if record_id else "list", collection, NOBODY, Client("127.0.0.1"), record_id)

    async def read(self, op: Operation) -> tuple[Entry, str]:
        plan = self.cache.plan(op)
        assert plan is not None
        entry = self.cache.lookup(plan)
        if entry is not None:
            return entry, "HIT"

        async def load() -> Loaded:
            path = f"/api/collections/{op.collection.id}/records" + (f"/{op.record_id}" if op.record_id else "")
            answer = await self.pb.send("GET", path)
            return Loaded(answer.status, (), answer.body)

        return await self.cache.fetch(plan, load)


@asynccontextmanager
async def wired(house: PocketBaseHouse) -> AsyncIterator[Wired]:
    own, clock = GatewaySettings(canary_seconds=0.5, schema_seconds=3600), SystemClock()
    async with AsyncExitStack() as stack:
        pb = PocketBase(house.url, answer_seconds=PATIENCE_SECONDS)
        stack.push_async_callback(pb.close)
        superuser = Superuser(pb, house.email, house.password, clock)
        catalog = Catalog(superuser, clock, own)
        cache = Cache(catalog, own, clock)
        stack.push_async_callback(cache.close)
        it = Wired(house, pb, catalog, cache)
        changes = Changes(pb, superuser, catalog, clock, own)

        def live(is_live: bool) -> None:
            if is_live:
                cache.resume()
            else:
                cache.suspend("no stream of changes")
            it.note("live" if is_live else "lost")

        def changed(collection_id: str, record_id: str, action: str) -> None:
            cache.on_change(collection_id, record_id, action)
            it.note(record_id)

        changes.on_change(changed)
        changes.on_gap(cache.bump_all)
        changes.on_live(live)
        await catalog.open()
        stack.push_async_callback(catalog.close)
        await changes.open()
        stack.push_async_callback(changes.close)
        await it.until(lambda: not cache.suspended)
        yield it


async def test_a_direct_write_is_seen_as_soon_as_its_event_comes_and_is_kept_in_between(
    pocketbase: PocketBaseHouse,
) -> None:
    note = pocketbase.create("notes", title="start")
    async with wired(pocketbase) as it:
        for number in range(50):
            told = it.events.count(note["id"])
            pocketbase.update("notes", note["id"], rank=number)
            await it.until(lambda told=told: it.events.count(note["id"]) > told)
            for op in (it.operation("notes"), it.operation("notes", note["id"])):
                for _ in range(3):
                    shown = json.loads((await it.read(op))[0].body)
                    assert (shown["items"][0] if "items" in shown else shown)["rank"] == number
        # The second stream tells once more, so not all of the two hundred.
        assert it.cache.stats()["hits"] > 100


async def test_when_pocketbase_dies_nothing_kept_is_told_and_when_it_is_back_it_is_kept_again(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    note = house.create("notes", title="before")
    async with wired(house) as it:
        op = it.operation("notes", note["id"])
        await it.read(op)
        assert (await it.read(op))[1] == "HIT"
        house.server.kill()
        await it.until(lambda: it.cache.suspended)
        with pytest.raises((UpstreamAway, UpstreamBroken, UpstreamSlow)):
            await it.read(op)
        house.server.start()
        house.update("notes", note["id"], title="after")
        await it.until(lambda: not it.cache.suspended)
        entry, _ = await it.read(op)
        assert json.loads(entry.body)["title"] == "after"
        await it.until(lambda: not it.cache.suspended)


async def test_a_rule_that_changes_past_the_gateway_ends_what_was_kept_when_the_catalog_sees_it(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    house.create("notes", title="open")
    async with wired(house) as it:
        assert len(json.loads((await it.read(it.operation("notes")))[0].body)["items"]) == 1
        house.request("PATCH", "/api/collections/notes", {"listRule": "title = 'none'"})
        await it.catalog.poll()
        assert json.loads((await it.read(it.operation("notes")))[0].body)["items"] == []
