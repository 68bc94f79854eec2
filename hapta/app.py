"""THE wiring: settings -> database, bus -> services -> routes -> ASGI application. Read it to see how the parts meet.

Nothing is opened before the lifespan begins, and everything that was opened is closed in reverse order when it ends.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog
from structlog.testing import capture_logs

import hapta
from hapta.bus import connect as bus_connect
from hapta.bus.bus import Bus
from hapta.db import connect as db_connect
from hapta.db import migrate
from hapta.db.database import Database, WriteTx
from hapta.gateway.pocketbase.binary import find_binary
from hapta.gateway.wanted import is_wanted
from hapta.http import health
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.middleware import Edge, access_lines
from hapta.http.openapi import AppTokens, document
from hapta.http.pages import Pages
from hapta.http.requests import Receive, Scope, Send
from hapta.identity import roots
from hapta.identity.core import Core
from hapta.identity.events import Event
from hapta.identity.feature import TEMPLATE_FOLDERS as IDENTITY_TEMPLATES
from hapta.identity.feature import Identity, Job, open_identity
from hapta.identity.models import Revocation, RewrappedKey
from hapta.identity.passwords import Passwords
from hapta.identity.people import IdentityStore
from hapta.identity.people_store import OnPersonDeleted, RewrapVaultKeys
from hapta.identity.service import AccountService
from hapta.identity.sessions import SessionService
from hapta.kit.access import UserId, Verifier
from hapta.kit.background import ended
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.door import Door
from hapta.kit.errors import Unavailable
from hapta.kit.ids import Ids, RandomIds
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import Limiter, MemoryLimiter, Rate
from hapta.oauth.feature import TEMPLATE_FOLDERS as OAUTH_TEMPLATES
from hapta.oauth.feature import OAuth, PageApps, open_oauth
from hapta.oauth.metadata import AUTHORIZATION, TOKEN, resource_metadata_url
from hapta.oauth.scopes import Scopes
from hapta.oauth.verifier import EitherVerifier
from hapta.routes import docs_text, table
from hapta.settings import (
    BusSettings,
    DatabaseSettings,
    DataSettings,
    GatewaySettings,
    RateLimitSettings,
    Settings,
    with_secret,
)
from hapta.sync.feature import Sync, open_sync
from hapta.sync.keys import KeyMaterial
from hapta.sync.keys import RewrappedKey as SyncKey

if TYPE_CHECKING:
    from hapta.gateway.feature import Gateway

Report = Callable[[Event], Awaitable[None]]

NOBODY_LISTENS = "http://127.0.0.1:9"
"""In place of PocketBase, where only the table of routes is wanted."""

_log = structlog.get_logger("hapta.app")


@dataclass(frozen=True, slots=True)
class Services:
    """The features over one open database: what the server serves, and what the commands work with."""

    db: Database
    auth_db: Database
    """Of the auth side; the same as `db` unless the settings name another one."""
    bus: Bus
    identity: Core
    signing_in: Identity
    oauth: OAuth | None
    sessions: SessionService
    accounts: AccountService
    passwords: Passwords
    sync: Sync
    door: Door
    """Judges every token of people's own sessions; further features add what they hand out."""


@asynccontextmanager
async def open_services(
    settings: Settings,
    db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    limiter: Limiter | None = None,
    *,
    auth_db: Database | None = None,
    run_upkeep: bool = True,
) -> AsyncGenerator[Services]:
    """Builds the features and hands each what it needs of the others.

    Args:
        limiter: for attempts to log in; None switches them off.
        auth_db: the database of the auth side; None: `db` is it.
        run_upkeep: whether this process also does the clean-up jobs.
    """
    auth_db = auth_db or db

    async def rewrap(tx: WriteTx, user_id: UserId, keys: Sequence[RewrappedKey]) -> None:
        await sync.keys.rewrap(tx, user_id, [sync_key(key) for key in keys])

    async def purge(tx: WriteTx, user_id: UserId) -> None:
        await sync.service.purge(tx, user_id)

    async with AsyncExitStack() as stack:
        identity, oauth = await stack.enter_async_context(
            open_signing_in(
                db,
                auth_db,
                bus,
                clock,
                ids,
                settings,
                limiter=limiter,
                rewrap_vault_keys=rewrap,
                on_deleted=[purge],
                serve=run_upkeep,
            )
        )
        core, sessions = identity.whole, identity.core.sessions

        async def revoke_device(user_id: str, device_id: str) -> None:
            await sessions.revoke_device(UserId(user_id), device_id)

        door = Door(sessions)
        sync = await open_sync(db, bus, clock, ids, door, settings.sync, revoke_device, run_upkeep=run_upkeep)
        stack.push_async_callback(sync.close)
        sessions.on_revoked(sync.on_revoked)
        # Last of all: what a crash left half done may concern every part.
        await core.people.catch_up(everything=True)
        yield Services(db, auth_db, bus, core, identity, oauth, sessions, core.accounts, core.passwords, sync, door)


