"""`AuthorizeService`: from a validated request to a code, by way of login and consent. It knows no HTTP.

Every step works from the flow and the session alone: what was decided in an earlier request is in the database (the session, a consent)
or proven by it (a login since the flow began). Code, consent and the end of a pushed request are one transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from typing import NamedTuple

from msgspec.structs import replace

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.models import Origin, Revocation
from hapta.identity.people import IdentityStore, Person
from hapta.kit.access import Caller
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unavailable
from hapta.oauth.authorize import store
from hapta.oauth.authorize.acr import acr_of, meets
from hapta.oauth.authorize.models import (
    Answer,
    AskConsent,
    Asked,
    ChooseAccount,
    Flow,
    Login,
    Next,
    Target,
    Unredirectable,
    target_of,
)
from hapta.oauth.authorize.ports import Announce, Clients, CodeIssuer, PushedRequests, SessionWatchers
from hapta.oauth.authorize.rules import check_redirect_uri
from hapta.oauth.consents.service import Consents
from hapta.oauth.errors import (
    AccessDenied,
    ConsentRequired,
    InteractionRequired,
    InvalidRequest,
    LoginRequired,
    OAuthError,
    UnmetAuthenticationRequirements,
)
from hapta.oauth.issuer import Issuer
from hapta.oauth.models import Authorization, Client
from hapta.oauth.scopes import Scopes
from hapta.oauth.subjects import Subjects

CHALLENGE_KEEP_MS = 30 * 86_400_000
SWEEP_BATCH = 500


class _Ready(NamedTuple):
    """Nothing but the consent is open."""

    client: Client
    person: Person
    flow: Flow
    """With the scopes that the person's roles permit."""


