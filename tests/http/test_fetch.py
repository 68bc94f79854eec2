"""Guarded requests: what they refuse (ssrf_corpus.json), that a checked address is the one connected to, and their limits."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hapta.http.fetch import FetchFailed, FetchRefused, GuardedFetch

CORPUS = json.loads((Path(__file__).parent / "ssrf_corpus.json").read_text(encoding="utf-8"))
PUBLIC = "93.184.216.34"
NAME = "hooks.example.org"


class Internet:
    """A resolver and a dialler: every name is known here, and every address leads to one local server."""

    def __init__(self, *answers: Sequence[str], port: int = 1) -> None:
        self.answers = list(answers or [[PUBLIC]])
        self.port = port
        self.resolved: list[str] = []
        self.dialled: list[tuple[str, int]] = []
        self.dead: set[str] = set()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def dial(self, address: str, port: int) -> socket.socket:
        self.dialled.append((address, port))
        if address in self.dead:
            raise ConnectionRefusedError(111, "Connection refused")
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        return connection

    def fetch(self, **further: Any) -> GuardedFetch:
        return GuardedFetch(resolve=self.resolve, dial=self.dial, **further)


class Server:
    """A server that answers every request with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.startswith(b"content-length:")), 0)
            self.requests.append(head + await reader.readexactly(length))
            writer.write(self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer)
    if tls is not None:
        tls.sni_callback = lambda _connection, name, _context: server.names.append(name)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS and the TLS of somebody who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


# --- what is refused ---


@pytest.mark.parametrize(("url", "why"), CORPUS["refused_urls"], ids=lambda value: ascii(value)[:50])
async def test_a_url_that_is_not_to_be_called_is_refused_before_anything_is_sent(url: str, why: str) -> None:
    internet = Internet([PUBLIC])
    with pytest.raises(FetchRefused):
        internet.fetch().check(url)
    with pytest.raises(FetchRefused):
        await internet.fetch().request("GET", url)
    assert internet.resolved == [], why
    assert internet.dialled == []


@pytest.mark.parametrize("url", CORPUS["taken_urls"])
async def test_an_ordinary_url_is_called(url: str) -> None:
    internet = Internet([PUBLIC])
    internet.dead = {PUBLIC, "8.8.8.8", "2606:4700:4700::1111"}
    internet.fetch().check(url)
    with pytest.raises(FetchFailed):
        await internet.fetch().request("GET", url)
    assert len(internet.dialled) == 1


@pytest.mark.parametrize(("address", "why"), CORPUS["refused_addresses"], ids=ascii)
async def test_a_name_with_one_address_that_is_not_public_is_refused(address: str, why: str) -> None:
    for found in ([address], [PUBLIC, address], [address, PUBLIC]):
        internet = Internet(found)
        with pytest.raises(FetchRefused):
            await internet.fetch().request("GET", f"https://{NAME}/")
        assert internet.dialled == [], why


@pytest.mark.parametrize("address", CORPUS["public_addresses"])
async def test_a_public_address_is_dialled_itself(address: str) -> None:
    internet = Internet([address])
    internet.dead = {address}
    with pytest.raises(FetchFailed):
        await internet.fetch().request("GET", f"https://{NAME}/")
    assert internet.dialled == [(address, 443)]


async def test_private_addresses_are_only_called_where_that_is_allowed() -> None:
    for address in CORPUS["private_addresses"]:
        internet = Internet([address])
        internet.dead = {address}
        with pytest.raises(FetchRefused):
            await internet.fetch().request("GET", f"https://{NAME}/")
        with pytest.raises(FetchFailed):
            await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/")
        assert internet.dialled == [(address, 80)]


@pytest.mark.parametrize("address", CORPUS["never_addresses"])
async def test_metadata_and_embedded_addresses_stay_closed_in_development_too(address: str) -> None:
    internet = Internet([address])
    with pytest.raises(FetchRefused):
        await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/")
    assert internet.dialled == []


@pytest.mark.parametrize(
    "headers",
    [{"host": "elsewhere"}, {"x\r\ny": "1"}, {"x": "1\r\ny: 2"}, {"Content-Length": "5"}, {"x y": "1"}, {"x": "\0"}],
)
async def test_no_caller_can_break_the_framing(headers: dict[str, str]) -> None:
    internet = Internet()
    with pytest.raises(ValueError):
        await internet.fetch().request("POST", f"https://{NAME}/", headers=headers)
    assert internet.resolved == []


