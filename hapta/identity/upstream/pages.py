"""The browser's side of signing in elsewhere: there, back, and to the account (contract identity, section 24).

Forms carry a token against foreign pages; the way back carries the state of an attempt that this very browser began. Addresses to
go on to are checked when they come in and again when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from msgspec.structs import replace

from hapta.http.api import Reply, Request
from hapta.http.forms import BadForm, Form
from hapta.http.pages import redirect
from hapta.identity.browser import Headers
from hapta.identity.errors import RegistrationDisabled
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.factors.service import require_fresh
from hapta.identity.links.errors import LastWayIn, LinkNotFound, LinkTaken
from hapta.identity.links.owner import OwnLinks
from hapta.identity.models import SignedIn
from hapta.identity.pages.kit import PageKit
from hapta.identity.policy import ACCOUNT_PATH, LOGIN_PATH, login_path, origin, safe_path, with_continue
from hapta.identity.upstream.attempts import Attempts
from hapta.identity.upstream.errors import (
    AccountClosed,
    AttemptOver,
    ProviderNotFound,
    UpstreamAway,
    UpstreamRefused,
)
from hapta.identity.upstream.models import Answer, Attempt, NeedsOwner, Provider, UpstreamIdentity
from hapta.identity.upstream.service import Outcome, UpstreamService
from hapta.kit.access import Caller
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, InvalidToken, Unavailable

START_PATH = "/identity/upstream"
CONNECT_PATH = "/identity/account/connect"
REMOVE_PATH = "/identity/account/links/remove"
MAX_CODE_CHARACTERS = 4096

_log = structlog.get_logger("hapta.identity")


class UpstreamPages:
    """Handlers.

    Args:
        issuer: our public address, below which the providers' redirect addresses lie.
    """

    def __init__(
        self,
        kit: PageKit,
        clock: Clock,
        attempts: Attempts,
        service: UpstreamService,
        links: OwnLinks,
        providers: Mapping[str, Provider],
        issuer: str,
    ) -> None:
        self._kit = kit
        self._clock = clock
        self._attempts = attempts
        self._service = service
        self._links = links
        self._providers = providers
        self._issuer = issuer.rstrip("/")

    # --- there ---

    async def start(self, request: Request, body: Form, provider: str) -> Reply:
        """Sends the browser to the provider; with `link` in the form to connect it to the account that is signed in."""
        caller = await self._kit.checked(request, body)
        there = self._provider(provider)
        linking = "link" in body
        if linking:
            answer = self._unless_fresh(caller, f"{START_PATH}/{there.name}")
            if answer is not None or caller is None:
                return answer or self._kit.browser.login_redirect(ACCOUNT_PATH)
        attempt, cookie = self._attempts.begin(
            there.name,
            body.one("continue"),
            remember="remember" in body,
            link_to=caller.user_id if linking and caller is not None else None,
            again=caller is not None and not linking,
        )
        try:
            url = await there.authorization_url(attempt, self._redirect_uri(there))
        except UpstreamAway as error:
            return self._failed(request, caller, there, error, attempt)
        return self._lead_on(request, caller, url, f"On to {there.label}", cookie)

    async def connect_page(self, request: Request, provider: str) -> Reply:
        """Asks whether to connect the account that is signed in."""
        there = self._provider(provider)
        caller = await self._kit.browser.current(request)
        return self._ask(request, caller, there.label, f"{START_PATH}/{there.name}", identity=None)

    def _ask(self, request: Request, caller: Caller | None, label: str, action: str, **more: Any) -> Reply:
        """Asks who is signed in, and has proved so lately, whether to connect their account."""
        answer = self._unless_fresh(caller, action)
        if answer is not None:
            return answer
        return self._kit.show(request, "upstream_connect.html", caller, label=label, action=action, **more)

    # --- back ---

    async def callback(self, request: Request, provider: str) -> Reply:
        """What the provider sends the browser back with."""
        there = self._provider(provider)
        caller = await self._kit.browser.current(request)
        cleared = self._attempts.forget("attempt")
        try:
            query = Form.parse(request.query_string)
            attempt = await self._attempts.take(request, there.name, query.one("state"))
        except (AttemptOver, BadForm):
            _log.info("upstream sign-in refused", provider=there.name, reason="no such attempt in this browser")
            return self._failed(request, caller, there, AttemptOver(), None, cleared)
        try:
            identity = await self._identify(there, query, attempt)
        except (UpstreamRefused, UpstreamAway, BadForm) as error:
            return self._failed(request, caller, there, error, attempt, cleared)
        if attempt.link_to is not None:
            return await self._connected_back(request, caller, there, identity, attempt, cleared)
        try:
            outcome = await self._service.sign_in(identity, origin(request))
        except (AccountClosed, RegistrationDisabled, Unavailable) as error:
            return self._failed(request, caller, there, error, attempt, cleared)
        if isinstance(outcome, NeedsOwner):
            return redirect(CONNECT_PATH, (*cleared, *self._attempts.keep(outcome.identity, attempt)))
        return await self._finish(request, outcome, caller, attempt.continue_to, attempt.remember, cleared)

    async def _identify(self, there: Provider, query: Form, attempt: Attempt) -> UpstreamIdentity:
        issuer = query.one("iss")
        if "error" in query:
            raise UpstreamRefused("the person or the provider said no")
        code = query.one("code")
        if code is None or len(code) > MAX_CODE_CHARACTERS:
            raise UpstreamRefused("there is no code")
        return await there.identify(Answer(code, issuer), attempt, self._redirect_uri(there))

    async def _connected_back(
        self,
        request: Request,
        caller: Caller | None,
        there: Provider,
        identity: UpstreamIdentity,
        attempt: Attempt,
        cleared: Headers,
    ) -> Reply:
        if caller is None or caller.user_id != attempt.link_to:
            # Somebody else is signed in by now: what A began is not done to B's account.
            return self._failed(request, caller, there, AttemptOver(), attempt, cleared)
        try:
            rolled = await self._link(request, caller, identity)
        except StepUpRequired:
            kept = (*cleared, *self._attempts.keep(identity, attempt))
            return redirect(login_path(CONNECT_PATH, reauthenticate=True), kept)
        except (LinkTaken, InvalidToken) as error:
            return self._failed(request, caller, there, error, attempt, cleared)
        return self._rolled(request, caller, rolled, attempt.continue_to, cleared)

    # --- an identity without an account ---

    async def pending_page(self, request: Request) -> Reply:
        """Asks whoever comes back as somebody unknown which account is theirs; if one is signed in, whether it is that one."""
        caller = await self._kit.browser.current(request)
        try:
            pending = self._attempts.pending(request)
        except AttemptOver as error:
            return self._said(request, caller, error)
        label = self._label(pending.identity)
        if caller is None or "other" in Form.parse(request.query_string):
            return self._kit.show(
                request,
                "upstream_pending.html",
                caller,
                label=label,
                identity=pending.identity,
                login_path=login_path(CONNECT_PATH, reauthenticate=caller is not None),
                can_create=self._service.allows_registration,
                action=f"{CONNECT_PATH}/new",
            )
        return self._ask(
            request,
            caller,
            label,
            CONNECT_PATH,
            identity=pending.identity,
            person=await self._kit.accounts.me(caller.user_id),
            other_path=f"{CONNECT_PATH}?other=1",
        )

    async def connect(self, request: Request, body: Form) -> Reply:
        """Connects what waits to the account that is signed in."""
        caller = await self._kit.checked(request, body)
        answer = self._unless_fresh(caller, CONNECT_PATH)
        if answer is not None or caller is None:
            return answer or self._kit.browser.login_redirect(CONNECT_PATH)
        cleared = self._attempts.forget("pending")
        try:
            pending = self._attempts.pending(request)
            await self._attempts.use_pending(pending)
            rolled = await self._link(request, caller, pending.identity)
        except (AttemptOver, LinkTaken) as error:
            return self._said(request, caller, error, cleared)
        return self._rolled(request, caller, rolled, pending.continue_to, cleared)

    async def create(self, request: Request, body: Form) -> Reply:
        """Makes an account for what waits."""
        caller = await self._kit.checked(request, body)
        cleared = self._attempts.forget("pending")
        try:
            pending = self._attempts.pending(request)
            await self._attempts.use_pending(pending)
            outcome = await self._service.create(pending.identity, origin(request))
        except (AttemptOver, AccountClosed, RegistrationDisabled) as error:
            return self._said(request, caller, error, cleared)
        return await self._finish(request, outcome, caller, pending.continue_to, pending.remember, cleared)

    # --- on the account page ---

    async def remove(self, request: Request, body: Form) -> Reply:
        """Removes a link."""
        caller = await self._kit.checked(request, body)
        if caller is None:
            return self._kit.browser.login_redirect(ACCOUNT_PATH)
        browser = self._kit.browser
        link_id = (body.one("link") or "")[:64]
        try:
            rolled = await self._links.remove(caller, link_id, origin(request), key=browser.session_key(request))
        except StepUpRequired:
            return browser.login_redirect(ACCOUNT_PATH, reauthenticate=True)
        except LinkNotFound:
            return redirect(ACCOUNT_PATH)  # it is gone, which is what was asked for
        except LastWayIn as error:
            return self._said(request, caller, error)
        return redirect(ACCOUNT_PATH, browser.signed_in_headers(rolled, browser.remembered(request)))

    async def section(self, caller: Caller) -> Mapping[str, Any]:
        """What the account page shows of links."""
        links = [{"link": link, "name": self._links.name_of(link.provider)} for link in await self._links.list(caller)]
        offers = [{"label": there.label, "path": f"{START_PATH}/{there.name}"} for there in self._providers.values()]
        return {"links": links, "offers": offers, "remove_path": REMOVE_PATH}

    # --- parts ---

    def _provider(self, name: str) -> Provider:
        there = self._providers.get(name)
        if there is None:
            raise ProviderNotFound
        return there

    def _redirect_uri(self, there: Provider) -> str:
        return f"{self._issuer}{START_PATH}/{there.name}/callback"

    def _label(self, identity: UpstreamIdentity) -> str:
        there = self._providers.get(identity.provider)
        return identity.provider if there is None else there.label

    def _unless_fresh(self, caller: Caller | None, path: str) -> Reply | None:
        """The way to the login page, for whoever has not proved who they are a moment ago."""
        if caller is None:
            return self._kit.browser.login_redirect(path)
        try:
            require_fresh(caller, self._clock)
        except StepUpRequired:
            return self._kit.browser.login_redirect(path, reauthenticate=True)
        return None

    async def _link(self, request: Request, caller: Caller, identity: UpstreamIdentity) -> SignedIn:
        key = self._kit.browser.session_key(request)
        return await self._links.add(
            caller, identity.provider, identity.subject, identity.label, origin(request), key=key
        )

    async def _finish(
        self,
        request: Request,
        outcome: Outcome,
        before: Caller | None,
        continue_to: str | None,
        remember: bool,
        cleared: Headers,
    ) -> Reply:
        reply = await self._kit.finish(
            request, outcome, before=before, continue_to=continue_to, remember=remember, identifier=None
        )
        return replace(reply, headers=(*reply.headers, *cleared))

    def _rolled(
        self, request: Request, caller: Caller, rolled: SignedIn, continue_to: str | None, cleared: Headers
    ) -> Reply:
        browser = self._kit.browser
        headers = (*browser.signed_in_headers(rolled, browser.remembered(request)), *cleared)
        to = safe_path(continue_to) or ACCOUNT_PATH
        if to.startswith("/identity/"):
            return redirect(to, headers)
        return self._lead_on(request, caller, to, "You are signed in", headers)

    def _lead_on(self, request: Request, caller: Caller | None, to: str, title: str, headers: Headers) -> Reply:
        """Sends the browser on from a form, by a page of its own.

        Browsers hold the whole way of a form, redirects included, against `form-action` of its page (CSP Level 3, section 6.4.2).
        A provider that knows the person sends them back at once, and so on to an app: origins that the page cannot name. A page
        that leads on begins a way of its own, and needs no script.
        """
        onward = (b"refresh", f"0; url={to}".encode("ascii"))
        reply = self._kit.show(request, "upstream_go.html", caller, headers=(onward,), url=to, title=title)
        # A session that has just rolled brings its own token: the one that `show` sets would be that of the old one.
        kept = (
            [header for header in reply.headers if header[0] != b"set-cookie"] if caller is not None else reply.headers
        )
        return replace(reply, headers=(*kept, *headers))

    def _failed(
        self,
        request: Request,
        caller: Caller | None,
        there: Provider,
        error: HaptaError,
        attempt: Attempt | None,
        headers: Headers = (),
    ) -> Reply:
        """A page that says no more than that it did not work; the reason goes to the log."""
        if isinstance(error, UpstreamRefused | UpstreamAway):
            _log.warning("upstream sign-in failed", provider=there.name, reason=error.reason)
        linking = attempt is not None and attempt.link_to is not None
        text = f"{there.label} did not let you in here, or its answer could not be verified."
        if isinstance(error, UpstreamAway):
            text = f"{there.label} does not answer. Please try again in a while."
        elif not isinstance(error, UpstreamRefused | BadForm):
            text = f"{error.message}."
        continue_to = None if attempt is None else attempt.continue_to
        back = ACCOUNT_PATH if linking else with_continue(LOGIN_PATH, continue_to)
        return self._kit.show(
            request,
            "done.html",
            caller,
            status=503 if isinstance(error, Unavailable) else 400,
            headers=headers,
            title="That did not work",
            text=text,
            link=(back, "Back to your account" if linking else "Try again"),
        )

    def _said(self, request: Request, caller: Caller | None, error: HaptaError, headers: Headers = ()) -> Reply:
        back = (LOGIN_PATH, "Sign in") if caller is None else (ACCOUNT_PATH, "Back to your account")
        return self._kit.show(
            request,
            "done.html",
            caller,
            status=400,
            headers=headers,
            title="That did not work",
            text=f"{error.message}.",
            link=back,
        )
