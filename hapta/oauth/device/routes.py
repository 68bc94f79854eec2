"""`POST /oauth/device_authorization` for devices, and `/oauth/device` for the person who confirms."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from hapta.http.api import Content, Endpoint, Form, Reply, Request, Table
from hapta.http.errors import OAUTH, status_of
from hapta.http.pages import Pages, waiting_text
from hapta.identity.browser import BrowserSessions
from hapta.identity.errors import CsrfFailed
from hapta.identity.policy import origin
from hapta.kit.access import CLIENT, PAGE, Caller
from hapta.kit.clock import iso_ms
from hapta.kit.errors import HaptaError, Invalid
from hapta.oauth.authorize.flow import FlowSealer
from hapta.oauth.authorize.ports import ClientCredentials
from hapta.oauth.authorize.routes import app_view
from hapta.oauth.device.codes import normal, shown
from hapta.oauth.device.errors import TooManyCodes, UnknownUserCode
from hapta.oauth.device.models import PendingView
from hapta.oauth.device.service import Devices
from hapta.oauth.errors import (
    AccessDenied,
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    UnauthorizedClient,
)
from hapta.oauth.issuer import Issuer
from hapta.oauth.scopes import Scopes

START_PATH = "/oauth/device_authorization"
PATH = "/oauth/device"
DECISION_PATH = "/oauth/device/decision"
FLOW_PURPOSE = "device"
_HTML = Content("text/html", "A page for the person")


class DeviceAnswer(msgspec.Struct, frozen=True):
    """RFC 8628, section 3.2."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class Confirming(msgspec.Struct, frozen=True):
    """What travels, sealed, with the page that asks a person to confirm."""

    code: str
    session_id: str


def routes(
    credentials: ClientCredentials,
    devices: Devices,
    issuer: Issuer,
    scopes: Scopes,
    sealer: FlowSealer,
    browser: BrowserSessions,
    pages: Pages,
) -> list[Endpoint]:
    """The URL table of the device grant."""
    api = DeviceApi(credentials, devices, issuer, scopes, sealer, browser, pages)
    rfc = Table(dialect=OAUTH, access=CLIENT, limit="authorize", tag="oauth", cors="none")
    page = Table(dialect=pages.dialect, access=PAGE, limit="authorize", tag="oauth", cors="none", hidden=True)
    return [
        rfc.post(
            START_PATH,
            api.start,
            summary="Start a device grant",
            answers={200: DeviceAnswer},
            errors=[InvalidRequest, InvalidClient, UnauthorizedClient, InvalidScope, InvalidTarget],
        ),
        page.get(PATH, api.enter, summary="Type a device's code", answers={200: _HTML, 303: None}),
        page.post(
            PATH,
            api.confirm,
            summary="What the device asks for",
            answers={200: _HTML, 303: None},
            errors=[CsrfFailed, UnknownUserCode, TooManyCodes],
        ),
        page.post(
            DECISION_PATH,
            api.decide,
            summary="What the person decided about the device",
            answers={200: _HTML, 303: None},
            errors=[CsrfFailed, UnknownUserCode],
        ),
    ]


