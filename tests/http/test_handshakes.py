"""Handshakes of WebSockets: the short way takes what the codec takes, with the same answer, and no log has what stands in an address."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import weakref
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.http11 import Request
from websockets.server import ServerProtocol

from hapta.http import handshakes
from hapta.http.answering import access_lines
from hapta.http.api import Table
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.errors import RELAY
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.protocol import BoundedHttpProtocol
from hapta.http.socket_protocol import DirectSocketProtocol
from hapta.http.sockets import Socket
from hapta.kit.access import IN_BAND
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.http.edge import NobodyIsKnown
from tests.http.test_socket_protocol import FINAL, TEXT, Wire, frame
from tests.relay.house import until

pytestmark = pytest.mark.anyio

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""Of that key (RFC 6455 section 1.3)."""


def head(*more: bytes, first: bytes = b"GET /live?ticket=hidden HTTP/1.1", **changed: bytes | None) -> bytes:
    """A handshake as the HTTP protocol hands it on."""
    fields: dict[str, bytes | None] = {
        "host": b"x", "upgrade": b"websocket", "connection": b"Upgrade", "sec_websocket_key": KEY, "sec_websocket_version": b"13",
        **changed,
    }  # fmt: skip
    lines = [name.replace("_", "-").encode() + b": " + value for name, value in fields.items() if value is not None]
    return b"\r\n".join((first, *lines, *more, b"", b""))


PLAIN = {
    "as libraries write it": head(),
    "as Firefox writes it": head(connection=b"keep-alive, Upgrade"),
    "in other letters": head(upgrade=b"WebSocket", connection=b"upgrade"),
    "with more headers": head(b"origin: https://app.example", b"authorization: Bearer abc"),
    "with an extension that is not there": head(
        b"sec-websocket-extensions: permessage-deflate; client_max_window_bits"
    ),
    "without a query": head(first=b"GET /live HTTP/1.1"),
    "with two question marks": head(first=b"GET /live?a=?b HTTP/1.1"),
    "with a name in percent signs": head(first=b"GET /l%69ve%2F?x=%20 HTTP/1.1"),
}
OTHERS = {
    "another method": head(first=b"POST / HTTP/1.1"),
    "HTTP/1.0": head(first=b"GET / HTTP/1.0"),
    "no target": head(first=b"GET HTTP/1.1"),
    "a space in the target": head(first=b"GET /a b HTTP/1.1"),
    "a target outside ASCII": head(first=b"GET /\xc3\xa4 HTTP/1.1"),
    "no upgrade": head(upgrade=None),
    "another upgrade": head(upgrade=b"h2c"),
    "two upgrades": head(upgrade=b"websocket, h2c"),
    "no connection": head(connection=None),
    "another connection": head(connection=b"close"),
    "a long list of connections": head(connection=b"keep-alive, foo, Upgrade"),
    "no key": head(sec_websocket_key=None),
    "a short key": head(sec_websocket_key=b"AAAA"),
    "a long key": head(sec_websocket_key=KEY + KEY),
    "a key that is no base64": head(sec_websocket_key=b"dGhlIHNhbXBsZSBub25jZ!=="),
    "a key of another length": head(sec_websocket_key=b"dGhlIHNhbXBsZSBub25jZQAA"),
    "two keys": head(b"sec-websocket-key: " + KEY),
    "no version": head(sec_websocket_version=None),
    "an old version": head(sec_websocket_version=b"8"),
    "two versions": head(b"sec-websocket-version: 13"),
    "two origins": head(b"origin: https://a.example", b"origin: https://b.example"),
    "a subprotocol": head(b"sec-websocket-protocol: chat"),
    "a body": head(b"content-length: 3"),
    "an empty body": head(b"content-length: 0"),
    "a coded body": head(b"transfer-encoding: chunked"),
    "a value outside ASCII": head(b"x-name: \xc3\xa4"),
    "a control character": head(b"x-name: a\x01b"),
    "a tab": head(b"x-name: a\tb"),
    "spaces around a value": head(b"x-name:  a "),
    "a line without a colon": head(b"x-name"),
    "a line end in a value": head(b"x-name: a\nb"),
    "a return in a value": head(b"x-name: a\rb"),
    "many lines": head(*[b"x-%d: y" % n for n in range(100)]),
    "a long line": head(b"x-name: " + b"y" * 9000),
    "no end": head()[:-2],
    "more than the head": head() + b"\x81\x80\0\0\0\0",
}


def judged(data: bytes) -> tuple[ServerProtocol, Request | None]:
    """What the codec reads."""
    codec = ServerProtocol()
    codec.receive_data(data)
    events = codec.events_received()
    return codec, cast(Request, events[0]) if events else None


@pytest.mark.parametrize("name", PLAIN)
def test_what_the_short_way_takes_the_codec_takes_as_well(name: str) -> None:
    plain = handshakes.read(PLAIN[name])
    codec, request = judged(PLAIN[name])
    assert plain is not None
    assert request is not None
    response = codec.accept(request)
    assert response.status_code == 101
    assert response.headers["Sec-WebSocket-Accept"].encode() == plain.accept == ACCEPT
    assert [(name.decode(), value.decode()) for name, value in plain.headers] == list(request.headers.raw_items())
    assert (plain.path + (b"?" + plain.query_string if b"?" in PLAIN[name] else b"")).decode() == request.path


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_for_the_codec(name: str) -> None:
    assert handshakes.read(OTHERS[name]) is None


