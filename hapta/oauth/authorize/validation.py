"""From the parameters of an authorization request to `Asked`, in the order of contract identity, section 6.

Client and redirect URI come first: a fault there is `Unredirectable`, and no browser is ever sent to an address that was not found to
be the client's. Every later fault is `Refused`, which carries where its answer goes.
"""

from __future__ import annotations

import re
from typing import cast

from hapta.http.forms import BadForm, Form
from hapta.kit.clock import Clock
from hapta.kit.tokens import BadToken
from hapta.oauth import scopes
from hapta.oauth.authorize.acr import ACR_VALUES
from hapta.oauth.authorize.models import Asked, Flow, Prompt, Refused, ResponseMode, Target, Unredirectable
from hapta.oauth.authorize.ports import Clients, HintReader, PushedRequests
from hapta.oauth.authorize.rules import check_redirect_uri
from hapta.oauth.errors import (
    InvalidRequest,
    InvalidRequestUri,
    InvalidScope,
    OAuthError,
    RegistrationNotSupported,
    RequestNotSupported,
    RequestUriNotSupported,
    UnauthorizedClient,
    UnsupportedResponseType,
)
from hapta.oauth.models import Client
from hapta.oauth.resources import Resources
from hapta.oauth.scopes import Scopes
from hapta.settings.oauth import OAuthSettings

PUSHED_PREFIX = "urn:ietf:params:oauth:request_uri:"
KNOWN = frozenset(
    {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
        "request_uri",
        "request",
        "registration",
        "nonce",
        "prompt",
        "max_age",
        "login_hint",
        "id_token_hint",
        "acr_values",
        "ui_locales",
        "response_mode",
        "dpop_jkt",
        "claims",
        "display",
    }
)
"""Parameters that may stand once. Others are ignored, however often they stand; `resource` may be repeated."""
PROMPTS = frozenset({"none", "login", "consent", "select_account"})
MAX_STATE_CHARACTERS = 4096
MAX_NONCE_CHARACTERS = 1024
MAX_HINT_CHARACTERS = 256
MAX_AGE_SECONDS = 10 * 366 * 86_400
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_DIGITS = re.compile(r"[0-9]{1,12}")


class RequestReader:
    """Reads authorization requests.

    Args:
        hints: reads ID tokens that come back.
        pushed: what came through the back channel.
        settings: whether requests must be pushed.
    """

    def __init__(
        self,
        clock: Clock,
        clients: Clients,
        scopes: Scopes,
        resources: Resources,
        hints: HintReader,
        pushed: PushedRequests,
        settings: OAuthSettings,
    ) -> None:
        self._clock = clock
        self._clients = clients
        self._scopes = scopes
        self._resources = resources
        self._hints = hints
        self._pushed = pushed
        self._settings = settings

    async def begin(self, form: Form) -> Flow:
        """A new flow for what a browser brings.

        Raises:
            Unredirectable: client or redirect URI are not known to be good.
            Refused: any other fault.
        """
        client = await self._client_of(form)
        reference = _pushed_reference(form)
        now = self._clock.now_ms()
        if reference is None:
            return Flow(asked=await self.read(form, client), started_at=now)
        # RFC 9126, section 4: of all parameters only these two are read.
        try:
            asked = await self._pushed.find(client.client_id, reference)
        except Refused as refused:  # it is over; its address may have been taken back since it was checked
            check_redirect_uri(client, refused.target.redirect_uri)
            raise
        if asked is None:
            raise Unredirectable(InvalidRequestUri())
        check_redirect_uri(client, asked.redirect_uri)
        return Flow(asked=asked, started_at=now, pushed=reference)

    async def _client_of(self, form: Form) -> Client:
        """The client of a request.

        Raises:
            Unredirectable: none is named, two are, or it is unknown.
        """
        client_id = _single(form, "client_id")
        client = await self._clients.find(client_id)
        if client is None:
            raise Unredirectable(InvalidRequest("The app that sent you here is not registered"))
        return client

    async def read(self, form: Form, client: Client, *, pushed: bool = False) -> Asked:
        """The request, checked in full.

        Args:
            pushed: whether it came through the back channel.

        Raises:
            Unredirectable: the redirect URI is missing or not registered.
            Refused: any other fault.
        """
        target, sent = self._target(form, client)
        try:
            return await self._read(form, client, target, sent, pushed=pushed)
        except BadForm as error:
            raise Refused(target, InvalidRequest(error.message)) from None
        except OAuthError as error:
            raise Refused(target, error) from None

    def _target(self, form: Form, client: Client) -> tuple[Target, bool]:
        """Where answers go, and whether the request said so itself."""
        given = _optional(form, "redirect_uri")
        sent = given is not None
        if given is None:
            names = form.all("scope")
            if len(client.redirect_uris) != 1 or any("openid" in name.split(" ") for name in names):
                raise Unredirectable(InvalidRequest("The app did not say where to go back to (redirect_uri)"))
            given = client.redirect_uris[0]
        check_redirect_uri(client, given)
        # Read leniently here: an answer must find its way also when these two are at fault themselves.
        mode: ResponseMode = "form_post" if form.all("response_mode") == ["form_post"] else "query"
        states = form.all("state")
        return Target(given, mode, states[0] if len(states) == 1 else None), sent

    async def _read(self, form: Form, client: Client, target: Target, sent: bool, *, pushed: bool) -> Asked:
        for name in KNOWN:
            form.one(name)
        if "request" in form:
            raise RequestNotSupported
        if "request_uri" in form:
            raise RequestUriNotSupported
        if "registration" in form:
            raise RegistrationNotSupported
        if form.one("response_mode") not in (None, "query", "form_post"):
            raise InvalidRequest("response_mode is query or form_post")
        response_type = form.one("response_type")
        if response_type is None:
            raise InvalidRequest("response_type is missing")
        if response_type != "code":
            raise UnsupportedResponseType
        if "authorization_code" not in client.grant_types:
            raise UnauthorizedClient
        if (client.require_par or self._settings.require_par) and not pushed:
            raise InvalidRequest("This request must be pushed (RFC 9126)")
        prompts = _prompts(form.one("prompt"))
        max_age = _max_age(form.one("max_age"))
        names = requested_scopes(self._scopes, form.one("scope"), client)
        return Asked(
            client_id=client.client_id,
            redirect_uri=target.redirect_uri,
            redirect_uri_sent=sent,
            response_mode=target.response_mode,
            state=_bounded("state", target.state, MAX_STATE_CHARACTERS),
            scopes=names,
            resources=self._resources.granted(client, form.all("resource")),
            code_challenge=_challenge(form),
            nonce=_bounded("nonce", form.one("nonce"), MAX_NONCE_CHARACTERS),
            prompts=prompts,
            max_age=max_age,
            hinted_subject=await self._hinted(form.one("id_token_hint"), client),
            acr_values=tuple(value for value in (form.one("acr_values") or "").split(" ") if value in ACR_VALUES),
            dpop_jkt=_thumbprint(form.one("dpop_jkt")),
            login_hint=_bounded("login_hint", form.one("login_hint"), MAX_HINT_CHARACTERS),
        )

    async def _hinted(self, token: str | None, client: Client) -> str | None:
        if token is None:
            return None
        try:
            claims = await self._hints.verify(token, typ="JWT", audience=(client.client_id,), allow_expired=True)
        except BadToken:
            raise InvalidRequest("id_token_hint is not an ID token of this app") from None
        return claims["sub"]


