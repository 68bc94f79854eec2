"""A server for third-party apps as a process of its own, and the apps that an operator has registered with it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx

from tests.clients.oauth_person import Forms, Person
from tests.servers import HaptaServer, Run

PASSWORD = "correct horse battery staple"
CALLBACK = "http://127.0.0.1:7999/callback"
BYE = "http://127.0.0.1:7999/bye"
API = "https://api.example/v1"
SCOPES = "openid profile email offline_access posts:read posts:write files:write"
# Cookies over plain http, as on a developer's machine; password hashes that cost nothing; a device that may poll every second.
SETTINGS = {
    "HAPTA_RATELIMIT_ENABLED": "false",
    "HAPTA_IDENTITY_INSECURE_COOKIES": "true",
    "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
    "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
    "HAPTA_OAUTH_REGISTRATION": "initial-token",
    "HAPTA_OAUTH_DEVICE_INTERVAL_SECONDS": "1",
    "HAPTA_OAUTH_RESOURCES": API,
}


class OAuthServer:
    """`hapta serve`, and what its operator does beside it.

    Args:
        env: further settings.
    """

    def __init__(self, run: Run, env: dict[str, str] | None = None) -> None:
        self.server = HaptaServer(run, env=SETTINGS | (env or {}))
        self._clients: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return self.server.url

    def client(self, kind: str) -> dict[str, Any]:
        """The client of that kind, registered by `hapta client create` when it is asked for first."""
        if kind not in self._clients:
            words = ["--name", f"The {kind} app", "--redirect-uri", CALLBACK, "--scope", SCOPES]
            match kind:
                case "web" | "other":
                    words += ["--type", "confidential", "--post-logout-redirect-uri", BYE]
                    words += ["--resource", self.url, "--resource", API]
                case "post":
                    words += ["--type", "confidential", "--auth-method", "client_secret_post"]
                case "public":
                    words += ["--type", "public", "--post-logout-redirect-uri", BYE]
                case "dpop":
                    words += ["--type", "public", "--dpop"]
                case "device":
                    words = ["--name", "The telly", "--scope", SCOPES, "--type", "device"]
                case "machine":
                    words = ["--name", "The job", "--scope", "posts:read posts:write", "--type", "machine"]
                    words += ["--resource", self.url, "--resource", API]
                case _:
                    raise LookupError(kind)
            self._clients[kind] = self.operator("client", "create", *words, "--json")
        return self._clients[kind]

    def operator(self, *words: str) -> Any:
        """What a command beside the server prints as JSON."""
        done = self.server.command(*words, "--data", str(self.server.data), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def initial_token(self, uses: int = 1) -> str:
        return self.operator("client", "initial-token", "--uses", str(uses), "--json")["initial_access_token"]

    def account(self, name: str | None = None) -> tuple[str, str]:
        """The address and the password of a new account; with a name it is made on the sign-up page, which sends mail."""
        email = f"{uuid.uuid4().hex}@example.org"
        if name is None:
            body = {"email": email, "password": PASSWORD}
            assert httpx.post(f"{self.url}/auth/register", json=body, timeout=120).status_code == 201
            return email, PASSWORD
        with Person(self.url, email, PASSWORD) as person:
            page = person.open(f"{self.url}/identity/register")
            form = next(form for form in Forms(page.text).found if "email" in form.names)
            done = person.submit(page, form, {"name": name, "email": email, "password": PASSWORD})
            assert done.status_code == 200, done.text
        return email, PASSWORD

    def person(self) -> Person:
        """Somebody new, not signed in."""
        return Person(self.url, *self.account())
