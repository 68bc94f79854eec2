"""Sockets whose time is over, by a clock that the test moves; and what is left of them: nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.gateway.feature import Gateway
from hapta.testing.clock import FakeClock
from hapta.testing.server import TestHapta, TestSocket
from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.gateway.socket_house import SOCKET, environment

pytestmark = pytest.mark.anyio

TOKEN_SECONDS = 300
PING = {"type": "ping"}


class House:
    """The whole server in this process."""

    def __init__(self, hapta: TestHapta, clock: FakeClock) -> None:
        assert hapta.app.gateway is not None
        self.gateway: Gateway = hapta.app.gateway
        self.hapta = hapta
        self.clock = clock

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)
        self.gateway.sockets.tick()

    def assert_empty(self) -> None:
        assert len(self.gateway.sockets) == 0
        assert len(self.gateway.limits.streams) == 0
        assert len(self.gateway.limits.uploads) == 0
        assert self.gateway.realtime.stats().streams == 0

    async def token(self, person: Person) -> str:
        login = {"identity": person.email, "password": person.password}
        answer = await self.hapta.http.post("/api/collections/users/auth-with-password", json=login)
        assert answer.status_code == 200, answer.text
        return answer.json()["token"]


@pytest.fixture
async def house(tmp_path: Path, pocketbase: PocketBaseHouse) -> AsyncIterator[House]:
    # PocketBase has a clock of its own, so this one begins at the same time.
    clock = FakeClock(time.time())
    environ = environment(pocketbase) | {"HAPTA_GATEWAY_TOKEN_SECONDS": str(TOKEN_SECONDS)}
    async with TestHapta(tmp_path, environ, clock=clock) as hapta:
        yield House(hapta, clock)


async def ask(socket: TestSocket, kind: str, **more: Any) -> Any:
    """The payload of an answer, past whatever it was asked itself."""
    await socket.send({"id": 1, "type": kind, **more})
    while (told := await socket.receive()) == PING:
        pass
    assert told["ok"], told
    return told["payload"]


async def test_whoever_does_not_sign_in_is_closed(house: House) -> None:
    async with house.hapta.socket(SOCKET) as socket:
        await socket.send({"id": 1, "type": "ping"})
        assert (await socket.receive())["error"]["status"] == 401
        house.later(29)
        assert len(house.gateway.sockets) == 1
        house.later(2)
        assert await socket.closed() == 4401
    house.assert_empty()


async def test_a_quiet_socket_is_asked_and_closed_when_it_says_nothing(
    house: House, pocketbase: PocketBaseHouse
) -> None:
    token = await house.token(pocketbase.person())
    async with house.hapta.socket(SOCKET) as socket:
        await ask(socket, "auth", token=token)
        await ask(socket, "subscribe", payload={"collection": "notes"})
        for _ in range(5):
            house.later(21)
            assert await socket.receive() == PING
            await socket.send({"type": "pong"})
            await ask(socket, "ping")
        house.later(89)
        assert await socket.receive() == PING
        house.later(1)
        assert await socket.closed() == 1008
    house.assert_empty()


async def test_a_socket_ends_with_its_token_unless_it_was_shown_the_next_one(
    house: House, pocketbase: PocketBaseHouse
) -> None:
    token = await house.token(pocketbase.person())
    async with house.hapta.socket(SOCKET) as socket, house.hapta.socket(SOCKET) as other:
        await ask(socket, "auth", token=token)
        await ask(other, "auth", token=token)
        house.later(80)
        new = (await ask(socket, "auth_roll_token"))["token"]
        assert new != token
        await ask(other, "auth", token=token)
        for _ in range(3):
            house.later(80)
            await ask(socket, "auth", token=new)
            await ask(other, "authUpdate")
        house.later(TOKEN_SECONDS + 30 + 1 - 320)
        assert await other.closed() == 4401
        await ask(socket, "authUpdate")
        assert len(house.gateway.sockets) == 1
    house.assert_empty()


async def test_a_socket_that_goes_away_in_the_middle_leaves_nothing(house: House, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    token = await house.token(alice)
    async with house.hapta.socket(SOCKET) as socket:
        await ask(socket, "auth", token=token)
        await ask(socket, "subscribe", payload={"collection": "notes"})
        about = {"collection": "files", "field": "large", "name": "a", "size": 9, "data": {"owner": alice.id}}
        await ask(socket, "upload.begin", payload=about)
        assert len(house.gateway.limits.uploads) == 1
    house.assert_empty()
