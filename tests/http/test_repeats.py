"""Requests by a head that is known: to the application they are what the parser would have made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from hapta.http.protocol import ANSWER, BODY, BoundedHttpProtocol
from hapta.http.repeats import MAX_HEAD_BYTES, KnownHead

PLACES = {ANSWER, BODY, "hapta.line"}
"""What a scope says of its own connection."""


class Parsed(BoundedHttpProtocol):
    """Knows no head."""

    def _learn(self, data: bytes) -> None:
        pass


class Counted(BoundedHttpProtocol):
    """Counts the requests that it took without its parser."""

    taken = 0

    def _repeats(self, known: KnownHead, data: bytes) -> bool:
        took = super()._repeats(known, data)
        self.taken += took
        return took


@dataclass
class Wire:
    written: list[bytes] = field(default_factory=list[bytes])
    closed: bool = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@dataclass
class Connection:
    """A protocol, and what its application got: scope and body of each request."""

    kind: type[BoundedHttpProtocol]
    got: list[tuple[dict[str, Any], bytes]] = field(default_factory=list[tuple[dict[str, Any], bytes]])
    wire: Wire = field(default_factory=Wire)

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = scope[BODY](scope)
        if body is None:
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return
                body += message["body"]
                more = message["more_body"]
        self.got.append(({name: value for name, value in scope.items() if name not in PLACES}, body))
        if not scope[ANSWER](scope, 200, b"content-length: 0\r\n", b""):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    async def feed(self, chunks: Iterable[bytes]) -> BoundedHttpProtocol:
        config = uvicorn.Config(self.app, log_config=None, interface="asgi3", date_header=False, server_header=False)
        config.load()
        protocol = self.kind(config=config, server_state=ServerState(), app_state={"of": "the app"})
        protocol.connection_made(cast(Any, self.wire))
        for chunk in chunks:
            if self.wire.closed:
                break
            protocol.data_received(chunk)
            while protocol.tasks and not self._waits_for_more(protocol):  # noqa: ASYNC110 - a protocol has no such event
                await asyncio.sleep(0)
        tasks = [*protocol.tasks]
        protocol.connection_lost(None)
        await asyncio.gather(*tasks)
        return protocol

    @staticmethod
    def _waits_for_more(protocol: BoundedHttpProtocol) -> bool:
        event = protocol.cycle._event
        return protocol.cycle.more_body and event is not None and not event.is_set()


def post(body: bytes, path: str = "/sync/push", length: str = "Content-Length: %d") -> bytes:
    told = (length % len(body)).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\nX-Note: a\r\n\r\n%b" % (path.encode(), told, body)


GET = b"GET /notes?page=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\n\r\n"


async def both(chunks: list[bytes]) -> tuple[Connection, int]:
    """What comes of these bytes, after it was made sure that the parser alone comes to the same; and how many were taken without it."""
    plain, known = Connection(Parsed), Connection(Counted)
    await plain.feed(chunks)
    protocol = await known.feed(chunks)
    assert known.got == plain.got
    assert b"".join(known.wire.written) == b"".join(plain.wire.written)
    assert known.wire.closed == plain.wire.closed
    return known, cast(Counted, protocol).taken


pytestmark = pytest.mark.anyio


async def test_requests_by_one_head_are_taken_without_the_parser_from_the_third_on() -> None:
    bodies = [b"", b"x", b"0123456789", b"y" * 70_000, b"\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]
    known, taken = await both([post(body) for body in bodies])
    assert [body for _, body in known.got] == bodies
    assert taken == len(bodies) - 2
    assert [dict(scope["headers"])[b"content-length"] for scope, _ in known.got] == [b"%d" % len(b) for b in bodies]


async def test_requests_without_a_body_repeat_as_well() -> None:
    known, taken = await both([GET] * 5)
    assert (len(known.got), taken) == (5, 3)


async def test_what_an_application_does_to_its_scope_is_not_seen_by_the_next_request() -> None:
    class Careless(Connection):
        async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
            await super().app(scope, receive, send)
            scope["headers"].append((b"x-mine", b"1"))
            scope["state"]["mine"] = scope["mine"] = 1

    connection = Careless(Counted)
    await connection.feed([GET] * 4)
    assert [scope["state"] for scope, _ in connection.got] == [{"of": "the app", "mine": 1}] * 4
    for scope, _ in connection.got:
        assert [name for name, _ in scope["headers"]].count(b"x-mine") == 1
        assert "mine" not in scope


@pytest.mark.parametrize(
    "other",
    [
        post(b"abc")[:-1],  # not whole
        post(b"abc") + b"d",  # something follows
        post(b"abc") * 2,  # pipelined
        post(b"abc", "/sync/pull"),
        post(b"abc", length="Content-Length: 0%d"),
        post(b"abc", length="Content-Length: +%d"),
        post(b"abc", length="Content-Length: %d "),
        post(b"abc", length="Content-Length: %d, 3"),
        post(b"abc", length="Content-Length:%d"),
        post(b"abc", length="Content-Length: %d\r\nContent-Length: 3"),
        post(b"abc", length="Content-Length: %d\r\nTransfer-Encoding: chunked"),
        post(b"abc").replace(b"Content-Length: 3", b"Content-Length: 99999999999999999999"),
        post(b"abc").replace(b"Content-Length: 3", b"Content-Length: \xb2"),
        post(b"abc").replace(b"Content-Length: 3", b"Content-Length: "),
        post(b"3\r\nabc\r\n0\r\n\r\n").replace(b"Content-Length: 13", b"Transfer-Encoding: chunked"),
        post(b"abc").replace(b"X-Note: a", b"X-Note: b"),
        post(b"abc").replace(b"X-Note: a", b"Expect: 100-continue"),
        post(b"abc").replace(b"X-Note: a", b"Connection: close"),
        post(b"abc").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(b"abc").replace(b"\r\n", b"\n"),
        b"\r\n" + post(b"abc"),
        b"nonsense\r\n\r\n",
    ],
)
async def test_everything_else_goes_to_the_parser(other: bytes) -> None:
    before = [post(b"12")] * 3
    _, taken = await both([*before, other, *before])
    assert taken >= 1
    _, alone = await both([*before, other])
    assert alone == 1
    await both([other] * 4)
    await both([*before, other[:20], other[20:], *before])


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_heads_that_say_more_are_never_known(head: bytes) -> None:
    connection = Connection(Counted)
    protocol = await connection.feed([head] * 4)
    assert cast(Counted, protocol).taken == 0
    assert connection.got or connection.wire.closed


REQUESTS = st.sampled_from(
    [
        GET,
        GET.replace(b"page=1", b"page=2"),
        GET.replace(b"Bearer", b"Basic"),
        post(b""),
        post(b"a"),
        post(b"bc" * 9),
        post(b"a", "/other"),
        post(b"a", length="content-length:  %d"),
        post(b"5\r\nabcde\r\n0\r\n\r\n").replace(b"Content-Length: 15", b"Transfer-Encoding: chunked"),
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Requests, many of them alike, in chunks that mostly hold one."""
    requests = draw(st.lists(st.tuples(REQUESTS, st.integers(1, 4)), min_size=1, max_size=8))
    chunks: list[bytes] = []
    for request, times in requests:
        chunks += [request] * times
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(chunks) - 1))
        if draw(st.booleans()) and at + 1 < len(chunks):
            chunks[at : at + 2] = [chunks[at] + chunks[at + 1]]
        else:
            cut = draw(st.integers(0, len(chunks[at])))
            chunks[at : at + 1] = [part for part in (chunks[at][:cut], chunks[at][cut:]) if part]
    return chunks


@given(chunks=streams())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_stream_of_requests_comes_to_what_the_parser_makes_of_it(chunks: list[bytes]) -> None:
    await both(chunks)
