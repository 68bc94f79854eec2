"""The edge: what every request passes, on a small table of its own, in this process and over real connections."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import socket
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
import structlog
import uvicorn
import zstandard

from hapta.cli.serve import uvicorn_config
from hapta.http.api import BodyStream, Endpoint, Reply, Request, Table
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.errors import ENVELOPE, OAUTH, POCKETBASE, RELAY, SYNC, Dialect
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.middleware import Edge
from hapta.http.validate import Wire
from hapta.kit.access import PUBLIC, SESSION, Caller, SessionId, UserId
from hapta.kit.errors import Conflict, InvalidToken
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.settings import ServerSettings, Settings
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


@pytest.fixture
def new_house() -> Iterable[NewHouse]:
    """Makes edges; `limits` are rates by class name, and without any the limits are off."""
    made: list[House] = []

    def new(limits: dict[str, str] | None = None, **server: Any) -> House:
        clock, api, metrics, lines = FakeClock(), Handlers(), Metrics(), io.BytesIO()
        rates = {"default": "600/60:200", "account": "600/60:200", **(limits or {})}
        classes = {
            name: LimitClass(name, Rate.parse(rate), "account" if name == "account" else "address")
            for name, rate in rates.items()
        }
        limiter = MemoryLimiter(clock.monotonic) if limits else None
        access_log = AccessLog(lines)
        settings = ServerSettings(**{"max_body_bytes": MAX_BODY, **server})
        edge = Edge(settings, Known(), Limits(limiter, classes), Cors(["*"]), metrics, clock, access_log)
        house = House(Application(endpoints(api), edge), api, metrics, clock, lines, access_log)
        made.append(house)
        return house

    yield new
    for house in made:
        if house.access_log is not None:
            house.access_log.close()


@pytest.fixture
def house(new_house: NewHouse) -> House:
    return new_house()


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        yield client


# --- bodies: a sender that we drive message by message ---


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
    while True:
        yield chunk


@pytest.mark.parametrize("path", ["/sync/echo", "/upload", "/raw"])
@pytest.mark.parametrize("headers", [{}, {"content-length": "10"}, {"content-length": "0"}], ids=["none", "10", "0"])
async def test_a_body_is_bounded_while_it_is_read_whatever_its_length_says(
    house: House, path: str, headers: dict[str, str]
) -> None:
    sender = await Sender(path, endless(b"x" * 4096), headers).to(house)
    assert (sender.status, sender.body["code"]) == (413, "too_large")
    assert sender.body["limits"] == {"maxBodyBytes": MAX_BODY}
    assert sender.taken == MAX_BODY // 4096 + 1


@pytest.mark.parametrize("path", ["/sync/echo", "/upload", "/raw"])
async def test_a_body_that_says_itself_that_it_is_too_large_is_not_read(house: House, path: str) -> None:
    sender = await Sender(path, endless(b"x"), {"content-length": str(MAX_BODY + 1)}).to(house)
    assert (sender.status, sender.taken) == (413, 0)


@pytest.mark.parametrize("length", ["-1", "1e9", "0x10", "", "²", "9" * 5000])
async def test_a_length_that_is_no_number_is_refused(house: House, length: str) -> None:
    sender = await Sender("/sync/echo", [b"{}"], {"content-length": length}).to(house)
    assert sender.status in (400, 413)


@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1])
async def test_the_limit_is_exact(client: httpx.AsyncClient, size: int) -> None:
    answer = await client.post("/raw", content=b"x" * size)
    assert answer.status_code == (200 if size == MAX_BODY else 413)


@pytest.mark.parametrize("path", ["/sync/echo", "/upload", "/raw"])
async def test_a_client_that_goes_away_in_the_middle_of_its_body_gets_no_answer(house: House, path: str) -> None:
    sender = await Sender(path, [b'{"te', b'xt":']).to(house)
    assert sender.sent == []
    assert [line["status"] for line in house.logged()] == [499]


# --- compressed bodies ---


def zeros(encoding: str) -> bytes:
    """A GiB of zeros: one compressed block, again and again."""
    piece, times = bytes(16 * 2**20), 64
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(piece) * times
    wbits = {"gzip": 31, "deflate": 15}[encoding]
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    return head + (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)) * times


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("path", ["/sync/echo", "/upload", "/raw"])
async def test_a_bomb_of_zeros_is_a_413_and_costs_no_memory(house: House, encoding: str, path: str) -> None:
    bomb = zeros(encoding)
    chunks = [bomb[start : start + 16_384] for start in range(0, MAX_BODY, 16_384)]
    tracemalloc.start()
    try:
        sender = await Sender(path, chunks, {"content-encoding": encoding}).to(house)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (sender.status, sender.body["code"]) == (413, "too_large")
    assert peak < 4 * 2**20


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_compressed_body_is_read(client: httpx.AsyncClient, encoding: str) -> None:
    packed = PACKERS[encoding](b'{"text":"hello"}')
    answer = await client.post("/sync/echo", content=packed, headers={**JSON, "content-encoding": encoding})
    assert answer.json()["text"] == "hello"
    packed = PACKERS[encoding](b"x" * (MAX_BODY + 1))
    assert (await client.post("/raw", content=packed, headers={"content-encoding": encoding})).status_code == 413


@pytest.mark.parametrize(
    ("content", "encoding", "status", "code"),
    [
        (b"no gzip", "gzip", 400, "invalid_encoding"),
        (gzip.compress(b"{}")[:-4], "gzip", 400, "invalid_encoding"),
        (b"{}", "br", 415, "unsupported_encoding"),
        (b"{}", "gzip, gzip", 415, "unsupported_encoding"),
        (b"{}", "\xff", 415, "unsupported_encoding"),
    ],
)
async def test_a_body_that_is_not_what_its_encoding_says_is_a_4xx(
    client: httpx.AsyncClient, content: bytes, encoding: str, status: int, code: str
) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-encoding", encoding.encode("latin-1"))]
    answer = await client.post("/sync/echo", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("accept", "encoding"), [("gzip", "gzip"), ("gzip, zstd", "zstd"), ("br", None), ("gzip;q=0", None)]
)
async def test_a_long_answer_is_compressed_as_the_client_likes(
    client: httpx.AsyncClient, accept: str, encoding: str | None
) -> None:
    async with client.stream("GET", "/long", headers={"accept-encoding": accept}) as answer:
        packed = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert answer.headers.get("content-encoding") == encoding
    assert "accept-encoding" in answer.headers["vary"].lower()
    assert int(answer.headers["content-length"]) == len(packed)
    readers: dict[str | None, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress, "zstd": zstandard.ZstdDecompressor().decompress, None: bytes,
    }  # fmt: skip
    assert json.loads(readers[encoding](packed))["text"] == "long " * 2000


# --- what every answer carries ---

EVERYWHERE = [
    ("POST", "/sync/echo", {"content": b'{"text":""}', "headers": JSON}, 200),
    ("POST", "/sync/echo", {"content": b"{", "headers": JSON}, 400),
    ("POST", "/raw", {"content": b"x" * (MAX_BODY + 1)}, 413),
    ("POST", "/envelope/echo", {"content": b"{}"}, 415),
    ("GET", "/private", {}, 401),
    ("GET", "/private", {"headers": {"authorization": "Bearer stranger"}}, 401),
    ("GET", "/private", {"headers": {"authorization": "Bearer of-alice"}}, 200),
    ("GET", "/refuses", {}, 409),
    ("GET", "/sync/boom", {}, 500),
    ("GET", "/nothing", {}, 204),
    ("GET", "/same", {}, 304),
    ("GET", "/stream", {}, 200),
    ("GET", "/nowhere", {}, 404),
    ("DELETE", "/private", {}, 404),
    ("HEAD", "/long", {}, 200),
    ("OPTIONS", "/private", {}, 404),
]


async def test_every_answer_has_a_request_id_of_its_own_and_says_how_long_it_took(client: httpx.AsyncClient) -> None:
    seen: set[str] = set()
    for method, path, options, status in EVERYWHERE:
        answer = await client.request(method, path, **options)
        assert answer.status_code == status, (method, path)
        assert re.fullmatch(r"app;dur=\d+\.\d\d", answer.headers["server-timing"]), (method, path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        seen.add(answer.headers["x-request-id"])
    preflight = {"origin": "https://app.example", "access-control-request-method": "GET"}
    seen.add((await client.options("/private", headers=preflight)).headers["x-request-id"])
    assert len(seen) == len(EVERYWHERE) + 1


async def test_a_request_id_of_the_clients_making_is_not_taken_over(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nothing", headers={"x-request-id": "forged"})
    assert answer.headers["x-request-id"] != "forged"


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    vary = {"x-request-id", "server-timing"}
    for path in ("/long", "/refuses", "/named/x", "/same", "/nothing"):
        got, head = await client.get(path), await client.head(path)
        assert head.status_code == got.status_code
        assert head.content == b""
        assert {**head.headers, **dict.fromkeys(vary)} == {**got.headers, **dict.fromkeys(vary)}
    assert (await client.head("/sync/echo")).status_code == 404


@pytest.mark.parametrize("path", ["/nothing", "/same"])
async def test_an_answer_that_never_has_a_body_has_no_length_and_no_type(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.content == b""
    assert "content-length" not in answer.headers
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("path", ["/private", "/refuses", "/sync/boom", "/nowhere"])
async def test_what_is_one_accounts_or_an_error_stays_out_of_caches(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={"authorization": "Bearer of-alice"})
    assert answer.headers["cache-control"] == "no-store"


# --- limits ---


async def test_an_answer_says_which_limit_applies_and_what_is_left(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:3", "account": "60/60:5"})
    async with house.client() as client:
        left: list[str] = []
        for _ in range(3):
            answer = await client.get("/nothing")
            assert answer.headers["ratelimit-policy"] == '"default";q=6;w=60'
            left.append(answer.headers["ratelimit"])
        assert left == ['"default";r=2;t=10', '"default";r=1;t=20', '"default";r=0;t=30']
        answer = await client.get("/private", headers={"authorization": "Bearer of-alice"})
        assert answer.headers["ratelimit-policy"] == '"account";q=60;w=60'
        assert answer.headers["ratelimit"] == '"account";r=4;t=1'


async def test_the_limit_is_drawn_on_whatever_the_handler_answers(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:4"})
    async with house.client() as client:
        for number, path in enumerate(["/refuses", "/sync/boom", "/stream", "/nothing"]):
            answer = await client.get(path)
            assert answer.headers["ratelimit"].startswith(f'"default";r={3 - number};'), path
        assert (await client.get("/refuses")).status_code == 429


async def test_a_refused_request_says_when_to_come_back_and_consumes_nothing(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:2"})
    async with house.client() as client:
        assert [(await client.get("/nothing")).status_code for _ in range(2)] == [204, 204]
        for _ in range(50):
            refused = await client.get("/nothing")
            assert refused.status_code == 429
            assert refused.json()["code"] == "rate_limited"
            assert refused.headers["retry-after"] == "10"
            assert refused.headers["ratelimit"].startswith('"default";r=0;')
        house.clock.advance(seconds=10)
        assert (await client.get("/nothing")).status_code == 204
        assert (await client.get("/nothing")).status_code == 429


async def test_a_refused_request_is_not_read_nor_handled(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:1"})
    assert (await Sender("/raw", [b"x"]).to(house)).sent == []  # its client went away; it counts all the same
    refused = await Sender("/raw", endless(b"x")).to(house)
    assert (refused.status, refused.taken) == (429, 0)


async def test_an_account_has_one_budget_from_wherever_it_calls(new_house: NewHouse) -> None:
    house = new_house({"account": "6/60:3"})
    statuses: list[int] = []
    for number in range(5):
        async with house.client(f"192.0.2.{number}") as client:
            statuses.append((await client.get("/private", headers={"authorization": "Bearer of-alice"})).status_code)
    assert statuses == [200, 200, 200, 429, 429]
    async with house.client() as client:
        assert (await client.get("/private", headers={"authorization": "Bearer of-bob"})).status_code == 200


async def test_guesses_at_tokens_draw_on_the_address_and_never_on_an_account(new_house: NewHouse) -> None:
    house = new_house({"default": "6/60:3", "account": "6/60:3"})
    async with house.client() as client:
        guesses = [await client.get("/private", headers={"authorization": f"Bearer guess-{n}"}) for n in range(5)]
        assert [guess.status_code for guess in guesses] == [401, 401, 401, 429, 429]
        # the budget that is used up is the address's, and the answer says so
        assert guesses[-1].headers["ratelimit-policy"] == '"default";q=6;w=60'
        assert guesses[-1].headers["ratelimit"].startswith('"default";r=0;')
        assert guesses[-1].headers["retry-after"] == "10"
        assert (await client.get("/private")).status_code == 429
        assert (await client.get("/nowhere")).status_code == 429
        assert (await client.get("/private", headers={"authorization": "Bearer of-alice"})).status_code == 200
    async with house.client("192.0.2.99") as other:
        assert (await other.get("/private")).status_code == 401


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "true-client-ip"])
async def test_a_header_of_the_clients_making_gives_no_new_budget(new_house: NewHouse, header: str) -> None:
    house = new_house({"default": "6/60:2"})
    async with house.client() as client:
        answers = [await client.get("/nothing", headers={header: f"198.51.100.{number}"}) for number in range(4)]
    assert [answer.status_code for answer in answers] == [204, 204, 429, 429]


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        (0, ["198.51.100.1"], ADDRESS),
        (1, [], ADDRESS),
        (1, ["198.51.100.1"], "198.51.100.1"),
        (1, ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        (1, ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        (2, ["198.51.100.1"], ADDRESS),
        (2, ["203.0.113.9, 198.51.100.1, 10.0.0.1"], "198.51.100.1"),
        (2, ["203.0.113.9, 198.51.100.1", "10.0.0.1"], "198.51.100.1"),
        (1, [","], ADDRESS),
        (1, ["x" * 1000], "x" * 64),
    ],
)
async def test_as_many_entries_as_there_are_proxies_are_believed_from_the_right(
    new_house: NewHouse, hops: int, forwarded: list[str], address: str
) -> None:
    house = new_house(trust_proxy=hops)
    async with house.client() as client:
        answer = await client.get("/refuses", headers=[("x-forwarded-for", value) for value in forwarded])
    assert answer.json()["address"] == address


# --- failures ---


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_an_unexpected_failure_is_a_500_with_an_id_that_stands_in_the_log_and_nothing_else(
    client: httpx.AsyncClient, dialect: Dialect
) -> None:
    with structlog.testing.capture_logs() as logged:
        answer = await client.get(f"/{dialect.name}/boom?token=secret")
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 500
    assert "the text of a bug" not in answer.text
    assert "RuntimeError" not in answer.text
    assert [entry["request_id"] for entry in logged] == [request_id]
    assert isinstance(logged[0]["exc_info"], RuntimeError)
    assert "secret" not in str({name: value for name, value in logged[0].items() if name != "exc_info"})
    if dialect is SYNC:
        assert answer.json() == {"error": "Internal server error", "correlationId": request_id}
    elif dialect is not POCKETBASE:  # whose form has no room for it
        assert request_id in answer.text
    assert fits(answer, dialect)


async def test_a_stream_arrives_whole_and_its_maker_is_ended(house: House, client: httpx.AsyncClient) -> None:
    answer = await client.get("/stream")
    assert (answer.status_code, answer.text) == (200, "one\ntwo\nthree\n")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "content-length" not in answer.headers
    assert (await client.get("/stream-of-nothing")).text == ""
    assert (await client.head("/stream")).content == b""
    assert house.api.closed_streams == 3


async def test_a_stream_that_fails_before_its_first_chunk_is_answered_with_its_error(client: httpx.AsyncClient) -> None:
    refused = await client.get("/stream-refuses")
    assert (refused.status_code, refused.json()) == (409, {"error": "Too late", "code": "conflict"})
    failed = await client.get("/stream-fails")
    assert failed.status_code == 500
    assert "the text of a bug" not in failed.text


async def test_a_stream_that_breaks_is_never_taken_for_a_whole_one(house: House) -> None:
    async with serving(house) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/stream-breaks")
        assert (await client.get("/stream")).text == "one\ntwo\nthree\n"
    lines = house.logged()
    assert [line["path"] for line in lines] == ["/stream-breaks", "/stream"]
    assert house.api.closed_streams == 2


# --- hostile JSON, in every dialect ---

HOSTILE: dict[str, bytes] = {
    "duplicate keys": b'{"text":"a","text":"b"}',
    "duplicate keys by another spelling": b'{"text":"a","\\u0074ext":"b"}',
    "duplicate unknown keys": b'{"text":"a","x":{"y":1,"y":2}}',
    "NUL by escape": b'{"text":"a\\u0000b"}',
    "NUL in a key": b'{"text":"a","x\\u0000":1}',
    "bare NUL": b'{"text":"a\x00b"}',
    "deep arrays": b'{"text":"a","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"text":"a","x":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}",
    "endless arrays": b"[" * 60_000,
    "a huge number": b'{"text":"a","number":' + b"9" * 50_000 + b"}",
    "a number beyond doubles": b'{"text":"a","number":1e999}',
    "a number that no double holds": b'{"text":"a","number":9007199254740993}',
    "a fraction": b'{"text":"a","number":1.5}',
    "not a number": b'{"text":"a","number":NaN}',
    "bad UTF-8": b'{"text":"\xff\xfe"}',
    "bad UTF-8 in what is skipped": b'{"text":"a","x":"\xc3\x28"}',
    "a surrogate": b'{"text":"\xed\xa0\x80"}',
    "half a pair": b'{"text":"\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"text":"a"}',
    "UTF-16": '{"text":"a"}'.encode("utf-16"),
    "a wrong type": b'{"text":5}',
    "null": b'{"text":null}',
    "no object": b"[]",
    "a wrong item": b'{"text":"a","parts":["a",5]}',
    "nothing": b"",
    "half": b'{"text":"a"',
    "two texts": b'{"text":"a"}{"text":"b"}',
    "a comment": b'{"text":"a"/**/}',
    "a trailing comma": b'{"text":"a",}',
}


def fits(answer: httpx.Response, dialect: Dialect) -> bool:
    """Whether an error body has its dialect's form, member by member."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    required = cast("list[str]", dialect.schema["required"])
    properties = cast("dict[str, dict[str, Any]]", dialect.schema["properties"])
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "object": dict,
        "array": list,
        "boolean": bool,
    }
    assert set(required) <= body.keys(), body
    for name, value in body.items():
        if name in properties:
            assert isinstance(value, kinds[properties[name]["type"]]), (name, value)
    if dialect is ENVELOPE:
        assert (body["status"], body["code"]) == ("error", answer.status_code)
    if dialect is POCKETBASE:
        assert body["status"] == answer.status_code
    return True


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_hostile_json_is_a_4xx_in_the_endpoints_dialect(client: httpx.AsyncClient, dialect: Dialect) -> None:
    for name, content in HOSTILE.items():
        answer = await client.post(f"/{dialect.name}/echo", content=content, headers=JSON)
        assert answer.status_code == 400, (name, answer.text[:200])
        assert fits(answer, dialect), name


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_body_of_another_type_and_one_that_is_too_large_are_told_in_the_dialect(
    client: httpx.AsyncClient, dialect: Dialect
) -> None:
    other = await client.post(f"/{dialect.name}/echo", content=b"<a/>", headers={"content-type": "text/xml"})
    assert other.status_code == (400 if dialect is SYNC else 415)
    large = await client.post(f"/{dialect.name}/echo", content=b"x" * (MAX_BODY + 1), headers=JSON)
    assert large.status_code == 413
    assert fits(other, dialect)
    assert fits(large, dialect)


