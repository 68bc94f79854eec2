"""Thousands that connect in one moment: nobody is dropped, and those who are connected already have their turn between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from hapta.cli.server_process import uvicorn_config
from hapta.settings import Settings
from tests.http.test_fetch import certificate

if sys.platform == "win32":
    pytest.skip("there is no uvloop", allow_module_level=True)

from hapta.http import accepting
from hapta.http.accepting import PORTION, STEPS, Accepting, Loop, new_event_loop

T = TypeVar("T")
GREETING = b"hello"


class Greeting(asyncio.Protocol):
    """Says hello."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop holds none that nobody else holds
        self._transport.write(GREETING)


def run(body: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(body())


@asynccontextmanager
async def served(
    listener: socket.socket, factory: Callable[[], asyncio.Protocol] = Greeting, backlog: int = 4096
) -> AsyncIterator[tuple[asyncio.AbstractServer, tuple[str, int]]]:
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(factory, sock=listener, backlog=backlog)
    try:
        yield server, listener.getsockname()
    finally:
        server.close()
        await server.wait_closed()


async def greeted(connection: socket.socket) -> bool:
    connection.setblocking(False)
    async with asyncio.timeout(120):
        return await asyncio.get_running_loop().sock_recv(connection, 100) == GREETING


def test_the_server_runs_on_this_loop() -> None:
    factory = uvicorn_config(None, Settings()).get_loop_factory()
    assert factory is not None
    loop = factory()
    assert isinstance(loop, Loop)
    loop.close()


def test_all_are_served_and_few_begin_in_one_turn() -> None:
    begun: list[int] = []
    turns = [0]

    def begin() -> Greeting:
        begun.append(turns[0])
        return Greeting()

    async def body() -> None:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            turns[0] += 1
            loop.call_soon(turn)

        async with served(socket.socket(), begin) as (_, address):
            clients = [socket.create_connection(address) for _ in range(5 * PORTION)]
            turn()
            for client in clients:
                assert await greeted(client)
                client.close()

    run(body)
    assert len(begun) == 5 * PORTION
    assert max(begun.count(turn) for turn in begun) <= 2 * PORTION  # where a turn begins is a matter of view


def test_a_long_turn_of_the_loop_lets_connections_in_at_its_steps() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        async with served(socket.socket(), backlog=1) as (_, address):
            clients: list[socket.socket] = []
            for _ in range(10):  # the kernel holds two of them
                clients.append(socket.create_connection(address, timeout=120))
                for _ in range(STEPS):
                    loop.step()
            for client in clients:
                assert await greeted(client)
                client.close()

    run(body)


def test_when_the_system_has_no_connection_to_give_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "PAUSE_SECONDS", 0.0)
    refusals = [
        OSError(errno.EMFILE, "too many files"),
        ConnectionAbortedError(),
        OSError(errno.ENFILE, "too many files"),
    ]

    class Exhausted(socket.socket):
        def accept(self) -> Any:
            if refusals:
                raise refusals.pop()
            return super().accept()

    async def body() -> None:
        async with served(Exhausted()) as (_, address):
            with socket.create_connection(address) as client:
                assert await greeted(client)

    run(body)
    assert not refusals


def test_more_than_may_wait_stay_in_the_kernel_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "MAX_WAITING", 3)
    monkeypatch.setattr(accepting, "TAKEN", 3)
    monkeypatch.setattr(accepting, "PORTION", 1)

    async def body() -> None:
        async with served(socket.socket()) as (_, address):
            clients = [socket.create_connection(address) for _ in range(20)]
            for client in clients:
                assert await greeted(client)
                client.close()

    run(body)


def test_a_server_that_is_closed_lets_go_of_whoever_waits() -> None:
    async def body() -> None:
        async with served(socket.socket()) as (server, address):
            assert isinstance(server, Accepting)
            assert server.is_serving()
            assert [one.getsockname() for one in server.sockets] == [address]
            clients = [socket.create_connection(address, timeout=120) for _ in range(5 * PORTION)]
            server.take()
            server.close()
            assert not server.is_serving()
            assert server.sockets == ()
            for client in clients[-PORTION:]:
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(100) == b""
            for client in clients:
                client.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)

    run(body)


def test_one_that_speaks_no_tls_ends_nobody_else(tmp_path: Path) -> None:
    context, trusting = certificate(tmp_path, "localhost")

    async def body() -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(Greeting, sock=listener, ssl=context)
        host, port = listener.getsockname()
        with socket.create_connection((host, port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            reader, writer = await asyncio.open_connection(host, port, ssl=trusting, server_hostname="localhost")
            async with asyncio.timeout(120):
                assert await reader.readexactly(len(GREETING)) == GREETING
            writer.close()
        server.close()
        await server.wait_closed()

    run(body)
