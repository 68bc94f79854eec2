"""Realtime behind the real edge and the real uvicorn, in front of the real PocketBase; and clients that read streams."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from hapta.bus.bus import Bus
from hapta.cli.server_process import uvicorn_config
from hapta.gateway.errors import CollectionMissing, TokenRefused
from hapta.gateway.limits.service import Limits
from hapta.gateway.limits.specs import parse
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import NOBODY, Answer, Client, Collection, Operation, Visitor
from hapta.gateway.oauth2.routes import TEMPLATES, OAuth2Routes
from hapta.gateway.oauth2.service import OAuth2Redirects
from hapta.gateway.realtime.peers import Peers
from hapta.gateway.realtime.routes import RealtimeRoutes
from hapta.gateway.realtime.service import Realtime
from hapta.gateway.upstream.client import PocketBase
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass
from hapta.http.limits import Limits as EdgeLimits
from hapta.http.metrics import Metrics
from hapta.http.pages import Pages
from hapta.kit.clock import SystemClock
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.settings import ServerSettings, Settings
from hapta.settings.gateway import GatewaySettings
from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.http.house import Known

PATIENCE_SECONDS = 120.0
"""Only to fail instead of hanging."""


class Collections:
    """What PocketBase says of its collections, asked anew by `reload`."""

    def __init__(self, house: PocketBaseHouse) -> None:
        self._house = house
        self._listeners: list[Callable[[], None]] = []
        self._known: dict[str, Collection] = {}
        self.load()

    def load(self) -> None:
        found = self._house.request("GET", "/api/collections?perPage=500")["items"]
        self._known = {
            one["id"]: Collection(one["id"], one["name"], one["type"], one["system"], {}, "", "", "", "", "", {})
            for one in found
        }

    def add(self, collection_id: str) -> None:
        self._known[collection_id] = Collection(collection_id, collection_id, "base", False, {}, "", "", "", "", "", {})

    def tell(self) -> None:
        for listener in self._listeners:
            listener()

    def all(self) -> Sequence[Collection]:
        return [*self._known.values()]

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def resolve(self, segment: str) -> Collection:
        for one in self._known.values():
            if segment == one.id or segment.lower() == one.name.lower():
                return one
        raise CollectionMissing


class Sessions:
    """Sessions by their ids, which are the tokens of clients here."""

    def __init__(self) -> None:
        self.live: dict[str, Visitor] = {}
        self._listeners: list[Callable[[Sequence[str]], None]] = []

    def begin(self, person: Person, session_id: str) -> str:
        scope = f"u:{person.collection_id}/{person.id}"
        self.live[session_id] = Visitor(
            scope, person.collection_id, person.id, session_id, 1, upstream_token=person.token
        )
        return session_id

    def end(self, session_id: str) -> None:
        del self.live[session_id]
        for listener in self._listeners:
            listener([session_id])

    async def visitor(self, authorization: bytes | None, client: Client | None = None) -> Visitor:
        if not authorization:
            return NOBODY
        known = self.live.get(authorization.decode())
        if known is None:
            raise TokenRefused
        return known

    async def of_session(self, collection_id: str, record_id: str, session_id: str) -> Visitor:
        if session_id not in self.live:
            raise TokenRefused
        return self.live[session_id]

    def on_ended(self, listener: Callable[[Sequence[str]], None]) -> None:
        self._listeners.append(listener)


Decide = Callable[[Operation], None]
Show = Callable[[Visitor, dict[str, Any]], "dict[str, Any] | None"]


class Rules:
    """At most one rule of each kind, as a function."""

    def __init__(self) -> None:
        self.decide: Decide | None = None
        self.show: Show | None = None

    def has(self, phase: str, action: str, collection: Collection) -> bool:
        return (self.decide if phase == "before" else self.show) is not None

    async def before(self, operation: Operation) -> None:
        if self.decide is not None:
            self.decide(operation)

    async def event(
        self, collection: Collection, visitor: Visitor, action: str, record: dict[str, Any]
    ) -> dict[str, Any] | None:
        return record if self.show is None else self.show(visitor, record)


class Counted:
    """The client of PocketBase, which counts the streams that it opens."""

    def __init__(self, pb: PocketBase) -> None:
        self._pb = pb
        self.streams = 0
        """That are open."""
        self.opened = 0
        self.submitted: list[list[str]] = []

    async def send(self, method: str, target: str, **more: Any) -> Answer:
        if target == "/api/realtime":
            self.submitted.append(json.loads(more["body"])["subscriptions"])
        return await self._pb.send(method, target, **more)

    @asynccontextmanager
    async def stream(self, method: str, target: str, **more: Any) -> AsyncIterator[Any]:
        async with self._pb.stream(method, target, **more) as streamed:
            self.streams += 1
            self.opened += 1
            try:
                yield streamed
            finally:
                self.streams -= 1


@dataclass
class Told:
    """One event as a client reads it."""

    id: str
    name: str
    data: Any
    raw: bytes = b""


@dataclass
class Stream:
    """A stream that a client reads."""

    response: httpx.Response
    chunks: AsyncIterator[bytes]
    client_id: str = ""
    comments: list[bytes] = field(default_factory=list[bytes])
    _held: bytes = b""

    async def next(self) -> Told | None:
        """The next event; None at a clean end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                block = await self.block()
                if block is None:
                    return None
                if block.startswith(b":"):
                    self.comments.append(block)
                    continue
                fields = dict(line.split(b":", 1) for line in block.splitlines())
                return Told(fields[b"id"].decode(), fields[b"event"].decode(), json.loads(fields[b"data"]), block)

    async def block(self) -> bytes | None:
        """What stands between two blank lines."""
        while b"\n\n" not in self._held:
            chunk = await anext(self.chunks, None)
            if chunk is None:
                assert self._held == b""
                return None
            self._held += chunk
        block, _, self._held = self._held.partition(b"\n\n")
        return block

    async def event(self) -> Told:
        told = await self.next()
        assert told is not None
        return told