async def test_harmless_json_that_only_looks_odd_is_taken(client: httpx.AsyncClient) -> None:
    for content in (
        b' {"text" : "a" }\n',
        b'{"text":"a:b\\":\\"c"}',
        b'{"text":"a","number":5.0}',
        b'{"text":"a","number":9007199254740991}',
        b'{"text":"\\ud83d\\ude00","x":{"text":1},"y":[{"text":2}]}',
    ):
        assert (await client.post("/sync/echo", content=content, headers=JSON)).status_code == 200, content


# --- numbers and lines ---


async def test_requests_are_counted_by_the_template_of_their_route(house: House, client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.get(f"/named/{number}-secret")
        await client.get(f"/nowhere/{number}-secret")
    await client.get("/stream")
    await client.get("/refuses")
    page = house.metrics.render().decode()
    assert 'hapta_requests_total{method="GET",route="/named/{name}",status="2xx",worker="0"} 3.0' in page
    assert re.search(r'hapta_requests_total\{[^}]*route="unknown",status="4xx"[^}]*\} 3.0', page)
    assert re.search(r'hapta_requests_total\{[^}]*route="/stream",status="2xx"[^}]*\} 1.0', page)
    assert re.search(r'hapta_requests_total\{[^}]*route="/refuses",status="4xx"[^}]*\} 1.0', page)
    assert "secret" not in page


async def test_a_line_of_the_access_log_has_no_query_string_no_token_and_no_body(house: House) -> None:
    async with house.client() as client:
        answer = await client.get("/private?token=hidden", headers={"authorization": "Bearer of-alice"})
        await client.post("/sync/echo?x=hidden", content=b'{"text":"hidden"}', headers=JSON)
        await client.get("/nowhere?hidden", headers={"authorization": "Bearer hidden", "cookie": "hidden"})
        await client.get("/stream?hidden")
    lines = house.logged()
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/private", 200), ("POST", "/sync/echo", 200), ("GET", "/nowhere", 404), ("GET", "/stream", 200),
    ]  # fmt: skip
    assert lines[0]["id"] == answer.headers["x-request-id"]
    assert lines[0]["user"] == "of-alice"
    assert lines[0]["bytes"] == len(answer.content)
    assert lines[0]["client"] == ADDRESS
    assert b"hidden" not in house.lines.getvalue()


