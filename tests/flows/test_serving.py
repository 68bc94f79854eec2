"""`hapta serve` as operators meet it: how it stops, what it refuses to start with, and what it does while a part is away.

`tests/cli/test_serve.py` holds what the command says and refuses before it serves.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import ssl
import stat
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.to_thread
import asyncpg
import httpx
import psutil
import pytest
import zstandard
from websockets.asyncio.client import ClientConnection, connect

from tests.cli.test_serve import certificate
from tests.servers import HaptaServer, PostgresServer, Run, ServerFailed

NewHapta = Callable[..., HaptaServer]

VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
PASSWORD = "correct horse battery staple"
SECRET = "a secret for tests only, thirty-two bytes or more"
CALM = {
    "JWT_SECRET": SECRET,
    "HAPTA_RATELIMIT_ENABLED": "false",
    "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
    "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
}
TOO_LATE_SECONDS = 60.0
"""Only to fail instead of asking for ever. A token that was ended may count for two seconds more: that is proved with clocks that
tests move (tests/identity/test_sessions.py), for a machine at its limit is no defect of ours."""


def push_of(*names: str) -> dict[str, Any]:
    return {"vaultId": VAULT, "logs": [{"encryptedData": name, "nonce": "n", "haexTimestamp": "1/a"} for name in names]}


def client_of(server: HaptaServer, token: str | None = None) -> httpx.Client:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False)


def registered(server: HaptaServer, email: str | None = None) -> str:
    """A new account's token."""
    with client_of(server) as client:
        answer = client.post("/auth/register", json={"email": email or f"{uuid4()}@example.org", "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


def stored(client: httpx.Client) -> list[str]:
    answer = client.post("/sync/pull", json={"vaultId": VAULT})
    assert answer.status_code == 200, answer.text
    return [log["encryptedData"] for log in answer.json()["logs"]]


def turned_away(answer: httpx.Response) -> None:
    """A 503 that says when to come back, and nothing of what happened inside."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert isinstance(answer.json()["error"], str)
    assert answer.json()["code"]
    for inner in ("asyncpg", "Traceback", "postgres", "127.0.0.1", "sync_streams"):
        assert inner not in answer.text


@asynccontextmanager
async def subscribed(server: HaptaServer, token: str) -> AsyncIterator[ClientConnection]:
    async with connect(f"{server.ws_url}/sync/ws") as listening:
        await listening.send(json.dumps({"type": "auth", "token": token}))
        await listening.send(json.dumps({"type": "subscribe", "vaultId": VAULT}))
        assert json.loads(await listening.recv())["type"] == "subscribed"
        yield listening


async def close_code(listening: ClientConnection) -> int:
    """Waits until the server closes; its code."""
    await listening.wait_closed()
    assert listening.close_code is not None
    return listening.close_code


# --- stop ---


async def test_a_stop_finishes_the_push_it_has_accepted_and_tells_sockets_to_come_back(new_hapta: NewHapta) -> None:
    server = new_hapta(env=CALM)
    await anyio.to_thread.run_sync(server.start)
    token = await anyio.to_thread.run_sync(registered, server)
    body = json.dumps(push_of("sent while the server stops")).encode()
    head = (
        f"POST /sync/push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nexpect: 100-continue\r\n\r\n"
    )
    async with subscribed(server, token) as listening:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head.encode())
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # the handler waits for the body: it is accepted
        writer.write(body[:10])
        stopping = asyncio.create_task(anyio.to_thread.run_sync(server.stop))
        assert await close_code(listening) == 1012
        writer.write(body[10:])
        answer = await reader.read()
        writer.close()
    assert b"HTTP/1.1 200 " in answer
    assert b'"head":1' in answer
    assert await stopping == 0
    await anyio.to_thread.run_sync(server.start)
    with client_of(server, token) as client:
        assert await anyio.to_thread.run_sync(stored, client) == ["sent while the server stops"]


async def test_a_stop_ends_a_long_poll_with_an_answer(new_hapta: NewHapta) -> None:
    server = new_hapta(env=CALM)
    await anyio.to_thread.run_sync(server.start)
    token = await anyio.to_thread.run_sync(registered, server)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=120, trust_env=False) as client:
        poll = asyncio.create_task(client.post("/sync/pull", json={"vaultId": VAULT, "waitMs": 55_000}))
        async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as other:
            while "hapta_requests_in_flight{" in (page := (await other.get("/metrics")).text):
                in_flight = next(line for line in page.splitlines() if line.startswith("hapta_requests_in_flight{"))
                if float(in_flight.rpartition(" ")[2]) >= 2:  # the poll and the question itself
                    break
        stopping = asyncio.create_task(anyio.to_thread.run_sync(server.stop))
        answer = await poll
    assert answer.status_code == 200
    assert answer.json()["logs"] == []
    assert await stopping == 0


# --- start ---


class TlsServer(HaptaServer):
    """The same, asked over TLS whether it is ready."""

    trust: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", verify=self.trust, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


async def test_with_certificate_and_key_in_the_settings_everything_is_spoken_over_tls(
    server_run: Run, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    env = {**CALM, "HAPTA_SERVER_TLS_CERT": str(cert), "HAPTA_SERVER_TLS_KEY": str(key)}
    server = TlsServer(server_run, env=env)
    server.trust = ssl.create_default_context(cafile=cert)
    await anyio.to_thread.run_sync(server.start)
    try:
        async with httpx.AsyncClient(verify=server.trust, trust_env=False) as client:
            answer = await client.get(server.url)
            assert answer.json()["status"] == "ok"
            assert answer.headers["strict-transport-security"].startswith("max-age=")
        async with connect(f"wss://127.0.0.1:{server.port}/sync/ws", ssl=server.trust) as listening:
            await listening.send(json.dumps({"type": "auth", "token": "nonsense"}))
            assert await close_code(listening) == 4401
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://127.0.0.1:{server.port}")
    finally:
        await anyio.to_thread.run_sync(server.kill)


def test_the_secret_that_a_development_server_makes_is_its_owners_alone(new_hapta: NewHapta) -> None:
    server = new_hapta(env={name: value for name, value in CALM.items() if name != "JWT_SECRET"})
    server.start()
    secret = server.data / "secrets" / "jwt_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.data.stat().st_mode) & 0o077 == 0
    assert len(secret.read_text().strip()) >= 32
    token = registered(server)
    server.restart()
    with client_of(server, token) as client:
        assert client.get("/auth/me").status_code == 200


def test_a_schema_newer_than_the_code_is_refused_and_left_alone(new_hapta: NewHapta) -> None:
    server = new_hapta(env=CALM)
    server.start()
    server.stop()
    file = server.data / "hapta.db"
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO schema_migrations VALUES (9999, 'from_the_future', 'x', 0)")
    db.close()
    with pytest.raises(ServerFailed):
        server.start()
    last = server.log_text().splitlines()
    assert any("later" in line or "newer" in line or "9999" in line for line in last), server.log_tail()
    db = sqlite3.connect(file)
    assert db.execute("SELECT max(version) FROM schema_migrations").fetchone() == (9999,)
    db.close()


# --- two workers ---


def workers_that_answer(server: HaptaServer, path: str, token: str) -> Iterator[tuple[str, int, float]]:
    """Asks over one new connection after the other: which worker answered, its status, and when it was asked.

    The beginning of a request id is its worker's own.
    """
    while True:
        with client_of(server, token) as client:
            asked = time.monotonic()
            answer = client.get(path)
        yield answer.headers["x-request-id"].partition("-")[0], answer.status_code, asked


def ends_everywhere(server: HaptaServer, token: str, workers: set[str], ended: float) -> None:
    """Asks until every worker has refused the token; none may take it for ever."""
    refused: set[str] = set()
    for worker, status, asked in workers_that_answer(server, "/auth/me", token):
        if status == 401:
            refused.add(worker)
        else:
            assert asked - ended < TOO_LATE_SECONDS, f"{worker} still took it {asked - ended:.1f} s later"
        if refused >= workers:
            return


def test_two_workers_serve_one_account_and_forget_its_tokens_together(
    new_hapta: NewHapta, postgres_url: str, redis_url: str
) -> None:
    server = new_hapta(env={**CALM, "DATABASE_URL": postgres_url, "REDIS_URL": redis_url}, args=["--workers", "2"])
    server.start()
    token = registered(server)
    with client_of(server, token) as client:
        assert client.post("/sync/push", json=push_of("one")).status_code == 200
    workers: set[str] = set()
    for worker, status, _ in workers_that_answer(server, "/auth/me", token):
        assert status == 200
        workers.add(worker)
        if len(workers) == 2:
            break
    with client_of(server, token) as client:
        assert stored(client) == ["one"]
        assert client.post("/auth/logout-all").status_code == 200
    ends_everywhere(server, token, workers, time.monotonic())
    assert server.stop() == 0


# --- commands beside a running server ---


async def test_an_account_that_a_command_deletes_is_gone_for_the_server_beside_it(new_hapta: NewHapta) -> None:
    server = new_hapta(env=CALM)
    await anyio.to_thread.run_sync(server.start)
    token = await anyio.to_thread.run_sync(registered, server, "ada@example.org")
    bystander = await anyio.to_thread.run_sync(registered, server)
    with client_of(server, token) as client:
        worker = client.get("/auth/me").headers["x-request-id"].partition("-")[0]
    async with subscribed(server, token) as listening:
        delete = ["user", "delete", "ada@example.org", "--yes", "--data", str(server.data)]
        await anyio.to_thread.run_sync(lambda: server.command(*delete))
        ended = time.monotonic()
        await anyio.to_thread.run_sync(lambda: ends_everywhere(server, token, {worker}, ended))
        assert await close_code(listening) == 4401
    with client_of(server, bystander) as client:
        assert client.get("/auth/me").status_code == 200


# --- a database that is away, or busy ---


@pytest.fixture
def durable_postgres(server_run: Run) -> Iterator[PostgresServer]:
    """A PostgreSQL that keeps what it committed when it is killed."""
    with PostgresServer(server_run, durable=True) as server:
        yield server


def test_while_postgres_is_away_requests_are_turned_away_and_then_it_heals(
    new_hapta: NewHapta, durable_postgres: PostgresServer
) -> None:
    server = new_hapta(env={**CALM, "DATABASE_URL": durable_postgres.url})
    server.start()
    token = registered(server)
    with client_of(server, token) as client:
        assert client.post("/sync/push", json=push_of("before")).status_code == 200
        durable_postgres.kill()
        for answer in (
            client.post("/sync/push", json=push_of("while it is away")),
            client.post("/sync/pull", json={"vaultId": VAULT}),
            client.get("/export"),
            client.get("/sync/vaults"),
            client.post("/auth/login", json={"email": "a@example.org", "password": PASSWORD}),
            client.get("/readyz"),
        ):
            turned_away(answer)
        assert client.get("/").json()["status"] == "ok"
        assert client.get("/healthz").status_code == 200
        durable_postgres.start()
        while (answer := client.post("/sync/push", json=push_of("after"))).status_code != 200:
            turned_away(answer)
        assert stored(client) == ["before", "after"]
        assert client.get("/readyz").status_code == 200
    assert durable_postgres.url.split(":")[2].partition("@")[0] not in server.log_text()  # its password


class Holder:
    """Holds a database lock in a thread of its own."""

    def __init__(self, hold: Callable[[threading.Event, threading.Event], None]) -> None:
        self._held, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=hold, args=(self._held, self._end))

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(30)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def lock_of(database_url: str) -> Holder:
    """Whoever else has this database open, and holds what a push needs."""

    def sqlite(held: threading.Event, end: threading.Event) -> None:
        db = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        held.set()
        end.wait()
        db.execute("ROLLBACK")
        db.close()

    def postgres(held: threading.Event, end: threading.Event) -> None:
        async def hold() -> None:
            connection: Any = await asyncpg.connect(database_url)
            async with connection.transaction():
                await connection.execute("SELECT * FROM sync_streams FOR UPDATE")
                held.set()
                await asyncio.to_thread(end.wait)
            await connection.close()

        asyncio.run(hold())

    return Holder(sqlite if database_url.startswith("sqlite") else postgres)


def test_a_push_that_waits_too_long_for_a_lock_is_turned_away_and_writes_nothing(
    new_hapta: NewHapta, database_url: str
) -> None:
    server = new_hapta(env={**CALM, "DATABASE_URL": database_url, "HAPTA_DATABASE_LOCK_TIMEOUT_SECONDS": "0.2"})
    server.start()
    with client_of(server, registered(server)) as client:
        assert client.post("/sync/push", json=push_of("before")).status_code == 200
        with lock_of(database_url):
            turned_away(client.post("/sync/push", json=push_of("in vain")))
            assert stored(client) == ["before"]
        assert stored(client) == ["before"]
        answer = client.post("/sync/push", json=push_of("after"))
        assert answer.status_code == 200
        assert answer.json()["logs"][0]["sequence"] == 2
        assert stored(client) == ["before", "after"]


# --- hostile bodies ---


def a_gib_of_zeros(encoding: str) -> bytes:
    piece = bytes(16 * 2**20)
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(piece) * 64
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    return head + (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)) * 64 + packer.flush()


def test_a_gib_of_zeros_in_a_compressed_body_fills_no_memory(new_hapta: NewHapta) -> None:
    server = new_hapta(env=CALM)
    server.start()
    token = registered(server)
    before = psutil.Process(server.pid).memory_info().rss
    for encoding in ("gzip", "zstd"):
        bomb = a_gib_of_zeros(encoding)
        head = (
            f"POST /sync/push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
            f"content-type: application/json\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(bomb)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
            connection.sendall(head.encode() + bomb)
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413 "), encoding
    peak = int(
        next(line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if "VmHWM" in line).split()[1]
    )
    # The limit of a body is 32 MiB: its pieces may stand in memory once, never the rest of the GiB.
    assert peak * 1024 - before < 128 * 2**20
