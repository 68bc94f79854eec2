"""The relay as one part: built from what the wiring hands in, opened and closed with the server.

Every noun is built here, in the order in which they need each other, and gives its endpoints, its socket events, and its background
work. Nouns know each other only by the callables that they get here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from hapta.bus.bus import Bus
from hapta.db.database import Database, ReadTx
from hapta.http.api import Endpoint
from hapta.http.fetch import GuardedFetch
from hapta.http.metrics import Metrics
from hapta.kit.access import Verifier
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring
from hapta.kit.ratelimit import Limiter
from hapta.relay.access_keys import events as access_keys_events
from hapta.relay.access_keys import routes as access_keys_routes
from hapta.relay.access_keys.service import AccessKeysService, forget_machine, forget_session
from hapta.relay.account.service import AccountService
from hapta.relay.artifacts import events as artifacts_events
from hapta.relay.artifacts import routes as artifacts_routes
from hapta.relay.artifacts.service import Artifacts
from hapta.relay.attachments import routes as attachments_routes
from hapta.relay.attachments.ports import Keeping
from hapta.relay.attachments.service import AttachmentService
from hapta.relay.connect import routes as connect_routes
from hapta.relay.connect.github import GithubConnections
from hapta.relay.connect.service import VendorTokens
from hapta.relay.connect.vault import vault_of
from hapta.relay.events import joined
from hapta.relay.machines import events as machines_events
from hapta.relay.machines import routes as machines_routes
from hapta.relay.machines.service import Machines
from hapta.relay.messages import events as messages_events
from hapta.relay.messages import routes as messages_routes
from hapta.relay.messages.service import MessagesService
from hapta.relay.messages.service import forget as forget_messages
from hapta.relay.online.service import Online
from hapta.relay.personal import Surroundings
from hapta.relay.personal import build as build_personal
from hapta.relay.presence import events as presence_events
from hapta.relay.presence.service import SWEEP_SECONDS, Presence
from hapta.relay.push_events import routes as push_events_routes
from hapta.relay.push_events.expo import Expo
from hapta.relay.push_events.service import PushEventsService
from hapta.relay.push_tokens.service import PushTokenService
from hapta.relay.rpc import metrics as rpc_metrics
from hapta.relay.rpc.service import Rpc
from hapta.relay.sessions import events as sessions_events
from hapta.relay.sessions import routes as sessions_routes
from hapta.relay.sessions.endings import Endings
from hapta.relay.sessions.service import Forget, SessionsService
from hapta.relay.sharing import routes as sharing_routes
from hapta.relay.sharing.models import Profile as SharedProfile
from hapta.relay.sharing.service import SharingService
from hapta.relay.updates import metrics as updates_metrics
from hapta.relay.updates import routes as updates_routes
from hapta.relay.updates.census import Census
from hapta.relay.updates.dispatch import Dispatch
from hapta.relay.updates.door import UpdatesDoor
from hapta.relay.updates.door import routes as door_routes
from hapta.relay.updates.heads import Heads
from hapta.relay.updates.hub import TICK_SECONDS, Hub
from hapta.relay.updates.log import Rebuild
from hapta.relay.updates.native import NativeSockets
from hapta.relay.updates.service import Updates
from hapta.relay.updates.since import ChangedSince, Kind, Since
from hapta.relay.updates.since import events as since_events
from hapta.relay.updates.socketio import SocketIo
from hapta.relay.updates.strangers import Strangers
from hapta.relay.updates.tickets import Tickets
from hapta.relay.updates.upkeep import Trimmer
from hapta.relay.usage import events as usage_events
from hapta.relay.usage import routes as usage_routes
from hapta.relay.usage.service import UsageService
from hapta.relay.usage.service import forget as forget_usage
from hapta.settings.relay import RelaySettings


@dataclass(frozen=True, slots=True)
class Relay:
    """The feature, open. `on_revoked` belongs into revocation; the end of an account is `removal`'s, which is there without this."""

    hub: Hub
    heads: Heads
    sessions: SessionsService
    messages: MessagesService
    updates: Updates
    census: Census
    dispatch: Dispatch
    native: NativeSockets
    socketio: SocketIo
    strangers: Strangers
    rpc: Rpc
    presence: Presence
    online: Online
    since: Since
    sharing: SharingService
    account: AccountService
    endpoints: Sequence[Endpoint]

    def on_revoked(self, user_id: str, session_id: str | None) -> None:
        """Ends the sockets of a session, or with None of the whole account."""
        self.hub.on_revoked(user_id, session_id)

    def stop_waiting(self) -> None:
        """The first step of an orderly stop: sockets end with 1012."""
        self.hub.stop_waiting()
        self.socketio.stop_waiting()

    def publish(self, metrics: Metrics) -> None:
        """Adds the relay's numbers to the metrics page."""
        updates_metrics.publish(self.hub, self.dispatch, self.strangers, metrics)
        self.socketio.publish(metrics)
        rpc_metrics.publish(self.rpc, metrics)


