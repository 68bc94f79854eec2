"""What every server needs to serve, whatever its role: its lifespan, limits, health, numbers, and what it says of itself.

`app.py` and `roles.py` put these around the features that they open. Nothing here opens a feature or knows a route.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import structlog

import hapta
from hapta.bus.bus import Bus
from hapta.db import migrate
from hapta.db.database import Database
from hapta.http import health
from hapta.http.limits import LimitClass
from hapta.http.metrics import Metrics
from hapta.http.openapi import AppTokens
from hapta.http.requests import Receive, Send
from hapta.identity.passwords import Passwords
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import Limiter, MemoryLimiter, Rate
from hapta.oauth.metadata import AUTHORIZATION, TOKEN
from hapta.oauth.scopes import Scopes
from hapta.settings import RateLimitSettings, Settings
from hapta.sync.feature import Sync

_log = structlog.get_logger("hapta.serving")


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
        "files": LimitClass("files", Rate.parse(settings.files), "account"),
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
    features = (
        "sync",
        "realtime",
        "longpoll",
        "devices",
        "quota",
        "snapshots",
        "keyEpochs",
        "chain",
        "export",
        "blobs",
    )
    # Apps of the relay accept a server by this text alone (contract relay, section 10).
    greeting = "Welcome to Happy Server!" if settings.relay.enabled else ""
    return health.Identity("hapta", hapta.__version__, settings.server.environment, limits, features, greeting)


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


def full_metrics(db: Database, bus: Bus, passwords: Passwords, sync: Sync, access_log: AccessLog | None) -> Metrics:
    """What one server for everything measures."""
    metrics = basic_metrics(db, bus, access_log)
    metrics.gauge("hapta_password_queue", "Passwords that wait to be hashed", lambda: passwords.waiting)
    metrics.counter("hapta_password_hashes", "Passwords hashed", lambda: passwords.computed)
    metrics.gauge("hapta_sync_sockets", "Authenticated sync sockets", lambda: sync.hub.socket_count)
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


def app_tokens(settings: Settings) -> AppTokens | None:
    """How apps of others get tokens, as the API document says it."""
    if not settings.oauth.enabled:
        return None
    table = Scopes(settings.oauth.scopes)
    told = {name: f"An app wants to {table.get(name).describe()}" for name in table.names}
    return AppTokens(AUTHORIZATION, TOKEN, told)