async def test_a_path_cannot_break_the_access_log_into_two_lines(house: House) -> None:
    async with house.client() as client:
        await client.get("/nowhere/%0a%22forged%22")
    assert [line["path"] for line in house.logged()] == ['/nowhere/\n"forged"']


# --- real connections ---


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


async def raw(url: str, *pieces: bytes) -> bytes:
    """Sends pieces over one connection and reads until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_a_sender_that_stops_sending_is_told_and_let_go(new_house: NewHouse) -> None:
    house = new_house(body_timeout_seconds=0.1)
    async with serving(house) as url:
        head = b"POST /sync/echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        answer = await raw(url, head, b'{"te')  # returns only because the server closes the connection
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"request_timeout"' in answer


async def test_chunks_are_counted_on_a_real_connection_too(house: House) -> None:
    async with serving(house) as url:
        head = b"POST /raw HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        small = await raw(url, head, chunk * 4, b"0\r\n\r\n")
        large = await raw(url, head, chunk * 5, b"0\r\n\r\n")
    assert small.startswith(b"HTTP/1.1 200 ")
    assert b'{"bytes":65536}' in small
    assert large.startswith(b"HTTP/1.1 413 ")


async def test_two_lengths_and_a_length_beside_chunks_never_smuggle_a_request(house: House) -> None:
    hidden = b"GET /named/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    for framing in (
        b"content-length: 0\r\ncontent-length: %d\r\n" % len(hidden),
        b"content-length: %d\r\ntransfer-encoding: chunked\r\n" % len(hidden),
        b"content-length: 0, 5\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    ):
        async with serving(house) as url:
            answer = await raw(url, b"POST /raw HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n" + hidden)
        assert answer.startswith(b"HTTP/1.1 400 "), (framing, answer)
        assert b"smuggled" not in answer


async def test_a_client_that_breaks_off_leaves_the_server_as_it_was(house: House) -> None:
    async with serving(house) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for path in ("/sync/echo", "/upload", "/raw"):
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc".encode())
            await writer.drain()
            cast("asyncio.Transport", writer.transport).abort()
        answer = await client.head("/long")
        assert (answer.status_code, answer.content) == (200, b"")
        answer = await client.get("/nothing")
        assert (answer.status_code, "content-length" in answer.headers) == (204, False)
        assert (await client.post("/raw", content=b"abc")).json() == {"bytes": 3}
    assert "server" not in answer.headers
    assert house.metrics.requests.open == 0