@asynccontextmanager
async def open_relay(
    db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: RelaySettings,
    *,
    verifier: Verifier,
    keyring: Keyring,
    limiter: Limiter | None = None,
    around: Surroundings | None = None,
    fetch: GuardedFetch | None = None,
    attachments: Keeping | None = None,
    run_upkeep: bool = True,
) -> AsyncGenerator[Relay]:
    """Builds the feature and begins to hear other workers.

    Args:
        verifier: judges tokens that sockets sign in with.
        limiter: None: nothing is limited.
        fetch: calls Expo; a usual one when left out.
        around: what profiles, voice and health need of the rest of the server; None: there is no rest.
        keyring: with the lasting keys that lie beside people's data (`identity.data_roots.DATA`).
        attachments: where attachments of sessions are kept; None: there are none.
        run_upkeep: whether this process trims and sweeps from time to time.

    Raises:
        SettingsError: the master secret is too short.
    """
    around = around or Surroundings()
    vault = vault_of(settings, keyring)
    heads = Heads(clock, ids)
    rebuild: dict[str, Rebuild] = {}
    hub = Hub(bus, db, clock, ids.uuid(), rebuild, max_sockets=settings.max_sockets_per_account)
    updates = Updates(hub)
    census = Census(hub, bus, ids)
    tickets = Tickets(keyring.sealer("relay-ticket"), bus, clock, limiter)

    # -- the nouns -------------------------------------------------------------------------------------------------------

    parts: list[Forget] = [forget_messages, forget_session, forget_usage]
    endings = Endings(bus, clock)
    sessions = SessionsService(db, heads, updates, clock, ids, settings, endings, parts)
    messages = MessagesService(db, heads, updates, clock, ids, settings, sessions)
    rebuild["new-message"] = messages.rebuild
    usage = UsageService(db, heads, updates, clock, ids, sessions.owned)
    machines = Machines(db, heads, updates, clock, settings, (forget_machine,))
    access_keys = AccessKeysService(db, heads, clock, sessions.owned, machines.owned)
    push_tokens = PushTokenService(db, clock, ids)
    artifacts = Artifacts(db, heads, updates, clock, settings)
    presence = Presence(db, updates, hub, clock, settings, sessions, machines)
    changed: dict[Kind, ChangedSince] = {
        "session": sessions.changed_since,
        "machine": machines.changed_since,
        "artifact": artifacts.changed_since,
    }
    since = Since(db, clock, settings, changed)

    online = Online(db, bus, updates, hub, clock)
    vendor_tokens = VendorTokens(db, clock, vault)
    personal = build_personal(
        db,
        heads,
        updates,
        clock,
        ids,
        settings,
        around,
        keyring=keyring,
        limiter=limiter,
        connected=vendor_tokens.vendors,
        online=online,
    )
    github = GithubConnections(
        settings,
        around.fetch,
        clock,
        keyring.sealer("relay-github-state"),
        vault,
        personal.account,
        around.exists,
        around.server.public_address,
    )

    async def shown(viewer: str, account_ids: Sequence[str]) -> dict[str, SharedProfile]:
        people = await personal.people.profiles(viewer, account_ids)
        return {one.id: SharedProfile(one.id, one.first_name, one.last_name, one.username) for one in people.values()}

    async def emails(account_id: str) -> list[str]:
        profile = await db.read(lambda tx: personal.account.github_profile(tx, account_id), snapshot=False)
        at_github = None if profile is None else profile.get("email")
        return [*await around.emails(account_id), *([at_github] if isinstance(at_github, str) else [])]

    async def described(account_id: str) -> str:
        account = (await personal.account.profile(account_id)).account
        name = " ".join(part for part in (account.first_name, account.last_name) if part)
        known = [part for part in (account.username, name, *await around.emails(account_id)) if part]
        return ", ".join(known) or f"an account without a name ({account_id})"

    sharing = SharingService(
        db,
        heads,
        clock,
        ids,
        owns_session=sessions.owned,
        session=sessions.get,
        exists=around.exists,
        profiles=shown,
        emails=emails,
        invite=around.invite,
        limiter=limiter,
        app_url=settings.app_url,
    )
    parts.append(sharing.forget)
    attached: list[Endpoint] = []
    if attachments is not None:
        attachment_service = AttachmentService(db, ids, sessions.owned, attachments, limiter)
        parts.append(attachment_service.forget)
        attached = attachments_routes.routes(attachment_service, around.server, attachments.max_bytes)

    async def owns_session(account_id: str, session_id: str) -> bool:
        async def body(tx: ReadTx) -> bool:
            return await sessions.owned(tx, account_id, session_id)

        return await db.read(body, snapshot=False)

    async def tokens_of(account_id: str) -> list[str]:
        return [token.token for token in await push_tokens.list(account_id)]

    push_events = PushEventsService(
        db,
        updates,
        clock,
        Expo(settings, fetch or GuardedFetch()),
        sessions.owned,
        census.is_watched,
        tokens_of,
        push_tokens.remove,
        limiter,
    )

    # -- what they give --------------------------------------------------------------------------------------------------

    events = joined(
        sessions_events.events(sessions),
        messages_events.events(messages),
        access_keys_events.events(access_keys),
        usage_events.events(usage),
        machines_events.events(machines),
        artifacts_events.events(artifacts),
        presence_events.events(presence.heartbeats),
        since_events(since),
    )
    routines = [
        sessions.cleaning,
        messages.removing,
        Routine("relay updates", Trimmer(db, clock, settings).trim, 60.0),
        Routine("silent sessions and machines", presence.sweep, SWEEP_SECONDS),
        Routine("friends of dead workers", online.sweep, SWEEP_SECONDS),
        sharing.sweeping,
        Routine("tombstones", since.sweep, 3600.0),
    ]

    # -- sockets ---------------------------------------------------------------------------------------------------------

    dispatch = Dispatch(events, updates, owns_session)
    rpc = Rpc(hub, bus, clock, settings, is_session=owns_session)
    strangers = Strangers(settings.max_strangers_per_address)
    native = NativeSockets(hub, dispatch, rpc, tickets, verifier, clock, ids, settings, strangers)
    socketio = SocketIo(hub, dispatch, rpc, verifier, clock, ids, settings, strangers)
    endpoints = [
        *updates_routes.routes(tickets, census, updates),
        *personal.endpoints,
        *sessions_routes.routes(sessions_routes.SessionsApi(sessions)),
        *messages_routes.routes(messages_routes.MessagesApi(messages)),
        *access_keys_routes.routes(access_keys_routes.AccessKeysApi(access_keys)),
        *usage_routes.routes(usage_routes.UsageApi(usage)),
        *push_events_routes.routes(push_events_routes.PushEventsApi(push_events)),
        *machines_routes.routes(machines, settings),
        *artifacts_routes.routes(artifacts, settings),
        *connect_routes.routes(
            vendor_tokens,
            github,
            settings.github_webhook_secret,
            around.pages,
            described,
            ids,
            secure=around.server.public_address.startswith("https:"),
        ),
        *sharing_routes.routes(sharing),
        *attached,
        *door_routes(UpdatesDoor(native, socketio.engine), settings.max_frame_bytes),
    ]

    async with AsyncExitStack() as stack:
        await hub.start()
        await endings.start()
        stack.callback(endings.close)
        stack.push_async_callback(messages.close)
        stack.push_async_callback(sharing.close)
        presence.start()
        stack.push_async_callback(presence.close)
        await online.start()
        stack.push_async_callback(online.close)
        stack.push_async_callback(native.close)
        socketio.start()
        stack.push_async_callback(socketio.close)
        await rpc.start()
        stack.push_async_callback(rpc.close)
        stack.push_async_callback(hub.close)
        await census.start()
        stack.push_async_callback(census.close)
        alive = Routine("signs of life", census.say_here, TICK_SECONDS)
        for routine in [alive, *(routines if run_upkeep else ())]:
            routine.start()
            stack.push_async_callback(routine.stop)
        yield Relay(
            hub,
            heads,
            sessions,
            messages,
            updates,
            census,
            dispatch,
            native,
            socketio,
            strangers,
            rpc,
            presence,
            online,
            since,
            sharing,
            personal.account,
            endpoints,
        )
