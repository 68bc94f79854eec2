"""Push notifications: what sockets hear, when phones are spared, and what becomes of Expo's answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from hapta.http.fetch import GuardedFetch
from tests.relay.house import Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

EVENT = {"kind": "permission", "title": "May I?", "body": "rm -rf /", "data": {"path": "/tmp"}}


class Expo:
    """A little server that stands for Expo: it notes what it is sent and answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[dict[str, Any]]]] = []
        self.status = 200
        self.tickets: dict[str, dict[str, Any]] = {}
        self.answer: bytes | None = None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        messages = json.loads(await reader.readexactly(length))
        self.requests.append((head.split(" ")[1], messages))
        tickets = [self.tickets.get(message["to"], {"status": "ok", "id": "x"}) for message in messages]
        body = json.dumps({"data": tickets}).encode() if self.answer is None else self.answer
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (self.status, len(body), body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def expo() -> AsyncIterator[Expo]:
    expo = Expo()
    server = await asyncio.start_server(expo.serve, "127.0.0.1", 0)
    expo.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield expo
    server.close()


@pytest.fixture
async def house(new_house: OpenHouse, expo: Expo) -> House:
    return await new_house(relay={"fetch": GuardedFetch(allow_private=True)}, expo_url=expo.url)


async def create(guest: Guest, *tokens: str) -> str:
    for token in tokens:
        assert (await guest.post("/v1/push-tokens", json={"token": token})).status_code == 200
    session = (await guest.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]
    return f"/v1/sessions/{session['id']}/push-event"


async def test_sockets_hear_of_it_and_phones_are_reached(a: Guest, b: Guest, house: House, expo: Expo) -> None:
    path = await create(a, "ExponentPushToken[1]", "ExponentPushToken[2]")
    await b.post("/v1/push-tokens", json={"token": "ExponentPushToken[b]"})
    session_id = path.split("/")[3]
    async with a.socket() as watcher, a.socket(session=session_id) as agent, a.socket(session="x") as stranger:
        answer = await a.post(path, json=EVENT)
        assert answer.json() == {"success": True, "result": "sent", "tokens": 2, "delivered": 2}
        for socket in (watcher, agent):
            assert await socket.ephemeral("session-event") == {
                "type": "session-event",
                "id": session_id,
                "sid": session_id,
                "sessionId": session_id,
                "kind": "permission",
                "title": "May I?",
                "body": "rm -rf /",
                "timestamp": house.clock.now_ms(),
            }
        assert await stranger.seen() == []
    [(target, messages)] = expo.requests
    assert target == "/--/api/v2/push/send"
    assert sorted(message["to"] for message in messages) == ["ExponentPushToken[1]", "ExponentPushToken[2]"]
    assert messages[0]["title"] == "May I?"
    assert messages[0]["data"] == {"path": "/tmp", "sessionId": session_id, "kind": "permission"}


async def test_without_phones_nobody_is_called(a: Guest, expo: Expo) -> None:
    answer = await a.post(await create(a), json={**EVENT, "data": None})
    assert answer.json() == {"success": True, "result": "no_tokens", "tokens": 0, "delivered": 0}
    assert expo.requests == []


async def test_phones_that_expo_refuses_are_counted_and_lost_ones_forgotten(a: Guest, expo: Expo) -> None:
    path = await create(a, "good", "bad", "gone")
    expo.tickets = {
        "bad": {"status": "error", "details": {"error": "MessageRateExceeded"}},
        "gone": {"status": "error", "details": {"error": "DeviceNotRegistered"}},
    }
    partial = (await a.post(path, json=EVENT)).json()
    assert (partial["result"], partial["tokens"], partial["delivered"]) == ("partial", 3, 1)
    left = {token["token"] for token in (await a.get("/v1/push-tokens")).json()["tokens"]}
    assert left == {"good", "bad"}


@pytest.mark.parametrize(
    ("status", "answer"), [(500, b"{}"), (200, b"not json"), (200, b'{"errors":[]}'), (200, b'{"data":[]}')]
)
async def test_what_expo_gets_wrong_is_a_failure_and_no_error(a: Guest, expo: Expo, status: int, answer: bytes) -> None:
    path = await create(a, "one")
    expo.status, expo.answer = status, answer
    told = await a.post(path, json=EVENT)
    assert told.status_code == 200
    assert (told.json()["result"], told.json()["delivered"]) == ("failed", 0)
    assert told.json()["reason"]


async def test_an_expo_that_is_away_or_switched_off_is_a_failure_and_no_error(new_house: OpenHouse) -> None:
    for url in ("http://127.0.0.1:9", ""):
        house = await new_house(relay={"fetch": GuardedFetch(allow_private=True)}, expo_url=url)
        a = house.guest("a")
        assert (await a.post(await create(a, "one"), json=EVENT)).json()["result"] == "failed"


async def test_phones_are_spared_while_an_app_is_looked_at(a: Guest, house: House, expo: Expo) -> None:
    path = await create(a, "one")
    async with a.socket():
        [connection] = house.relay.hub.of_account(a.id)
        looked_at = _LookedAt(connection)
        house.relay.hub.leave(connection)
        await house.relay.hub.join(cast(Any, looked_at))
        suppressed = (await a.post(path, json=EVENT)).json()
        assert suppressed["result"] == "suppressed"
        assert expo.requests == []
        looked_at.app_state = "inactive"
        assert (await a.post(path, json=EVENT)).json()["result"] == "sent"
        house.relay.hub.leave(cast(Any, looked_at))


class _LookedAt:
    """A socket whose app is in front, as those of the other protocol say it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.app_state = "active"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "other"}, {"kind": None}, {"title": ""}, {"title": "x" * 201}, {"body": ""}, {"body": "x" * 501},
        {"data": []}, {"data": "x"},
    ],
)  # fmt: skip
async def test_events_that_do_not_fit_are_refused(a: Guest, wrong: dict[str, Any]) -> None:
    assert (await a.post(await create(a), json={**EVENT, **wrong})).status_code == 400


async def test_sixty_in_a_minute_are_enough(a: Guest, b: Guest, house: House) -> None:
    path = await create(a)
    for _ in range(60):
        assert (await a.post(path, json=EVENT)).status_code == 200
    refused = await a.post(path, json=EVENT)
    assert (refused.status_code, refused.json()["error"]) == (429, "Rate limit exceeded")
    assert refused.headers["retry-after"] == "1"
    assert (await b.post(await create(b), json=EVENT)).status_code == 200
    house.clock.advance(seconds=2)
    assert (await a.post(path, json=EVENT)).status_code == 200
