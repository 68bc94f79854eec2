"""A small table of its own behind the real edge, for the tests of the edge, and a sender that is driven message by message."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import uvicorn

from hapta.cli.server_process import uvicorn_config
from hapta.http.api import BodyStream, Endpoint, Reply, Request, Table
from hapta.http.application import Application
from hapta.http.errors import ENVELOPE, OAUTH, POCKETBASE, RELAY, SYNC
from hapta.http.metrics import Metrics
from hapta.http.validate import Wire
from hapta.kit.access import PUBLIC, SESSION, Caller, SessionId, UserId
from hapta.kit.errors import Conflict, InvalidToken
from hapta.kit.logs import AccessLog
from hapta.settings import Settings
from hapta.testing.clock import FakeClock

JSON = {"content-type": "application/json"}
MAX_BODY = 64 * 1024
DIALECTS = (SYNC, ENVELOPE, OAUTH, RELAY, POCKETBASE)
ADDRESS = "192.0.2.1"


class Letter(Wire, frozen=True):
    text: str
    number: int = 0
    parts: list[str] = []  # noqa: RUF012 - a msgspec struct copies it


class Size(Wire, frozen=True):
    bytes: int


class Known:
    """A verifier: a token is the name of its account; `stranger` is nobody's."""

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        if not token.startswith("of-"):
            raise InvalidToken
        return Caller(UserId(token), SessionId(f"session {token}"), 1, None, 4e9)


class Handlers:
    """What stands behind the edge here."""

    def __init__(self) -> None:
        self.closed_streams = 0

    async def echo(self, body: Letter) -> Letter:
        return body

    async def private(self, caller: Caller) -> Letter:
        return Letter(text=caller.user_id)

    async def boom(self) -> Letter:
        raise RuntimeError("the text of a bug, with eyJhbGciOiJIUzI1NiJ9 inside")

    async def refuses(self, request: Request) -> Letter:
        raise Conflict("No", address=request.client_address)

    async def nothing(self) -> Reply:
        return Reply(204)

    async def same(self) -> Reply:
        return Reply(304, None, ((b"etag", b'"x"'),))

    async def long(self) -> Letter:
        return Letter(text="long " * 2000)

    async def upload(self, body: BodyStream) -> Size:
        return Size(bytes=sum([len(chunk) async for chunk in body]))

    async def raw(self, body: bytes) -> Size:
        return Size(bytes=len(body))

    async def named(self, name: str) -> Letter:
        return Letter(text=name)

    async def draws_itself(self) -> Reply:
        return Reply(200, b"{}", ((b"ratelimit", b'"own";r=1;t=2'),))

    async def stream(self) -> Reply:
        return Reply(200, self._chunks([b"one\n", b"two\n", b"three\n"]), (), "application/x-ndjson")

    async def stream_refuses(self) -> Reply:
        return Reply(200, self._chunks([Conflict("Too late")]), (), "application/x-ndjson")

    async def stream_fails(self) -> Reply:
        return Reply(200, self._chunks([RuntimeError("the text of a bug")]), (), "application/x-ndjson")

    async def stream_breaks(self) -> Reply:
        return Reply(200, self._chunks([b"one\n", RuntimeError("broken")]), (), "application/x-ndjson")

    async def stream_of_nothing(self) -> Reply:
        return Reply(200, self._chunks([]), (), "application/x-ndjson")

    async def _chunks(self, chunks: Iterable[bytes | Exception]) -> AsyncGenerator[bytes]:
        try:
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.closed_streams += 1


def endpoints(api: Handlers) -> list[Endpoint]:
    found: list[Endpoint] = []
    for dialect in DIALECTS:
        table = Table(dialect=dialect, access=PUBLIC)
        found += [
            table.post(f"/{dialect.name}/echo", api.echo, summary="Echo", answers={200: Letter}),
            table.get(f"/{dialect.name}/boom", api.boom, summary="Fail", answers={200: Letter}),
        ]
    table = Table(dialect=SYNC, access=PUBLIC)
    guarded = Table(dialect=SYNC, access=SESSION, limit="account")
    return [
        *found,
        guarded.get("/private", api.private, summary="Private", answers={200: Letter}),
        table.get("/refuses", api.refuses, summary="Refuse", answers={200: Letter}, errors=[Conflict]),
        table.get("/nothing", api.nothing, summary="Nothing", answers={204: None}),
        table.get("/same", api.same, summary="Same", answers={304: None}),
        table.get("/long", api.long, summary="Long", answers={200: Letter}),
        table.post("/upload", api.upload, summary="Upload", answers={200: Size}),
        table.post("/raw", api.raw, summary="Raw", answers={200: Size}),
        table.get("/named/{name}", api.named, summary="Named", answers={200: Letter}),
        table.get("/open-stream", api.stream, summary="Stream", answers={200: None}, cors="open"),
        table.get("/draws-itself", api.draws_itself, summary="Draw", answers={200: Letter}, limit="handler"),
        guarded.get("/draws-for", api.private, summary="Draw", answers={200: Letter}, limit="handler"),
        *[
            table.get(f"/{name.replace('_', '-')}", getattr(api, name), summary="Stream", answers={200: None})
            for name in ("stream", "stream_refuses", "stream_fails", "stream_breaks", "stream_of_nothing")
        ],
    ]


@dataclass
class House:
    """The table behind an edge."""

    app: Application
    api: Handlers
    metrics: Metrics
    clock: FakeClock
    lines: io.BytesIO = field(default_factory=io.BytesIO)
    access_log: AccessLog | None = None

    def client(self, address: str = ADDRESS) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(cast("Any", self.app), client=(address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url="http://server.test")

    def logged(self) -> list[dict[str, Any]]:
        """The access log; nothing is written to it afterwards."""
        assert self.access_log is not None
        self.access_log.close()
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]


NewHouse = Callable[..., House]


class Sender:
    """One request by hand: hands over its chunks one by one, and counts how many were asked for."""

    def __init__(self, path: str, chunks: Iterable[bytes], headers: dict[str, str] | None = None) -> None:
        self._chunks = iter(chunks)
        self.taken = 0
        self.sent: list[dict[str, Any]] = []
        named = {"content-type": "application/json", **(headers or {})}
        self._scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "client": (ADDRESS, 50_000),
        }

    async def to(self, house: House) -> Sender:
        async def receive() -> dict[str, Any]:
            chunk = next(self._chunks, None)
            if chunk is None:
                return {"type": "http.disconnect"}
            self.taken += 1
            return {"type": "http.request", "body": chunk, "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await house.app(self._scope, receive, send)
        return self

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(b"".join(message.get("body", b"") for message in self.sent[1:]))


def endless(chunk: bytes) -> Iterable[bytes]:
    """Far more than any limit here, though not without end: a server that read on would fail the test, not hang it."""
    return itertools.repeat(chunk, 2000)


@asynccontextmanager
async def serving(house: House) -> AsyncIterator[str]:
    """The house behind uvicorn, set up as `hapta serve` does it."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await house.app(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_config(app, Settings()))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
