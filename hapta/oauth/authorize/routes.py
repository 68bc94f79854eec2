"""`GET` and `POST /oauth/authorize` and the page where a person decides: decode, call, encode.

A browser is redirected to an address only out of an `Answer`, and an `Answer` is made only of a request whose redirect URI was found to
be its client's.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import structlog

from hapta.http.api import Content, Endpoint, Form, Reply, Request, Table
from hapta.http.pages import Pages, form_targets, redirect
from hapta.identity.browser import BrowserSessions
from hapta.identity.errors import CsrfFailed
from hapta.identity.people import Person
from hapta.identity.policy import origin
from hapta.kit.access import PAGE, Caller
from hapta.kit.errors import HaptaError, Invalid
from hapta.oauth.authorize.flow import BadFlow, FlowSealer, FlowTooLarge
from hapta.oauth.authorize.models import (
    Answer,
    AskConsent,
    ChooseAccount,
    Flow,
    Login,
    Next,
    Refused,
    Unredirectable,
    target_of,
)
from hapta.oauth.authorize.responses import answer_reply
from hapta.oauth.authorize.service import AuthorizeService
from hapta.oauth.authorize.validation import RequestReader
from hapta.oauth.errors import InvalidRequest
from hapta.oauth.models import Client
from hapta.oauth.redirect_uris import host_of
from hapta.oauth.scopes import Scopes

PATH = "/oauth/authorize"
DECISION_PATH = "/oauth/authorize/decision"
FLOW_PURPOSE = "authorize"
_HTML = Content("text/html", "A page for the person")
_log = structlog.get_logger("hapta.oauth")


def routes(
    reader: RequestReader,
    service: AuthorizeService,
    sealer: FlowSealer,
    scopes: Scopes,
    browser: BrowserSessions,
    pages: Pages,
) -> list[Endpoint]:
    """The URL table of the authorization endpoint."""
    api = AuthorizeApi(reader, service, sealer, scopes, browser, pages)
    table = Table(dialect=pages.dialect, access=PAGE, limit="authorize", tag="oauth", cors="none")
    inner = Table(dialect=pages.dialect, access=PAGE, limit="authorize", tag="oauth", cors="none", hidden=True)
    return [
        table.get(
            PATH,
            api.authorize,
            summary="Ask a person for access",
            answers={303: None, 200: _HTML},
            errors=[Unredirectable, BadFlow],
        ),
        table.post(
            PATH,
            api.authorize_by_post,
            summary="Ask a person for access, with the parameters in a form",
            answers={303: None},
            errors=[Unredirectable],
        ),
        inner.post(
            DECISION_PATH,
            api.decide,
            summary="What the person decided",
            answers={303: None, 200: _HTML},
            errors=[BadFlow, CsrfFailed],
        ),
    ]


class AuthorizeApi:
    """Handlers of the authorization endpoint."""

    def __init__(
        self,
        reader: RequestReader,
        service: AuthorizeService,
        sealer: FlowSealer,
        scopes: Scopes,
        browser: BrowserSessions,
        pages: Pages,
    ) -> None:
        self._reader = reader
        self._service = service
        self._sealer = sealer
        self._scopes = scopes
        self._browser = browser
        self._pages = pages

    async def authorize(self, request: Request) -> Reply:
        form = Form.parse(request.query_string)
        sealed = form.all("flow")
        if sealed:
            return await self._advance(request, self._opened(form))
        try:
            flow = await self._reader.begin(form)
        except Refused as refused:
            return self._answered(self._service.error_answer(refused.target, refused.error))
        return await self._advance(request, flow)

    async def authorize_by_post(self, body: Form) -> Reply:
        """Goes on by GET: a form that comes from the client's page carries no cookie of ours (SameSite)."""
        try:
            return self._to(await self._reader.begin(body))
        except Refused as refused:
            return self._answered(self._service.error_answer(refused.target, refused.error))

    async def decide(self, request: Request, body: Form) -> Reply:
        flow = self._opened(body)
        caller = await self._browser.current(request)
        if caller is None:
            return self._to(flow)
        self._browser.check_form(request, body, caller)
        match body.one("decision"):
            case "allow" | "deny" as decision:
                try:
                    step = await self._service.decide(
                        flow, caller, origin(request), allow=decision == "allow", ticked=body.all("scope")
                    )
                except HaptaError:
                    raise
                except Exception as error:  # the boundary: see `_advance`
                    step = self._failed(request, flow, error)
                return await self._shown(request, step, caller)
            case "continue":
                return self._to(self._service.choose(flow, caller))
            case "switch":
                return await self._shown(request, Login(flow, again=True), caller)
            case _:
                raise Invalid("The decision is missing")

    # --- steps ---

    async def _advance(self, request: Request, flow: Flow) -> Reply:
        caller = await self._browser.current(request)
        try:
            step = await self._service.advance(flow, caller, origin(request))
        except HaptaError:
            raise
        except Exception as error:  # the boundary: RFC 6749, section 4.1.2.1 tells clients of our bugs by a redirect
            step = self._failed(request, flow, error)
        return await self._shown(request, step, caller)

    def _failed(self, request: Request, flow: Flow, error: Exception) -> Answer:
        _log.error("authorization failed", request_id=request.request_id, exc_info=error)
        return self._service.failure_answer(target_of(flow.asked))

    async def _shown(self, request: Request, step: Next, caller: Caller | None) -> Reply:
        match step:
            case Login():
                return self._login(step)
            case Answer():
                return self._answered(step)
            case AskConsent():
                return self._page(request, "oauth_consent.html", step, caller, self._scope_rows(step.flow))
            case ChooseAccount():
                return self._page(request, "oauth_account.html", step, caller, [])

    def _login(self, step: Login) -> Reply:
        try:
            return self._browser.login_redirect(self._path(step.flow), reauthenticate=step.again)
        except FlowTooLarge as error:
            target = target_of(step.flow.asked)
            return self._answered(self._service.error_answer(target, InvalidRequest(error.message)))

    def _to(self, flow: Flow) -> Reply:
        try:
            return redirect(self._path(flow))
        except FlowTooLarge as error:
            return self._answered(self._service.error_answer(target_of(flow.asked), InvalidRequest(error.message)))

    def _answered(self, answer: Answer) -> Reply:
        return answer_reply(self._pages, answer)

    def _page(
        self,
        request: Request,
        template: str,
        step: AskConsent | ChooseAccount,
        caller: Caller | None,
        scopes: list[dict[str, object]],
    ) -> Reply:
        asked = step.flow.asked
        try:
            flow = self._sealer.seal(step.flow, FLOW_PURPOSE)
        except FlowTooLarge as error:
            return self._answered(self._service.error_answer(target_of(asked), InvalidRequest(error.message)))
        token, headers = self._browser.csrf_token(request, caller)
        return self._pages.reply(
            template,
            headers=headers,
            form_action=form_targets(asked.redirect_uri),
            csrf=token,
            flow=flow,
            action=DECISION_PATH,
            app=app_view(step.client),
            redirect_host=host_of(asked.redirect_uri),
            account=account_label(step.person),
            scopes=scopes,
        )

    def _scope_rows(self, flow: Flow) -> list[dict[str, object]]:
        rows = [self._scopes.get(name) for name in flow.asked.scopes]
        return [{"name": row.name, "text": row.describe(), "risk": row.risk, "optional": row.optional} for row in rows]

    # --- flows ---

    def _opened(self, form: Form) -> Flow:
        sealed = form.one("flow")
        if sealed is None:
            raise BadFlow
        return self._sealer.open(sealed, Flow, FLOW_PURPOSE)

    def _path(self, flow: Flow) -> str:
        return f"{PATH}?flow={self._sealer.seal(flow, FLOW_PURPOSE)}"


def app_view(client: Client) -> dict[str, object]:
    """What people are told of an app. Links of its own choosing lead to https addresses alone."""
    links = {"Privacy policy": client.policy_uri, "Terms": client.tos_uri}
    publisher = None if client.client_uri is None else urlsplit(client.client_uri).hostname
    if not client.verified and publisher not in {host_of(uri) for uri in client.redirect_uris}:
        publisher = None  # it would be the app's own word, and people would take it for ours
    return {
        "name": client.name,
        "verified": client.verified,
        "publisher": publisher,
        "links": [(text, uri) for text, uri in links.items() if uri is not None and uri.startswith("https://")],
    }


def account_label(person: Person) -> str:
    """How people recognise their own account."""
    return person.email or person.phone or person.profile.preferred_username or person.profile.name or person.user_id
