"""Signing in through the gateway: its endpoints behind the real edge, over a real PocketBase and a real database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.gateway.auth.accounts.service import Accounts
from hapta.gateway.auth.routes import AuthRoutes
from hapta.gateway.auth.service import Auth
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.limits.service import Limits
from hapta.gateway.limits.specs import parse
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.pocketbase.superuser import Superuser
from hapta.gateway.rules.context import Ports
from hapta.gateway.rules.engine import Rules
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.sessions.tokens import GatewayTokens
from hapta.gateway.sessions.upstream import PocketBaseAuth
from hapta.gateway.sessions.verifier import GatewayVerifier
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.validation.service import Validation
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass
from hapta.http.limits import Limits as EdgeLimits
from hapta.http.metrics import Metrics
from hapta.identity.core import Core, build_core
from hapta.identity.events import Event
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.settings import DatabaseSettings, IdentitySettings, ServerSettings
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.gateway.sessions_house import SECRET
from tests.http.house import Known

CHEAP = IdentitySettings(argon2_memory_kib=8, argon2_iterations=1, bcrypt_cost=4)
ADDRESS = "198.51.100.7"


@dataclass
class AuthHouse:
    """One worker of the gateway, as far as signing in goes."""

    upstream: PocketBaseHouse
    pb: PocketBase
    db: Database
    clock: FakeClock
    sessions: Sessions
    tokens: GatewayTokens
    auth: Auth
    rules: Rules
    catalog: Catalog
    core: Core
    verifier: GatewayVerifier
    app: Application
    events: list[Event] = field(default_factory=list[Event])
    ended: list[str] = field(default_factory=list[str])
    changed: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def client(self, token: str = "", address: str = ADDRESS, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(cast("Any", self.app), client=(address, 50_000))
        if token:
            headers["Authorization"] = token
        return httpx.AsyncClient(transport=transport, base_url="http://server.test", headers=headers)

    async def post(self, path: str, body: Any = None, token: str = "", **options: Any) -> httpx.Response:
        async with self.client(token) as client:
            return await client.post(path, json={} if body is None else body, **options)

    async def login(self, person: Person, **options: Any) -> httpx.Response:
        body = {"identity": person.email, "password": person.password}
        path = f"/api/collections/{person.collection}/auth-with-password"
        return await self.post(path, body, **options)

    async def token_of(self, person: Person) -> str:
        answer = await self.login(person)
        assert answer.status_code == 200, answer.text
        return answer.json()["token"]

    async def refresh(self, token: str, collection: str = "users", **options: Any) -> httpx.Response:
        return await self.post(f"/api/collections/{collection}/auth-refresh", token=token, **options)


NewAuthHouse = Callable[..., Awaitable[AuthHouse]]


@pytest.fixture
async def new_house(migrated_url: str, tmp_path: Path, pocketbase: PocketBaseHouse) -> AsyncIterator[NewAuthHouse]:
    held = AsyncExitStack()

    async def new(
        *, rules: Path | None = None, limits: str | None = None, upstream: PocketBaseHouse | None = None, **given: Any
    ) -> AuthHouse:
        source = upstream or pocketbase
        settings = GatewaySettings(**given)
        # As late as PocketBase has it, whose clock cannot be moved.
        clock, ids = FakeClock(time.time()), RandomIds()
        db = await connect(DatabaseSettings(url=migrated_url), tmp_path, SystemClock())
        held.push_async_callback(db.close)
        await migrate(db, SystemClock())
        events: list[Event] = []
        changed: list[tuple[str, str, str]] = []

        async def report(event: Event) -> None:
            events.append(event)

        pb = PocketBase(source.url, answer_seconds=30.0)
        held.push_async_callback(pb.close)
        superuser = Superuser(pb, source.email, source.password, SystemClock())
        catalog = Catalog(superuser, SystemClock(), settings)
        await catalog.refresh()
        core = build_core(db, db, MemoryBus(), clock, ids, CHEAP, SECRET)
        held.push_async_callback(core.close)
        tokens = GatewayTokens(SECRET, clock)
        sessions = Sessions(db, MemoryBus(), clock, ids, settings, tokens, PocketBaseAuth(pb), report=report)
        engine = Rules(rules, Ports(cast("Any", None), catalog, lambda header: sessions.visitor(header)), clock=clock)
        held.callback(engine.stop)
        await engine.start()
        limiter = None if limits is None else MemoryLimiter(clock.monotonic)
        drawn = Limits(parse(limits or ""), limiter, clock)
        accounts = Accounts(db, core.people, clock)
        sessions.on_deleted(accounts.forget)
        auth = Auth(
            pb,
            sessions,
            tokens,
            drawn,
            engine,
            Validation(engine.schema),
            superuser,
            clock,
            accounts=accounts,
            changed=lambda *what: changed.append(what),
            report=report,
        )
        routes = AuthRoutes(auth, sessions, catalog, GatewayMetrics())
        edge = Edge(
            ServerSettings(),
            Known(),
            EdgeLimits(None, {"default": LimitClass("default", Rate.parse("600/60"), "address")}),
            Cors(["*"]),
            Metrics(),
            clock,
            None,
        )
        house = AuthHouse(
            source,
            pb,
            db,
            clock,
            sessions,
            tokens,
            auth,
            engine,
            catalog,
            core,
            GatewayVerifier(sessions, tokens, core.people, clock),
            Application([*routes.endpoints(), *routes.endpoints("/pb")], edge),
            events,
            changed=changed,
        )
        sessions.on_ended(house.ended.extend)
        held.push_async_callback(sessions.close)
        await sessions.open()
        clock.advance(seconds=1)
        return house

    async with held:
        yield new


@pytest.fixture
async def house(new_house: NewAuthHouse) -> AuthHouse:
    return await new_house()
