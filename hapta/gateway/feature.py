"""The whole of the gateway, put together: `app.py` opens it, serves its endpoints, and lets its tokens open the other features.

Who needs whom is said here once. Nothing waits for PocketBase: while it is away, what needs it answers 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.gateway.admin.routes import AdminRoutes
from hapta.gateway.auth.accounts.service import Accounts
from hapta.gateway.auth.routes import AuthRoutes
from hapta.gateway.auth.service import Auth
from hapta.gateway.cache.service import Cache
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.changes.service import Changes
from hapta.gateway.files.routes import FileRoutes
from hapta.gateway.files.service import Files
from hapta.gateway.health import Health
from hapta.gateway.limits.service import Limits
from hapta.gateway.limits.specs import parse as parse_limits
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.oauth2.routes import OAuth2Routes
from hapta.gateway.oauth2.service import OAuth2Redirects
from hapta.gateway.openapi import LiveDocument
from hapta.gateway.operations.batch import Batch
from hapta.gateway.operations.counted import CountedRecords
from hapta.gateway.operations.locks import RecordLocks
from hapta.gateway.operations.routes import RecordRoutes
from hapta.gateway.operations.service import Records
from hapta.gateway.passing import Passing
from hapta.gateway.pocketbase.minder import Minded
from hapta.gateway.pocketbase.settle import trusts_addresses
from hapta.gateway.pocketbase.superuser import Superuser
from hapta.gateway.realtime.peers import Peers
from hapta.gateway.realtime.routes import RealtimeRoutes
from hapta.gateway.realtime.service import Realtime
from hapta.gateway.rules.context import Ports
from hapta.gateway.rules.engine import Rules
from hapta.gateway.rules.seen import SeenRecords
from hapta.gateway.sessions.reports import Report, unreported
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.sessions.tokens import GatewayTokens
from hapta.gateway.sessions.upstream import PocketBaseAuth
from hapta.gateway.sessions.verifier import GatewayVerifier
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.routes import SocketRoutes
from hapta.gateway.socket.sockets import Sockets
from hapta.gateway.uploads.checks import FileRules
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.validation.service import Validation
from hapta.http.api import Endpoint
from hapta.http.errors import POCKETBASE, Dialect
from hapta.http.metrics import Metrics
from hapta.http.pages import Pages
from hapta.identity.people import IdentityStore
from hapta.identity.roots import keyring_of
from hapta.kit.background import attempted, ended
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.ratelimit import Limiter
from hapta.settings import Settings

_log = structlog.stdlib.get_logger("hapta.gateway")

TEMPLATE_FOLDERS = (("hapta.gateway.oauth2", "templates"),)
PURGES = "gateway.purges"
MULTIPART_SLACK = 64 * 1024 * 1024
"""What a body with files may hold beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway, open."""

    settings: Settings
    pb: PocketBase
    catalog: Catalog
    cache: Cache
    changes: Changes
    limits: Limits
    rules: Rules
    sessions: Sessions
    auth: Auth
    records: Records
    batch: Batch
    files: Files
    file_rules: FileRules
    realtime: Realtime
    redirects: OAuth2Redirects
    sockets: Sockets
    health: Health
    passing: Passing
    admin: AdminRoutes
    metrics: GatewayMetrics
    document: LiveDocument
    verifier: GatewayVerifier
    minded: Minded | None

    def endpoints(self, pages: Pages) -> list[Endpoint]:
        """Everything under `/api` and `/gateway`, and what is PocketBase's once more below the owner's prefix."""
        own = self.settings.gateway
        routes = (
            RecordRoutes(
                self.records,
                self.batch,
                self.catalog,
                self.sessions,
                self.file_rules,
                self.metrics,
                max_body_bytes=own.max_file_bytes + MULTIPART_SLACK,
            ),
            AuthRoutes(self.auth, self.sessions, self.catalog, self.metrics),
            FileRoutes(self.files, self.catalog, self.sessions.lenient, self.metrics),
            RealtimeRoutes(self.realtime, self.sessions, self.limits, self.metrics),
            OAuth2Routes(self.redirects, pages, self.limits),
            SocketRoutes(self.sockets),
            self.health,
            self.passing,
        )
        prefixes = ("", own.prefix.rstrip("/")) if own.prefix else ("",)
        return [
            *[endpoint for prefix in prefixes for part in routes for endpoint in part.endpoints(prefix)],
            *self.admin.endpoints(),
        ]

    @property
    def dialects(self) -> list[tuple[str, Dialect]]:
        """In which words further beginnings of paths say that there is nothing."""
        prefix = self.settings.gateway.prefix.rstrip("/")
        return [(prefix + "/", POCKETBASE)] if prefix else []

    def publish(self, metrics: Metrics) -> None:
        """Puts the gateway's numbers on the metrics page."""
        self.metrics.publish(
            metrics,
            cache=self.cache,
            limits=self.limits,
            sessions=self.sessions,
            changes=self.changes,
            realtime=self.realtime,
        )
        metrics.gauge("hapta_gateway_sockets", "Sockets of the gateway's own protocol", lambda: len(self.sockets))
        metrics.counter("hapta_gateway_socket_messages", "Messages they sent", lambda: self.sockets.messages)

    def stop_waiting(self) -> None:
        """The server stops: streams end cleanly, so that clients come back to the next one."""
        self.sockets.end_all()
        self.realtime.end_all()


