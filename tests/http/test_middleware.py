"""The edge: bodies as they arrive, and what every answer carries."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import Callable
from typing import cast

import httpx
import pytest
import zstandard

from tests.http.house import (
    ADDRESS,
    JSON,
    MAX_BODY,
    House,
    NewHouse,
    Sender,
    endless,
    serving,
)

# --- bodies: a sender that we drive message by message ---


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
    ids=["damaged", "cut short", "unknown", "stacked", "no text"],
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


async def raw(url: str, *pieces: bytes) -> bytes:
    """Sends pieces over one connection and reads until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    try:
        async with asyncio.timeout(120):  # it is not awaited for ever if the server never closes
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


async def test_a_stream_for_anybodys_pages_says_so_whatever_origins_are_listed(new_house: NewHouse) -> None:
    house = new_house(origins=["https://app.example"])
    async with house.client() as client:
        headers = {"origin": "https://other.example"}
        opened = await client.get("/open-stream", headers=headers)
        listed = await client.get("/stream", headers=headers)
    assert (opened.status_code, opened.headers["access-control-allow-origin"]) == (200, "*")
    assert "access-control-allow-origin" not in listed.headers
