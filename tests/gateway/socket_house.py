"""One whole server in front of the tests' PocketBase, and a client of its socket that says just what a test wants said."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.servers import HaptaServer, Run

Json = Any

PATIENCE_SECONDS = 120.0
"""Only to fail instead of hanging."""
SOCKET = "/gateway/v1/socket"


def environment(house: PocketBaseHouse) -> dict[str, str]:
    """What a server in front of this PocketBase is started with."""
    return {
        "HAPTA_GATEWAY_ENABLED": "on",
        "DB_URL": house.url,
        "ADMIN_EMAIL": house.email,
        "ADMIN_PASSWORD": house.password,
        "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
        "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
        "HAPTA_RATELIMIT_ENABLED": "false",
    }


@pytest.fixture(scope="module")
def _gateway(server_run: Run, _pocketbase: PocketBaseHouse) -> Iterator[HaptaServer]:
    with HaptaServer(server_run, env=environment(_pocketbase)) as server:
        yield server
        print(server.log_tail())


@pytest.fixture
def server(_gateway: HaptaServer, pocketbase: PocketBaseHouse) -> HaptaServer:
    """The server that the tests of a module share."""
    return _gateway


def sign_in(server: HaptaServer, person: Person) -> str:
    """A token of the gateway for a new session, got over HTTP."""
    answer = httpx.post(
        f"{server.url}/api/collections/{person.collection}/auth-with-password",
        json={"identity": person.email, "password": person.password},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["token"]


def refresh(server: HaptaServer, token: str) -> tuple[int, str]:
    """Status and new token of a refresh over HTTP."""
    answer = httpx.post(f"{server.url}/api/collections/users/auth-refresh", headers={"authorization": token})
    return answer.status_code, answer.json().get("token", "")


def log_out(server: HaptaServer, token: str) -> None:
    """Ends a session over HTTP."""
    assert httpx.post(f"{server.url}/gateway/v1/logout", headers={"authorization": token}).status_code == 200


def view_status(server: HaptaServer, token: str, collection: str, record: str) -> int:
    """The status of reading a record over HTTP."""
    address = f"{server.url}/api/collections/{collection}/records/{record}"
    return httpx.get(address, headers={"authorization": token}).status_code


class Talk:
    """One open socket. Answers are found by the id of what was asked; everything else waits in `pushed` and `frames`."""

    def __init__(self, wire: ClientConnection) -> None:
        self.wire = wire
        self.token = ""
        self.channel = ""
        self._ids = itertools.count(1)
        self._answers: dict[Any, deque[Json]] = {}
        self.pushed: deque[Json] = deque()
        self.frames: deque[tuple[bytes, int, bytes]] = deque()

    async def send(self, type: str, payload: Json = None, **envelope: Json) -> str:
        """Sends a message without waiting; its id."""
        message_id = f"m{next(self._ids)}"
        about = {} if payload is None else {"payload": payload}
        await self.wire.send(json.dumps({"id": message_id, "type": type, **about, **envelope}))
        return message_id

    async def ask(self, type: str, payload: Json = None, **envelope: Json) -> Json:
        """The answer to a message."""
        return await self.answer(await self.send(type, payload, **envelope))

    async def done(self, type: str, payload: Json = None, **envelope: Json) -> Json:
        """The payload of an answer that it went well."""
        told = await self.ask(type, payload, **envelope)
        assert told["ok"], told
        return told["payload"]

    async def refused(self, type: str, payload: Json = None, **envelope: Json) -> tuple[int, int]:
        """Number and status of an answer that it did not."""
        told = await self.ask(type, payload, **envelope)
        assert not told["ok"], told
        return told["error"]["code"], told["error"]["status"]

    async def answer(self, message_id: Any) -> Json:
        """The next answer to a message that was sent."""
        while not self._answers.get(message_id):
            await self._read()
        return self._answers[message_id].popleft()

    async def push(self, type: str) -> Json:
        """The next message of a type that nobody asked for."""
        while not any(told["type"] == type for told in self.pushed):
            await self._read()
        found = next(told for told in self.pushed if told["type"] == type)
        self.pushed.remove(found)
        return found

    async def acknowledged(self, upload: bytes) -> int:
        """How many frames of an upload have gone on, by its next acknowledgement; those of uploads before it may still come."""
        while (ack := await self.push("upload.ack"))["upload"] != upload.hex():
            pass
        return ack["seq"] + 1

    async def frame(self) -> tuple[bytes, int, bytes]:
        """The next binary frame: transfer, number, bytes."""
        while not self.frames:
            await self._read()
        return self.frames.popleft()

    async def closed(self) -> int:
        """The code with which the server closes."""
        with suppress(ConnectionClosed):
            while True:
                await self._read()
        assert self.wire.close_code is not None
        return self.wire.close_code

    async def sign_in(self, token: str) -> Json:
        told = await self.done("auth", token=token)
        self.token, self.channel = token, told["channel"]
        return told

    async def upload(self, payload: Json, content: bytes, *, chunk: int | None = None, **about: Json) -> Json:
        """Sends a file as its server wants it sent; the last answer."""
        begun = await self.send("upload.begin", {"size": len(content), **payload, **about})
        ready = await self.answer(begun)
        if not ready["ok"]:
            return ready
        upload, step = bytes.fromhex(ready["payload"]["upload"]), chunk or ready["payload"]["chunk"]
        acknowledged = 0
        for number, start in enumerate(range(0, len(content), step)):
            while number - acknowledged >= ready["payload"]["window"]:
                acknowledged = await self.acknowledged(upload)
            await self.wire.send(upload + number.to_bytes(4, "big") + content[start : start + step])
        await self.send("upload.end", {"upload": upload.hex()})
        return await self.answer(begun)

    async def download(self, payload: Json) -> tuple[Json, bytes]:
        """A file: what is said of it, and its bytes."""
        asked = await self.send("file.get", payload)
        meta = await self.answer(asked)
        if not meta["ok"]:
            return meta, b""
        content = b""
        while not self._answers.get(asked):
            await self._read()
            while self.frames:
                _, number, data = self.frames.popleft()
                content += data
                await self.send("file.ack", {"file": meta["payload"]["file"], "seq": number})
        end = await self.answer(asked)
        assert end["ok"], end
        assert end["payload"]["size"] == len(content)
        return meta, content

    async def _read(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            frame = await self.wire.recv()
        if isinstance(frame, bytes):
            self.frames.append((frame[:16], int.from_bytes(frame[16:20], "big"), frame[20:]))
            return
        told = json.loads(frame)
        if "ok" in told:
            self._answers.setdefault(told["id"], deque()).append(told)
        else:
            self.pushed.append(told)


@asynccontextmanager
async def open_socket(server: HaptaServer, token: str = "", **options: Any) -> AsyncIterator[Talk]:
    """A socket, signed in with a token where one is given."""
    async with connect(server.ws_url + SOCKET, max_size=None, ping_interval=None, **options) as wire:
        talk = Talk(wire)
        if token:
            await talk.sign_in(token)
        yield talk


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
