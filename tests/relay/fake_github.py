"""A little GitHub on a port of this machine: the token endpoint and the profile, with answers that a test sets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

TOKEN = "gho_a-token-of-github"
CODE = "the-right-code"
PROFILE = {
    "id": 583231,
    "login": "octocat",
    "name": "The Octocat Himself",
    "avatar_url": "https://example.org/octocat.png",
    "email": "Octo@Example.org",
    "bio": None,
}


@dataclass
class FakeGithub:
    """What it answers, and what it was asked."""

    url: str = ""
    profile: Any = field(default_factory=lambda: dict(PROFILE))
    profile_status: int = 200
    granted: Any = field(default_factory=lambda: {"access_token": TOKEN, "token_type": "bearer"})
    forms: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


@contextmanager
def fake_github() -> Iterator[FakeGithub]:
    github = FakeGithub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            github.forms.append(form)
            right = self.path == "/login/oauth/access_token" and form.get("code") == CODE
            self._answer(200, github.granted if right else {"error": "bad_verification_code"})

        def do_GET(self) -> None:
            right = self.path == "/user" and self.headers["authorization"] == f"Bearer {TOKEN}"
            self._answer(github.profile_status if right else 401, github.profile if right else {})

        def _answer(self, status: int, content: Any) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    github.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield github
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
