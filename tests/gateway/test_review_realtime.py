"""What a second reader tried on realtime: past the owner's rules, and past the end of a session."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, quote

import pytest

from hapta.gateway.errors import TokenRefused
from hapta.gateway.models import Operation
from hapta.gateway.realtime import source as sources
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.realtime_house import RealtimeHouse, nobody_at

ONLY_IDS = {"query": {"fields": "id"}}


@pytest.fixture
async def house(pocketbase: PocketBaseHouse) -> AsyncIterator[RealtimeHouse]:
    async with RealtimeHouse(pocketbase).serving() as house:
        yield house


def hiding(visitor: Any, record: dict[str, Any]) -> dict[str, Any] | None:
    return None if record.get("title") == "hidden" else record


@pytest.mark.parametrize(
    "topic",
    [
        "notes/*?options=" + quote(json.dumps(ONLY_IDS)),
        "notes/*?a=b&options=" + quote(json.dumps(ONLY_IDS)),
    ],
)
async def test_a_rule_sees_the_whole_record_whatever_fields_a_topic_asks_for(house: RealtimeHouse, topic: str) -> None:
    house.rules.show = hiding
    async with house.stream() as stream:
        assert (await house.submit(stream, topic)).status_code == 204
        await house.write("create", "notes", title="hidden")
        made = await house.write("create", "notes", title="shown")
        told = await stream.event()
        assert (told.name, told.data) == (topic, {"action": "create", "record": {"id": made["id"]}})


async def test_topics_with_and_without_a_choice_of_fields_are_told_apart(house: RealtimeHouse) -> None:
    house.rules.show = hiding
    chosen = "notes/*?options=" + quote(json.dumps(ONLY_IDS))
    async with house.stream() as stream:
        await house.submit(stream, chosen, "notes/*")
        made = await house.write("create", "notes", title="shown")
        told = {one.name: one.data["record"] for one in [await stream.event(), await stream.event()]}
        assert told[chosen] == {"id": made["id"]}
        assert told["notes/*"]["title"] == "shown"
        await house.submit(stream, chosen)
        await house.write("update", "notes", made["id"], title="again")
        again = await stream.event()
        assert (again.name, again.data["record"]) == (chosen, {"id": made["id"]})


async def test_rules_that_come_later_see_whole_records_too(house: RealtimeHouse) -> None:
    topic = "notes/*?options=" + quote(json.dumps(ONLY_IDS))
    async with house.stream() as stream:
        await house.submit(stream, topic)
        house.rules.show = hiding
        await house.write("create", "notes", title="hidden")
        assert (await stream.event()).name == "PB_CONNECT"
        await house.submit(stream, topic)
        made = await house.write("create", "notes", title="shown")
        assert (await stream.event()).data["record"] == {"id": made["id"]}


@pytest.mark.parametrize(
    "rest",
    ["?a=b&options=" + quote('{"query":{"expand":"x"}}'), "?options=" + quote('{"query":{"expand":"x"}}') + "#z"],
)
async def test_pocketbase_is_asked_for_what_a_rule_about_topics_has_seen(house: RealtimeHouse, rest: str) -> None:
    seen: list[Operation] = []
    house.rules.decide = seen.append
    async with house.stream() as stream:
        assert (await house.submit(stream, "notes/*" + rest)).status_code == 204
        made = await house.write("create", "notes", title="x")
        told = await stream.event()
        assert (told.name, told.data["record"]["id"]) == ("notes/*" + rest, made["id"])
    [[asked]] = house.upstream.submitted
    options = json.loads(parse_qs(asked.partition("?")[2]).get("options", ["{}"])[0])
    assert [dict(one.query) for one in seen] == [options.get("query", {})]
    assert "#" not in asked
    assert "a=b" not in asked


@pytest.mark.parametrize("topic", ["é" * 1251, "😀" * 626])
async def test_a_topic_that_pocketbase_does_not_take_keeps_nobody_else_from_listening(
    house: RealtimeHouse, topic: str
) -> None:
    async with house.stream() as stream:
        answer = await house.submit(stream, topic)
        assert answer.status_code == 400
        assert answer.json()["data"]["subscriptions"]["0"]["code"] == "validation_length_too_long"
        assert house.upstream.submitted == []


async def test_a_session_that_ended_while_its_topics_were_on_their_way_hears_nothing(house: RealtimeHouse) -> None:
    alice = await house.write("person", "alice")
    stolen, own = house.sessions.begin(alice, "stolen"), house.sessions.begin(alice, "own")
    async with house.stream() as thief, house.stream() as owner:
        await house.submit(owner, "private/*", token=own)
        visitor = house.sessions.live[stolen]
        house.sessions.end(stolen)
        with pytest.raises(TokenRefused):
            await house.realtime.submit(thief.client_id, visitor, nobody_at("192.0.2.1"), ["private/*"])
        assert await thief.next() is None
        made = await house.write("create", "private", owner=alice.id)
        assert (await owner.event()).data["record"]["id"] == made["id"]


async def test_guests_of_one_address_do_not_take_all_topics_from_the_others(
    house: RealtimeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_TOPIC_BYTES", 400)
    async with house.stream("192.0.2.66") as greedy, house.stream("192.0.2.66") as too, house.stream() as other:
        assert (await house.submit(greedy, "a" * 90, address="192.0.2.66")).status_code == 204
        assert (await house.submit(too, "b" * 20, address="192.0.2.66")).status_code == 429
        assert (await house.submit(other, "b" * 20)).status_code == 204
        assert (await house.submit(greedy, "a" * 50, address="192.0.2.66")).status_code in (204, 429)
        assert (await house.submit(greedy, address="192.0.2.66")).status_code == 204
        assert (await house.submit(too, "b" * 20, address="192.0.2.66")).status_code == 204
