"""The two servers of a pair as processes of their own (contract identity, section 1), for tests that talk to them and kill them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.servers import HaptaServer, free_port

PASSWORD = "correct horse battery staple"
CALLBACK = "http://127.0.0.1:7999/callback"

NewHapta = Callable[..., HaptaServer]


@dataclass(frozen=True, slots=True)
class Pair:
    """An auth server and the resource server in front of it."""

    auth: HaptaServer
    resource: HaptaServer
    internal_url: str
    """The second listener of the resource server."""

    @property
    def url(self) -> str:
        """Where the world comes in."""
        return self.resource.url

    def client(self, *further: str) -> str:
        """Registers a public app; its id."""
        done = self.auth.command(
            "client", "create", "--json", "--data", str(self.auth.data), "--name", "An app", "--type", "public",
            "--redirect-uri", CALLBACK, "--scope", "openid", "--scope", "offline_access", *further,
        )  # fmt: skip
        return json.loads(done.stdout)["client_id"]

    def account(self, http: httpx.Client, email: str | None = None) -> dict[str, Any]:
        """A new account in the sync dialect."""
        address = email or f"{secrets.token_hex(8)}@example.org"
        answer = http.post(self.url + "/auth/register", json={"email": address, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return {**answer.json(), "email": address}


def new_pair(new_hapta: NewHapta, **settings: str) -> Pair:
    """Two servers over one data folder, unless the settings name databases."""
    port, auth_port, internal_port = free_port(), free_port(), free_port()
    env: Mapping[str, str] = {
        "JWT_SECRET": secrets.token_hex(32),
        "HAPTA_RATELIMIT_ENABLED": "false",
        "HAPTA_IDENTITY_INSECURE_COOKIES": "true",
        "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
        "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
        "HAPTA_SERVER_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "HAPTA_SERVER_AUTH_URL": f"http://127.0.0.1:{auth_port}",
        "HAPTA_SERVER_RESOURCE_URL": f"http://127.0.0.1:{internal_port}",
        "HAPTA_SERVER_INTERNAL_PORT": str(internal_port),
        **settings,
    }
    resource = new_hapta(port=port, env=env, args=["--role", "resource"])
    auth = new_hapta(port=auth_port, env=env, args=["--role", "auth"], data=resource.data)
    pair = Pair(auth, resource, f"http://127.0.0.1:{internal_port}")
    auth.launch()
    resource.launch()
    auth.wait_ready()
    resource.wait_ready()
    return pair
