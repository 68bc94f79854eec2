"""The stream of changes: what it tells, and that it never claims to miss nothing when it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hapta.gateway.catalog.service import Catalog
from hapta.gateway.changes import service
from hapta.gateway.changes.canary import CANARY
from hapta.gateway.changes.service import Changes
from hapta.gateway.pocketbase.superuser import Superuser
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.clock import SystemClock
from hapta.settings.gateway import GatewaySettings
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.realtime_house import PATIENCE_SECONDS, Collections, Counted

NewPocketBase = Callable[[], PocketBaseHouse]
SOON_SECONDS = 1.0
"""So late an echo may come where a test waits for a stream to be given up: whatever else that ends on a busy machine is lawful."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream is taken for dead because the machine is busy."""
    monkeypatch.setattr(service, "ECHO_SECONDS", PATIENCE_SECONDS)


class Watcher:
    """Changes, and what they told."""

    def __init__(self, house: PocketBaseHouse, **settings: Any) -> None:
        self.house = house
        self.pb = PocketBase(house.url, answer_seconds=PATIENCE_SECONDS)
        self.upstream = Counted(self.pb)
        self.collections = Collections(house)
        self.told: list[Any] = []
        self._more = asyncio.Event()
        self.settings = GatewaySettings(**{"canary_seconds": 0.2, "schema_seconds": 0.1, **settings})
        self.superuser = Superuser(self.pb, house.email, house.password, SystemClock())
        self.changes = self.new_changes(self.collections)
        self.changes.on_change(lambda *change: self._note(change))
        self.changes.on_gap(lambda reason: self._note("gap"))
        self.changes.on_live(lambda live: self._note("live" if live else "lost"))

    def new_changes(self, collections: Any) -> Changes:
        return Changes(self.upstream, self.superuser, collections, SystemClock(), self.settings)

    def _note(self, what: Any) -> None:
        self.told.append(what)
        self._more.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once it holds; looks whenever something was told, and now and then."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                self._more.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self._more.wait()
                except TimeoutError:
                    continue

    async def until_told(self, what: Any) -> None:
        await self.until(lambda: what in self.told)

    async def both_live(self) -> None:
        await self.until(lambda: all(stream.live for stream in self.changes.streams))

    async def hears_of_writes(self) -> None:
        """Returns once a new record was told of. One that is made while a stream is taken for dead counts as part of the gap."""
        heard = False
        while not heard:
            gaps = self.told.count("gap")
            record = await self.superuser.request("POST", "/api/collections/secret/records", {"text": "x"})
            change = ("pbc_secret", record["id"], "create")
            await self.until(lambda change=change, gaps=gaps: change in self.told or self.told.count("gap") > gaps)
            heard = change in self.told

    async def write(self, kind: str, *arguments: Any, **fields: Any) -> Any:
        return await asyncio.to_thread(getattr(self.house, kind), *arguments, **fields)


@asynccontextmanager
async def watching(house: PocketBaseHouse, **settings: Any) -> AsyncIterator[Watcher]:
    watcher = Watcher(house, **settings)
    await watcher.changes.open()
    try:
        yield watcher
    finally:
        await watcher.changes.close()
        await watcher.pb.close()


async def test_each_write_past_the_gateway_is_told_of_by_collection_and_record(new_pocketbase: NewPocketBase) -> None:
    async with watching(new_pocketbase()) as watcher:
        await watcher.both_live()
        made = await watcher.write("create", "secret", text="x")
        await watcher.until_told(("pbc_secret", made["id"], "create"))
        await watcher.write("update", "secret", made["id"], text="y")
        await watcher.until_told(("pbc_secret", made["id"], "update"))
        await watcher.write("delete", "secret", made["id"])
        await watcher.until_told(("pbc_secret", made["id"], "delete"))


