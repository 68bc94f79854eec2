"""The two servers of a pair (contract identity, section 1): which parts each opens, and what each lets in.

The auth server speaks the protocols and holds `auth_*` alone; people it asks for over HTTP. The resource server is the one that
the world talks to: it holds `res_*`, judges tokens without a hop, and relays the auth server's paths to it. One server for
everything is `app.py`'s; both are made of the same parts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from hapta import around
from hapta.app import (
    Hapta,
    create_app,
    files_of,
    gateway_endpoints,
    gateway_of,
    identity_endpoints,
    open_signing_in,
    relay_endpoints,
    start_jobs,
    start_signing_in,
    sync_key,
    verifier_of,
)
from hapta.blobs.connect import open_blobs
from hapta.bus import connect as bus_connect
from hapta.bus.bus import Bus
from hapta.db import connect as db_connect
from hapta.db.database import Database, WriteTx
from hapta.http import health
from hapta.http.answering import access_lines
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge, RequestIds
from hapta.http.limits import Limits
from hapta.http.requests import Receive, Scope, Send
from hapta.http.reverse_proxy import Relay, RelayedOnly, is_internal, not_found
from hapta.http.upstream import Upstream
from hapta.identity import roots
from hapta.identity import routes as account_routes
from hapta.identity.breaches import breach_check
from hapta.identity.data_roots import DATA
from hapta.identity.internal.auth_http import HttpAuthSide
from hapta.identity.internal.checks import DelegateCheck, LocalCheck
from hapta.identity.internal.feed import RevocationFeed
from hapta.identity.internal.peer import ANSWER_SECONDS, Peer
from hapta.identity.internal.people_http import HttpIdentityStore
from hapta.identity.internal.routes import InternalRequests, auth_routes, resource_routes
from hapta.identity.internal.service import AuthAnswers
from hapta.identity.internal.tokens import InternalTokens
from hapta.identity.models import RewrappedKey
from hapta.identity.passwords import Passwords
from hapta.identity.people_store import LocalIdentityStore
from hapta.identity.roots import keyring_of
from hapta.identity.session_tokens import SessionTokens
from hapta.kit.access import UserId, Verifier
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.door import Door
from hapta.kit.errors import Unavailable
from hapta.kit.ids import Ids, RandomIds
from hapta.kit.logs import AccessLog, configure
from hapta.kit.process import tune
from hapta.kit.ratelimit import Limiter
from hapta.oauth.issuer import Issuer
from hapta.oauth.metadata import resource_metadata_url
from hapta.relay.feature import Relay as AgentRelay
from hapta.relay.feature import open_relay
from hapta.relay.removal.service import Removal
from hapta.routes import resource_table
from hapta.serving import about, basic_metrics, checks, lifespan, limit_classes, migrated, open_limiter
from hapta.settings import Settings
from hapta.settings import from_environment as settings_from_environment
from hapta.sync.feature import Sync, open_sync

RELAYED = ("/oauth/", "/auth/", "/identity/", "/.well-known/", "/v1/auth")
"""What the auth server answers, by the beginning of the path."""
OPEN_AT_AUTH = ("/healthz", "/readyz", "/metrics")

if TYPE_CHECKING:
    from hapta.gateway.feature import Gateway

_log = structlog.get_logger("hapta.roles")


def is_relayed(path: str) -> bool:
    """Whether a path belongs to the auth server."""
    return path.startswith(RELAYED)


class _Server:
    """What both servers of a pair are made of. Served like `app.Hapta`: by uvicorn, or inside `opened()`."""

    def __init__(self, settings: Settings, clock: Clock, ids: Ids) -> None:
        self.settings = settings
        self.clock = clock
        self.ids = ids
        self.endpoints: list[Endpoint] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(self.opened, receive, send)
        else:
            await self.answer(scope, receive, send)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Opens every part, serves while the context lasts, and closes every part."""
        yield

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or socket."""
        raise RuntimeError("the application serves inside its lifespan only")

    async def _bus_and_limiter(self, stack: AsyncExitStack) -> tuple[Bus, Limiter | None]:
        bus = await bus_connect.connect(self.settings.bus)
        stack.push_async_callback(bus.close)
        limiter = open_limiter(self.settings, self.clock)
        stack.push_async_callback(limiter.close)
        return bus, limiter if self.settings.ratelimit.enabled else None

    async def _database(self, stack: AsyncExitStack, url: str) -> Database:
        settings = replace(self.settings.database, url=url, auth_url="")
        db = await db_connect.connect(settings, self.settings.data.dir, self.clock)
        stack.push_async_callback(db.close)
        await migrated(db, self.settings, self.clock)
        return db

    def _access_log(self, stack: AsyncExitStack) -> AccessLog | None:
        if not self.settings.log.access:
            return None
        access_log = AccessLog(sys.stderr.buffer, encode=access_lines)
        stack.callback(access_log.close)
        return access_log


class AuthServer(_Server):
    """OAuth, sign-in and sessions over `auth_*`; the resource server alone talks to it."""

    def __init__(self, settings: Settings, clock: Clock, ids: Ids) -> None:
        super().__init__(settings, clock, ids)
        self._front: RelayedOnly | None = None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `_Server.answer`."""
        if self._front is None:
            await super().answer(scope, receive, send)
        else:
            await self._front(scope, receive, send)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """See `_Server.opened`.

        Raises:
            MigrationError, Unavailable: as `app.Hapta.opened`.
        """
        # What a client says of proxies has ended at the relay, and here nobody else comes in.
        settings, clock = self.settings, self.clock
        server = replace(settings.server, trust_proxy=0)
        async with AsyncExitStack() as stack:
            db = await self._database(stack, settings.database.auth_url or settings.database.url)
            bus, limiter = await self._bus_and_limiter(stack)
            tokens = InternalTokens(keyring_of(settings), clock, self.ids, "auth")
            peer = Peer(Upstream(settings.server.resource_url, answer_seconds=ANSWER_SECONDS), tokens)
            stack.push_async_callback(peer.close)
            people = HttpIdentityStore(peer)
            identity, oauth = await stack.enter_async_context(
                open_signing_in(db, db, bus, clock, self.ids, settings, limiter=limiter, people=people)
            )
            await start_signing_in(stack, identity, oauth)
            keys = None if oauth is None else oauth.keys

            async def kids() -> Sequence[str]:
                return [] if keys is None else [str(key["kid"]) for key in (await keys.jwks())["keys"]]

            verifier = verifier_of(identity.core.sessions, oauth)
            answers = AuthAnswers(identity.core.sessions, verifier, tokens, db, clock, kids)
            access_log = self._access_log(stack)
            metrics = basic_metrics(db, bus, access_log)
            self.endpoints = [
                *health.routes(about(settings), clock, checks([db], bus), metrics, server.metrics_token),
                *account_routes.routes(identity.core.accounts),
                *identity_endpoints(settings, identity, oauth),
                *auth_routes(answers),
            ]
            edge = Edge(
                server,
                verifier,
                Limits(limiter, limit_classes(settings.ratelimit)),
                Cors(server.cors_origin),
                metrics,
                clock,
                access_log,
                identity.browser,
                InternalRequests(tokens),
                resource_metadata="" if oauth is None else resource_metadata_url(oauth.issuer),
            )

            def check(token: str, method: str, target: str) -> str:
                return tokens.check_relay(token, method, target).address

            self._front = RelayedOnly(Application(self.endpoints, edge), check, clock, OPEN_AT_AUTH)
            yield


