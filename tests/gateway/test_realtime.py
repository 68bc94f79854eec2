"""Realtime as clients see it, and what PocketBase has to do for it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest

from hapta.bus.memory import MemoryBus
from hapta.gateway.errors import RuleDenied
from hapta.gateway.models import NOBODY, Operation
from hapta.gateway.realtime import source as sources
from hapta.gateway.realtime.subscriber import EventStream
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.realtime_house import PATIENCE_SECONDS, RealtimeHouse, Stream, nobody_at

NewPocketBase = Callable[[], PocketBaseHouse]


@pytest.fixture
async def house(pocketbase: PocketBaseHouse) -> AsyncIterator[RealtimeHouse]:
    async with RealtimeHouse(pocketbase).serving() as house:
        yield house


async def until(holds: Callable[[], bool]) -> None:
    """Looks again and again: for what other programs do in their own time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


async def test_a_stream_greets_as_pocketbase_does(house: RealtimeHouse) -> None:
    async with house.http.stream("GET", house.url + "/pb/api/realtime") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        stream = Stream(response, response.aiter_raw())
        block = await stream.block()
    assert block is not None
    lines = block.split(b"\n")
    assert lines[0].startswith(b"id:")
    client_id = lines[0][3:].decode()
    assert len(client_id) == 40
    assert client_id.isalnum()
    assert lines[1:] == [b"event:PB_CONNECT", b'data:{"clientId":"%b"}' % client_id.encode()]


async def test_events_carry_the_topic_byte_for_byte_and_the_id_of_the_stream(house: RealtimeHouse) -> None:
    options = quote(json.dumps({"query": {"fields": "id,title", "a": "ä ✓"}, "headers": {"x": "1"}}))
    topic = f"notes/*?options={options}"
    async with house.stream() as stream:
        assert (await house.submit(stream, topic)).status_code == 204
        made = await house.write("create", "notes", title="one")
        told = await stream.event()
    assert told.raw.splitlines()[:2] == [f"id:{stream.client_id}".encode(), f"event:{topic}".encode()]
    assert told.raw.splitlines()[2].startswith(b"data:{")
    assert told.data == {"action": "create", "record": {"id": made["id"], "title": "one"}}


async def test_both_forms_of_a_topic_and_ids_in_place_of_names_work(house: RealtimeHouse) -> None:
    made = await house.write("create", "notes", title="one")
    topics = ["notes", "notes/*", "pbc_notes/*", f"notes/{made['id']}"]
    async with house.stream() as stream:
        assert (await house.submit(stream, *topics)).status_code == 204
        await house.write("update", "notes", made["id"], title="two")
        told = [await stream.event() for _ in topics]
    assert sorted(one.name for one in told) == sorted(topics)


async def test_only_the_last_topics_that_were_submitted_count(house: RealtimeHouse) -> None:
    async with house.stream() as stream:
        await house.submit(stream, "notes/*", "counters/*")
        assert (await house.submit(stream, "counters/*")).status_code == 204
        await house.write("create", "notes", title="not wanted")
        made = await house.write("create", "counters", n=1)
        told = await stream.event()
        assert told.name == "counters/*"
        assert told.data["record"]["id"] == made["id"]


async def test_five_hundred_guests_share_one_stream_of_pocketbase(pocketbase: PocketBaseHouse) -> None:
    async with RealtimeHouse(pocketbase, max_streams_per_address=1000).serving() as house, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(house.stream()) for _ in range(500)]
        for stream in streams:
            assert (await house.submit(stream, "notes/*")).status_code == 204
        assert house.upstream.opened == 1
        made = await house.write("create", "notes", title="for all")
        for stream in streams:
            assert (await stream.event()).data["record"]["id"] == made["id"]
        assert house.realtime.stats().streams == 500


