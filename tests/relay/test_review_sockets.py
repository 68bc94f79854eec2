"""Sockets whose client means harm: floods, frames behind the end, names that break others."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import httpx
import pytest

from hapta.relay.rpc import service as rpc_service
from hapta.relay.updates import engineio
from tests.relay.engine import PATH, Poller, client
from tests.relay.house import A, Guest, House, NativeSocket, OpenHouse

pytestmark = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)


async def test_a_body_of_more_packets_than_a_minute_has_ends_the_client(new_house: OpenHouse) -> None:
    house = await new_house(frames_per_minute=60)
    poller = Poller(house)
    await poller.begin()
    assert (await poller.post("\x1e".join(["3"] * 61))).status_code == 400
    assert await poller.poll() == ["1"]


class SlowReader(NativeSocket):
    """Takes nothing while `reads` is not set."""

    def __init__(self, house: House) -> None:
        super().__init__(house, "/v1/websocket?clientType=session-scoped&sessionId=s&token=a", {})
        self.reads = asyncio.Event()
        self.reads.set()

    async def deliver(self, message: Any) -> None:
        await self.reads.wait()
        await super().deliver(message)


async def test_a_socket_that_was_ended_does_nothing_more_while_the_rest_goes_out(house: House, a: Guest) -> None:
    agent = SlowReader(house)
    async with a.socket() as watcher, agent:
        (connection,) = [each for each in house.relay.hub.of_account(A) if each.id == agent.id]
        agent.reads.clear()
        await agent.emit("ping")  # its answer waits
        await agent.emit("before")
        await watcher.event("before")
        connection.end(4001, "token was revoked")
        await agent.emit("behind")
        seen = await watcher.seen()
        agent.reads.set()
        assert seen == []
        assert await agent.closed() == 4001


async def test_calls_that_wait_hold_no_more_memory_than_an_account_may(
    house: House, a: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_service, "MAX_PENDING_BYTES", 10_000)
    async with a.socket(machine="m") as target, a.socket() as first, a.socket() as second:
        long = {"method": "m:do", "params": "x" * 6_000}
        waiting = asyncio.create_task(first.emit("rpc-call", long, ack=True))
        request = await target.frame(lambda frame: frame["event"] == "rpc-request")
        refused = await second.emit("rpc-call", long, ack=True)
        assert refused == {"ok": False, "error": "Too many RPC calls"}
        await target.send({"event": "rpc-response", "ackId": request["ackId"], "ack": 1})
        assert (await waiting) == {"ok": True, "result": 1}
        again = asyncio.create_task(second.emit("rpc-call", long, ack=True))
        request = await target.frame(lambda frame: frame["event"] == "rpc-request")
        await target.send({"event": "rpc-response", "ackId": request["ackId"], "ack": 2})
        assert (await again) == {"ok": True, "result": 2}


@pytest.mark.parametrize("name", ["connect", "connect_error", "disconnecting", "newListener", "removeListener"])
async def test_names_that_break_a_socketio_client_are_not_passed_on(house: House, a: Guest, name: str) -> None:
    async with client(a) as watcher, a.socket(session="s") as agent:
        await agent.emit(name, {})
        await agent.emit("fine", {})
        await watcher.heard("fine")
        assert watcher.packets == []


@pytest.mark.parametrize("token", ["\u00e9", "\U0001f600", "x" * 100_000], ids=["latin", "far", "long"])
async def test_a_token_of_any_characters_is_only_a_wrong_one(house: House, token: str) -> None:
    socket = house.socket("/v1/websocket")
    await socket.open()
    await socket.send(json.dumps({"event": "auth", "data": {"token": token}}))
    assert await socket.closed() == 4001
    await socket.close()


async def test_pollers_of_one_address_leave_room_for_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engineio, "MAX_OF_ONE_ADDRESS", 2)
    for _ in range(2):
        await Poller(house).begin()
    assert (await Poller(house).get()).status_code == 400
    transport = httpx.ASGITransport(cast(Any, house.app), client=("192.0.2.7", 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.example") as elsewhere:
        assert (await elsewhere.get(f"{PATH}?EIO=4&transport=polling")).status_code == 200
