"""THE wiring: settings -> database, bus -> services -> routes -> ASGI application. Read it to see how the parts meet.

Nothing is opened before the lifespan begins, and everything that was opened is closed in reverse order when it ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapta import around
from hapta.blobs.blobs import Blobs
from hapta.blobs.connect import open_blobs
from hapta.bus import connect as bus_connect
from hapta.bus.bus import Bus
from hapta.db import connect as db_connect
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.files.feature import Files, open_files
from hapta.gateway.pocketbase.binary import find_binary
from hapta.gateway.wanted import is_wanted
from hapta.http.answering import access_lines
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import Limits
from hapta.http.pages import Pages
from hapta.http.repeats import AtOnce
from hapta.http.requests import Receive, Scope, Send
from hapta.identity import roots
from hapta.identity.core import Core
from hapta.identity.data_roots import DATA
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
from hapta.kit.ids import Ids, RandomIds
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import Limiter
from hapta.oauth.feature import TEMPLATE_FOLDERS as OAUTH_TEMPLATES
from hapta.oauth.feature import OAuth, PageApps, open_oauth
from hapta.oauth.metadata import resource_metadata_url
from hapta.oauth.verifier import EitherVerifier
from hapta.relay.feature import Relay, open_relay
from hapta.relay.removal.service import Removal
from hapta.routes import table
from hapta.serving import about, app_tokens, checks, full_metrics, lifespan, limit_classes, migrated, open_limiter
from hapta.settings import Settings
from hapta.sync.feature import Sync, open_sync
from hapta.sync.keys import KeyMaterial
from hapta.sync.keys import RewrappedKey as SyncKey
from hapta.sync.quota import quota_of, used_by

if TYPE_CHECKING:
    from hapta.gateway.feature import Gateway

Report = Callable[[Event], Awaitable[None]]


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
    relay: Relay | None
    files: Files
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
    blobs: Blobs,
    auth_db: Database | None = None,
    run_upkeep: bool = True,
) -> AsyncGenerator[Services]:
    """Builds the features and hands each what it needs of the others.

    Args:
        limiter: for attempts to log in; None switches them off.
        auth_db: the database of the auth side; None: `db` is it.
        blobs: the store of bytes.
        run_upkeep: whether this process also does the clean-up jobs.
    """
    auth_db = auth_db or db

    async def rewrap(tx: WriteTx, user_id: UserId, keys: Sequence[RewrappedKey]) -> None:
        await sync.keys.rewrap(tx, user_id, [sync_key(key) for key in keys])

    async def purge(tx: WriteTx, user_id: UserId) -> None:
        await sync.service.purge(tx, user_id)
        await removal.purge(tx, user_id)
        await files.purge(tx, user_id)

    relay: Relay | None = None
    removal = Removal(db, clock)
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
        files = await files_of(stack, settings, db, blobs, clock, ids, run_upkeep=run_upkeep)
        sync = await open_sync(
            db,
            bus,
            clock,
            ids,
            door,
            settings.sync,
            revoke_device,
            run_upkeep=run_upkeep,
            blobs=blobs,
            used_elsewhere=files.used_by,
        )
        stack.push_async_callback(sync.close)
        sessions.on_revoked(sync.on_revoked)
        # Opened whether or not something needs them: so a start with both secrets has all of them sealed anew.
        data_keys = await roots.opened(db, clock, roots.keyring_of(settings), DATA)
        if settings.relay.enabled:
            relay = await stack.enter_async_context(
                open_relay(
                    db,
                    bus,
                    clock,
                    ids,
                    settings.relay,
                    verifier=door,
                    keyring=data_keys,
                    limiter=limiter,
                    around=around.surroundings(
                        settings,
                        [db, auth_db],
                        bus,
                        lambda: core.people,
                        around.through_outbox(auth_db, identity.outbox),
                        files,
                    ),
                    attachments=around.keeping(files),
                    run_upkeep=run_upkeep,
                )
            )
            sessions.on_revoked(relay.on_revoked)
            around.tell_of_avatars(settings, files, relay)
        if run_upkeep:
            start_jobs(stack, {removal.sweeping.name: removal.sweeping.run})
        # Last of all: what a crash left half done may concern every part.
        await core.people.catch_up(everything=True)
        yield Services(
            db, auth_db, bus, core, identity, oauth, sessions, core.accounts, core.passwords, sync, relay, files, door
        )


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

    def find_at_once(self, method: str, raw_path: bytes) -> AtOnce | None:
        """See `Application.find_at_once`."""
        return None if self._application is None else self._application.find_at_once(method, raw_path)

    def begin_stop(self) -> None:
        """The server accepts nothing more: whatever only waits is answered now."""
        if self._application is not None:
            self.services.sync.hub.stop_waiting()
            if self.services.relay is not None:
                self.services.relay.stop_waiting()
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
            blobs = await open_blobs(settings.blobs, settings.data.dir, clock, self.ids)
            stack.push_async_callback(blobs.close)
            limiter = open_limiter(settings, clock)
            stack.push_async_callback(limiter.close)
            enabled = settings.ratelimit.enabled
            services = await stack.enter_async_context(
                open_services(
                    settings, db, bus, clock, self.ids, limiter if enabled else None, auth_db=auth_db, blobs=blobs
                )
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
                services.relay,
                limiter=limiter if enabled else None,
                report=report_to(services),
            )
            await start_signing_in(stack, services.signing_in, services.oauth)
            access_log = AccessLog(sys.stderr.buffer, encode=access_lines) if settings.log.access else None
            if access_log is not None:
                stack.callback(access_log.close)
            metrics = full_metrics(services.db, services.bus, services.passwords, services.sync, access_log)
            self.endpoints = table(
                services.accounts,
                services.sync,
                about(settings),
                clock,
                checks([services.db, services.auth_db], services.bus),
                metrics,
                settings.server.metrics_token,
                [
                    *identity_endpoints(settings, services.signing_in, services.oauth),
                    *gateway_endpoints(settings, gateway),
                    *relay_endpoints(services.relay),
                    *services.files.endpoints(),
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
            if services.relay is not None:
                services.relay.publish(metrics)
            services.files.publish(metrics)
            self._application = Application(self.endpoints, edge, [] if gateway is None else gateway.dialects)
            yield services


async def files_of(
    stack: AsyncExitStack,
    settings: Settings,
    db: Database,
    blobs: Blobs,
    clock: Clock,
    ids: Ids,
    *,
    run_upkeep: bool = True,
) -> Files:
    """Opens files, which share the quota of an account with sync."""

    async def quota(tx: ReadTx, user_id: str) -> int:
        return await quota_of(tx, user_id, settings.sync.quota_bytes_default)

    keyring = roots.keyring_of(settings)
    opening = open_files(
        db, blobs, clock, ids, settings.files, keyring, used_elsewhere=used_by, quota_of=quota, run_upkeep=run_upkeep
    )
    files = await stack.enter_async_context(opening)
    if run_upkeep:
        start_jobs(stack, files.jobs)
    return files


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
    relay: Relay | None,
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
                if relay is not None:
                    relay.on_revoked(user_id, session_id)

    gateway.sessions.on_ended(ended_too)
    return gateway


def gateway_endpoints(settings: Settings, gateway: Gateway | None) -> list[Endpoint]:
    """Everything of the gateway, if there is one."""
    if gateway is None:
        return []
    from hapta.gateway.feature import TEMPLATE_FOLDERS

    secure = settings.server.public_address.startswith("https:")
    return gateway.endpoints(Pages(settings.identity.product_name, secure, TEMPLATE_FOLDERS))


def relay_endpoints(relay: Relay | None) -> Sequence[Endpoint]:
    """Everything of the relay, if it is served."""
    return () if relay is None else relay.endpoints


def report_to(services: Services) -> Report:
    """Writes security events of features that know no audit log."""

    async def report(event: Event) -> None:
        await services.auth_db.write(lambda tx: services.signing_in.events.record(tx, event))

    return report


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