async def test_events_of_a_hidden_record_reach_its_owner_alone(house: RealtimeHouse) -> None:
    alice, bob = await house.write("person", "alice"), await house.write("person", "bob")
    of_alice, of_bob = house.sessions.begin(alice, "alices"), house.sessions.begin(bob, "bobs")
    async with house.stream() as one, house.stream() as two, house.stream() as guest:
        for stream, token in ((one, of_alice), (two, of_bob), (guest, "")):
            assert (await house.submit(stream, "private/*", "notes/*", token=token)).status_code == 204
        hidden = await house.write("create", "private", owner=alice.id)
        shown = await house.write("create", "notes", title="for all")
        mine = [await one.event(), await one.event()]
        assert {told.data["record"]["id"] for told in mine} == {hidden["id"], shown["id"]}
        assert (await two.event()).data["record"]["id"] == shown["id"]
        assert (await guest.event()).data["record"]["id"] == shown["id"]
    assert house.upstream.opened == 3


async def test_devices_of_one_person_share_a_stream_of_pocketbase(house: RealtimeHouse) -> None:
    alice = await house.write("person", "alice")
    async with house.stream() as one, house.stream() as two:
        await house.submit(one, "private/*", token=house.sessions.begin(alice, "first"))
        await house.submit(two, "private/*", token=house.sessions.begin(alice, "second"))
        assert house.upstream.opened == 1
        made = await house.write("create", "private", owner=alice.id)
        for stream in (one, two):
            assert (await stream.event()).data["record"]["id"] == made["id"]


async def test_a_stream_stays_with_whoever_submitted_its_topics_first(house: RealtimeHouse) -> None:
    alice, bob = await house.write("person", "alice"), await house.write("person", "bob")
    of_alice, of_bob = house.sessions.begin(alice, "alices"), house.sessions.begin(bob, "bobs")
    async with house.stream() as stream:
        assert (await house.submit(stream, "notes/*")).status_code == 204
        assert (await house.submit(stream, "notes/*", token=of_alice)).status_code == 204
        for token in ("", of_bob):
            refused = await house.submit(stream, "notes/*", token=token)
            assert refused.status_code == 403
            assert refused.json() == {
                "data": {},
                "message": "The current and the previous request authorization don't match.",
                "status": 403,
            }
        assert (await house.submit(stream, "private/*", token=of_alice)).status_code == 204
        made = await house.write("create", "private", owner=alice.id)
        assert (await stream.event()).data["record"]["id"] == made["id"]


@pytest.mark.parametrize(
    "body",
    [
        {"clientId": "x", "subscriptions": []},
        {"subscriptions": []},
        {},
        {"clientId": None},
        {"clientId": "x", "subscriptions": ["a"] * 1001},
        {"clientId": "x", "subscriptions": ["b", "a" * 2501]},
    ],
)
async def test_what_pocketbase_refuses_is_refused_in_its_words(house: RealtimeHouse, body: dict[str, Any]) -> None:
    ours = await house.http.post(house.url + "/api/realtime", json=body)
    theirs = await house.http.post(house.pocketbase.url + "/api/realtime", json=body)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())


async def test_topics_from_another_address_than_the_stream_are_refused(house: RealtimeHouse) -> None:
    async with house.stream(address="192.0.2.1") as stream:
        assert (await house.submit(stream, "notes/*", address="192.0.2.2")).status_code == 400
        assert (await house.submit(stream, "notes/*", address="192.0.2.1")).status_code == 204


@pytest.mark.parametrize(
    "broken", ["notes/*\nid:x", "notes/*\r", "notes/*\0", 'notes/*\n\nevent:notes/*\ndata:{"a":1}']
)
async def test_a_topic_that_would_write_into_the_stream_of_others_is_refused(house: RealtimeHouse, broken: str) -> None:
    async with house.stream() as stream:
        refused = await house.submit(stream, "notes/*", broken)
    assert refused.status_code == 400
    assert list(refused.json()["data"]["subscriptions"]) == ["1"]
    assert house.upstream.opened == 0


@pytest.mark.parametrize("topic", ["_superusers/*", "_SuperUsers", "pbc_3142635823/*?options=%7B%7D"])
async def test_topics_of_superusers_never_reach_pocketbase(house: RealtimeHouse, topic: str) -> None:
    async with house.stream() as stream:
        assert (await house.submit(stream, topic)).status_code == 204
    assert house.upstream.opened == 0


