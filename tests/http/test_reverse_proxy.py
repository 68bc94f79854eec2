"""The relay between the servers of a pair, over real sockets: what must come through does so byte by byte and as it arrives, and
what belongs to a connection or is a client's invention does not (contract identity, section 1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from hapta.http.metrics import Metrics
from hapta.http.reverse_proxy import Relay, RelayedOnly, is_internal
from hapta.http.upstream import Upstream
from hapta.kit.errors import Unauthenticated
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.identity.internal_house import listening

Behind = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


@asynccontextmanager
async def behind(answer: Behind) -> AsyncIterator[str]:
    """A server that reads one head and then does as it is told, byte by byte."""
    ended: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer, await reader.readuntil(b"\r\n\r\n"))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            ended.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def relaying(url: str, **server: Any) -> AsyncIterator[str]:
    upstream = Upstream(url)
    relay = Relay(
        upstream,
        lambda method, target, address: f"{method} {target} {address}",
        ServerSettings(**{"max_body_bytes": 4096, **server}),
        Metrics(),
        FakeClock(),
    )
    try:
        async with listening(relay) as address:
            yield address
    finally:
        await upstream.close()


async def talk(url: str, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    return reader, writer


async def test_an_answer_comes_through_with_its_status_header_bytes_and_repeated_cookies() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(
            b"HTTP/1.1 418 Odd\r\ncontent-type: text/plain\r\nset-cookie: a=1; Path=/\r\nset-cookie: b=\xe9\r\n"
            b"set-cookie: a=2\r\nx-odd: caf\xc3\xa9  twice\r\nconnection: x-hop, close\r\nx-hop: gone\r\n"
            b"keep-alive: timeout=5\r\ncontent-length: 5\r\n\r\n\0\xff\r\n!"
        )
        await writer.drain()

    async with behind(answer) as url, relaying(url) as front:
        reader, writer = await talk(front, b"GET /oauth/x HTTP/1.1\r\nhost: id.example\r\nconnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 418 ")
    cookies = [line for line in lines if line.startswith(b"set-cookie")]
    assert cookies == [b"set-cookie: a=1; Path=/", b"set-cookie: b=\xe9", b"set-cookie: a=2"]
    assert b"x-odd: caf\xc3\xa9  twice" in lines
    assert not [line for line in lines if line.startswith((b"x-hop", b"keep-alive"))]
    assert body == b"\0\xff\r\n!"


async def test_a_request_goes_on_unchanged_but_for_what_belongs_to_the_connection_or_is_made_up() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        heads.append(head + await reader.readexactly(3))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    request = (
        b"POST /oauth/%7Ea//b?x=%2F&y=%C3%A9&x=2 HTTP/1.1\r\nHost: id.example\r\nCookie: a=1; b=2\r\n"
        b"Authorization: Basic x\r\nX-Odd: caf\xc3\xa9\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Host: evil.example\r\n"
        b"Forwarded: for=203.0.113.9\r\nX-User-Id: root\r\nX-Identity-Roles: admin\r\nX-Hapta-Relayed: forged\r\n"
        b"TE: trailers\r\nX-Hop: 1\r\nConnection: close, x-hop\r\nContent-Length: 3\r\n\r\nabc"
    )
    async with behind(answer) as url, relaying(url) as front:
        reader, writer = await talk(front, request)
        assert (await reader.read()).startswith(b"HTTP/1.1 204")
        writer.close()
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"POST /oauth/%7Ea//b?x=%2F&y=%C3%A9&x=2 HTTP/1.1"
    given = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines[1:-2])]
    assert sorted(given) == [
        (b"authorization", b"Basic x"),
        (b"content-length", b"3"),
        (b"cookie", b"a=1; b=2"),
        (b"host", b"id.example"),
        (b"x-hapta-relayed", b"POST /oauth/%7Ea//b?x=%2F&y=%C3%A9&x=2 127.0.0.1"),
        (b"x-odd", b"caf\xc3\xa9"),
    ]
    assert lines[-1] == b"abc"


async def test_behind_a_trusted_proxy_its_word_on_the_client_is_what_goes_on() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async with behind(answer) as url, relaying(url, trust_proxy=1) as front, httpx.AsyncClient(trust_env=False) as http:
        await http.get(front + "/auth/me", headers={"x-forwarded-for": "6.6.6.6, 203.0.113.9"})
    assert b"GET /auth/me 203.0.113.9\r\n" in heads[0]
    assert b"x-forwarded-for" not in heads[0].lower()


async def test_both_bodies_are_streamed() -> None:
    """Each side sends its second half only after the other has seen the first one: a relay that gathered would hang."""
    seen = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        assert b"transfer-encoding: chunked" in head.lower()
        assert await reader.readuntil(b"one") == b"3\r\none"
        seen.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await got_first.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await writer.drain()

    got_first = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await seen.wait()
        yield b"two"

    async with (
        behind(answer) as url,
        relaying(url) as front,
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("POST", front + "/oauth/x", content=body()) as response,
    ):
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"one"
        got_first.set()
        assert await anext(chunks) == b"two"


async def test_a_body_past_the_limit_is_refused_by_the_relay() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.read()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 512

    async with behind(answer) as url, relaying(url) as front, httpx.AsyncClient(trust_env=False) as http:
        assert (await http.post(front + "/oauth/x", content=body())).status_code == 413


async def test_while_nobody_is_behind_the_answer_is_503_with_a_time_to_come_back() -> None:
    async with relaying("http://127.0.0.1:9") as front, httpx.AsyncClient(trust_env=False) as http:
        for path in ("/oauth/token", "/auth/login", "/identity/v1/login"):
            answer = await http.post(front + path, json={})
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["cache-control"] == "no-store"
        assert (await http.post(front + "/oauth/token")).json()["error"] == "temporarily_unavailable"


async def test_a_server_that_goes_away_before_its_answer_is_503_and_within_it_a_broken_answer() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        return

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()

    async with httpx.AsyncClient(trust_env=False) as http:
        async with behind(nothing) as url, relaying(url) as front:
            assert (await http.get(front + "/oauth/x")).status_code == 503
        async with behind(half) as url, relaying(url) as front:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(front + "/oauth/x")


# --- before the server behind ---


def check(token: str, method: str, target: str) -> str:
    said_method, said_target, address = token.split(" ")
    if (said_method, said_target) != (method, target):
        raise Unauthenticated
    return address


async def client_of(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with whose request it takes it for, and with the names of the headers."""
    names = [name.decode() for name, _ in scope["headers"]]
    body = json.dumps([scope["client"][0], names]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def test_the_server_behind_learns_the_clients_address_from_the_relay_alone() -> None:
    front = RelayedOnly(client_of, check, FakeClock(), ["/healthz"])
    async with listening(front) as url, httpx.AsyncClient(trust_env=False) as http:
        good = await http.get(url + "/oauth/x?a=1", headers={"x-hapta-relayed": "GET /oauth/x?a=1 192.0.2.7"})
        address, names = good.json()
        assert address == "192.0.2.7"
        assert "x-hapta-relayed" not in names
        refused = [
            await http.get(url + "/oauth/x"),
            await http.get(url + "/oauth/x", headers={"x-forwarded-for": "192.0.2.7"}),
            await http.get(url + "/oauth/x", headers={"x-hapta-relayed": "GET /oauth/y 192.0.2.7"}),
            await http.get(
                url + "/oauth/x",
                headers=[("x-hapta-relayed", "GET /oauth/x 192.0.2.7"), ("x-hapta-relayed", "GET /oauth/x 192.0.2.8")],
            ),
        ]
        assert [answer.status_code for answer in refused] == [403] * len(refused)
        assert (await http.get(url + "/healthz")).json()[0] == "127.0.0.1"


INTERNAL = [
    b"/internal",
    b"/internal/",
    b"/internal/v1/identity/find",
    b"/INTERNAL/v1/x",
    b"/InTeRnAl",
    b"//internal/x",
    b"///internal",
    b"/./internal/x",
    b"/%2e/internal/x",
    b"/oauth/../internal/x",
    b"/oauth/%2e%2e/internal/x",
    b"/oauth/%2E./internal/x",
    b"/oauth/..%2finternal/x",
    b"/oauth/..%2Finternal%2fx",
    b"/oauth/x/../../internal/x",
    b"/oauth/..%5cinternal/x",
    b"/oauth/..\\internal\\x",
    b"\\internal\\x",
    b"/%69nternal/x",
    b"/%49NTERNAL/x",
    b"/inte%72nal",
    b"/%2569nternal/x",
    b"/%252e%252e/internal/x",
    b"/%25252525252525252525252569nternal",
    b"/internal;a=1/x",
    b"/internal%00/x",
    b"/internal%20/x",
    b"/%2finternal/x",
    b"/..%2f..%2finternal",
]


@pytest.mark.parametrize("path", INTERNAL, ids=lambda path: path.decode())
def test_every_spelling_of_internal_is_recognised(path: bytes) -> None:
    assert is_internal(path)


@pytest.mark.parametrize(
    "path", [b"/", b"/internals", b"/oauth/internal", b"/sync/%69nternal", b"/internal/../oauth/x", b"/a%20b", b"/%25"]
)
def test_other_paths_are_not_taken_for_internal_ones(path: bytes) -> None:
    assert not is_internal(path)
