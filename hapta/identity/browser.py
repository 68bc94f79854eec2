"""Sessions of browsers: the cookies that carry them, who is meant by a request, and the way to the login page.

The session cookie holds the session's rolling key. Pages ask `current`; JSON routes whose table says `cookies=True` come here
through the edge (`verify`). A request with a bearer token is that token's: its cookies mean nothing (contract identity, 19).
"""

from __future__ import annotations

import ipaddress
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from hapta.http.api import Reply
from hapta.http.forms import Form
from hapta.http.pages import redirect
from hapta.http.requests import Request
from hapta.identity.csrf import FIELD, HEADER, SAFE_METHODS, CsrfGuard, origin_of
from hapta.identity.errors import CsrfFailed
from hapta.identity.policy import login_path
from hapta.kit.access import Caller
from hapta.kit.clock import Clock
from hapta.kit.errors import MissingToken, Unauthenticated
from hapta.kit.keyring import Keyring, Secret

Headers = tuple[tuple[bytes, bytes], ...]

REFRESH_PATH = "/identity"
DEVICE_COOKIE_SECONDS = 400 * 86_400
"""As long as browsers keep any cookie (RFC 6265bis, section 5.5)."""
_MAX_COOKIE_CHARACTERS = 2048
FLOW_SECONDS = 600
_REMEMBERED, _FLEETING = ".1", ".0"
"""Behind the key in its cookies: whether they outlive the window. Browsers do not tell us how long they keep a cookie."""


class CookiesRefused(ValueError):
    """The settings ask for cookies that would protect nobody here; the text says which."""


class SessionKeys(Protocol):
    """What a session cookie is held against; `SessionService` implements it."""

    async def verify_key(self, key: str) -> Caller:
        """The caller.

        Raises:
            InvalidToken: the key is of no live session, or of an older generation.
        """
        ...


class HasKey(Protocol):
    """A session that has just begun, or whose key has just rolled (`SignedIn`)."""

    @property
    def session_id(self) -> str: ...
    @property
    def refresh_token(self) -> str: ...
    @property
    def absolute_expires_at(self) -> int:
        """Unix milliseconds."""
        ...


class CookieNames(NamedTuple):
    """What the cookies are called."""

    session: str
    pre: str
    refresh: str
    device: str
    flow: str
    csrf: str = "csrf"


_SECURE_NAMES = CookieNames("__Host-sid", "__Host-pre", "__Secure-rt", "__Host-device", "__Host-flow")
_PLAIN_NAMES = CookieNames("sid", "pre", "rt", "device", "flow")


