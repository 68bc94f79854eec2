"""The protocol under the edge, over real connections: the bound on a head, and the short way of whole answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from hapta.cli.server_process import KEEP_ALIVE_SECONDS, uvicorn_config
from hapta.http.api import Reply, Table
from hapta.http.errors import SYNC
from hapta.http.protocol import ANSWER, BoundedHttpProtocol, Prepared, header_lines, header_pairs
from hapta.kit.access import PUBLIC
from hapta.testing.server import TestHapta

pytestmark = pytest.mark.anyio


async def large() -> Reply:
    return Reply(200, b"x" * 300_000, media_type="application/octet-stream")


async def split() -> Reply:
    return Reply(200, b"", [(b"x-note", b"one\r\nset-cookie: a=b")])


class Note(msgspec.Struct):
    note: str


class Length(msgspec.Struct):
    length: int


async def length(body: Note) -> Length:
    return Length(len(body.note))


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    table = Table(dialect=SYNC, access=PUBLIC)
    answers: dict[int, Any] = {200: None}
    extra = [
        table.get("/large", large, summary="A large answer", answers=answers),
        table.get("/split", split, summary="A header with a line break", answers=answers),
        table.post("/length", length, summary="How long a note is", answers={200: Length}),
    ]
    environ = {"HAPTA_SERVER_MAX_HEADER_BYTES": "4096", "HAPTA_SERVER_SHUTDOWN_SECONDS": "1"}
    hapta = TestHapta(tmp_path, environ, extra_endpoints=extra)
    server = uvicorn.Server(uvicorn_config(hapta.app, hapta.settings))
    listener = socket.create_server(("127.0.0.1", 0))
    started = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await started


async def exchange(port: int, request: bytes, answers: int = 1) -> list[tuple[bytes, bytes]]:
    """Sends bytes on one connection and reads so many answers: (head, body) of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    result: list[tuple[bytes, bytes]] = []
    for _ in range(answers):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")).split()[1])
        is_head = request.startswith(b"HEAD")
        result.append((head, b"" if is_head else await reader.readexactly(length)))
    writer.close()
    return result


GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n%b\r\n"


async def test_a_head_that_never_ends_is_answered_431_and_the_connection_closed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 5000)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"head_too_large"' in answer
    writer.close()


async def test_the_bound_is_for_one_head_and_not_for_a_connection(port: int) -> None:
    request = GET % (b"x-filler: " + b"a" * 3000 + b"\r\n")
    for head, body in await exchange(port, request * 4, answers=4):
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b'{"status":"ok"}'


async def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    answers = await exchange(port, (GET % b"") + b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n" + (GET % b""), answers=3)
    assert [head.split(b" ")[1] for head, _ in answers] == [b"200", b"404", b"200"]


async def test_head_has_the_headers_of_get_and_no_body(port: int) -> None:
    [(got, body)] = await exchange(port, GET % b"")
    [(head, _)] = await exchange(port, b"HEAD" + (GET % b"")[3:])
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d\r\n" % len(body) in got
    assert b"content-length: %d\r\n" % len(body) in head


async def test_a_client_that_wants_to_close_is_told_so_and_disconnected(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET % b"connection: close\r\n")
    answer = await reader.read()  # ends only when the server closes
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b'{"status":"ok"}')
    writer.close()


async def test_an_answer_says_what_time_it_is(port: int) -> None:
    [(head, _)] = await exchange(port, GET % b"")
    assert head.lower().count(b"\r\ndate: ") == 1


