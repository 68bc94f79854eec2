"""Engine.IO by polling, the way from there to the WebSocket, and clients that read too slowly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hapta.relay.updates import engineio
from tests.relay.engine import Client, Poller, client
from tests.relay.house import A, Closed, Guest, House, OpenHouse, until


async def test_a_client_that_polls_has_all_that_the_others_have(house: House, a: Guest) -> None:
    poller = Poller(house)
    hello = await poller.begin()
    assert hello["upgrades"] == ["websocket"]
    await poller.connect("a")
    waiting = asyncio.create_task(poller.poll())
    (update,) = await house.tell(A, {"t": "x"})
    (packet,) = await waiting
    assert json.loads(packet[2:])[1]["id"] == update.id
    assert (await poller.post('421["ping"]\x1e3\x1e422["update-metadata",{}]')).text == "ok"
    assert await poller.poll() == ["431[{}]", '432[{"result":"error","message":"Invalid parameters"}]']
    assert (await poller.post("41")).text == "ok"
    assert (await poller.poll())[-1] == "1"
    assert (await poller.get()).json() == {"code": 1, "message": "Session ID unknown"}
    assert house.relay.hub.of_account(A) == []


async def test_a_refusal_reaches_a_client_that_polls(house: House) -> None:
    poller = Poller(house)
    await poller.begin()
    await poller.post("40")
    assert await poller.poll() == ['44{"message":"Missing authentication token"}', "1"]


async def test_answers_may_be_read_by_any_page_and_kept_by_no_cache(house: House) -> None:
    answer = await house.http.get("/v1/updates/?EIO=4&transport=polling", headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"


@pytest.mark.parametrize(
    ("method", "query", "code"),
    [
        ("GET", {"sid": "nobody"}, 1),
        ("POST", {"sid": "nobody"}, 1),
        ("POST", {}, 2),
        ("GET", {"transport": "websocket"}, 3),
        ("GET", {"transport": ""}, 0),
        ("GET", {"EIO": "3"}, 5),
        ("GET", {"j": "0"}, 3),
        ("POST", {"transport": "websocket"}, 3),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
async def test_requests_that_are_not_of_the_protocol_are_told_so(
    house: House, method: str, query: dict[str, str], code: int
) -> None:
    poller = Poller(house)
    answer = await (poller.get(**query) if method == "GET" else poller.post("", **query))
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_a_body_that_is_too_large_is_not_read(new_house: OpenHouse) -> None:
    house = await new_house(max_frame_bytes=65536)
    poller = Poller(house)
    await poller.connect("a")
    assert (await poller.post("4" * 70_000)).status_code == 413


async def test_a_body_that_is_no_text_ends_the_client(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    assert (await poller.post(b"\xff\xfe")).status_code == 400
    assert await poller.poll() == ["1"]


async def test_attachments_in_a_body_are_refused_like_those_of_a_socket(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    await poller.post('451-1["x",{"_placeholder":true,"num":0}]\x1ebAQID\x1e422["ping"]')
    refused, ping = await poller.poll()
    assert "Binary attachments are not supported" in refused
    assert ping == "432[{}]"


async def test_two_polls_at_once_end_the_client(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    first = asyncio.create_task(poller.poll())
    link = house.relay.socketio.engine.find(poller.sid)
    await until(lambda: link._poll is not None)  # pyright: ignore[reportPrivateUsage]
    assert (await poller.get()).status_code == 400
    assert await first == ["1"]
    assert house.relay.hub.of_account(A) == []


async def test_a_client_that_stops_polling_is_forgotten(house: House) -> None:
    engine = house.relay.socketio.engine
    poller = Poller(house)
    await poller.connect("a")
    for seconds in (engineio.PING_SECONDS, engineio.PONG_SECONDS):
        house.clock.advance(seconds=seconds)
        engine.tick()
    assert house.relay.hub.of_account(A) == []
    house.clock.advance(seconds=engineio.CLOSE_SECONDS)
    engine.tick()
    assert engine.open == 0


async def test_a_ping_ends_a_poll_that_waits(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    waiting = asyncio.create_task(poller.poll())
    house.clock.advance(seconds=engineio.PING_SECONDS)
    house.relay.socketio.engine.tick()
    assert await waiting == ["2"]


async def test_a_stopping_server_answers_polls_that_wait(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    waiting = asyncio.create_task(poller.poll())
    link = house.relay.socketio.engine.find(poller.sid)
    await until(lambda: link._poll is not None)  # pyright: ignore[reportPrivateUsage]
    house.relay.stop_waiting()
    assert await waiting == ["1"]
    assert (await Poller(house).get()).json()["code"] == 4


async def test_strangers_that_poll_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engineio, "MAX_UNCONNECTED_POLLS", 2)
    await Poller(house).begin()
    await Poller(house).begin()
    assert (await Poller(house).get()).json() == {"code": 4, "message": "Forbidden"}
    house.clock.advance(seconds=engineio.CONNECT_SECONDS)
    house.relay.socketio.engine.tick()
    house.clock.advance(seconds=engineio.CLOSE_SECONDS)
    house.relay.socketio.engine.tick()
    await Poller(house).connect("a")


# -- from polling to the WebSocket ----------------------------------------------------------------------------------------


async def upgrading(house: House, poller: Poller) -> Client:
    """A WebSocket for the session of a poller, its probe answered."""
    socket = Client(house, None, sid=poller.sid)
    await socket.open()
    await socket.send("2probe")
    assert await socket.packet(lambda _: True) == "3probe"
    return socket


async def test_a_client_goes_on_over_the_websocket_and_misses_nothing(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    waiting = asyncio.create_task(poller.poll())
    link = house.relay.socketio.engine.find(poller.sid)
    await until(lambda: link._poll is not None)  # pyright: ignore[reportPrivateUsage]
    socket = await upgrading(house, poller)
    assert await waiting == ["6"], "a poll that waits ends when the probe went through"
    await house.tell(A, {"t": "between"})
    await socket.send("5")
    assert (await socket.heard("update"))["body"] == {"t": "between"}
    assert await socket.emit("ping", ack=True) == {}
    assert await poller.poll() == ["6"]
    assert (await poller.post("3")).status_code == 400
    assert await socket.closed() == 1002, "who posts beside his socket has lost the thread"


async def test_a_probe_that_comes_to_nothing_leaves_the_polling_alone(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    for packets in (["hello"], ["2probe", "4nonsense"]):
        socket = Client(house, None, sid=poller.sid)
        await socket.open()
        for packet in packets:
            await socket.send(packet)
        assert await socket.closed() == 1002
    assert (await poller.post('421["ping"]')).text == "ok"
    assert await poller.poll() == ["431[{}]"]


async def test_two_probes_at_once_are_one_too_many(house: House) -> None:
    poller = Poller(house)
    await poller.connect("a")
    first = await upgrading(house, poller)
    second = Client(house, None, sid=poller.sid)
    with pytest.raises(Closed) as refused:
        await second.open()
    assert (refused.value.status, json.loads(refused.value.reason)["code"]) == (400, 3)
    await second.close()
    await first.send("5")
    assert await first.emit("ping", ack=True) == {}
    await first.close()
    await until(lambda: house.relay.hub.of_account(A) == [])


# -- slow readers ---------------------------------------------------------------------------------------------------------


class Stuck(Client):
    """A client whose connection takes nothing once it is told to."""

    taking = True

    async def deliver(self, message: Any) -> None:
        while not self.taking and message["type"] == "websocket.send":
            await asyncio.Event().wait()
        await super().deliver(message)


async def test_a_socket_that_takes_nothing_is_ended_and_the_others_hear_all(new_house: OpenHouse) -> None:
    house = await new_house(max_queued_frames=16)
    stuck = Stuck(house, {"token": "a"})
    async with stuck, client(house.guest("a")) as reader:
        stuck.taking = False
        for number in range(20):
            await house.tell(A, {"t": "x", "n": number})
            assert (await reader.heard("update"))["body"]["n"] == number
        assert await stuck.closed() == 1013
        await until(lambda: len(house.relay.hub.of_account(A)) == 1)
    assert house.relay.socketio.engine.slow == 1


@pytest.mark.parametrize("limit", [{"max_queued_frames": 16}, {"max_queued_bytes": 65536}], ids=["frames", "bytes"])
async def test_what_waits_for_a_client_that_polls_is_bounded(new_house: OpenHouse, limit: dict[str, int]) -> None:
    house = await new_house(**limit)
    poller = Poller(house)
    await poller.connect("a")
    await house.tell(A, *[{"t": "x", "fill": "x" * 5000} for _ in range(20)])
    await until(lambda: house.relay.hub.of_account(A) == [])
    packets = await poller.poll()
    assert packets[-1] == "1"
    assert len(packets) < 20
    assert house.relay.socketio.engine.slow == 1
