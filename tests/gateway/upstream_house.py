"""A server that answers byte for byte what a test tells it, also nothing, half of it, or a lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Talk = Callable[["Talker"], Awaitable[None]]


@dataclass
class Talker:
    """One connection, seen from the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """Which connection to this server it is, from 1."""

    async def head(self) -> str:
        """The next request's head; raises `asyncio.IncompleteReadError` at the end of the connection."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def answer(self, body: bytes = b"{}", *lines: str, status: int = 200) -> None:
        head = "".join(f"{line}\r\n" for line in lines)
        self.say(f"HTTP/1.1 {status} X\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def reset(self) -> None:
        self.writer.transport.abort()


@dataclass
class RawServer:
    """What `raw_server` hands out."""

    url: str = ""
    connections: int = 0
    heads: list[str] = field(default_factory=list[str])


@asynccontextmanager
async def raw_server(talk: Talk) -> AsyncIterator[RawServer]:
    """Serves each connection with `talk`, on the loop of the test."""
    state = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(Talker(reader, writer, state.connections))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    state.url = f"http://{host}:{port}"
    try:
        yield state
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