async def test_a_large_answer_goes_the_long_way_whole(port: int) -> None:
    [(_, body)] = await exchange(port, b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
    assert body == b"x" * 300_000


async def test_a_line_break_in_a_header_never_reaches_the_wire(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /split HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in answer
    writer.close()


async def test_a_body_in_several_pieces_is_read_whole(port: int) -> None:
    body = b'{"note":"' + b"x" * 5000 + b'"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    )
    writer.write(b"expect: 100-continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"  # so it is read before it is whole
    writer.write(body[:100])
    await writer.drain()
    writer.write(body[100:])
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert await reader.readexactly(15) == b'{"length":5000}'
    writer.close()


async def test_a_body_that_comes_with_its_head_is_read_whole_whatever_its_frames(port: int) -> None:
    head = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    plain = b'content-length: 15\r\n\r\n{"note":"abcd"}'
    chunked = b'transfer-encoding: chunked\r\n\r\n8\r\n{"note":\r\n7\r\n"abcd"}\r\n0\r\n\r\n'
    short = b'content-length: 14\r\n\r\n{"note":"abcd"'
    for body, status in ((plain, b"200"), (chunked, b"200"), (short, b"400")):
        [(answered, told)] = await exchange(port, head + body)
        assert answered.split(b" ")[1] == status
        assert status == b"400" or told == b'{"length":4}'
    pipelined = await exchange(port, head + plain + head + chunked + head + short, answers=3)
    assert [answered.split(b" ")[1] for answered, _ in pipelined] == [b"200", b"200", b"400"]


def test_header_lines_are_read_back_as_they_were() -> None:
    headers = [(b"link", b"<a: b>; rel=c"), (b"x-empty", b""), (b"x-note", b"one, two")]
    assert header_pairs(header_lines(headers)) == headers
    assert header_pairs(b"") == []
    with pytest.raises(ValueError, match="line break"):
        header_lines([(b"x-note", b"one\r\nset-cookie: a=b")])


def test_prepared_headers_are_those_that_they_were_made_of() -> None:
    headers = [(b"etag", b'"x"'), (b"x-note", b"one, two")]
    prepared = Prepared(headers)
    assert list(prepared) == headers
    assert header_lines(prepared) == header_lines(headers)
    assert header_lines((*prepared, (b"x-more", b"three"))) == header_lines([*headers, (b"x-more", b"three")])
    with pytest.raises(ValueError, match="line break"):
        Prepared([(b"x-note", b"one\r\nset-cookie: a=b")])


# -- pauses ------------------------------------------------------------------------------------------------------------


class _Timer:
    def __init__(self, delay: float, callback: Callable[[], None]) -> None:
        self.delay = delay
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Loop:
    """The running loop, with a clock and timers that the test moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[_Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        self.timers.append(_Timer(delay, callback))
        return self.timers[-1]

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_one_timer_ends_a_pause_and_never_a_request(tmp_path: Path) -> None:
    working, done = asyncio.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        working.set()
        await done.wait()
        assert scope[ANSWER](scope, 200, b"content-length: 0\r\n", b"")

    async def request() -> None:
        tasks = list(state.tasks)
        done.set()
        await asyncio.gather(*tasks)
        done.clear()
        working.clear()

    config = uvicorn_config(app, TestHapta(tmp_path, {}).settings)
    config.load()
    loop, state, transport = _Loop(), ServerState(), _Transport()
    protocol: Any = BoundedHttpProtocol(config=config, server_state=state, app_state={}, _loop=loop)
    protocol.connection_made(transport)
    for _ in range(2):
        protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await request()
        loop.now += 70
    assert not state.tasks
    head, pause = loop.timers  # one for both pauses
    assert head.cancelled
    assert pause.delay == KEEP_ALIVE_SECONDS

    loop.now += 5
    pause.callback()  # the second pause began 75 seconds ago: just over
    assert transport.closed

    transport.closed = False
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await request()
    loop.now += 10
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    loop.timers[-1].callback()
    await working.wait()
    assert not transport.closed  # a request is being answered
    await request()
    assert loop.timers[-1].delay == KEEP_ALIVE_SECONDS  # and the pause after it has its whole time
    loop.now += 50
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await request()
    loop.now += 25
    loop.timers[-1].callback()
    assert not transport.closed
    assert loop.timers[-1].delay == KEEP_ALIVE_SECONDS - 25
    protocol.connection_lost(None)
    assert loop.timers[-1].cancelled
