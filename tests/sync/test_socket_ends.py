"""Sockets that end in the middle of their beginning, and frames that are meant to do harm: nothing stays behind."""

from __future__ import annotations

import asyncio

import pytest

from hapta.http.sockets import Message
from hapta.kit.access import Caller
from hapta.kit.errors import Unavailable
from tests.sync.house import USER, VAULT, House, Tokens, new_logs
from tests.sync.test_realtime import Peer

pytestmark = pytest.mark.anyio


async def test_a_socket_whose_second_look_fails_leaves_nothing_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.tokens.add("token")
    known = [house.tokens.callers["token"]]

    def once(_self: Tokens, _token: str) -> Caller | None:
        return known.pop() if known else None

    async def away(_self: Tokens, _token: str) -> Caller:
        raise Unavailable

    monkeypatch.setattr(Tokens, "cached", once)
    monkeypatch.setattr(Tokens, "verify", away)
    peer = Peer(house)
    peer.say(type="auth", token="token")
    assert await peer.closed() == 1013
    assert house.sync.hub.socket_count == 0


async def test_a_socket_that_is_ended_during_its_second_look_leaves_nothing_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.tokens.add("token")
    known = [house.tokens.callers["token"]]
    looking = asyncio.Event()

    def once(_self: Tokens, _token: str) -> Caller | None:
        return known.pop() if known else None

    async def never(_self: Tokens, _token: str) -> Caller:
        looking.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Tokens, "cached", once)
    monkeypatch.setattr(Tokens, "verify", never)
    peer = Peer(house)
    peer.say(type="auth", token="token")
    async with asyncio.timeout(120):
        await looking.wait()
    house.sync.hub.on_revoked(USER, None)
    assert await peer.closed() == 4401
    assert house.sync.hub.socket_count == 0


@pytest.mark.parametrize(
    "frame",
    [b'{"type":"auth","token":"\xff"}', b'{"type":"auth","token":"token","deviceId":"\\u0000"}', b"\xff"],
    ids=["token not utf-8", "nul device", "not utf-8"],
)
async def test_a_first_frame_of_bad_bytes_is_no_auth(house: House, frame: bytes) -> None:
    house.tokens.add("token")
    peer = Peer(house)
    peer._in.put_nowait({"type": "websocket.receive", "bytes": frame})  # pyright: ignore[reportPrivateUsage]
    assert await peer.closed() == 4401
    assert house.sync.hub.socket_count == 0


async def test_a_later_frame_of_bad_bytes_is_answered(house: House) -> None:
    house.tokens.add("token")
    peer = Peer(house)
    peer.say(type="auth", token="token")
    peer._in.put_nowait(  # pyright: ignore[reportPrivateUsage]
        {"type": "websocket.receive", "bytes": b'{"type":"subscribe","vaultId":"\xff"}'}
    )
    assert (await peer.hear())["code"] == "invalid_frame"
    assert (await peer.subscribe(VAULT))["type"] == "subscribed"
    await house.push(new_logs(1))
    assert (await peer.hear())["head"] == 1
    peer.leave()
    await asyncio.wait((peer.task,))


class BusyPeer(Peer):
    """A reader that takes every frame soon, to whom something new happens during each."""

    def __init__(self, house: House, seconds: float) -> None:
        self._house = house
        self._until = asyncio.get_running_loop().time() + seconds
        super().__init__(house)

    async def _send(self, message: Message) -> None:
        if '"logs"' in message.get("text", "") and asyncio.get_running_loop().time() < self._until:
            await self._house.push(new_logs(1))
            for _ in range(5):  # its hint is on the way, and there before this frame is taken
                await asyncio.sleep(0)
        await super()._send(message)


async def test_a_busy_socket_is_not_taken_for_a_slow_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each frame is taken in time, but there is always another one: together they take longer than one frame may.
    monkeypatch.setattr("hapta.sync.sockets.SEND_SECONDS", 2.0)
    house.tokens.add("token")
    peer = BusyPeer(house, 3.0)
    peer.say(type="auth", token="token")
    await peer.subscribe()
    head = (await house.push(new_logs(1))).head
    told = 0
    while told < head or asyncio.get_running_loop().time() < peer._until:  # pyright: ignore[reportPrivateUsage]
        told = (await peer.hear())["head"]
        head = (await house.pull(limit=1)).head
    peer.leave()
    await asyncio.wait((peer.task,))