async def test_an_idle_stream_carries_comments(pocketbase: PocketBaseHouse) -> None:
    async with RealtimeHouse(pocketbase, heartbeat_seconds=0.1).serving() as house, house.stream() as stream:
        assert await stream.block() == b": ping"
        assert await stream.block() == b": ping"


async def test_a_stream_ends_cleanly_with_its_session_and_others_of_the_person_go_on(house: RealtimeHouse) -> None:
    alice = await house.write("person", "alice")
    first, second = house.sessions.begin(alice, "first"), house.sessions.begin(alice, "second")
    async with house.stream() as one, house.stream() as two:
        await house.submit(one, "private/*", token=first)
        await house.submit(two, "private/*", token=second)
        house.sessions.end("first")
        assert await one.next() is None
        made = await house.write("create", "private", owner=alice.id)
        assert (await two.event()).data["record"]["id"] == made["id"]


async def test_a_changed_password_ends_old_streams_and_new_ones_are_somebody_again(house: RealtimeHouse) -> None:
    alice = await house.write("person", "alice")
    async with house.stream() as old, house.stream() as new:
        await house.submit(old, "private/*", token=house.sessions.begin(alice, "old"))
        # PocketBase makes guests of all open streams of a record whose key has changed.
        fields = {"password": "another long one", "passwordConfirm": "another long one"}
        await house.write("update", "users", alice.id, **fields)
        house.realtime.record_changed(alice.collection_id, alice.id, "update")
        house.sessions.end("old")
        login = await house.write("login", "users", alice.email, "another long one")
        again = type(alice)(house.pocketbase, login["record"], "another long one")
        await house.submit(new, "private/*", token=house.sessions.begin(again, "new"))
        made = await house.write("create", "private", owner=alice.id)
        assert (await new.event()).data["record"]["id"] == made["id"]
        assert await old.next() is None


async def test_an_identity_that_pocketbase_has_forgotten_is_told_to_it_again(house: RealtimeHouse) -> None:
    alice = await house.write("person", "alice")
    async with house.stream() as stream:
        house.sessions.begin(alice, "alices")
        await house.submit(stream, "private/*", token="alices")
        # The session lives on with a new token, and nobody was told of the change.
        await house.write("update", "users", alice.id, **{"tokenKey:autogenerate": ""})
        login = await house.write("login", "users", alice.email, alice.password)
        house.sessions.begin(type(alice)(house.pocketbase, login["record"], alice.password), "alices")
        opened = house.upstream.opened
        house.realtime.changes_missed("of a test")
        assert (await house.submit(stream, "private/*", token="alices")).status_code == 204
        assert house.upstream.opened == opened + 1
        made = await house.write("create", "private", owner=alice.id)
        assert (await stream.event()).data["record"]["id"] == made["id"]


async def test_a_client_that_goes_away_leaves_nothing_behind(house: RealtimeHouse) -> None:
    async with house.stream() as stream:
        await house.submit(stream, "notes/*")
        assert house.realtime.stats().streams == 1
    await until(lambda: house.realtime.stats().streams == 0)
    assert house.realtime.find(stream.client_id) is None
    assert len(house.limits.streams) == 0


