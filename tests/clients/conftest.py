"""One Node, one browser and one server for all tests of real clients; each test has accounts and vaults of its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.clients.node import Browser, Node
from tests.servers import HaptaServer, Run

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="session")
def node() -> Node:
    """Node with the packages of this folder."""
    return Node()


@pytest.fixture(scope="session")
def browser(server_run: Run, node: Node) -> Iterator[Browser]:
    """A headless Chromium."""
    with Browser(server_run, node) as started:
        yield started


@pytest.fixture(scope="session")
def hapta(server_run: Run) -> Iterator[HaptaServer]:
    """A server with the settings that it has by itself, but for the limits: all tests call from one address."""
    with HaptaServer(server_run, env={"HAPTA_RATELIMIT_ENABLED": "false"}) as server:
        yield server
        print(server.log_tail())


@dataclass(frozen=True, slots=True)
class Account:
    """A registered account."""

    email: str
    token: str
    password: str = PASSWORD


def register(server: HaptaServer) -> Account:
    """A new account, made as any client of the base protocol makes it."""
    email = f"{uuid.uuid4().hex}@example.org"
    answer = httpx.post(f"{server.url}/auth/register", json={"email": email, "password": PASSWORD}, timeout=120)
    assert answer.status_code == 201, answer.text
    return Account(email, answer.json()["token"])


@pytest.fixture
def account(hapta: HaptaServer) -> Account:
    return register(hapta)


class _Page(BaseHTTPRequestHandler):
    """An empty page of some app that is not ours."""

    def do_GET(self) -> None:
        body = b'<!doctype html><html lang="en"><head><title>App</title><link rel="icon" href="data:,"></head></html>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the browser tells what happened."""


@contextmanager
def _origin() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def new_origin() -> Iterator[Callable[[], str]]:
    """Opens an app's page on another port of the loopback interface, which makes it another origin."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_origin())
