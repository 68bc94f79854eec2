"""The client side of the authorization server on a real database: registry, keys, authentication, DPoP, for as many workers as a
test wants. Time is moved by hand; events are kept in a list."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import httpx

from hapta.bus.bus import Bus
from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database, WriteTx
from hapta.db.migrate import migrate
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.forms import Form
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.requests import Request
from hapta.identity.events import Event
from hapta.kit.access import Caller
from hapta.kit.clock import SystemClock
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import RandomIds
from hapta.kit.ratelimit import Rate
from hapta.oauth.client_auth import ClientAuthenticator
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.service import Clients
from hapta.oauth.dpop import Dpop
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import SigningKey, encode
from hapta.oauth.keys.sealing import key_sealer
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.remote import RemoteDocuments
from hapta.oauth.scopes import Scopes
from hapta.settings import DatabaseSettings, OAuthSettings, ServerSettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only tests know, long enough"
ISSUER = "https://id.example"
CALLBACK = "https://app.example/cb"
ADDRESS = "192.0.2.1"


class Recorder:
    """An `EventLog` that keeps what it is told, for as long as the test runs."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def record(self, tx: WriteTx, event: Event) -> None:
        self.events.append(event)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]


@dataclass
class Worker:
    """What one worker process has."""

    db: Database
    clock: FakeClock
    bus: Bus
    events: Recorder
    settings: OAuthSettings
    issuer: Issuer
    scopes: Scopes
    directory: ClientDirectory
    clients: Clients
    keys: SigningKeys
    dpop: Dpop
    authenticator: ClientAuthenticator
    ids: RandomIds = field(default_factory=RandomIds)


class Workers:
    """Makes workers over one database. Each has its own bus unless given one: only the tables join them then."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.clock = FakeClock()
        self._url = database_url
        self._folder = folder
        self._made: list[Worker] = []

    async def new(
        self,
        bus: Bus | None = None,
        *,
        issuer: str = ISSUER,
        secret: str = SECRET,
        key_secret: str = "",
        key_secret_previous: str = "",
        jwks: RemoteDocuments | None = None,
        **settings: Any,
    ) -> Worker:
        db = await connect(DatabaseSettings(url=self._url), self._folder, SystemClock())
        await migrate(db, SystemClock())
        clock, ids, bus, events = self.clock, RandomIds(), bus or MemoryBus(), Recorder()
        oauth, at, scopes = replace(OAuthSettings(), **settings), Issuer(issuer), Scopes(settings.get("scopes", ()))
        directory = ClientDirectory(db, bus, clock)
        sealer = key_sealer(secret, key_secret, None, key_secret_previous)
        worker = Worker(
            db,
            clock,
            bus,
            events,
            oauth,
            at,
            scopes,
            directory,
            Clients(db, clock, ids, directory, scopes, events),
            SigningKeys(db, bus, clock, sealer, events, at, oauth),
            Dpop(db, clock, at, secret, needs_nonce=oauth.dpop_nonce),
            ClientAuthenticator(directory, db, clock, at, jwks=jwks),
            ids,
        )
        await directory.open()
        self._made.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self._made:
            await worker.keys.close()
            await worker.directory.close()
            await worker.bus.close()
            await worker.db.close()


def post(
    fields: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    *,
    path: str = "/oauth/token",
    headers: Sequence[tuple[str, str]] = (),
    method: str = "POST",
) -> tuple[Request, Form]:
    """A form request, as a handler gets it."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"method": method, "path": path, "query_string": b"", "headers": raw}
    request = Request(scope, dict(raw), {}, ADDRESS, "test-1")
    return request, Form.parse(urlencode(list(fields.items()) if isinstance(fields, Mapping) else fields).encode())


def compact(key: SigningKey, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """A token with exactly this header."""
    signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{signed}.{encode(key.sign_bytes(signed.encode()))}"


class Nobody:
    """A verifier that knows no token."""

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        raise InvalidToken


@asynccontextmanager
async def browsing(endpoints: Sequence[Endpoint], clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of these endpoints, behind the real edge."""
    names = ("default", "auth", "login", "token", "authorize", "register", "introspect", "poll", "account")
    limits = Limits(None, {name: LimitClass(name, Rate.parse("600/60"), "address") for name in names})
    edge = Edge(ServerSettings(), Nobody(), limits, Cors(["https://pages.example"]), Metrics(), clock, None)
    transport = httpx.ASGITransport(cast("Any", Application(endpoints, edge)), client=(ADDRESS, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://inside.test") as client:
        yield client
