"""Floods below the frames that anybody counts: pings, and fragments that bring nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from hapta.http import socket_protocol
from hapta.http.socket_protocol import DirectSocketProtocol
from tests.relay.house import until

_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Wire(asyncio.Transport):
    """The server's end of a connection that takes whatever is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written += data

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True


async def accepted() -> tuple[DirectSocketProtocol, Wire]:
    """A socket that the application has accepted and listens to."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    config = uvicorn.Config(app, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol, wire = DirectSocketProtocol(config, ServerState(), {}), Wire()
    protocol.connection_made(wire)
    protocol.data_received(_HANDSHAKE)
    await until(lambda: b"101" in wire.written)
    return protocol, wire


async def ended(protocol: DirectSocketProtocol) -> None:
    tasks = [*protocol.tasks]
    protocol.connection_lost(None)
    await asyncio.gather(*tasks)


async def test_pings_of_one_who_reads_nothing_are_not_answered_into_memory() -> None:
    protocol, wire = await accepted()
    ping = b"\x89\x80\0\0\0\0"
    del wire.written[:]
    protocol.data_received(ping)
    assert bytes(wire.written) == b"\x8a\x00"
    protocol.pause_writing()
    for _ in range(100):
        protocol.data_received(ping * 100)
    assert bytes(wire.written) == b"\x8a\x00"
    protocol.resume_writing()
    protocol.data_received(ping)
    assert bytes(wire.written) == b"\x8a\x00" * 2
    await ended(protocol)


async def test_a_message_of_endless_empty_fragments_ends_its_socket() -> None:
    protocol, wire = await accepted()
    protocol.data_received(b"\x01\x80\0\0\0\0")
    protocol.data_received(b"\x00\x80\0\0\0\0" * (socket_protocol.MAX_FRAGMENTS + 10))
    assert wire.ended
    assert len(protocol.frames) <= socket_protocol.MAX_FRAGMENTS
    await ended(protocol)