class ResourceServer(_Server):
    """People and everything that is theirs over `res_*`; relays the rest to the auth server."""

    def __init__(self, settings: Settings, clock: Clock, ids: Ids) -> None:
        super().__init__(settings, clock, ids)
        self._public: Application | None = None
        self._internal: Application
        self._relay: Relay
        self._request_ids = RequestIds()
        self._sync: Sync
        self._agents: AgentRelay | None = None
        self._gateway: Gateway | None = None

    def begin_stop(self) -> None:
        """The server accepts nothing more: whatever only waits is answered now."""
        if self._public is not None:
            self._sync.hub.stop_waiting()
            if self._agents is not None:
                self._agents.stop_waiting()
            if self._gateway is not None:
                self._gateway.stop_waiting()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `_Server.answer`. Which listener a request came in by is the socket's word, not the client's."""
        if self._public is None:
            await super().answer(scope, receive, send)
        elif (scope.get("server") or ("", None))[1] == self.settings.server.internal_port:
            await self._internal(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._public(scope, receive, send)
        elif is_internal(scope["raw_path"]):
            await not_found(scope, send, self.clock, self._request_ids.next())
        elif is_relayed(scope["path"]):
            await self._relay(scope, receive, send)
        else:
            await self._public(scope, receive, send)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """See `_Server.opened`. An auth server that is not there yet is waited for by what needs it.

        Raises:
            MigrationError, Unavailable: as `app.Hapta.opened`.
        """
        settings, clock, ids = self.settings, self.clock, self.ids
        server, secret = settings.server, keyring_of(settings)
        async with AsyncExitStack() as stack:
            db = await self._database(stack, settings.database.url)
            bus, limiter = await self._bus_and_limiter(stack)
            tokens = InternalTokens(secret, clock, ids, "resource")
            peer = Peer(Upstream(server.auth_url, answer_seconds=ANSWER_SECONDS), tokens)
            stack.push_async_callback(peer.close)
            auth = HttpAuthSide(peer, tokens)
            feed = RevocationFeed(auth, bus, clock)
            verifier: Verifier
            match settings.identity.token_check:
                case "local":
                    reader = SessionTokens(secret, clock, ids, server.public_address)
                    verifier = LocalCheck(reader, auth, feed, clock)
                case "delegate":
                    verifier = DelegateCheck(auth, feed, clock)

            blobs = await open_blobs(settings.blobs, settings.data.dir, clock, ids)
            stack.push_async_callback(blobs.close)

            async def revoke_device(user_id: str, device_id: str) -> None:
                await auth.revoke_device(UserId(user_id), device_id)

            door = Door(verifier)
            files = await files_of(stack, settings, db, blobs, clock, ids)
            sync = await open_sync(
                db, bus, clock, ids, door, settings.sync, revoke_device, blobs=blobs, used_elsewhere=files.used_by
            )
            stack.push_async_callback(sync.close)
            feed.on_revoked(sync.on_revoked)
            agents: AgentRelay | None = None
            data_keys = await roots.opened(db, clock, secret, DATA)
            if settings.relay.enabled:
                mail = around.direct_mail(settings, clock, ids)
                stack.push_async_callback(mail.close)
                agents = await stack.enter_async_context(
                    open_relay(
                        db,
                        bus,
                        clock,
                        ids,
                        settings.relay,
                        verifier=door,
                        keyring=data_keys,
                        limiter=limiter,
                        around=around.surroundings(settings, [db], bus, lambda: people, around.at_once(mail), files),
                        attachments=around.keeping(files),
                    )
                )
                feed.on_revoked(agents.on_revoked)
                around.tell_of_avatars(settings, files, agents)

            async def rewrap(tx: WriteTx, user_id: UserId, keys: Sequence[RewrappedKey]) -> None:
                await sync.keys.rewrap(tx, user_id, [sync_key(key) for key in keys])

            passwords = Passwords(settings.identity)
            stack.push_async_callback(passwords.close)
            removal = Removal(db, clock)
            people = LocalIdentityStore(
                db,
                clock,
                ids,
                passwords,
                settings.identity,
                rewrap_vault_keys=rewrap,
                # In this order everywhere: a session that is deleted locks its account's head, and then its files.
                on_deleted=[sync.service.purge, removal.purge, files.purge],
                breached=breach_check(settings.identity),
            )
            people.on_change(auth.settle)
            try:
                await people.catch_up(everything=True)
            except Unavailable:
                _log.warning("changes of people wait for the auth server")
            await feed.open()
            stack.push_async_callback(feed.close)
            jobs = {"changes of people": people.run, "revocations": feed.run}
            start_jobs(stack, {**jobs, removal.sweeping.name: removal.sweeping.run})
            access_log = self._access_log(stack)
            metrics = basic_metrics(db, bus, access_log)
            metrics.gauge("hapta_password_queue", "Passwords that wait to be hashed", lambda: passwords.waiting)
            metrics.gauge("hapta_sync_sockets", "Authenticated sync sockets", lambda: sync.hub.socket_count)
            files.publish(metrics)
            self._gateway = await gateway_of(
                stack, settings, db, bus, clock, ids, people, door, sync, agents, limiter=limiter
            )
            self.endpoints = resource_table(
                sync,
                about(settings),
                clock,
                checks([db], bus),
                metrics,
                server.metrics_token,
                [*gateway_endpoints(settings, self._gateway), *relay_endpoints(agents), *files.endpoints()],
                live=None if self._gateway is None else self._gateway.document,
            )
            development = server.environment == "development"
            edge = Edge(
                server,
                door,
                Limits(limiter, limit_classes(settings.ratelimit)),
                Cors(server.cors_origin),
                metrics,
                clock,
                access_log,
                resource_metadata=resource_metadata_url(Issuer(server.public_address, allow_http=development))
                if settings.oauth.enabled
                else "",
            )
            behind = Upstream(server.auth_url)
            stack.push_async_callback(behind.close)
            self._relay = Relay(behind, tokens.sign_relay, server, metrics, clock)
            self._internal = Application(resource_routes(people), replace(edge, internal=InternalRequests(tokens)))
            self._sync = sync
            self._agents = agents
            if agents is not None:
                agents.publish(metrics)
            if self._gateway is not None:
                self._gateway.publish(metrics)
            self._public = Application(self.endpoints, edge, [] if self._gateway is None else self._gateway.dialects)
            yield


def create_server(settings: Settings, *, clock: Clock | None = None, ids: Ids | None = None) -> Hapta | _Server:
    """The application of the role that the settings name; opens nothing yet."""
    clock, ids = clock or SystemClock(), ids or RandomIds()
    match settings.server.role:
        case "auth":
            return AuthServer(settings, clock, ids)
        case "resource":
            return ResourceServer(settings, clock, ids)
        case "all":
            return create_app(settings, clock=clock, ids=ids)


def from_environment() -> Hapta | _Server:
    """What each worker process calls: settings come from the environment that `hapta serve` prepared."""
    settings = settings_from_environment(os.environ)
    tune()
    configure(settings.log, sys.stderr)
    return create_server(settings)