async def test_records_of_system_collections_are_told_of_as_well(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.both_live()
        superusers = house.collection("_superusers")["id"]
        fields = {"email": "second@example.test", "password": "long enough 1", "passwordConfirm": "long enough 1"}
        made = await watcher.write("create", "_superusers", **fields)
        await watcher.until_told((superusers, made["id"], "create"))


async def test_everything_counts_as_changed_once_it_listens(new_pocketbase: NewPocketBase) -> None:
    async with watching(new_pocketbase()) as watcher:
        assert not watcher.changes.live
        await watcher.until_told("live")
        assert watcher.told == ["gap", "live"]
        assert watcher.changes.live


async def test_the_canary_is_for_nobody_but_superusers_and_no_change_to_anybody(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.both_live()
        await watcher.until(lambda: watcher.changes.echoes >= 6)
        assert watcher.changes.lag_seconds > 0
        canary = house.collection(CANARY)
        assert [canary[f"{action}Rule"] for action in ("list", "view", "create", "update", "delete")] == [None] * 5
        assert len(house.records(CANARY)) == 1
        assert watcher.told == ["gap", "live"]


async def test_a_canary_that_somebody_deleted_comes_back(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.until(lambda: watcher.changes.echoes >= 2)
        await watcher.write("request", "DELETE", f"/api/collections/{CANARY}")
        before = watcher.changes.echoes
        await watcher.until(lambda: watcher.changes.echoes >= before + 4)
        assert len(house.records(CANARY)) == 1


async def test_a_silent_pocketbase_is_noticed_and_all_counts_as_changed_when_it_speaks_again(
    new_pocketbase: NewPocketBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ECHO_SECONDS", SOON_SECONDS)
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.both_live()
        house.server.pause()
        try:
            await watcher.until(lambda: not watcher.changes.live)
            lost = len(watcher.told) - 1
        finally:
            house.server.resume()
        await watcher.until(lambda: "live" in watcher.told[lost:])
        assert watcher.told[lost : lost + 3] == ["lost", "gap", "live"]


async def test_a_pocketbase_that_was_killed_is_found_again(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.both_live()
        house.server.kill()
        await watcher.until_told("lost")
        house.server.start()
        await watcher.until(lambda: watcher.told.count("live") >= 2)
        await watcher.both_live()
        made = await watcher.write("create", "secret", text="x")
        await watcher.until_told(("pbc_secret", made["id"], "create"))


async def test_one_stream_of_two_is_enough(new_pocketbase: NewPocketBase) -> None:
    async with watching(new_pocketbase()) as watcher:
        await watcher.both_live()
        await watcher.until(lambda: watcher.changes.echoes >= 4)
        one, two = watcher.changes.streams
        two.since = 0.0
        one.give_up("of a test")
        assert watcher.changes.live
        made = await watcher.write("create", "secret", text="x")
        await watcher.until_told(("pbc_secret", made["id"], "create"))
        await watcher.both_live()
        assert watcher.told.count("gap") == 1


async def test_a_stream_that_dies_after_the_other_came_back_leaves_a_gap(new_pocketbase: NewPocketBase) -> None:
    async with watching(new_pocketbase(), canary_seconds=30.0) as watcher:
        await watcher.both_live()
        one, two = watcher.changes.streams
        two.since = one.proved
        one.give_up("of a test")
        await watcher.both_live()
        assert watcher.told.count("gap") == 1
        # Its last proof is older than the other's new beginning: what came between was seen by nobody for sure.
        two._proofs = dict.fromkeys(two._proofs, one.since - 1)  # pyright: ignore[reportPrivateUsage]
        two.give_up("of a test")
        assert watcher.told.count("gap") == 2
        assert watcher.changes.live


async def test_a_new_collection_is_listened_to_and_all_counts_as_changed(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.both_live()
        await watcher.write("request", "POST", "/api/collections", {"name": "fresh", "type": "base", "fields": []})
        await asyncio.to_thread(watcher.collections.load)
        before = len(watcher.told)
        watcher.collections.tell()
        assert not watcher.changes.live
        await watcher.until(lambda: watcher.changes.live)
        first, *gaps, last = watcher.told[before:]  # each of the two streams may tell of a gap when it is heard again
        assert (first, {*gaps}, last) == ("lost", {"gap"}, "live")
        made = await watcher.write("create", "fresh")
        await watcher.until_told((house.collection("fresh")["id"], made["id"], "create"))


async def test_more_than_a_thousand_collections_need_more_than_one_connection(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house, canary_seconds=1.0) as watcher:
        await watcher.both_live()
        # PocketBase takes topics of collections that it does not have, and making a thousand takes it half a minute.
        for number in range(1005):
            watcher.collections.add(f"pbc_{number:04}")
        watcher.collections.tell()
        await watcher.until(lambda: watcher.changes.live)
        await watcher.both_live()
        await watcher.until(lambda: watcher.upstream.streams == 4)
        assert all(len(topics) <= 1000 for topics in watcher.upstream.submitted)
        made = await watcher.write("create", "secret", text="x")
        await watcher.until_told(("pbc_secret", made["id"], "create"))
        made = await watcher.write("create", "notes", title="x")
        await watcher.until_told(("pbc_notes", made["id"], "create"))


async def test_nothing_runs_on_after_its_end(new_pocketbase: NewPocketBase) -> None:
    before = asyncio.all_tasks()
    async with watching(new_pocketbase()) as watcher:
        await watcher.both_live()
    assert asyncio.all_tasks() == before
    assert watcher.upstream.streams == 0
    assert not watcher.changes.live


async def test_a_superuser_whose_key_was_changed_listens_again_after_another_login(
    new_pocketbase: NewPocketBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ECHO_SECONDS", SOON_SECONDS)
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.both_live()
        own = next(one for one in house.records("_superusers") if one["email"] == house.email)
        gaps = watcher.told.count("gap")
        # PocketBase takes the streams for guests' from now on, and says nothing of it.
        await watcher.write("update", "_superusers", own["id"], **{"tokenKey:autogenerate": ""})
        # Both may be lost before one is back, or one after the other: either way nobody knows what was missed.
        await watcher.until(lambda: watcher.told.count("gap") > gaps and watcher.changes.live)
        await watcher.hears_of_writes()


async def test_the_catalog_tells_it_of_new_collections(new_pocketbase: NewPocketBase) -> None:
    house = new_pocketbase()
    async with watching(house) as watcher:
        await watcher.changes.close()
        catalog = Catalog(watcher.superuser, SystemClock(), watcher.settings)
        changes = watcher.new_changes(catalog)
        told: list[tuple[str, str, str]] = []
        changes.on_change(lambda *change: told.append(change))
        await catalog.open()
        await changes.open()
        try:
            await watcher.until(lambda: changes.live)
            made = await watcher.write("create", "secret", text="x")
            await watcher.until(lambda: ("pbc_secret", made["id"], "create") in told)
            await watcher.write("request", "POST", "/api/collections", {"name": "fresh", "type": "base", "fields": []})
            fresh = house.collection("fresh")["id"]
            await watcher.until(lambda: catalog.by_id(fresh) is not None and changes.live)
            made = await watcher.write("create", "fresh")
            await watcher.until(lambda: (fresh, made["id"], "create") in told)
        finally:
            await changes.close()
            await catalog.close()