# --- the checked address is the one that is called ---


async def test_rebinding_a_name_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is public when it is asked for and private ever after: it is asked for once."""
    monkeypatch.setattr(socket, "getaddrinfo", None)  # whoever resolved by any other way would fail here
    async with serving(answer(b"done")) as server:
        internet = Internet([PUBLIC], ["127.0.0.1"], port=server.port)
        fetch = GuardedFetch(resolve=internet.resolve, dial=internet.dial, allow_private=True)
        first = await fetch.request("GET", f"http://{NAME}/")
        assert first.body == b"done"
        assert internet.resolved == [NAME]
        assert internet.dialled == [(PUBLIC, 80)]


async def test_a_name_that_turned_private_is_refused_at_the_next_request() -> None:
    internet = Internet([PUBLIC], ["127.0.0.1"])
    internet.dead = {PUBLIC}
    with pytest.raises(FetchFailed):
        await internet.fetch().request("GET", f"https://{NAME}/")
    with pytest.raises(FetchRefused):
        await internet.fetch().request("GET", f"https://{NAME}/")
    assert internet.dialled == [(PUBLIC, 443)]


async def test_the_systems_own_dialler_takes_no_name() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with serving(answer(b"here")) as server:
        fetch = GuardedFetch(resolve=resolve, allow_private=True)
        assert (await fetch.request("GET", f"http://{NAME}:{server.port}/")).body == b"here"
        assert b"host: hooks.example.org:" in server.requests[0]


async def test_the_systems_resolver_finds_this_machine() -> None:
    async with serving(answer(b"here")) as server:
        fetch = GuardedFetch(allow_private=True)
        assert (await fetch.request("GET", f"http://localhost:{server.port}/")).status == 200
        with pytest.raises(FetchRefused):
            await GuardedFetch().request("GET", f"https://localhost:{server.port}/")


async def test_tls_carries_the_name_and_judges_the_certificate_by_it(tmp_path: Path) -> None:
    server_tls, trusting = certificate(tmp_path, NAME)
    async with serving(answer(b"sealed"), server_tls) as server:
        internet = Internet([PUBLIC], port=server.port)
        got = await internet.fetch(tls=trusting).request("GET", f"https://{NAME}:8443/x?y=1")
        assert got.body == b"sealed"
        assert server.names == [NAME]
        assert server.requests[0].startswith(b"GET /x?y=1 HTTP/1.1\r\nhost: hooks.example.org:8443\r\n")
        with pytest.raises(FetchFailed, match="certificate"):
            await internet.fetch(tls=trusting).request("GET", "https://other.example.org/")
        with pytest.raises(FetchFailed, match="certificate"):
            await internet.fetch().request("GET", f"https://{NAME}/")
        assert internet.dialled == [(PUBLIC, 8443), (PUBLIC, 443), (PUBLIC, 443)]


async def test_a_second_address_is_tried_when_the_first_is_dead() -> None:
    async with serving(answer(b"")) as server:
        internet = Internet(["1.1.1.1", PUBLIC], port=server.port)
        internet.dead = {"1.1.1.1"}
        assert (await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/")).status == 200
        assert [address for address, _ in internet.dialled] == ["1.1.1.1", PUBLIC]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(answer(b"direct")) as server:
        internet = Internet([PUBLIC], port=server.port)
        assert (await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/")).body == b"direct"


# --- redirects ---


async def test_a_redirect_is_an_answer_unless_it_shall_be_followed() -> None:
    async with serving(answer(b"", "302 Found", "location: http://169.254.169.254/\r\n")) as server:
        internet = Internet([PUBLIC], port=server.port)
        got = await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/")
        assert got.status == 302
        with pytest.raises(FetchRefused):
            await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/", max_redirects=3)
        assert len(server.requests) == 2
        assert {address for address, _ in internet.dialled} == {PUBLIC}


async def test_every_hop_is_resolved_and_judged_anew() -> None:
    async with serving(answer(b"", "302 Found", "location: http://inner.example.org/\r\n")) as server:
        internet = Internet([PUBLIC], ["169.254.169.254"], port=server.port)
        with pytest.raises(FetchRefused):
            await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/", max_redirects=3)
        assert internet.resolved == [NAME, "inner.example.org"]
        assert len(server.requests) == 1


async def test_credentials_do_not_follow_to_another_host() -> None:
    async with serving(answer(b"", "307 Temporary Redirect", "location: http://other.example.org/\r\n")) as server:
        internet = Internet([PUBLIC], port=server.port)
        got = await internet.fetch(allow_private=True).request(
            "GET", f"http://{NAME}/", headers={"Authorization": "Bearer x", "accept": "a/b"}, max_redirects=1
        )
        assert got.url == "http://other.example.org/"
        assert b"Authorization" in server.requests[0]
        assert b"Authorization" not in server.requests[1]
        assert b"accept: a/b" in server.requests[1]


async def test_a_redirect_never_leaves_https(tmp_path: Path) -> None:
    server_tls, trusting = certificate(tmp_path, NAME)
    async with serving(answer(b"", "302 Found", f"location: http://{NAME}/\r\n"), server_tls) as server:
        internet = Internet([PUBLIC], port=server.port)
        with pytest.raises(FetchRefused):
            await internet.fetch(tls=trusting).request("GET", f"https://{NAME}/", max_redirects=3)
        assert len(internet.dialled) == len(server.requests) == 1


async def test_a_post_is_not_sent_again_elsewhere() -> None:
    async with serving(answer(b"", "307 Temporary Redirect", "location: http://other.example.org/\r\n")) as server:
        internet = Internet([PUBLIC], port=server.port)
        got = await internet.fetch(allow_private=True).request(
            "POST", f"http://{NAME}/", body=b"payload", max_redirects=5
        )
        assert got.status == 307
        assert len(server.requests) == 1
        assert server.requests[0].endswith(b"\r\n\r\npayload")


# --- the answer ---


async def get(raw: bytes, **further: Any) -> Any:
    async with serving(raw) as server:
        internet = Internet([PUBLIC], port=server.port)
        return await internet.fetch(allow_private=True).request("GET", f"http://{NAME}/", **further)


async def test_bodies_of_every_framing_are_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for raw in (answer(b"abcde"), chunked, b"HTTP/1.1 200 OK\r\n\r\nabcde", b"HTTP/1.0 200 OK\r\n\r\nabcde"):
        assert (await get(raw)).body == b"abcde"
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + answer(b"late", "201 Created", "x: 1\r\nX: 2\r\n")
    got = await get(early)
    assert (got.status, got.body, got.headers["x"]) == (201, b"late", "1, 2")
    assert (await get(b"HTTP/1.1 204 No Content\r\n\r\n")).status == 204


async def test_an_answer_is_read_up_to_its_limit() -> None:
    for raw in (answer(b"x" * 2000), b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000):
        with pytest.raises(FetchFailed, match="too long"):
            await get(raw, max_bytes=1999)
        got = await get(raw, max_bytes=1999, truncate=True)
        assert (len(got.body), got.truncated, got.status) == (1999, True, 200)
        assert not (await get(raw, max_bytes=2000)).truncated


async def test_a_head_without_end_is_refused() -> None:
    with pytest.raises(FetchFailed):
        await get(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000)


async def test_a_body_is_not_decompressed() -> None:
    got = await get(answer(b"\x1f\x8b not gzip at all", headers="content-encoding: gzip\r\n"))
    assert got.body == b"\x1f\x8b not gzip at all"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_whole_http_answer_is_a_failure(raw: bytes) -> None:
    with pytest.raises(FetchFailed):
        await get(raw)


async def test_a_server_that_never_answers_is_given_up_on() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client leaves
        writer.close()

    listening = await asyncio.start_server(mute, "127.0.0.1", 0)
    internet = Internet([PUBLIC], port=listening.sockets[0].getsockname()[1])
    with pytest.raises(FetchFailed, match="in time"):
        await internet.fetch(allow_private=True, timeout_seconds=0.05).request("GET", f"http://{NAME}/")
    listening.close()
    await listening.wait_closed()


async def test_nobody_listening_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FetchFailed, match="no connection"):
        await GuardedFetch(allow_private=True).request("GET", f"http://127.0.0.1:{port}/")