@asynccontextmanager
async def open_signing_in(
    db: Database,
    auth_db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: Settings,
    *,
    limiter: Limiter | None = None,
    people: IdentityStore | None = None,
    rewrap_vault_keys: RewrapVaultKeys | None = None,
    on_deleted: Sequence[OnPersonDeleted] = (),
    serve: bool = True,
) -> AsyncGenerator[tuple[Identity, OAuth | None]]:
    """Builds identity and, unless it is switched off, the authorization server, and ties the two together.

    Args:
        limiter, people, rewrap_vault_keys, on_deleted: as in `open_identity`.
        serve: as in `open_oauth`.

    Raises:
        SettingsError: the secret is not that of this database.
    """

    async def forget_consents(tx: WriteTx, user_id: UserId) -> None:
        if oauth is not None:
            await oauth.consents.forget_user(tx, user_id)  # what it ends, the watch of each worker carries on

    async def end_grants(tx: WriteTx, user_id: UserId) -> Sequence[Revocation]:
        return () if oauth is None else await oauth.end_grants(tx, user_id)

    oauth: OAuth | None = None
    keyring = await roots.opened(auth_db, clock, roots.keyring_of(settings))
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(
            open_identity(
                db,
                auth_db,
                bus,
                clock,
                ids,
                settings,
                keyring,
                limiter=limiter,
                people=people,
                rewrap_vault_keys=rewrap_vault_keys,
                on_deleted=on_deleted,
                forget_unproved=[forget_consents],
                on_factors_changed=end_grants,
            )
        )
        if settings.oauth.enabled:
            opening = open_oauth(
                auth_db,
                bus,
                clock,
                ids,
                settings,
                keyring,
                people=identity.core.people,
                sessions=identity.core.sessions,
                browser=identity.browser,
                events=identity.events,
                fetch=identity.fetch,
                limiter=limiter,
                serve=serve,
            )
            oauth = await stack.enter_async_context(opening)
        yield identity, oauth


def sync_key(key: RewrappedKey) -> SyncKey:
    """A vault key as identity hands it over, in the terms of sync."""
    return SyncKey(key.vault_id, key.key_epoch, key.version, KeyMaterial(key.encrypted_vault_key, key.salt, key.nonce))