class BrowserSessions:
    """Reads and writes the cookies. Implements `hapta.http.caller.CookieVerifier`.

    Args:
        sessions: judges session keys.
        secret: the configured secret; the keys of CSRF tokens are derived from it.
        public_url: the address by which people reach this server.
        allowed_origins: origins of other pages that may call JSON routes with cookies.
        insecure: plain-http development: cookies without `Secure` and without the prefixes that demand it.
        production: refuses `insecure`.

    Raises:
        CookiesRefused: `insecure` in production, or for an address beyond this machine; or the address is none.
    """

    def __init__(
        self,
        sessions: SessionKeys,
        clock: Clock,
        secret: Secret,
        public_url: str,
        *,
        allowed_origins: Sequence[str] = (),
        insecure: bool = False,
        production: bool = False,
    ) -> None:
        own = origin_of(public_url)
        if own is None:
            raise CookiesRefused(f"{public_url!r} is no http or https address")
        if insecure and (production or not is_loopback(own)):
            raise CookiesRefused(
                "identity.insecure_cookies is for development on this machine alone; use https instead"
            )
        self._sessions = sessions
        self._clock = clock
        self._guard = CsrfGuard(Keyring.of(secret).every("csrf"), own, [o for o in allowed_origins if o != "*"])
        self._secure = not insecure
        self.names = _PLAIN_NAMES if insecure else _SECURE_NAMES
        self.origin = own

    # --- who is there ---

    async def current(self, request: Request) -> Caller | None:
        """Whoever the session cookie stands for; None when there is no session (any more), or a bearer token."""
        key = self.session_key(request)
        if key is None:
            return None
        try:
            return await self._sessions.verify_key(key)
        except Unauthenticated:
            return None

    async def verify(self, request: Request) -> Caller:
        """See `CookieVerifier.verify`."""
        key = self.session_key(request)
        if key is None:
            raise MissingToken
        unsafe = request.method not in SAFE_METHODS
        if unsafe:  # before anything is looked up
            self._guard.check_source(request)
        caller = await self._sessions.verify_key(key)
        if unsafe:
            self._check(request, request.header(HEADER), caller)
        return caller

    def session_key(self, request: Request) -> str | None:
        """The key of the session cookie, unjudged: for whoever rolls it."""
        return None if _bears_token(request) else self._key(request, self.names.session)

    async def checked_refresh_key(self, request: Request) -> str | None:
        """The key of the refresh cookie, which is good for one thing: to be rolled. None: there is no such cookie.

        Raises:
            CsrfFailed: the request may come from a foreign page.
            InvalidToken: the key is of no live session.
        """
        key = self._key(request, self.names.refresh)
        if key is None or _bears_token(request):
            return None
        self._guard.check_source(request)
        self._check(request, request.header(HEADER), await self._sessions.verify_key(key))
        return key

    def remembered(self, request: Request) -> bool:
        """Whether the session was begun to outlive the browser's window; a key that rolls keeps to that."""
        value = self._cookie(request, self.names.session) or self._cookie(request, self.names.refresh) or ""
        return value.endswith(_REMEMBERED)

    def device_cookie(self, request: Request) -> str | None:
        """By what the throttle knows a browser that signed in before."""
        return self._cookie(request, self.names.device)

    # --- foreign pages ---

    def csrf_token(self, request: Request, caller: Caller | None) -> tuple[str, Headers]:
        """The token for a form, and the cookies that go with the page.

        A token that the browser has and that still counts is kept, so that two tabs do not spoil each other's forms.

        Args:
            caller: whose session it is bound to; None: to a pre-session, which is begun if need be.
        """
        headers: Headers = ()
        if caller is None:
            pre = self._pre(request)
            if pre is None:
                pre = secrets.token_urlsafe(24)
                headers = (self._set(self.names.pre, pre),)
            binding = f"p:{pre}"
        else:
            binding = f"s:{caller.session_id}"
        known = self._cookie(request, self.names.csrf)
        if known is not None and self._guard.counts(known, binding):
            return known, headers
        token = self._guard.token(binding)
        return token, (*headers, self._set(self.names.csrf, token, readable=True))

    def check_form(self, request: Request, form: Form | None, caller: Caller | None) -> None:
        """All guards, for a form or for JSON (then `form` is None and the token stands in a header).

        Raises:
            CsrfFailed: the request may come from a foreign page, or the form is of another session.
        """
        token = request.header(HEADER)
        if token is None and form is not None:
            values = form.all(FIELD)
            token = values[0] if len(values) == 1 else None
        self._check(request, token, caller)

    def check_source(self, request: Request) -> None:
        """The guards that need no session: who sends, and from where.

        Raises:
            CsrfFailed: the request may come from a foreign page.
        """
        self._guard.check_source(request)

    def _check(self, request: Request, token: str | None, caller: Caller | None) -> None:
        if caller is not None:
            binding = f"s:{caller.session_id}"
        else:
            pre = self._pre(request)
            if pre is None:
                raise CsrfFailed
            binding = f"p:{pre}"
        self._guard.check(request, token, self._cookie(request, self.names.csrf), binding)

    # --- coming and going ---

    def signed_in_headers(self, signed_in: HasKey, remember: bool, *, device: str | None = None) -> Headers:
        """The cookies of a session that has begun, or whose key has rolled: session, refresh key and a new CSRF token.

        Args:
            remember: whether they outlive the browser's window; never the session's absolute end.
            device: a device cookie for the throttle to know this browser by.
        """
        left = max(1, signed_in.absolute_expires_at // 1000 - int(self._clock.now()))
        age = left if remember else None
        key = f"{signed_in.refresh_token}{_REMEMBERED if remember else _FLEETING}"
        headers = (
            self._set(self.names.session, key, max_age=age),
            self._set(self.names.refresh, key, max_age=age, path=REFRESH_PATH, same_site="Strict"),
            self._set(self.names.csrf, self._guard.token(f"s:{signed_in.session_id}"), max_age=age, readable=True),
            self._set(self.names.pre, "", max_age=0),
        )
        if device is None:
            return headers
        return (*headers, self._set(self.names.device, device, max_age=DEVICE_COOKIE_SECONDS))

    def signed_out_headers(self) -> Headers:
        """Takes the cookies of a session away; the device cookie stays."""
        return (
            self._set(self.names.session, "", max_age=0),
            self._set(self.names.refresh, "", max_age=0, path=REFRESH_PATH, same_site="Strict"),
            self._set(self.names.csrf, "", max_age=0, readable=True),
        )

    def login_redirect(self, continue_to: str, *, reauthenticate: bool = False) -> Reply:
        """303 to the login page.

        Args:
            continue_to: a path of this server to come back to.
            reauthenticate: ask for a proof although there is a session.
        """
        return redirect(login_path(continue_to, reauthenticate=reauthenticate))

    # --- between two pages of one flow ---

    def flow(self, request: Request) -> Mapping[str, str]:
        """What the page before has noted for this one; empty if nothing, or nothing readable."""
        try:
            raw = urlsafe_b64decode(self._cookie(request, self.names.flow) or "")
            return msgspec.json.decode(raw, type=dict[str, str]) if raw else {}
        except (ValueError, msgspec.DecodeError):
            return {}

    def flow_headers(self, values: Mapping[str, str] | None) -> Headers:
        """Notes something for the next page, for ten minutes; None forgets it. It is the browser's own: believe none of it."""
        if values is None:
            return (self._set(self.names.flow, "", max_age=0),)
        text = urlsafe_b64encode(msgspec.json.encode(values)).decode("ascii")
        # What is too long for a cookie is noted as nothing: the next page asks again.
        fits = len(text) <= _MAX_COOKIE_CHARACTERS
        return (self._set(self.names.flow, text if fits else "", max_age=FLOW_SECONDS if fits else 0),)

    # --- cookies ---

    def _pre(self, request: Request) -> str | None:
        pre = self._cookie(request, self.names.pre)
        return pre if pre is not None and 16 <= len(pre) <= 64 else None

    def _key(self, request: Request, name: str) -> str | None:
        value = self._cookie(request, name)
        return value[: -len(_REMEMBERED)] if value is not None and value.endswith((_REMEMBERED, _FLEETING)) else None

    def _cookie(self, request: Request, name: str) -> str | None:
        value = request.cookies.get(name)
        return value if value and len(value) <= _MAX_COOKIE_CHARACTERS else None

    def _set(
        self,
        name: str,
        value: str,
        *,
        max_age: int | None = None,
        path: str = "/",
        same_site: str = "Lax",
        readable: bool = False,
    ) -> tuple[bytes, bytes]:
        parts = [f"{name}={value}", f"Path={path}", f"SameSite={same_site}"]
        if max_age is not None:
            parts.append(f"Max-Age={max_age}")
        if not readable:
            parts.append("HttpOnly")
        if self._secure:
            parts.append("Secure")
        return b"set-cookie", "; ".join(parts).encode("ascii")


def is_loopback(url: str) -> bool:
    """Whether an address leads to this very machine by its host alone."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bears_token(request: Request) -> bool:
    """Whether a token travels with the request; Basic credentials are a proxy's affair."""
    scheme = (request.header("authorization") or "").partition(" ")[0].lower()
    return scheme in ("bearer", "dpop")