class AuthorizeService:
    """Decides what comes next in a flow.

    Args:
        pushed: what came through the back channel.
        codes: makes codes.
        watchers: who wants to hear of the session's end.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        issuer: Issuer,
        clients: Clients,
        people: IdentityStore,
        subjects: Subjects,
        scopes: Scopes,
        consents: Consents,
        pushed: PushedRequests,
        codes: CodeIssuer,
        watchers: SessionWatchers,
        events: EventLog,
        announce: Announce,
    ) -> None:
        self._db = db
        self._clock = clock
        self._issuer = issuer
        self._clients = clients
        self._people = people
        self._subjects = subjects
        self._scopes = scopes
        self._consents = consents
        self._pushed = pushed
        self._codes = codes
        self._watchers = watchers
        self._events = events
        self._announce = announce

    # --- what comes next ---

    async def advance(self, flow: Flow, caller: Caller | None, origin: Origin) -> Next:
        """The next step of a flow; a code when nothing is open any more.

        Raises:
            Unredirectable: the client is gone, or no longer has this redirect URI.
        """
        try:
            ready = await self._until_consent(flow, caller)
            if not isinstance(ready, _Ready) or caller is None:
                return ready if not isinstance(ready, _Ready) else Login(flow, again=False)
            granted = await self._granted_before(ready)
            if granted is not None:
                refused = tuple(name for name in ready.flow.asked.scopes if name not in granted)
                return await self._issue(ready, caller, granted, refused, origin, asked=False)
            if "none" in flow.asked.prompts:
                raise ConsentRequired
            return AskConsent(ready.flow, ready.client, ready.person)
        except (OAuthError, Unavailable) as error:
            return self.error_answer(target_of(flow.asked), error)

    async def decide(
        self, flow: Flow, caller: Caller | None, origin: Origin, *, allow: bool, ticked: Collection[str]
    ) -> Next:
        """What comes of a person's decision on the consent page.

        Args:
            ticked: names of the scopes that were left ticked; those that cannot be left out are granted anyway.

        Raises:
            Unredirectable: as `advance`.
        """
        asked = flow.asked
        try:
            if not allow:
                await self._client_of(asked)
                raise AccessDenied
            ready = await self._until_consent(flow, caller)
            if not isinstance(ready, _Ready) or caller is None:
                return ready if not isinstance(ready, _Ready) else Login(flow, again=False)
            open_to = ready.flow.asked.scopes
            granted = tuple(name for name in open_to if name in ticked or not self._scopes.get(name).optional)
            if open_to and not granted:
                raise AccessDenied("Nothing was allowed")
            refused = tuple(name for name in open_to if name not in granted)
            return await self._issue(ready, caller, granted, refused, origin, asked=True)
        except (OAuthError, Unavailable) as error:
            return self.error_answer(target_of(asked), error)

    def choose(self, flow: Flow, caller: Caller) -> Flow:
        """The flow, with the account that the person has chosen for it."""
        return Flow(asked=flow.asked, started_at=flow.started_at, pushed=flow.pushed, account=caller.user_id)

    def error_answer(self, target: Target, error: HaptaError) -> Answer:
        """How a client is told of a fault (RFC 6749, section 4.1.2.1; RFC 9207)."""
        code = error.code if isinstance(error, OAuthError) else "temporarily_unavailable"
        return self._answer(target, (("error", code), ("error_description", _plain(error.message))))

    def failure_answer(self, target: Target) -> Answer:
        """How a client is told that something broke on our side."""
        return self._answer(target, (("error", "server_error"), ("error_description", "Something broke on our side")))

    def _answer(self, target: Target, parameters: tuple[tuple[str, str], ...]) -> Answer:
        state = () if target.state is None else (("state", target.state),)
        return Answer(target, (*parameters, *state, ("iss", self._issuer.url)))

    async def _client_of(self, asked: Asked) -> Client:
        client = await self._clients.find(asked.client_id)
        if client is None:
            raise Unredirectable(InvalidRequest("The app that sent you here is not registered"))
        check_redirect_uri(client, asked.redirect_uri)
        return client

    # --- login ---

    async def _until_consent(self, flow: Flow, caller: Caller | None) -> Login | ChooseAccount | _Ready:
        """Everything up to the consent (OpenID Connect Core, sections 3.1.2.1 to 3.1.2.3).

        Raises:
            OAuthError: the client cannot have what it asks for.
        """
        asked = flow.asked
        client = await self._client_of(asked)
        silent = "none" in asked.prompts
        person = None if caller is None else await self._people.find(caller.user_id)
        if caller is None or person is None or person.disabled:
            if silent:
                raise LoginRequired
            return Login(flow, again=False)
        if asked.hinted_subject not in (None, self._subjects.of(client, person.user_id)):
            raise LoginRequired("Somebody else is signed in")
        authenticated_at = _milliseconds(caller.authenticated_at)
        is_fresh = authenticated_at >= flow.started_at
        if not is_fresh and ("login" in asked.prompts or self._is_stale(asked, client, authenticated_at)):
            if silent:
                raise LoginRequired
            return Login(flow, again=True)
        if not meets(acr_of(caller.amr), asked.acr_values):
            if silent:
                raise InteractionRequired
            if is_fresh:
                raise UnmetAuthenticationRequirements
            return Login(flow, again=True)
        if "select_account" in asked.prompts and not is_fresh and flow.account != caller.user_id:
            return ChooseAccount(flow, client, person)
        permitted = self._scopes.permitted(person.roles, asked.scopes)
        if asked.scopes and not permitted:
            raise AccessDenied("This account may not give what the app asks for")
        return _Ready(client, person, replace(flow, asked=replace(asked, scopes=permitted)))

    def _is_stale(self, asked: Asked, client: Client, authenticated_at: int) -> bool:
        max_age = client.default_max_age if asked.max_age is None else asked.max_age
        return max_age is not None and self._clock.now_ms() - authenticated_at >= max_age * 1000

    # --- consent and code ---

    async def _granted_before(self, ready: _Ready) -> tuple[str, ...] | None:
        """The scopes that need no question; None when the person must be asked."""
        asked = ready.flow.asked
        if "consent" in asked.prompts:
            return None
        client = ready.client
        # RFC 8252, section 8.6: another app on the device can pass for this one, also for one of our own, so a person looks
        # each time.
        if client.is_public and client.application_type == "native" and not asked.redirect_uri.startswith("https:"):
            return None
        if client.first_party:
            return asked.scopes
        return await self._consents.remembered(ready.person.user_id, client, asked.scopes, asked.resources)

    async def _issue(
        self,
        ready: _Ready,
        caller: Caller,
        granted: tuple[str, ...],
        refused: tuple[str, ...],
        origin: Origin,
        *,
        asked: bool,
    ) -> Answer:
        """The code, in one transaction with all that goes with it."""
        flow, client, person = ready.flow, ready.client, ready.person
        request = flow.asked
        authorization = Authorization(
            client_id=client.client_id,
            user_id=person.user_id,
            session_id=caller.session_id,
            scopes=granted,
            resources=request.resources,
            redirect_uri=request.redirect_uri,
            redirect_uri_sent=request.redirect_uri_sent,
            code_challenge=request.code_challenge,
            nonce=request.nonce,
            dpop_jkt=request.dpop_jkt,
            authenticated_at=_milliseconds(caller.authenticated_at),
            amr=caller.amr,
            acr=acr_of(caller.amr),
            wants_auth_time=request.max_age is not None or client.require_auth_time,
            person_version=person.version,
        )

        async def body(tx: WriteTx) -> tuple[str, list[Revocation]]:
            if flow.pushed is not None:
                await self._pushed.burn(tx, client.client_id, flow.pushed)
            ended: list[Revocation] = []
            if asked or client.first_party:  # the latter are listed among a person's apps like all others
                ended = await self._consents.allow(
                    tx,
                    person.user_id,
                    client,
                    scopes=granted,
                    refused=refused,
                    resources=request.resources,
                    origin=origin,
                    asked=asked,
                )
            else:
                await self._consents.confirm(tx, person.user_id, client, granted, request.resources)
            await self._watchers.watch(tx, client, person.user_id, caller.session_id)
            await self._note_challenge(tx, authorization, origin)
            return await self._codes.issue(tx, authorization), ended

        code, ended = await self._db.write(body)
        await self._announce(ended)
        return self._answer(target_of(request), (("code", code),))

    async def _note_challenge(self, tx: WriteTx, authorization: Authorization, origin: Origin) -> None:
        """Flags a client that brings the same code challenge twice (contract identity, section 6.4)."""
        digest = sha256((authorization.code_challenge or "").encode()).digest()
        until = self._clock.now_ms() + CHALLENGE_KEEP_MS
        if not await store.note_challenge(tx, authorization.client_id, digest, until):
            event = Event(
                "auth.token.misused",
                authorization.user_id,
                origin,
                outcome="failure",
                client_id=authorization.client_id,
                session_id=authorization.session_id,
                reason="code_challenge_reused",
            )
            await self._events.record(tx, event)

    async def sweep(self) -> int:
        """Forgets challenges of a month ago, in small batches; how many."""
        now = self._clock.now_ms()
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep_challenges(tx, now, SWEEP_BATCH)))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _plain(text: str) -> str:
    """The characters that RFC 6749, section 4.1.2.1 allows in `error_description`."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text)
