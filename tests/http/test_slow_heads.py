"""Connections that never finish a request's head are ended: otherwise a few thousand of them use up every descriptor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from hapta.cli.server_process import uvicorn_config
from hapta.http.api import Reply, Table
from hapta.http.errors import SYNC
from hapta.kit.access import PUBLIC
from hapta.testing.server import TestHapta

pytestmark = pytest.mark.anyio

HEAD_SECONDS = 1.0


async def slow() -> Reply:
    await asyncio.sleep(1.5 * HEAD_SECONDS)
    return Reply(200, b"late", media_type="text/plain")


@pytest.fixture
async def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr("hapta.http.protocol.HEAD_SECONDS", HEAD_SECONDS)
    extra = [Table(dialect=SYNC, access=PUBLIC).get("/slow", slow, summary="A slow answer", answers={200: None})]
    hapta = TestHapta(tmp_path, {"HAPTA_SERVER_SHUTDOWN_SECONDS": "1"}, extra_endpoints=extra)
    server = uvicorn.Server(uvicorn_config(hapta.app, hapta.settings))
    listener = socket.create_server(("127.0.0.1", 0))
    started = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await started


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: "])
async def test_a_head_that_does_not_come_ends_the_connection(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(120):
        assert await reader.read() == b""
    writer.close()


async def test_a_second_head_that_does_not_come_ends_the_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost")
    async with asyncio.timeout(120):
        assert (await reader.read()).count(b"HTTP/1.1 200") == 1
    writer.close()


async def test_a_slow_answer_to_a_whole_head_is_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(120):
        assert (await reader.read()).endswith(b"late")
    writer.close()
