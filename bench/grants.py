"""What the OAuth cases work with: a client, and families of refresh tokens that people have granted it.

People, sessions and codes are made through the product's own services before the server starts; the codes are then redeemed over
HTTP, as a client does.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import load
from bench.servers import Server
from hapta.app import Services, create_app
from hapta.db.database import WriteTx
from hapta.identity.models import NewPerson, Origin
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.oauth.clients.models import NewClient
from hapta.oauth.codes.service import Codes
from hapta.oauth.models import Authorization, Client
from hapta.settings import Settings, with_secret
from hapta.settings import load as load_settings

API = "https://api.example/v1"
SETTINGS = {"HAPTA_OAUTH_RESOURCES": API}
"""What the server needs beside its own."""
SCOPES = ("posts:read", "posts:write")
_CALLBACK = "https://app.example/callback"
_VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A confidential client, as it calls a server.

    Args:
        token_path: of the token endpoint.
        introspection_path: of the introspection endpoint.
    """

    client_id: str
    secret: str
    token_path: str = "/oauth/token"
    introspection_path: str = "/oauth/introspect"

    def token(self, fields: Mapping[str, str]) -> bytes:
        """A whole token request."""
        return load.post_form(self.token_path, fields, self.client_id, self.secret)

    def introspection(self, token: str) -> bytes:
        """A whole introspection request."""
        return load.post_form(self.introspection_path, {"token": token}, self.client_id, self.secret)


class Tokens(msgspec.Struct):
    """Tokens of one family, as a token endpoint answers them."""

    access_token: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """What lies ready in a database before its server starts."""

    client: OAuthClient
    codes: list[str]

    def redeem(self, server: Server) -> list[Tokens]:
        """The tokens of every family; once, and within a minute."""
        return [
            msgspec.convert(load.call(server.port, self.client.token(_redemption(code))), Tokens) for code in self.codes
        ]


def prepare(folder: Path, families: int, database_url: str = "") -> Prepared:
    """A client, and codes of so many people who have each signed in and allowed it the same.

    Args:
        folder: the data folder that the server is given afterwards.
    """
    folder.mkdir(exist_ok=True)
    given = {"data.dir": folder, "database.url": database_url or None, "oauth.resources": (API,), "log.access": False}
    settings, _ = with_secret(load_settings({}, overrides=given))
    return asyncio.run(_prepare(settings, families))


async def _prepare(settings: Settings, families: int) -> Prepared:
    async with create_app(settings).opened() as services:
        assert services.oauth is not None
        new = NewClient(
            name="Bench",
            type="confidential",
            redirect_uris=(_CALLBACK,),
            scopes=SCOPES,
            resources=(API,),
            grant_types=("authorization_code", "refresh_token", "client_credentials"),
        )
        created = await services.oauth.clients.create(new)
        assert created.secret is not None
        codes = [await _code(services, settings, created.client, n) for n in range(families)]
    return Prepared(OAuthClient(created.client.client_id, created.secret), codes)


async def _code(services: Services, settings: Settings, client: Client, n: int) -> str:
    clock = SystemClock()
    person = await services.identity.people.create(NewPerson(email=f"bench-{n}@example.org", email_verified=True))
    issued = Codes(services.auth_db, clock, RandomIds(), settings.oauth)

    async def body(tx: WriteTx) -> str:
        started, _ = await services.sessions.start(tx, person, Origin(), amr=("pwd",))
        authorization = Authorization(
            client_id=client.client_id,
            user_id=person.user_id,
            session_id=started.session_id,
            scopes=SCOPES,
            resources=(API,),
            redirect_uri=_CALLBACK,
            redirect_uri_sent=True,
            code_challenge=urlsafe_b64encode(hashlib.sha256(_VERIFIER.encode()).digest()).rstrip(b"=").decode(),
            nonce=None,
            dpop_jkt=None,
            authenticated_at=clock.now_ms(),
            amr=("pwd",),
            acr=None,
            wants_auth_time=False,
            person_version=person.version,
        )
        return await issued.issue(tx, authorization)

    return await services.auth_db.write(body)


def _redemption(code: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": _CALLBACK,
        "code_verifier": _VERIFIER,
    }


class Refreshes:
    """Rotates families over and over: each connection its own. It is both the source and the check of a run.

    Args:
        tokens: of at least as many families as there are connections.
    """

    def __init__(self, client: OAuthClient, tokens: Sequence[Tokens]) -> None:
        self._current = [one.refresh_token for one in tokens]
        marker = "REFRESH"
        request = client.token({"grant_type": "refresh_token", "refresh_token": marker})
        self._head, _, self._fields = request.partition(b"\r\n\r\n")
        self._head = self._head.rpartition(b" ")[0]
        self._fields = self._fields.removesuffix(marker.encode())
        self._decode = msgspec.json.Decoder(Tokens).decode

    def request(self, connection: int) -> bytes:
        """The next request of a connection."""
        body = self._fields + self._current[connection].encode()  # base64url and dots need no escapes
        return self._head + b" %d\r\n\r\n" % len(body) + body

    def take(self, connection: int, body: bytes) -> None:
        """Keeps the successor; every answer must carry a new one."""
        successor = self._decode(body).refresh_token
        if successor == self._current[connection]:
            raise load.LoadError("a refresh gave the same token once more")
        self._current[connection] = successor
