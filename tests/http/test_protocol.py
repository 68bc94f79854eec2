"""The protocol under the edge, over real connections: the bound on a head, and the short way of whole answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from hapta.cli.server_process import uvicorn_config
from hapta.http.api import Reply, Table
from hapta.http.errors import SYNC
from hapta.kit.access import PUBLIC
from hapta.testing.server import TestHapta

pytestmark = pytest.mark.anyio


async def large() -> Reply:
    return Reply(200, b"x" * 300_000, media_type="application/octet-stream")


async def split() -> Reply:
    return Reply(200, b"", [(b"x-note", b"one\r\nset-cookie: a=b")])


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    table = Table(dialect=SYNC, access=PUBLIC)
    answers: dict[int, Any] = {200: None}
    extra = [
        table.get("/large", large, summary="A large answer", answers=answers),
        table.get("/split", split, summary="A header with a line break", answers=answers),
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