class DeviceApi:
    """Handlers of the device grant."""

    def __init__(
        self,
        credentials: ClientCredentials,
        devices: Devices,
        issuer: Issuer,
        scopes: Scopes,
        sealer: FlowSealer,
        browser: BrowserSessions,
        pages: Pages,
    ) -> None:
        self._credentials = credentials
        self._devices = devices
        self._issuer = issuer
        self._scopes = scopes
        self._sealer = sealer
        self._browser = browser
        self._pages = pages

    async def start(self, request: Request, body: Form) -> Reply:
        client = await self._credentials.authenticate(request, body)
        body.refuse_repeated(but=frozenset({"resource"}))
        started = await self._devices.start(client, body.one("scope"), body.all("resource"), origin(request))
        uri = self._issuer.at(PATH)
        answer = DeviceAnswer(
            device_code=started.device_code,
            user_code=started.user_code,
            verification_uri=uri,
            verification_uri_complete=f"{uri}?{urlencode({'user_code': started.user_code})}",
            expires_in=started.expires_in_seconds,
            interval=started.interval_seconds,
        )
        return Reply(200, answer, ((b"cache-control", b"no-store"), (b"pragma", b"no-cache")))

    # --- pages ---

    async def enter(self, request: Request) -> Reply:
        """The form for the code. A code in the address only fills it in: the person still sees and sends it."""
        typed = Form.parse(request.query_string).one("user_code") or ""
        caller = await self._browser.current(request)
        if caller is None:
            return self._login(typed)
        return self._entry(request, caller, typed)

    async def confirm(self, request: Request, body: Form) -> Reply:
        caller = await self._browser.current(request)
        typed = body.one("user_code") or ""
        if caller is None:
            return self._login(typed)
        self._browser.check_form(request, body, caller)
        try:
            view = await self._devices.look_up(typed, caller, origin(request))
        except (UnknownUserCode, TooManyCodes) as error:
            return self._entry(request, caller, typed, error)
        return self._question(request, caller, view)

    async def decide(self, request: Request, body: Form) -> Reply:
        caller = await self._browser.current(request)
        if caller is None:
            return self._login("")
        self._browser.check_form(request, body, caller)
        confirming = self._sealer.open(body.one("flow") or "", Confirming, FLOW_PURPOSE)
        if confirming.session_id != caller.session_id:
            raise CsrfFailed
        view = await self._devices.waiting(confirming.code)
        match body.one("decision"):
            case "allow":
                try:
                    await self._devices.allow(view, caller, body.all("scope"), origin(request))
                except AccessDenied:
                    await self._devices.deny(view, caller)
                    return self._done(view, allowed=False)
                return self._done(view, allowed=True)
            case "deny":
                await self._devices.deny(view, caller)
                return self._done(view, allowed=False)
            case _:
                raise Invalid("The decision is missing")

    def _login(self, typed: str) -> Reply:
        code = normal(typed)
        return self._browser.login_redirect(PATH if code is None else f"{PATH}?user_code={shown(code)}")

    def _entry(self, request: Request, caller: Caller, typed: str, error: HaptaError | None = None) -> Reply:
        token, headers = self._browser.csrf_token(request, caller)
        code = normal(typed)
        wait = waiting_text(error.retry_after_seconds) if isinstance(error, TooManyCodes) else None
        if isinstance(error, TooManyCodes):
            headers = (*headers, (b"retry-after", b"%d" % max(1, round(error.retry_after_seconds))))
        return self._pages.reply(
            "oauth_device.html",
            status=200 if error is None else status_of(type(error)),
            headers=headers,
            csrf=token,
            action=PATH,
            code="" if code is None else shown(code),
            fault=None if error is None else error.message,
            wait=wait,
        )

    def _question(self, request: Request, caller: Caller, view: PendingView) -> Reply:
        token, headers = self._browser.csrf_token(request, caller)
        rows = [self._scopes.get(name) for name in view.pending.scopes]
        return self._pages.reply(
            "oauth_device_confirm.html",
            headers=headers,
            csrf=token,
            flow=self._sealer.seal(Confirming(normal(view.user_code) or "", caller.session_id), FLOW_PURPOSE),
            action=DECISION_PATH,
            app=app_view(view.client),
            code=view.user_code,
            scopes=[
                {"name": row.name, "text": row.describe(), "risk": row.risk, "optional": row.optional} for row in rows
            ],
            address=view.pending.address,
            here=view.pending.address == request.client_address,
            user_agent=view.pending.user_agent,
            asked_at=iso_ms(view.pending.created_at)[:16].replace("T", " "),
        )

    def _done(self, view: PendingView, *, allowed: bool) -> Reply:
        return self._pages.reply("oauth_device_done.html", app=app_view(view.client), allowed=allowed)
