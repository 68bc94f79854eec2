"""`/oauth/logout`: the end-session endpoint and its page: decode, call, encode."""

from __future__ import annotations

from hapta.http.api import Content, Endpoint, Form, Reply, Request, Table
from hapta.http.pages import Pages, form_targets, redirect
from hapta.identity.browser import BrowserSessions
from hapta.identity.errors import CsrfFailed
from hapta.identity.policy import origin
from hapta.kit.access import PAGE, Caller
from hapta.kit.errors import Invalid
from hapta.oauth.authorize.flow import BadFlow, FlowSealer
from hapta.oauth.authorize.responses import with_parameters
from hapta.oauth.logout.models import LogoutFlow
from hapta.oauth.logout.service import BadLogout, LogoutService

PATH = "/oauth/logout"
DECISION_PATH = "/oauth/logout/decision"
FLOW_PURPOSE = "logout"
PARAMETERS = ("id_token_hint", "client_id", "post_logout_redirect_uri", "state", "logout_hint", "ui_locales")
_HTML = Content("text/html", "A page for the person")


def routes(service: LogoutService, sealer: FlowSealer, browser: BrowserSessions, pages: Pages) -> list[Endpoint]:
    """The URL table of logout."""
    api = LogoutApi(service, sealer, browser, pages)
    table = Table(dialect=pages.dialect, access=PAGE, limit="authorize", tag="oauth", cors="none")
    inner = Table(dialect=pages.dialect, access=PAGE, limit="authorize", tag="oauth", cors="none", hidden=True)
    return [
        table.get(
            PATH, api.ask, summary="Ask a person to sign out", answers={200: _HTML, 303: None}, errors=[BadLogout]
        ),
        table.post(
            PATH,
            api.ask_by_post,
            summary="Ask a person to sign out, with the parameters in a form",
            answers={303: None},
            errors=[BadLogout],
        ),
        inner.post(
            DECISION_PATH,
            api.decide,
            summary="Sign out",
            answers={303: None, 200: _HTML},
            errors=[BadFlow, CsrfFailed],
        ),
    ]


class LogoutApi:
    """Handlers of logout."""

    def __init__(self, service: LogoutService, sealer: FlowSealer, browser: BrowserSessions, pages: Pages) -> None:
        self._service = service
        self._sealer = sealer
        self._browser = browser
        self._pages = pages

    async def ask(self, request: Request) -> Reply:
        form = Form.parse(request.query_string)
        flow = self._opened(form) if "flow" in form else await self._checked(form)
        caller = await self._browser.current(request)
        if caller is None:
            return await self._left(flow, ())
        return await self._question(request, caller, flow)

    async def ask_by_post(self, body: Form) -> Reply:
        """Goes on by GET: a form that comes from the client's page carries no cookie of ours (SameSite)."""
        flow = await self._checked(body)
        return redirect(f"{PATH}?flow={self._sealer.seal(flow, FLOW_PURPOSE)}")

    async def decide(self, request: Request, body: Form) -> Reply:
        flow = self._opened(body)
        caller = await self._browser.current(request)
        if caller is None:
            self._browser.check_source(request)  # a foreign page's form brings no cookie, and must not take any away
            return await self._left(flow, self._browser.signed_out_headers())
        self._browser.check_form(request, body, caller)
        match body.one("decision"):
            case "logout":
                await self._service.end(caller, origin(request))
                return await self._left(flow, self._browser.signed_out_headers())
            case "stay":
                return self._pages.reply("oauth_signed_out.html", signed_out=False)
            case _:
                raise Invalid("The decision is missing")

    async def _checked(self, form: Form) -> LogoutFlow:
        for name in PARAMETERS:
            form.one(name)
        return await self._service.check(
            hint=form.one("id_token_hint"),
            client_id=form.one("client_id"),
            redirect_uri=form.one("post_logout_redirect_uri"),
            state=form.one("state"),
        )

    async def _question(self, request: Request, caller: Caller, flow: LogoutFlow) -> Reply:
        client = await self._service.client_of(flow)
        token, headers = self._browser.csrf_token(request, caller)
        return self._pages.reply(
            "oauth_logout.html",
            headers=headers,
            form_action=() if flow.redirect_uri is None else form_targets(flow.redirect_uri),
            csrf=token,
            flow=self._sealer.seal(flow, FLOW_PURPOSE),
            action=DECISION_PATH,
            name=None if client is None else client.name,
        )

    async def _left(self, flow: LogoutFlow, headers: tuple[tuple[bytes, bytes], ...]) -> Reply:
        """Where somebody goes who is signed out."""
        await self._service.client_of(flow)
        if flow.redirect_uri is None:
            return self._pages.reply("oauth_signed_out.html", headers=headers, signed_out=True)
        state = () if flow.state is None else (("state", flow.state),)
        return redirect(with_parameters(flow.redirect_uri, state), headers)

    def _opened(self, form: Form) -> LogoutFlow:
        return self._sealer.open(form.one("flow") or "", LogoutFlow, FLOW_PURPOSE)