@asynccontextmanager
async def open_gateway(
    db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: Settings,
    *,
    people: IdentityStore,
    limiter: Limiter | None = None,
    report: Report | None = None,
) -> AsyncGenerator[Gateway]:
    """Opens the gateway, and PocketBase with it unless the settings name one.

    Args:
        db: the database of the resource side.
        people: where logins make their accounts.
        limiter: None switches limits of rate off.
        report: where security events go.

    Raises:
        PocketBaseMissing, RulesBroken, LimitsInvalid, ValueError: the settings cannot be followed.
    """
    own, report = settings.gateway, report or unreported
    async with AsyncExitStack() as stack:
        limits = Limits(
            parse_limits(own.limits),
            limiter,
            clock,
            streams_per_address=own.max_streams_per_address,
            streams_per_identity=own.max_streams_per_identity,
            uploads_per_session=own.max_uploads,
            logins_at_once=own.max_logins_at_once,
        )
        stack.callback(await limits.listen(bus))
        minded: Minded | None = None
        url, email, password = own.db_url, own.admin_email, own.admin_password
        if not url:
            minded = Minded(_folder(settings), clock, email=email, password=password)
            stack.push_async_callback(minded.close)
            await minded.open()
            url, (email, password) = minded.url, minded.credentials
        metrics = GatewayMetrics()
        pb = PocketBase(
            url, connections=own.upstream_connections, answer_seconds=own.upstream_seconds, observe=metrics.upstream
        )
        stack.push_async_callback(pb.close)
        superuser = Superuser(pb, email, password, clock)
        catalog = Catalog(superuser, clock, own)
        cache = Cache(catalog, own, clock)
        stack.push_async_callback(cache.close)
        tokens = GatewayTokens(keyring_of(settings), clock)
        sessions = Sessions(db, bus, clock, ids, own, tokens, PocketBaseAuth(pb), report=report)

        rules = Rules(
            own.rules,
            Ports(SeenRecords(pb), catalog, sessions.visitor),
            clock=clock,
            threads=own.rules_threads,
            timeout_ms=own.rules_timeout_ms,
            observer=metrics,
        )
        await rules.start()
        stack.callback(rules.stop)
        rules.on_change(lambda: cache.bump_all("rules"))
        catalog.on_change(rules.collections_changed)
        validation = Validation(rules.schema, own.schema_checks)
        locks = RecordLocks()
        development = settings.server.environment == "development"
        records = Records(pb, cache, rules, limits, validation, sessions, locks, development=development)
        batch = Batch(pb, catalog, cache, limits, validation, locks, records)
        accounts = Accounts(db, people, clock) if own.accounts else None
        changes = Changes(pb, superuser, catalog, clock, own)
        auth = Auth(
            pb,
            sessions,
            tokens,
            limits,
            rules,
            validation,
            superuser,
            clock,
            accounts=accounts,
            changed=cache.on_change,
            report=report,
        )
        files = Files(pb, limits, rules, cache, auth.unwrap_file_token, keep_bytes=own.cache_entry_bytes)
        peers = Peers(bus if settings.bus.url else None)
        realtime = Realtime(pb, catalog, sessions, rules, limits.streams, peers, clock, own)
        redirects = OAuth2Redirects(realtime, pb)
        file_rules = FileRules.of(own)
        parts = Parts(
            settings=settings,
            clock=clock,
            ids=ids,
            sessions=sessions,
            auth=auth,
            catalog=catalog,
            records=CountedRecords(records, metrics),
            files=files,
            file_rules=file_rules,
            realtime=realtime,
            limits=limits,
            metrics=metrics,
        )
        sockets = Sockets(parts)
        health = Health(pb, clock)
        stack.push_async_callback(health.close)
        passing = Passing(own.pass_paths, pb, sessions, limits)

        async def purged(tag: str) -> None:
            await bus.publish(PURGES, tag.encode())

        stack.callback(await bus.subscribe(PURGES, lambda message: _purge(cache, message)))
        admin = AdminRoutes(settings, sessions, cache, limits, rules, catalog, purged)
        document = LiveDocument(catalog, prefix=own.prefix, is_on=own.openapi_collections)
        verifier = GatewayVerifier(sessions, tokens, people, clock)

        later = _Later()
        stack.push_async_callback(later.close)

        def changed(collection_id: str, record_id: str, action: str) -> None:
            cache.on_change(collection_id, record_id, action)
            collection = catalog.by_id(collection_id)
            if collection is None or collection.type != "auth":
                return
            later.do(sessions.record_changed(collection_id, record_id, action))
            realtime.record_changed(collection_id, record_id, action)

        def gap(reason: str) -> None:
            cache.bump_all(reason)
            sessions.distrust(reason)
            realtime.changes_missed(reason)

        def live(is_live: bool) -> None:
            sessions.unheard(not is_live)
            if is_live:
                cache.resume()
            else:
                cache.suspend("no stream of changes")

        signing_in: list[Mapping[str, Any]] = []

        def schema_changed() -> None:
            # Whoever changes the secret of a collection ends all tokens of its records, and of that there is no event.
            found = [one.raw for one in catalog.all() if one.type == "auth"]
            if found != signing_in:
                signing_in[:] = found
                sessions.distrust("schema")
                realtime.changes_missed("schema")

        catalog.on_change(schema_changed)

        changes.on_change(changed)
        changes.on_gap(gap)
        changes.on_live(live)
        sessions.unheard(True)  # until the first stream is there
        if minded is not None:
            minded.on_started(catalog.wake)

        await catalog.open()
        stack.push_async_callback(catalog.close)
        if accounts is not None:
            sessions.on_deleted(accounts.forget)
        await sessions.open()
        upkeep = asyncio.get_running_loop().create_task(sessions.run(), name="gateway-sessions")
        stack.push_async_callback(ended, upkeep)
        stack.push_async_callback(sessions.close)
        await changes.open()
        stack.push_async_callback(changes.close)
        await realtime.open()
        stack.push_async_callback(realtime.close)
        stack.push_async_callback(sockets.close)
        if minded is None:
            later.do(_check_addresses(superuser))
        yield Gateway(
            settings=settings,
            pb=pb,
            catalog=catalog,
            cache=cache,
            changes=changes,
            limits=limits,
            rules=rules,
            sessions=sessions,
            auth=auth,
            records=records,
            batch=batch,
            files=files,
            file_rules=file_rules,
            realtime=realtime,
            redirects=redirects,
            sockets=sockets,
            health=health,
            passing=passing,
            admin=admin,
            metrics=metrics,
            document=document,
            verifier=verifier,
            minded=minded,
        )


def _purge(cache: Cache, message: bytes) -> None:
    cache.purge(message.decode("utf-8", "replace"))


def _folder(settings: Settings) -> Path:
    return settings.gateway.pocketbase_dir or settings.data.dir / "pocketbase"


async def _check_addresses(superuser: Superuser) -> None:
    """Tells the log when a PocketBase of somebody else takes all visitors for one: its limits and login alerts then do too."""
    if not await trusts_addresses(superuser):
        _log.warning("PocketBase takes all visitors for one: set its trusted proxy header to X-Forwarded-For")


class _Later:
    """Work that an event asks for and nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def do(self, work: Coroutine[Any, Any, object]) -> None:
        """Does it; what goes wrong is logged."""
        task = asyncio.get_running_loop().create_task(self._done(work), name="gateway-follow-up")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _done(work: Coroutine[Any, Any, object]) -> None:
        async def run() -> object:
            return await work

        await attempted("gateway follow-up", run)

    async def close(self) -> None:
        """Ends what still runs."""
        await ended(*self._tasks)


__all__ = ["TEMPLATE_FOLDERS", "Gateway", "open_gateway"]