class Hapta:
    """The server as an ASGI application. Serve it with uvicorn, or `async with app.opened()` to use it in one process."""

    def __init__(self, settings: Settings, clock: Clock, ids: Ids, extra_endpoints: Sequence[Endpoint] = ()) -> None:
        self.settings = settings
        self.clock = clock
        self.ids = ids
        self._extra_endpoints = extra_endpoints
        self._application: Application | None = None
        self.services: Services
        self.gateway: Gateway | None = None
        self.endpoints: list[Endpoint] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(self.opened, receive, send)
            return
        if self._application is None:
            raise RuntimeError("the application serves inside its lifespan only")
        await self._application(scope, receive, send)

    def begin_stop(self) -> None:
        """The server accepts nothing more: whatever only waits is answered now."""
        if self._application is not None:
            self.services.sync.hub.stop_waiting()
            if self.gateway is not None:
                self.gateway.stop_waiting()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Services]:
        """Opens every part, serves while the context lasts, and closes every part.

        Raises:
            SchemaTooNew, MigrationError: the database is not for this release.
            Unavailable: the database or the bus cannot be reached.
        """
        settings, clock = self.settings, self.clock
        async with AsyncExitStack() as stack:
            db = await db_connect.connect(settings.database, settings.data.dir, clock)
            stack.push_async_callback(db.close)
            await migrated(db, settings, clock)
            auth_db = await db_connect.connect_auth(settings.database, db, settings.data.dir, clock)
            if auth_db is not db:
                stack.push_async_callback(auth_db.close)
                await migrated(auth_db, settings, clock)
            bus = await bus_connect.connect(settings.bus)
            stack.push_async_callback(bus.close)
            limiter = open_limiter(settings, clock)
            stack.push_async_callback(limiter.close)
            enabled = settings.ratelimit.enabled
            services = await stack.enter_async_context(
                open_services(settings, db, bus, clock, self.ids, limiter if enabled else None, auth_db=auth_db)
            )
            self.gateway = gateway = await gateway_of(
                stack,
                settings,
                services.db,
                bus,
                clock,
                self.ids,
                services.identity.people,
                services.door,
                services.sync,
                limiter=limiter if enabled else None,
                report=report_to(services),
            )
            await start_signing_in(stack, services.signing_in, services.oauth)
            access_log = AccessLog(sys.stderr.buffer, encode=access_lines) if settings.log.access else None
            if access_log is not None:
                stack.callback(access_log.close)
            metrics = _metrics(services, access_log)
            self.endpoints = table(
                services.accounts,
                services.sync.api,
                about(settings),
                clock,
                checks([services.db, services.auth_db], services.bus),
                metrics,
                settings.server.metrics_token,
                [
                    *identity_endpoints(settings, services.signing_in, services.oauth),
                    *gateway_endpoints(settings, gateway),
                    *self._extra_endpoints,
                ],
                app_tokens(settings),
                None if gateway is None else gateway.document,
            )
            edge = Edge(
                settings.server,
                verifier_of(services.door, services.oauth),
                Limits(limiter if enabled else None, limit_classes(settings.ratelimit)),
                Cors(settings.server.cors_origin),
                metrics,
                clock,
                access_log,
                services.signing_in.browser,
                resource_metadata="" if services.oauth is None else resource_metadata_url(services.oauth.issuer),
            )
            self.services = services
            if gateway is not None:
                gateway.publish(metrics)
            self._application = Application(self.endpoints, edge, [] if gateway is None else gateway.dialects)
            yield services


async def gateway_of(
    stack: AsyncExitStack,
    settings: Settings,
    db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    people: IdentityStore,
    door: Door,
    sync: Sync,
    *,
    limiter: Limiter | None,
    report: Report | None = None,
) -> Gateway | None:
    """Opens the gateway where there is to be one, and lets its tokens open the rest of the server."""
    if not is_wanted(settings, installed=find_binary() is not None):
        return None
    # Loaded only now: most of what it needs is nobody else's.
    from hapta.gateway.feature import open_gateway

    opening = open_gateway(db, bus, clock, ids, settings, people=people, limiter=limiter, report=report)
    gateway = await stack.enter_async_context(opening)
    door.add(gateway.verifier)

    def ended_too(session_ids: Sequence[str]) -> None:
        for session_id in session_ids:
            user_id = gateway.verifier.user_of(session_id)
            if user_id is not None:
                sync.on_revoked(user_id, session_id)

    gateway.sessions.on_ended(ended_too)
    return gateway


def gateway_endpoints(settings: Settings, gateway: Gateway | None) -> list[Endpoint]:
    """Everything of the gateway, if there is one."""
    if gateway is None:
        return []
    from hapta.gateway.feature import TEMPLATE_FOLDERS

    secure = settings.server.public_address.startswith("https:")
    return gateway.endpoints(Pages(settings.identity.product_name, secure, TEMPLATE_FOLDERS))


def report_to(services: Services) -> Report:
    """Writes security events of features that know no audit log."""

    async def report(event: Event) -> None:
        await services.auth_db.write(lambda tx: services.signing_in.events.record(tx, event))

    return report