async def test_an_identity_that_nobody_is_any_more_gives_its_stream_back(
    house: RealtimeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapta.gateway.realtime.service.LINGER_SECONDS", 0.01)
    async with house.stream() as stream:
        await house.submit(stream, "notes/*")
        assert house.upstream.streams == 1
    await until(lambda: house.upstream.streams == house.realtime.stats().identities == 0)


async def test_one_address_holds_no_more_streams_than_it_may(pocketbase: PocketBaseHouse) -> None:
    async with RealtimeHouse(pocketbase, max_streams_per_address=2).serving() as house:
        async with house.stream(), house.stream(), house.stream(address="192.0.2.2"):
            refused = await house.http.get(house.url + "/api/realtime", headers={"x-forwarded-for": "192.0.2.1"})
            assert refused.status_code == 429
            assert refused.json()["status"] == 429
            assert int(refused.headers["retry-after"]) >= 1
        await until(lambda: len(house.limits.streams) == 0)
        async with house.stream():
            assert house.realtime.stats().streams == 1


async def test_no_event_is_lost_or_doubled_while_topics_come_and_go(house: RealtimeHouse) -> None:
    async with house.stream() as steady, house.stream() as restless:
        assert (await house.submit(steady, "counters/*")).status_code == 204

        async def come_and_go() -> None:
            for number in range(40):
                answer = await house.submit(restless, f"notes/{number:015}", f"posts/{number:015}")
                assert answer.status_code == 204

        changing = asyncio.create_task(come_and_go())
        made: list[str] = []
        while not changing.done():
            made.append((await house.write("create", "counters", n=len(made)))["id"])
        await changing
        heard = [(await steady.event()).data["record"]["id"] for _ in made]
        assert sorted(heard) == sorted(made)
        last = await house.write("create", "counters", n=-1)
        assert (await steady.event()).data["record"]["id"] == last["id"]
    assert house.upstream.opened > 3


async def test_topics_that_come_in_a_burst_are_gathered(house: RealtimeHouse) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(house.stream()) for _ in range(100)]
        submitted = [house.submit(stream, f"notes/{at:015}") for at, stream in enumerate(streams)]
        assert {answer.status_code for answer in await asyncio.gather(*submitted)} == {204}
        assert house.upstream.opened < 50
        assert house.realtime.stats().upstream == 1


async def test_more_than_a_thousand_topics_of_one_identity_take_another_stream(house: RealtimeHouse) -> None:
    async with house.stream() as one, house.stream() as two:
        made = await house.write("create", "notes", title="one")
        await house.submit(one, *[f"counters/{at:015}" for at in range(1000)])
        await house.submit(two, *[f"posts/{at:015}" for at in range(999)], "notes/*")
        assert house.realtime.stats().upstream == 2
        assert all(len(topics) <= 1000 for topics in house.upstream.submitted)
        await house.write("update", "notes", made["id"], title="two")
        assert (await two.event()).data["record"]["id"] == made["id"]


