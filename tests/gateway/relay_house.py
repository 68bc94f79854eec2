"""A relay between the gateway and PocketBase: it counts what passes, holds answers back, and cuts connections off.

And the whole of it for the tests of one module: PocketBase, the relay, a server in front of both.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.gateway.pocketbase_house import Mails, PocketBaseHouse, PocketBaseServer
from tests.servers import HaptaServer, Run

Json = Any

_REQUEST = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE) [^ ]+(?= HTTP/1\.1\r\n)")
STREAM = "GET /api/realtime"
PATIENCE_SECONDS = 120.0
"""Only to fail instead of hanging."""


class _Connection:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.request = ""
        """The one that was sent last."""

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Relay:
    """Passes connections on to a port; all methods are for the test's own threads.

    Args:
        port: where PocketBase listens.
    """

    def __init__(self, portal: BlockingPortal, port: int) -> None:
        self._portal = portal
        self._target = port
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = ""
        self._release = asyncio.Event()
        self._holding = threading.Event()
        self._refuses = False
        self.requests: list[str] = []
        """Method and target of each request that passed."""
        self._server = portal.call(self._open)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def count(self, beginning: str) -> int:
        """How many requests passed that begin with a method and a target."""
        return sum(request.startswith(beginning) for request in self.requests)

    @contextmanager
    def holding(self, beginning: str) -> Generator[threading.Event]:
        """Keeps the answers to such requests back; the event tells that there is one. They go on at the end."""

        def hold(what: str) -> None:
            self._held = what
            (self._release.clear if what else self._release.set)()

        self._holding.clear()
        self._portal.call(hold, beginning)
        try:
            yield self._holding
        finally:
            self._portal.call(hold, "")

    def cut(self, beginning: str = "") -> int:
        """Resets the connections whose last request begins so; how many."""

        def cut() -> int:
            found = [one for one in self._connections if one.request.startswith(beginning)]
            for one in found:
                one.cut()
            return len(found)

        return self._portal.call(cut)

    def cut_one(self, beginning: str) -> bool:
        """Resets one of them; whether there was one."""

        def cut() -> bool:
            found = next((one for one in self._connections if one.request.startswith(beginning)), None)
            if found is not None:
                found.cut()
            return found is not None

        return self._portal.call(cut)

    def target(self, port: int) -> None:
        """From now on, connections lead to another port."""
        self._target = port

    @contextmanager
    def away(self, beginning: str = "") -> Generator[None]:
        """Cuts such connections off and keeps them from coming back meanwhile."""
        self._refused = beginning
        self._refuses = True
        try:
            self.cut(beginning)
            yield
        finally:
            self._refuses = False

    _refused = ""

    async def _open(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            upstream, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        connection = _Connection(writer, to_server)
        self._connections.add(connection)
        try:
            await asyncio.gather(self._up(reader, to_server, connection), self._down(upstream, writer, connection))
        except OSError:
            pass
        finally:
            connection.cut()
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection) -> None:
        while chunk := await reader.read(65536):
            for found in _REQUEST.findall(chunk):
                connection.request = found.decode()
                self.requests.append(connection.request)
                if self._refuses and connection.request.startswith(self._refused):
                    connection.cut()
            writer.write(chunk)
            await writer.drain()
        connection.cut()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection) -> None:
        while chunk := await reader.read(65536):
            if self._held and connection.request.startswith(self._held):
                self._holding.set()
                await self._release.wait()
            writer.write(chunk)
            await writer.drain()
        connection.cut()

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._portal.call(close)


@contextmanager
def relay_to(port: int) -> Generator[Relay]:
    with start_blocking_portal() as portal:
        relay = Relay(portal, port)
        try:
            yield relay
        finally:
            relay.close()


@dataclass
class World:
    """PocketBase, a relay before it, and the gateway before that."""

    house: PocketBaseHouse
    relay: Relay
    server: HaptaServer

    @property
    def url(self) -> str:
        return self.server.url

    def login(self, name: str, collection: str = "users") -> dict[str, str]:
        """The header of a new session of somebody of `sdk/scene.py`."""
        login = {"identity": f"{name}@example.com", "password": f"{name}-password"}
        answer = httpx.post(f"{self.url}/api/collections/{collection}/auth-with-password", json=login)
        assert answer.status_code == 200, answer.text
        return {"authorization": answer.json()["token"]}


@contextmanager
def world_of(
    run: Run, template: Path, mails: Mails, furnish: Callable[[PocketBaseHouse], None], **env: str
) -> Generator[World]:
    """A world of its own, with the records that `furnish` makes; limits are off unless `env` says so."""
    with PocketBaseServer(run, template=template) as pocketbase, relay_to(pocketbase.port) as relay:
        house = PocketBaseHouse(pocketbase, mails)
        furnish(house)
        settings = {
            "HAPTA_GATEWAY_ENABLED": "on",
            "HAPTA_RATELIMIT_ENABLED": "false",
            "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
            "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
            "DB_URL": relay.url,
            "ADMIN_EMAIL": house.email,
            "ADMIN_PASSWORD": house.password,
        }
        with HaptaServer(run, env=settings | env) as server:
            try:
                yield World(house, relay, server)
            finally:
                house.close()
                print(server.log_tail())


class Stream:
    """A stream of events that a client reads."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.id = ""

    async def event(self) -> tuple[str, Json] | None:
        """Name and data of the next one; None at a clean end."""
        name = ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in self._lines:
                if line.startswith("event:"):
                    name = line[6:]
                elif line.startswith("data:"):
                    return name, json.loads(line[5:])
        return None


@asynccontextmanager
async def listening(
    http: httpx.AsyncClient, *topics: str, headers: dict[str, str] | None = None
) -> AsyncIterator[Stream]:
    """A stream that hears these topics."""
    async with http.stream("GET", "/api/realtime", timeout=None) as response:
        assert response.status_code == 200
        stream = Stream(response)
        greeting = await stream.event()
        assert greeting is not None
        stream.id = greeting[1]["clientId"]
        body = {"clientId": stream.id, "subscriptions": list(topics)}
        answer = await http.post("/api/realtime", json=body, headers=headers)
        assert answer.status_code == 204, answer.text
        yield stream