def requested_scopes(table: Scopes, given: str | None, client: Client) -> tuple[str, ...]:
    """The scopes that a client asks a person for.

    `offline_access` is left out for clients that could do nothing with it (OpenID Connect Core, section 11).

    Args:
        given: the parameter `scope`.

    Raises:
        InvalidScope: unknown, malformed, or beyond the client's ceiling.
    """
    granted = table.granted(client, scopes.parse(given))
    if given is None:
        # Who asks for nothing in particular does not ask who the person is, nor to stay.
        return tuple(name for name in granted if name not in ("openid", "offline_access"))
    if "refresh_token" not in client.grant_types:
        granted = tuple(name for name in granted if name != "offline_access")
    if not granted:
        raise InvalidScope
    return granted


def _pushed_reference(form: Form) -> str | None:
    """The `request_uri` of a pushed request; None when there is none, or one of another kind.

    Raises:
        Unredirectable: there are two.
    """
    given = form.all("request_uri")
    if not any(value.startswith(PUSHED_PREFIX) for value in given):
        return None
    return _single(form, "request_uri")


def _single(form: Form, name: str) -> str:
    value = _optional(form, name)
    if value is None:
        raise Unredirectable(InvalidRequest(f"{name} is missing"))
    return value


def _optional(form: Form, name: str) -> str | None:
    try:
        return form.one(name)
    except BadForm as error:
        raise Unredirectable(InvalidRequest(error.message)) from None


def _challenge(form: Form) -> str:
    """The code challenge (RFC 7636): always there, and always S256."""
    challenge = form.one("code_challenge")
    if challenge is None:
        raise InvalidRequest("code_challenge is missing: PKCE is required")
    if form.one("code_challenge_method") != "S256":
        raise InvalidRequest("code_challenge_method is S256")
    if _CHALLENGE.fullmatch(challenge) is None:
        raise InvalidRequest("code_challenge is 43 characters of base64url")
    return challenge


def _thumbprint(given: str | None) -> str | None:
    if given is not None and _CHALLENGE.fullmatch(given) is None:
        raise InvalidRequest("dpop_jkt is 43 characters of base64url")
    return given


def _prompts(given: str | None) -> tuple[Prompt, ...]:
    names = tuple(dict.fromkeys(name for name in (given or "").split(" ") if name))
    if not set(names) <= PROMPTS:
        raise InvalidRequest("prompt is none, login, consent or select_account")
    if "none" in names and len(names) > 1:
        raise InvalidRequest("prompt=none stands alone")
    return cast("tuple[Prompt, ...]", names)


def _max_age(given: str | None) -> int | None:
    if given is None:
        return None
    if _DIGITS.fullmatch(given) is None:
        raise InvalidRequest("max_age is a number of seconds")
    return min(int(given), MAX_AGE_SECONDS)


def _bounded(name: str, value: str | None, most: int) -> str | None:
    if value is not None and len(value) > most:
        raise InvalidRequest(f"{name} is longer than {most} characters")
    return value