async def test_a_connection_near_its_end_is_replaced_before_anything_is_missed(
    house: RealtimeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LIFE_SECONDS", 0.0)
    monkeypatch.setattr("hapta.gateway.realtime.service.TIDY_SECONDS", 0.02)
    async with RealtimeHouse(house.pocketbase).serving() as restless, restless.stream() as stream:
        await restless.submit(stream, "counters/*")
        made: list[str] = []
        while restless.upstream.opened < 6:
            made.append((await restless.write("create", "counters", n=len(made)))["id"])
        heard = [(await stream.event()).data["record"]["id"] for _ in made]
        assert sorted(heard) == sorted(made)


async def test_clients_are_greeted_anew_when_pocketbase_was_away_and_hear_of_what_comes(
    new_pocketbase: NewPocketBase,
) -> None:
    pocketbase = new_pocketbase()
    async with RealtimeHouse(pocketbase).serving() as house, house.stream() as stream, house.stream() as other:
        assert (await house.submit(stream, "notes/*")).status_code == 204
        pocketbase.server.kill()
        await until(lambda: house.upstream.streams == 0)
        away = await house.submit(other, "counters/*")
        assert away.status_code == 503
        assert away.json()["status"] == 503
        pocketbase.server.start()
        greeting = await stream.event()
        assert (greeting.name, greeting.id) == ("PB_CONNECT", stream.client_id)
        assert (await house.submit(stream, "notes/*")).status_code == 204
        made = await house.write("create", "notes", title="again")
        assert (await stream.event()).data["record"]["id"] == made["id"]
        assert (await house.submit(other, "counters/*")).status_code == 204


async def test_a_rule_may_refuse_a_topic_and_sees_what_it_asks_for(house: RealtimeHouse) -> None:
    seen: list[Operation] = []

    def decide(operation: Operation) -> None:
        seen.append(operation)
        if operation.collection.name == "counters":
            raise RuleDenied("Not these.")

    house.rules.decide = decide
    options = quote(json.dumps({"query": {"expand": "owner"}}))
    async with house.stream() as stream:
        assert (await house.submit(stream, f"notes/*?options={options}", "free")).status_code == 204
        assert [(one.action, one.collection.name, one.record_id, one.query) for one in seen] == [
            ("subscribe", "notes", "*", {"expand": "owner"})
        ]
        assert (await house.submit(stream, "counters/*")).status_code == 403
        # Those it has stay in force.
        made = await house.write("create", "notes", title="one")
        assert (await stream.event()).data["record"]["id"] == made["id"]


async def test_a_rule_hides_fields_and_whole_events(house: RealtimeHouse) -> None:
    def show(visitor: Any, record: dict[str, Any]) -> dict[str, Any] | None:
        assert visitor == NOBODY
        return None if record["title"] == "hidden" else {"id": record["id"]}

    house.rules.show = show
    async with house.stream() as stream:
        await house.submit(stream, "notes/*")
        await house.write("create", "notes", title="hidden")
        made = await house.write("create", "notes", title="shown")
        while (told := await stream.event()).data["record"]["id"] != made["id"]:
            raise AssertionError(told)
        assert told.data == {"action": "create", "record": {"id": made["id"]}}


async def test_a_stream_that_reads_nothing_is_ended_and_holds_nobody_up(pocketbase: PocketBaseHouse) -> None:
    house = RealtimeHouse(pocketbase, stream_queue=4, heartbeat_seconds=0.1)
    async with house.serving(), house.stream() as quick:
        with socket.create_connection(("127.0.0.1", int(house.url.rpartition(":")[2]))) as idle:
            idle.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(
                idle, b"GET /api/realtime HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.1\r\n\r\n"
            )
            head = b""
            while b"clientId" not in head:
                head += await loop.sock_recv(idle, 4096)
            slow = head.split(b"\nid:")[1][:40].decode()
            await house.submit(slow, "notes/*")
            await house.submit(quick, "notes/*")
            while house.realtime.find(slow) is not None:
                made = await house.write("create", "notes", title="x", meta="x" * 500_000)
                assert (await quick.event()).data["record"]["id"] == made["id"]
            assert house.realtime.stats().streams == 1
            assert house.realtime.stats().dropped == 1
            # Nothing is read, and still it is cut for good.
            await until(lambda: house.ended == 1)


async def test_the_end_of_the_server_ends_streams_cleanly(pocketbase: PocketBaseHouse) -> None:
    async with RealtimeHouse(pocketbase).serving() as house, house.stream() as stream:
        await house.submit(stream, "notes/*")
        house.realtime.end_all()
        assert await stream.next() is None
        assert house.realtime.stats().streams == 0


async def test_a_request_may_come_to_another_worker_than_its_stream(pocketbase: PocketBaseHouse) -> None:
    bus = MemoryBus()
    alice = await asyncio.to_thread(pocketbase.person, "alice")
    async with RealtimeHouse(pocketbase, bus).serving() as one, RealtimeHouse(pocketbase, bus).serving() as two:
        token = one.sessions.begin(alice, "alices")
        two.sessions.begin(alice, "alices")
        async with one.stream() as stream:
            assert (await two.submit(stream, "private/*", token=token)).status_code == 204
            made = await one.write("create", "private", owner=alice.id)
            assert (await stream.event()).data["record"]["id"] == made["id"]
            refused = await two.submit(stream, "private/*")
            assert refused.status_code == 403
            assert refused.json()["message"].startswith("The current and the previous")
        await until(lambda: one.realtime.stats().streams == 0)
        assert (await two.submit(stream, "private/*", token=token)).status_code == 404
    await bus.close()


async def test_a_listener_without_a_stream_hears_the_same(house: RealtimeHouse) -> None:
    listener = house.realtime.attach(NOBODY, nobody_at("192.0.2.1"))
    await house.realtime.listen(listener, NOBODY, nobody_at("192.0.2.1"), ["notes/*"])
    made = await house.write("create", "notes", title="one")
    frame = await anext(aiter(listener))
    assert frame.topic == "notes/*"
    assert json.loads(frame.data)["record"]["id"] == made["id"]
    await listener.aclose()
    assert house.realtime.stats().streams == 0
    assert isinstance(house.realtime.connect("192.0.2.1"), EventStream)
