"""The cache in front of a real PocketBase: whatever is written, through the gateway or past it, what is read is what there is."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from hapta.gateway.cache.models import Entry, Loaded
from hapta.gateway.cache.service import Cache
from hapta.gateway.catalog import decode
from hapta.gateway.models import NOBODY, Collection, Operation, Visitor
from hapta.gateway.upstream.client import PocketBase
from tests.gateway.cache_house import Schema, new_cache, operation
from tests.gateway.pocketbase_house import Person, PocketBaseHouse

Json = Any
USERS = "_pb_users_auth_"


class Gate:
    """Reads through the cache and past it, as guest or as somebody."""

    def __init__(self, house: PocketBaseHouse, pb: PocketBase) -> None:
        self.house = house
        self.pb = pb
        self.schema = Schema(self._collections())
        self.cache: Cache = new_cache(self.schema, public_collections=("notes", "counters", "post_stats"))
        self.tokens = {NOBODY.scope: ""}
        self.hits = 0

    def _collections(self) -> list[Collection]:
        return [decode.collection(one) for one in self.house.request("GET", "/api/collections?perPage=500")["items"]]

    def named(self, name: str) -> Collection:
        return next(one for one in self.schema.all() if one.name == name)

    def visitor(self, person: Person) -> Visitor:
        who = Visitor(f"u:{person.collection_id}/{person.id}", person.collection_id, person.id, person.id, 1)
        self.tokens[who.scope] = person.token
        return who

    def list(self, name: str, who: Visitor = NOBODY, **query: str) -> Operation:
        return operation("list", self.named(name), "", who, query, headers={"x-team": "blue"})

    def view(self, name: str, record_id: str, who: Visitor = NOBODY, **query: str) -> Operation:
        return operation("view", self.named(name), record_id, who, query, headers={"x-team": "blue"})

    async def direct(self, op: Operation) -> Loaded:
        path = f"/api/collections/{op.collection.id}/records"
        if op.record_id:
            path += f"/{op.record_id}"
        if op.query:
            path += "?" + urlencode(op.query)
        headers = ((b"x-team", b"blue"),)
        answer = await self.pb.send("GET", path, token=self.tokens[op.visitor.scope], headers=headers)
        return Loaded(answer.status, (), answer.body)

    async def read(self, op: Operation, load: Callable[[], Awaitable[Loaded]] | None = None) -> Entry:
        async def directly() -> Loaded:
            return await self.direct(op)

        plan = self.cache.plan(op)
        if plan is None:
            return Entry.uncached(await directly())
        entry = self.cache.lookup(plan)
        if entry is not None:
            self.hits += 1
            return entry
        return (await self.cache.fetch(plan, load or directly))[0]

    async def write(self, method: str, op: Operation, who: Visitor, body: Json = None) -> Json:
        """A write through the gateway: marked, passed on, told."""
        path = f"/api/collections/{op.collection.id}/records" + (f"/{op.record_id}" if op.record_id else "")
        with self.cache.writing(op) as writing:
            token = self.tokens.get(who.scope) or self.house.token
            payload = None if body is None else json.dumps(body).encode()
            answer = await self.pb.send(method, path, token=token, body=payload, media_type="application/json")
            writing.answered(answer.status)
        assert answer.status < 300, answer.body
        return json.loads(answer.body) if answer.body else None


@pytest.fixture
async def gate(pocketbase: PocketBaseHouse) -> AsyncIterator[Gate]:
    pb = PocketBase(pocketbase.url)
    gate = Gate(pocketbase, pb)
    yield gate
    await gate.cache.close()
    await pb.close()


class World:
    """Records that refer to each other in all ways, and everything that three people might read of them."""

    def __init__(self, gate: Gate) -> None:
        house = gate.house
        self.gate = gate
        alice, bob = house.person("alice"), house.person("bob", emailVisibility=True)
        self.alice, self.bob = gate.visitor(alice), gate.visitor(bob)
        house.update("users", bob.id, following=[alice.id])
        self.people = [alice.id, bob.id]
        self.posts = [
            house.create("posts", owner=owner.id, title=f"post {n}", published=n % 2 == 0, score=n, due="2030-01-01 00:00:00Z")
            for n, owner in enumerate((alice, bob, alice, bob))
        ]  # fmt: skip
        self.comments = [
            house.create("comments", post=post["id"], author=author.id, text=f"{author.id} says")
            for post in self.posts
            for author in (alice, bob)
        ]
        self.rooms = [house.create("rooms", name=f"room {n}") for n in range(2)]
        self.memberships = [house.create("memberships", room=self.rooms[0]["id"], user=alice.id)]
        self.messages = [house.create("messages", room=room["id"], text="hello") for room in self.rooms]
        self.notes = [house.create("notes", title=f"note {n}", rank=n) for n in range(3)]
        self.private = [house.create("private", owner=alice.id, text="mine")]
        self.guarded = [house.create("guarded", text="g")]

    def reads(self) -> list[Operation]:
        gate = self.gate
        found: list[Operation] = []
        for who in (NOBODY, self.alice, self.bob):
            found += [
                gate.list("notes", who),
                gate.list("notes", who, filter="rank > 0", sort="-rank", skipTotal="1"),
                gate.list("post_stats", who, sort="-comments"),
            ]
            found += [gate.view("notes", note["id"], who) for note in self.notes[:2]]
            found += [gate.view("post_stats", post["id"], who, expand="owner") for post in self.posts[:2]]
            if who is NOBODY:
                continue
            found += [
                gate.list("posts", who),
                gate.list("posts", who, expand="owner,comments_via_post.author", sort="score"),
                gate.list("posts", who, sort="owner.name,score"),
                gate.list("comments", who, expand="post.owner,author.following", perPage="100"),
                gate.list("users", who, sort="name"),
                gate.list("rooms", who),
                gate.list("messages", who),
                gate.list("memberships", who, expand="room.messages_via_room"),
                gate.list("private", who),
                gate.list("guarded", who, key="open"),
            ]
            found += [
                gate.list("posts", who, filter="comments_via_post.author.name ?= 'alice'", sort="owner.name,score"),
                gate.list("posts", who, filter="owner.following.name ?= 'alice' || title = 'post 0'"),
                gate.list("posts", who, filter="due > @todayStart || due = ''", fields="id,title"),
                gate.list("comments", who, filter="post.published = true", sort="-post.score,text"),
            ]
            found += [
                gate.view(name, record["id"], who, **query)
                for name, records, query in (
                    ("posts", self.posts, {}),
                    ("posts", self.posts[:1], {"expand": "owner,comments_via_post"}),
                    ("comments", self.comments[:3], {}),
                    ("comments", self.comments[:2], {"expand": "post,author"}),
                    ("rooms", self.rooms, {}),
                    ("messages", self.messages, {}),
                    ("private", self.private, {}),
                    ("guarded", self.guarded, {}),
                )
                for record in records
            ]
            found += [gate.view("users", person, who) for person in self.people]
        return found

    def changes(self) -> list[tuple[str, str, str, Json]]:
        """Method, collection, record, body: one change of each kind and place."""
        alice, bob = self.people
        post, other, third, _ = (one["id"] for one in self.posts)
        first, second = self.rooms[0]["id"], self.rooms[1]["id"]
        return [
            ("PATCH", "notes", self.notes[0]["id"], {"rank": 9}),
            ("POST", "notes", "", {"title": "new", "rank": 5}),
            ("DELETE", "notes", self.notes[1]["id"], None),
            ("PATCH", "posts", other, {"published": True}),
            ("PATCH", "posts", post, {"title": "another title", "score": 50}),
            ("PATCH", "posts", third, {"owner": bob}),
            ("POST", "posts", "", {"owner": bob, "title": "late", "published": True}),
            ("PATCH", "comments", self.comments[0]["id"], {"text": "changed", "author": bob}),
            ("PATCH", "users", bob, {"name": "robert"}),
            ("PATCH", "users", bob, {"emailVisibility": False}),
            ("PATCH", "users", alice, {"following": [bob]}),
            ("PATCH", "users", bob, {"following": []}),
            ("POST", "memberships", "", {"room": second, "user": bob}),
            ("PATCH", "memberships", self.memberships[0]["id"], {"room": second}),
            ("PATCH", "rooms", second, {"name": "renamed"}),
            ("PATCH", "messages", self.messages[0]["id"], {"room": second}),
            ("PATCH", "private", self.private[0]["id"], {"owner": bob}),
            ("PATCH", "guarded", self.guarded[0]["id"], {"text": "h"}),
            ("DELETE", "comments", self.comments[3]["id"], None),
            ("DELETE", "memberships", self.memberships[0]["id"], None),
            ("DELETE", "posts", post, None),
            ("DELETE", "rooms", first, None),
            ("DELETE", "users", bob, None),
        ]

    async def check(self, after: str) -> None:
        """Whatever the cache tells is what PocketBase tells."""
        # At once, since PocketBase holds up filtered lists that come out empty.
        reads = self.reads()
        told = await asyncio.gather(*map(self.gate.read, reads))
        there = await asyncio.gather(*map(self.gate.direct, reads))
        for op, kept, true in zip(reads, told, there, strict=True):
            assert kept.status == true.status, (after, op.action, op.collection.name, op.query, op.visitor.scope)
            assert json.loads(kept.body) == json.loads(true.body), (after, op.action, op.collection.name, op.query)


@pytest.mark.parametrize("through", ["gateway", "events"])
async def test_after_every_change_all_reads_show_what_there_is_and_others_are_still_kept(
    gate: Gate, through: str
) -> None:
    world = World(gate)
    await world.check("nothing")
    spared = list[int]()
    for method, name, record_id, body in world.changes():
        collection = gate.named(name)
        if through == "gateway":
            action = {"POST": "create", "PATCH": "update", "DELETE": "delete"}[method]
            await gate.write(method, operation(action, collection, record_id), NOBODY, body)  # type: ignore[arg-type]
        else:
            path = f"/api/collections/{name}/records" + (f"/{record_id}" if record_id else "")
            record = gate.house.request(method, path, body)
            action = {"POST": "create", "PATCH": "update", "DELETE": "delete"}[method]
            gate.cache.on_change(collection.id, record_id or record["id"], action)
        before = gate.hits
        await world.check(f"{method} {name}")
        spared.append(gate.hits - before)
    # A change drops what depends on it, not everything.
    assert sum(spared) > len(spared) * 20
    assert max(spared) > 60


async def test_guest_and_two_users_never_see_each_others_answers_in_a_thousand_reads(gate: Gate) -> None:
    world = World(gate)
    reads = world.reads()
    truth = {id(op): json.loads((await gate.direct(op)).body) for op in reads}
    chance = random.Random(7)
    for _ in range(1000):
        op = chance.choice(reads)
        assert json.loads((await gate.read(op)).body) == truth[id(op)]
    assert gate.hits > 800


async def test_a_slow_read_that_began_before_a_write_never_puts_old_data_back(gate: Gate) -> None:
    counter = gate.house.create("counters", name="c", n=0)
    chance = random.Random(11)
    for number in range(1, 201):
        op = chance.choice(
            [
                gate.view("counters", counter["id"]),
                gate.list("counters"),
                gate.list("counters", filter="n >= 0"),
            ]
        )
        looked, go = asyncio.Event(), asyncio.Event()

        async def slow(
            op: Operation = op, looked: asyncio.Event = looked, go: asyncio.Event = go, early: bool = number % 2 == 0
        ) -> Loaded:
            if early:
                answer = await gate.direct(op)
                looked.set()
                await go.wait()
                return answer
            looked.set()
            await go.wait()
            return await gate.direct(op)

        gate.cache.on_change(counter["collectionId"], counter["id"], "update")
        reading = asyncio.create_task(gate.read(op, slow))
        await looked.wait()
        if number % 3 == 0:
            gate.house.update("counters", counter["id"], n=number)
            gate.cache.on_change(counter["collectionId"], counter["id"], "update")
        else:
            update = operation("update", gate.named("counters"), counter["id"])
            writing = asyncio.create_task(gate.write("PATCH", update, NOBODY, {"n": number}))
            if chance.random() < 0.5:
                go.set()
            await writing
        go.set()
        if chance.random() < 0.5:
            await reading
        told = json.loads((await gate.read(op)).body)
        shown = told["items"][0]["n"] if "items" in told else told["n"]
        assert shown == number
        await reading
        told = json.loads((await gate.read(op)).body)
        assert (told["items"][0]["n"] if "items" in told else told["n"]) == number


async def test_two_hundred_equal_cold_reads_ask_pocketbase_once(gate: Gate) -> None:
    gate.house.create("notes", title="x")
    calls = 0
    op = gate.list("notes")

    async def counted() -> Loaded:
        nonlocal calls
        calls += 1
        return await gate.direct(op)

    readers = [asyncio.create_task(gate.read(op, counted)) for _ in range(200)]
    await asyncio.sleep(0)
    readers[0].cancel()
    answers = await asyncio.gather(*readers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {entry.status for entry in answers[1:] if isinstance(entry, Entry)} == {200}
    assert calls == 1


async def test_the_entity_tag_of_an_unchanged_list_is_the_same_after_each_fetch(gate: Gate) -> None:
    World(gate)
    tags = set[bytes]()
    for _ in range(20):
        gate.cache.bump_all("test")
        tags.add((await gate.read(gate.list("notes"))).etag)
    assert len(tags) == 1
