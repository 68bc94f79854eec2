"""The whole of oauth, put together: `app.py` opens it, serves its endpoints and runs its jobs.

Who needs whom is said here once. Everything lives in the database of the auth side; people are asked for through their port.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hapta.bus.bus import Bus
from hapta.db.database import Database, WriteTx
from hapta.http.api import Endpoint
from hapta.http.fetch import GuardedFetch
from hapta.http.pages import Pages
from hapta.identity.browser import BrowserSessions
from hapta.identity.events import EventLog
from hapta.identity.models import Change, Origin, Revocation
from hapta.identity.pages.ports import AppAccess
from hapta.identity.people import IdentityStore
from hapta.identity.sessions import SessionService
from hapta.kit.access import UserId
from hapta.kit.background import Routine, Work, in_turn
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring
from hapta.kit.ratelimit import Limiter
from hapta.oauth import introspection, metadata, revocation, userinfo
from hapta.oauth.access_tokens import AccessTokens
from hapta.oauth.authorize import routes as authorize_routes
from hapta.oauth.authorize.flow import FlowSealer
from hapta.oauth.authorize.service import AuthorizeService
from hapta.oauth.authorize.validation import RequestReader
from hapta.oauth.client_auth import ClientAuthenticator
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.service import Clients
from hapta.oauth.codes.service import Codes
from hapta.oauth.consents import routes as consent_routes
from hapta.oauth.consents.service import Consents
from hapta.oauth.device import routes as device_routes
from hapta.oauth.device.service import Devices
from hapta.oauth.dpop import Dpop
from hapta.oauth.families.service import Families
from hapta.oauth.id_tokens import IdTokens
from hapta.oauth.issuer import Issuer
from hapta.oauth.keys.sealing import key_sealer
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.logout import routes as logout_routes
from hapta.oauth.logout.backchannel import POLL_SECONDS, BackchannelLogout
from hapta.oauth.logout.service import LogoutService
from hapta.oauth.models import DEVICE_GRANT
from hapta.oauth.par import routes as par_routes
from hapta.oauth.par.service import PushedService
from hapta.oauth.registration import routes as registration_routes
from hapta.oauth.registration.documents import ClientDocuments
from hapta.oauth.registration.service import Registration
from hapta.oauth.remote import RemoteDocuments
from hapta.oauth.resources import Resources
from hapta.oauth.scopes import Scopes
from hapta.oauth.subjects import Subjects
from hapta.oauth.token import routes as token_routes
from hapta.oauth.token.authorization_code import AuthorizationCodeGrant
from hapta.oauth.token.client_credentials import ClientCredentialsGrant
from hapta.oauth.token.device_code import DeviceCodeGrant
from hapta.oauth.token.dispatch import TokenService
from hapta.oauth.token.minting import Minter
from hapta.oauth.token.refresh_token import RefreshTokenGrant
from hapta.settings import Settings

SWEEP_SECONDS = 300.0
ERASE_SECONDS = 5.0
FLUSH_SECONDS = 10.0
ROTATION_SECONDS = 3600.0
TEMPLATE_FOLDERS = (("hapta.oauth", "templates"),)

Job = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class OAuth:
    """The authorization server, open.

    Args:
        end_grants: ends all that apps hold for a person, inside a transaction of the auth side; what to announce after it.
        access_tokens: judges third-party tokens at this server's own endpoints.
        jobs: loops to run until cancelled, by name.
        clean_up: removes what is over, once; one of the jobs does it again and again.
        endpoints: makes the URL table, once the pages are known.
    """

    issuer: Issuer
    clients: Clients
    consents: Consents
    keys: SigningKeys
    access_tokens: AccessTokens
    jobs: Mapping[str, Job]
    clean_up: Work
    endpoints: Callable[[Pages], list[Endpoint]]
    end_grants: Callable[[WriteTx, UserId], Awaitable[list[Revocation]]]


@asynccontextmanager
async def open_oauth(
    db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: Settings,
    keyring: Keyring,
    *,
    people: IdentityStore,
    sessions: SessionService,
    browser: BrowserSessions,
    events: EventLog,
    fetch: GuardedFetch,
    limiter: Limiter | None = None,
    serve: bool = True,
) -> AsyncGenerator[OAuth]:
    """Builds the authorization server over the auth side's database.

    Args:
        keyring: with its lasting keys.
        fetch: for what clients name: keys, documents, logout addresses.
        limiter: counts open registrations; None switches that off.
        serve: whether tokens are made and judged here; an operator's command only needs what ends with a person.
    """
    own = settings.oauth
    development = settings.server.environment == "development"
    issuer = Issuer(settings.server.public_address, allow_http=development)
    scopes, resources = Scopes(own.scopes, own.roles), Resources(issuer, own.resources)
    sealer = key_sealer(keyring, own.key_secret, own.key_secret_file, own.key_secret_previous)
    keys = SigningKeys(db, bus, clock, sealer, events, issuer, own)
    documents = ClientDocuments(fetch, clock, scopes) if own.client_id_documents else None
    directory = ClientDirectory(db, bus, clock, documents=documents)
    remote = RemoteDocuments(fetch, clock)
    authenticator = ClientAuthenticator(directory, db, clock, issuer, jwks=remote)
    dpop = Dpop(db, clock, issuer, keyring, needs_nonce=own.dpop_nonce)
    subjects = Subjects(keyring.current("subject"))
    announce = sessions.announce
    codes = Codes(db, clock, ids, own)
    families = Families(db, clock, ids, keyring, own, codes, sessions.marks, announce, events)
    consents = Consents(db, clock, own, directory, scopes, families, events, announce, keyring.current("audit-address"))
    clients = Clients(
        db,
        clock,
        ids,
        directory,
        scopes,
        events,
        on_deleted=[families.revoke_client, _without_revocations(consents.forget_client)],
        announce=announce,
    )
    backchannel = BackchannelLogout(db, clock, ids, issuer, directory, subjects, keys, fetch)
    sessions.on_end(families.sessions_ended)
    sessions.on_end(backchannel.session_ended)
    sessions.on_change(families.person_changed)

    async def forget(tx: WriteTx, change: Change) -> list[Revocation]:
        return await consents.forget_user(tx, change.user_id) if change.kind == "deleted" else []

    sessions.on_change(forget)
    flows = FlowSealer(keyring.sealer("flow-seal"), clock)
    pushed = PushedService(db, clock, ids, flows, own)
    reader = RequestReader(clock, directory, scopes, resources, keys, pushed, own)
    authorize = AuthorizeService(
        db,
        clock,
        issuer,
        directory,
        people,
        subjects,
        scopes,
        consents,
        pushed,
        codes,
        backchannel,
        events,
        announce,
    )
    devices = Devices(
        db,
        clock,
        ids,
        own,
        directory,
        people,
        scopes,
        resources,
        consents,
        backchannel,
        announce,
        keyring.current("user-code"),
    )
    consents.on_withdrawn(devices.drop)
    access_tokens = AccessTokens(
        keys,
        families,
        directory,
        sessions.marks,
        clock,
        ids,
        own,
        issuer,
        believed=lambda: sessions.cache.trusted,
    )
    minter = Minter(access_tokens, IdTokens(keys, clock, own, issuer), resources)
    tokens = TokenService(
        {
            "authorization_code": AuthorizationCodeGrant(db, codes, families, minter, subjects, events, announce),
            "refresh_token": RefreshTokenGrant(families, minter),
            "client_credentials": ClientCredentialsGrant(access_tokens, resources),
            DEVICE_GRANT: DeviceCodeGrant(db, devices, families, minter, subjects),
        }
    )
    revoking = revocation.TokenRevocation(db, keys, families, sessions.marks, announce, events, own)
    inspecting = introspection.TokenIntrospection(access_tokens, families, resources, keys, clock, issuer)
    registration = Registration(clock, ids, clients, own, limiter=limiter, remote=remote)

    def endpoints(pages: Pages) -> list[Endpoint]:
        documents = metadata.server_document(issuer, own, scopes), metadata.resource_document(issuer, scopes)
        found = [
            *authorize_routes.routes(reader, authorize, flows, scopes, browser, pages),
            *par_routes.routes(authenticator, dpop, reader, pushed),
            *device_routes.routes(authenticator, devices, issuer, scopes, flows, browser, pages),
            *token_routes.routes(tokens, authenticator, dpop),
            *revocation.routes(revoking, authenticator),
            *introspection.routes(inspecting, authenticator),
            *userinfo.routes(access_tokens, dpop, directory, people, subjects),
            *logout_routes.routes(LogoutService(directory, keys, sessions), flows, browser, pages),
            *consent_routes.routes(consents),
            *metadata.routes(*documents, keys, issuer),
        ]
        if own.registration != "off":
            found += registration_routes.routes(registration, issuer)
        return found

    async def end_grants(tx: WriteTx, user_id: UserId) -> list[Revocation]:
        await codes.delete_user(tx, user_id)  # first: a code that is being redeemed has become a family by then
        return await families.revoke_user(tx, user_id, "factors_changed")

    clean_up = in_turn(
        {
            "authorizations": authorize.sweep,
            "pushed requests": pushed.sweep,
            "proofs of possession": dpop.sweep,
            "clients": clients.sweep,
            "authorization codes": codes.sweep,
            "device codes": devices.sweep,
            "refresh tokens": families.sweep,
            "back-channel logout": backchannel.sweep,
        }
    )
    routines = [
        keys.following,
        Routine("deliveries of back-channel logout", backchannel.deliver_due, POLL_SECONDS, at_once=True),
        Routine("rotation of signing keys", keys.rotate_due, ROTATION_SECONDS),
        Routine("successors of refresh tokens", families.erase_successors, ERASE_SECONDS),
        Routine("last uses of clients", directory.flush_used, FLUSH_SECONDS),
        Routine("oauth clean-up", clean_up, SWEEP_SECONDS),
    ]
    jobs: dict[str, Job] = {routine.name: routine.run for routine in routines}
    if serve:
        await keys.open()
        await directory.open()
    try:
        yield OAuth(issuer, clients, consents, keys, access_tokens, jobs, clean_up, endpoints, end_grants)
    finally:
        await directory.close()
        await keys.close()


def _without_revocations(
    forget: Callable[[WriteTx, str], Awaitable[None]],
) -> Callable[[WriteTx, str], Awaitable[Sequence[Revocation]]]:
    async def forgotten(tx: WriteTx, client_id: str) -> Sequence[Revocation]:
        await forget(tx, client_id)
        return ()

    return forgotten


class PageApps:
    """Connected apps as the account page of identity shows them (`identity.pages.ports.ConnectedApps`)."""

    def __init__(self, consents: Consents) -> None:
        self._consents = consents

    async def list_apps(self, user_id: UserId) -> Sequence[AppAccess]:
        """The apps that a person has allowed something."""
        return [
            AppAccess(app.client_id, app.name, app.texts, app.allowed_at)
            for app in await self._consents.connected(user_id)
        ]

    async def withdraw(self, user_id: UserId, client_id: str, origin: Origin) -> None:
        """Takes back all that a client was allowed.

        Raises:
            GrantNotFound: it was allowed nothing.
        """
        await self._consents.withdraw(user_id, client_id, origin)