async def answered(data: bytes, **more: Any) -> tuple[DirectSocketProtocol, Wire, list[Any]]:
    """A handshake, after which the application echoes one message."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append({name: value for name, value in scope.items() if not name.startswith("hapta.")})
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"X-More", b"1")]})
        await send({"type": "websocket.send", "text": (await receive())["text"]})
        await receive()

    config = uvicorn.Config(app, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None, **more)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    protocol, wire = DirectSocketProtocol(config, state, {"a": 1}), Wire()
    protocol.connection_made(wire)
    protocol.data_received(data)
    await something(wire)
    return protocol, wire, scopes


async def something(wire: Wire) -> None:
    """Returns when the server has written."""
    await until(lambda: bool(wire.writes))


async def end(protocol: DirectSocketProtocol) -> None:
    tasks = [*protocol.tasks]
    protocol.connection_lost(None)
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("name", PLAIN)
async def test_both_ways_give_one_scope_one_answer_and_an_open_socket(name: str) -> None:
    seen: list[Any] = []
    # An empty body is nothing special, but only the codec judges it.
    for data in (PLAIN[name], PLAIN[name][:-2] + b"content-length: 0\r\n\r\n"):
        protocol, wire, scopes = await answered(data)
        first, *lines = wire.written[:-4].split(b"\r\n")
        assert wire.written.endswith(b"\r\n\r\n")
        scopes[0]["headers"] = [pair for pair in scopes[0]["headers"] if pair[0] != b"content-length"]
        seen.append((first, sorted(lines), scopes))
        wire.writes.clear()
        protocol.data_received(frame(FINAL | TEXT, b"echo"))
        await something(wire)
        assert wire.written == b"\x81\x04echo"
        await end(protocol)
    assert seen[0] == seen[1]
    assert seen[0][0] == b"HTTP/1.1 101 Switching Protocols"
    assert seen[0][1] == sorted(
        (
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + ACCEPT,
            b"date: today",
            b"x-more: 1",
        )
    )


async def test_a_handshake_in_pieces_is_read_as_well() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    config = uvicorn.Config(app, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol, wire = DirectSocketProtocol(config, ServerState(), {}), Wire()
    protocol.connection_made(wire)
    protocol.data_received(head()[:20])
    protocol.data_received(head()[20:])
    await something(wire)
    assert b"Sec-WebSocket-Accept: " + ACCEPT in wire.written
    await end(protocol)


async def test_a_refusal_after_a_plain_handshake_is_an_answer_of_http() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    config = uvicorn.Config(app, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol, wire = DirectSocketProtocol(config, ServerState(), {}), Wire()
    protocol.connection_made(wire)
    protocol.data_received(head())
    await until(lambda: bool(wire.ended))
    assert wire.written.startswith(b"HTTP/1.1 401 ")
    assert b"x-why: because\r\n" in wire.written
    assert wire.written.endswith(b"\r\n\r\nno")
    await end(protocol)


def test_a_header_of_the_answer_cannot_make_another_one() -> None:
    with pytest.raises(ValueError, match="line break"):
        handshakes.answer(ACCEPT, [(b"x-name", b"a\r\nset-cookie: b=c")], None)


def test_a_subprotocol_is_told() -> None:
    assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in handshakes.answer(ACCEPT, [], "chat")


async def test_no_log_has_the_query_of_a_socket(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in (head(), head(b"content-length: 0")):  # the short way, and the codec's
        protocol, _, _ = await answered(data)
        await end(protocol)
    assert "hidden" not in caplog.text
    assert "connection open" not in caplog.text


async def test_the_codec_still_tells_of_its_failures(caplog: pytest.LogCaptureFixture) -> None:
    handshakes.FAULTS.error("it failed")
    assert "it failed" in caplog.text


async def test_each_handshake_is_a_line_of_the_access_log_without_its_query() -> None:
    lines = io.BytesIO()
    log = AccessLog(lines, encode=access_lines)

    async def live(socket: Socket) -> None:
        if socket.query_string == b"token=hidden":
            await socket.refuse(401, "no")
        elif socket.query_string:
            await socket.close(1008)
        else:
            await socket.accept()
            await socket.send_text("here")
            await socket.close()

    table = Table(dialect=RELAY, access=IN_BAND)
    limits = Limits(None, {"default": LimitClass("default", Rate(600, 60, 200), "address")})
    edge = Edge(ServerSettings(), NobodyIsKnown(), limits, Cors(["*"]), Metrics(), FakeClock(), log)
    app = Application([table.websocket("/live", live, summary="Live")], edge)

    async def handshake(query: bytes) -> None:
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None: ...

        await app(
            {
                "type": "websocket", "path": "/live", "raw_path": b"/live", "query_string": query, "headers": [],
                "client": ("10.0.0.1", 1), "extensions": {"websocket.http.response": {}},
            },
            receive,
            send,
        )  # fmt: skip

    await handshake(b"")
    await handshake(b"token=hidden")
    await handshake(b"close")
    log.close()
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["method"], line["path"], line["status"], line["client"]) for line in told] == [
        ("GET", "/live", 101, "10.0.0.1"), ("GET", "/live", 401, "10.0.0.1"), ("GET", "/live", 403, "10.0.0.1"),
    ]  # fmt: skip
    assert len({line["id"] for line in told}) == 3
    assert b"hidden" not in lines.getvalue()


async def test_what_led_to_a_socket_is_gone_without_the_collector() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    class Upgraded(Wire):
        protocol: Any = None

        def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
            self.protocol = protocol

    config = uvicorn.Config(
        app, ws=DirectSocketProtocol, http=BoundedHttpProtocol, ws_per_message_deflate=False, log_config=None
    )
    config.load()
    wire = Upgraded()
    http = BoundedHttpProtocol(config, ServerState(), {})
    http.connection_made(wire)
    http.data_received(head())
    await something(wire)
    left = weakref.ref(http)
    gc.disable()
    try:
        del http
        assert left() is None
    finally:
        gc.enable()
    await end(wire.protocol)