class RealtimeHouse:
    """One worker of the gateway, as far as streams go."""

    def __init__(self, pocketbase: PocketBaseHouse, bus: Bus | None = None, **settings: Any) -> None:
        self.pocketbase = pocketbase
        self.pb = PocketBase(pocketbase.url)
        self.upstream = Counted(self.pb)
        self.sessions = Sessions()
        self.rules = Rules()
        clock = SystemClock()
        given = GatewaySettings(**settings)
        self.limits = Limits(
            parse('{"connect": {"limit": 1000, "every": 1000}, "subscribe": {"limit": 1000, "every": 1000}}'),
            MemoryLimiter(clock.monotonic),
            clock,
            streams_per_address=given.max_streams_per_address,
            streams_per_identity=given.max_streams_per_identity,
        )
        self.collections = Collections(pocketbase)
        self.realtime = Realtime(
            self.upstream,
            self.collections,
            self.sessions,
            self.rules,
            self.limits.streams,
            Peers(bus),
            clock,
            given,
        )
        self.redirects = OAuth2Redirects(self.realtime, self.upstream)
        self.url = ""
        self.ended = 0
        """Streams whose answers are over, one way or the other."""
        self.http = httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=None))

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        pages = Pages("Hapta", False, [TEMPLATES])
        return [
            *RealtimeRoutes(self.realtime, self.sessions, self.limits, GatewayMetrics()).endpoints(prefix),
            *OAuth2Routes(self.redirects, pages, self.limits).endpoints(prefix),
        ]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RealtimeHouse]:
        limits = EdgeLimits(None, {"default": LimitClass("default", Rate.parse("600/60:200"), "address")})
        settings = ServerSettings(trust_proxy=1)
        edge = Edge(settings, Known(), limits, Cors(["*"]), Metrics(), SystemClock(), None)
        app = Application([*self.endpoints(), *self.endpoints("/pb")], edge)
        await self.realtime.open()

        async def lifespan_too(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                for kind in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{kind}.complete"})
                return
            await app(scope, receive, send)
            if scope["method"] == "GET" and scope["path"].endswith("/realtime"):
                self.ended += 1

        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            server = uvicorn.Server(uvicorn_config(lifespan_too, Settings()))
            running = asyncio.create_task(server.serve(sockets=[listener]))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                yield self
            finally:
                await self.http.aclose()
                self.realtime.end_all()
                server.should_exit = True
                await running
                await self.realtime.close()
                await self.pb.close()

    @asynccontextmanager
    async def stream(self, address: str = "192.0.2.1") -> AsyncIterator[Stream]:
        """A stream that has been greeted."""
        # A client for each: the pool of one looks through all its connections again and again.
        async with (
            httpx.AsyncClient(verify=False, timeout=None) as client,
            client.stream("GET", self.url + "/api/realtime", headers={"x-forwarded-for": address}) as response,
        ):
            assert response.status_code == 200, await response.aread()
            stream = Stream(response, response.aiter_raw())
            greeting = await stream.event()
            assert greeting.name == "PB_CONNECT"
            stream.client_id = greeting.id
            yield stream

    async def submit(
        self, stream: Stream | str, *topics: str, token: str = "", address: str = "192.0.2.1"
    ) -> httpx.Response:
        headers = {"x-forwarded-for": address, **({"authorization": token} if token else {})}
        client_id = stream if isinstance(stream, str) else stream.client_id
        body = {"clientId": client_id, "subscriptions": list(topics)}
        return await self.http.post(self.url + "/api/realtime", json=body, headers=headers)

    async def write(self, *arguments: Any, **fields: Any) -> Any:
        """Writes past the gateway, without holding up its loop: `"create", "notes", text="x"`."""
        kind, *rest = arguments
        return await asyncio.to_thread(getattr(self.pocketbase, kind), *rest, **fields)


def nobody_at(address: str) -> Client:
    return Client(address, headers={})