async def lifespan(opened: Callable[[], AbstractAsyncContextManager[object]], receive: Receive, send: Send) -> None:
    """Opens a server when its process begins, and closes it when the process ends (ASGI lifespan)."""
    await receive()
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(opened())
        except Exception as error:  # the boundary: whatever keeps the server from starting is told, then it stops
            _log.error("the server cannot start", error=str(error), exc_info=error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def migrated(db: Database, settings: Settings, clock: Clock) -> None:
    """Brings the schema up to date, or refuses one that is not.

    Raises:
        MigrationError: it is not, and `database.auto_migrate` is off.
    """
    if settings.database.auto_migrate:
        await migrate.migrate(db, clock)
    elif await migrate.pending(db):
        raise migrate.MigrationError("The schema is not up to date: run hapta migrate")


async def start_signing_in(stack: AsyncExitStack, identity: Identity, oauth: OAuth | None) -> None:
    """Begins what works in the background, until the stack is closed."""
    watch = identity.core.watch
    await watch.open()
    stack.push_async_callback(watch.close)
    start_jobs(stack, {**identity.jobs, **({} if oauth is None else oauth.jobs)})
    identity.outbox.start()


def start_jobs(stack: AsyncExitStack, jobs: Mapping[str, Job]) -> None:
    """Runs jobs until the stack is closed."""
    for name, work in jobs.items():
        stack.push_async_callback(ended, asyncio.create_task(_run(work), name=name))


async def _run(job: Job) -> None:
    await job()


def verifier_of(sessions: Verifier, oauth: OAuth | None) -> Verifier:
    """First-party tokens, and third-party ones where there is an authorization server."""
    if oauth is None:
        return sessions
    return EitherVerifier(sessions, oauth.access_tokens)


def identity_endpoints(settings: Settings, identity: Identity, oauth: OAuth | None) -> list[Endpoint]:
    """Everything of identity and oauth; the pages last, since both have parts on them."""
    secure = settings.server.public_address.startswith("https:")
    pages = Pages(settings.identity.product_name, secure, [*IDENTITY_TEMPLATES, *OAUTH_TEMPLATES])
    return [
        *identity.endpoints(),
        *identity.pages(pages, apps=None if oauth is None else PageApps(oauth.consents)),
        *(() if oauth is None else oauth.endpoints(pages)),
    ]


def open_limiter(settings: Settings, clock: Clock) -> Limiter:
    """Counts in memory, or for many workers in Redis."""
    if not settings.bus.url:
        return MemoryLimiter(clock.monotonic)
    from hapta.bus.redis_limits import RedisLimiter

    return RedisLimiter(settings.bus.url, clock)


def limit_classes(settings: RateLimitSettings) -> dict[str, LimitClass]:
    """The limit classes that endpoints may name."""
    return {
        "default": LimitClass("default", Rate.parse(settings.default), "address"),
        "auth": LimitClass("auth", Rate.parse(settings.auth), "address"),
        "sync": LimitClass("sync", Rate.parse(settings.sync), "account"),
        "account": LimitClass("account", Rate.parse(settings.account), "account"),
        "login": LimitClass("login", Rate.parse(settings.login), "address"),
        "register": LimitClass("register", Rate.parse(settings.register), "address"),
        "authorize": LimitClass("authorize", Rate.parse(settings.authorize), "address"),
        "token": LimitClass("token", Rate.parse(settings.token), "address"),
        "introspect": LimitClass("introspect", Rate.parse(settings.introspect), "address"),
        "poll": LimitClass("poll", Rate.parse(settings.poll), "address"),
    }


def about(settings: Settings) -> health.Identity:
    """What the server says of itself."""
    sync = settings.sync
    limits = health.HealthLimits(
        max_logs_per_push=sync.max_logs_per_push,
        max_body_bytes=settings.server.max_body_bytes,
        max_log_bytes=sync.max_log_bytes,
        max_pull_limit=sync.max_pull_limit,
    )
    features = ("sync", "realtime", "longpoll", "devices", "quota", "snapshots", "keyEpochs", "chain", "export")
    return health.Identity("hapta", hapta.__version__, settings.server.environment, limits, features)


def checks(databases: Sequence[Database], bus: Bus) -> dict[str, health.Check]:
    """What has to be well for the server to be ready."""
    distinct = list(dict.fromkeys(databases))

    async def schema_is_new() -> None:
        for database in distinct:
            if await migrate.pending(database):
                raise Unavailable("The schema is not up to date")

    async def databases_answer() -> None:
        for database in distinct:
            await database.ping()

    async def bus_reaches_all() -> None:
        if not bus.healthy:
            raise Unavailable("The bus is away")

    return {"database": databases_answer, "schema": schema_is_new, "bus": bus_reaches_all}


def _metrics(services: Services, access_log: AccessLog | None) -> Metrics:
    metrics = basic_metrics(services.db, services.bus, access_log)
    metrics.gauge("hapta_password_queue", "Passwords that wait to be hashed", lambda: services.passwords.waiting)
    metrics.counter("hapta_password_hashes", "Passwords hashed", lambda: services.passwords.computed)
    metrics.gauge("hapta_sync_sockets", "Authenticated sync sockets", lambda: services.sync.hub.socket_count)
    return metrics


def basic_metrics(db: Database, bus: Bus, access_log: AccessLog | None) -> Metrics:
    """What every server measures, whatever its role."""
    metrics = Metrics(os.getpid())
    metrics.gauge("hapta_db_waiting", "Transactions that wait for a thread or connection", lambda: db.waiting)
    metrics.counter("hapta_db_commits", "Commits", lambda: db.stats.commits)
    metrics.counter("hapta_db_writes", "Write transactions; several share a commit", lambda: db.stats.writes)
    metrics.counter("hapta_db_reads", "Read transactions", lambda: db.stats.reads)
    metrics.counter("hapta_db_lock_wait_seconds", "Time spent waiting for locks", lambda: db.stats.lock_wait_seconds)
    metrics.gauge("hapta_bus_healthy", "1 while the bus reaches every worker", lambda: int(bus.healthy))
    if access_log is not None:
        metrics.counter("hapta_access_log_dropped", "Log lines lost to a slow reader", lambda: access_log.dropped)
    return metrics


def create_app(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: Ids | None = None,
    extra_endpoints: Sequence[Endpoint] = (),
) -> Hapta:
    """The application for these settings; opens nothing yet.

    Args:
        extra_endpoints: served beside our own, through the same edge.
    """
    return Hapta(settings, clock or SystemClock(), ids or RandomIds(), extra_endpoints)


def openapi_document(settings: Settings, version: Literal["3.1.0", "3.0.0"] = "3.1.0") -> dict[str, Any]:
    """The OpenAPI document of a server with these settings.

    The table is the one that a server makes, over an empty database of its own that is gone afterwards. It has the gateway's
    routes whether or not PocketBase is installed, and none of its collections: none is asked for any.
    """
    gateway = GatewaySettings(enabled="on", db_url=NOBODY_LISTENS, admin_key=secrets.token_urlsafe(24))
    with tempfile.TemporaryDirectory(prefix="hapta-openapi-") as folder:
        alone = replace(
            settings,
            data=DataSettings(Path(folder)),
            database=DatabaseSettings(),
            bus=BusSettings(),
            gateway=gateway,
            log=replace(settings.log, access=False),
        )
        with capture_logs():  # that nobody listens there is no news, and standard output is for the document
            endpoints = asyncio.run(_endpoints_of(with_secret(alone)[0]))
    return document(
        [endpoint for endpoint in endpoints if not endpoint.hidden],
        title="Hapta",
        version=hapta.__version__,
        description=docs_text(),
        server_url="/",
        openapi=version,
        app_tokens=app_tokens(settings),
    )


def app_tokens(settings: Settings) -> AppTokens | None:
    """How apps of others get tokens, as the API document says it."""
    if not settings.oauth.enabled:
        return None
    table = Scopes(settings.oauth.scopes)
    told = {name: f"An app wants to {table.get(name).describe()}" for name in table.names}
    return AppTokens(AUTHORIZATION, TOKEN, told)


async def _endpoints_of(settings: Settings) -> list[Endpoint]:
    app = create_app(settings)
    async with app.opened():
        return app.endpoints
