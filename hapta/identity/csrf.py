"""The three guards against requests that a foreign page makes in somebody's name (contract identity, section 19).

Whatever is authenticated by a cookie and changes state passes all of them: what the browser says of the sender
(Sec-Fetch-Site), where the request comes from (Origin, else Referer), and a token that only our own pages can read. The answer
never tells which of them refused.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from hapta.http.requests import Request
from hapta.identity.errors import CsrfFailed

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""They change nothing anywhere in this server, so they need no guard."""
HEADER = "x-csrf-token"
FIELD = "csrf"
_RANDOM_BYTES = 16
_MAX_TOKEN_CHARACTERS = 128


class CsrfGuard:
    """Makes and judges the tokens, and judges where a request comes from.

    Args:
        keys: derived for `csrf`: the first one signs tokens, all of them count.
        origin: our own public origin, `https://id.example`.
        allowed: origins of other pages that may call with cookies.
    """

    def __init__(self, keys: Sequence[bytes], origin: str, allowed: Iterable[str] = ()) -> None:
        self._keys = tuple(keys)
        self._listed = frozenset(allowed)
        self._origins = self._listed | {origin}

    def token(self, binding: str) -> str:
        """A new token, valid for one session or one pre-session.

        Args:
            binding: what it is bound to: `s:` and the id of a session, or `p:` and that of a pre-session.
        """
        random = _text(secrets.token_bytes(_RANDOM_BYTES))
        return f"{random}.{_signature(self._keys[0], binding, random)}"

    def counts(self, token: str | None, binding: str) -> bool:
        """Whether the token was made here for this binding."""
        if token is None or len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
            return False
        random, _, signature = token.partition(".")
        return any(hmac.compare_digest(_signature(key, binding, random), signature) for key in self._keys)

    def check(self, request: Request, token: str | None, cookie: str | None, binding: str) -> None:
        """All three guards.

        Args:
            token: from the header or the form.
            cookie: the readable cookie, which must say the same (signed double submit).

        Raises:
            CsrfFailed: one of them refuses.
        """
        self.check_source(request)
        if token is None or cookie is None or not token.isascii() or not cookie.isascii():
            raise CsrfFailed
        if not hmac.compare_digest(token, cookie) or not self.counts(token, binding):
            raise CsrfFailed

    def check_source(self, request: Request) -> None:
        """The first two guards: who sends, and from where.

        `Origin: null` counts for nobody but a browser that vouches for the same origin: our own pages are sent with
        `Referrer-Policy: no-referrer`, under which browsers withhold the origin of a form (Fetch, section 3.1).

        Raises:
            CsrfFailed: the request may come from a foreign page.
        """
        sites, origins = request.header_values("sec-fetch-site"), request.header_values("origin")
        if len(sites) > 1 or len(origins) > 1:
            raise CsrfFailed
        origin = origins[0] if origins else None
        match sites[0] if sites else None:
            case "same-origin":
                trusted = origin is None or origin == "null" or origin in self._origins
            case "none":
                trusted = origin is None or origin in self._origins
            case "same-site":
                trusted = origin in self._listed
            case None:
                trusted = (_referer_origin(request) if origin is None else origin) in self._origins
            case _:
                trusted = False
        if not trusted:
            raise CsrfFailed


def _signature(key: bytes, binding: str, random: str) -> str:
    # With lengths before both parts no other pair gives the same bytes.
    message = b"".join([b"%d:%b" % (len(part), part) for part in (binding.encode(), random.encode())])
    return _text(hmac.digest(key, message, "sha256"))


def origin_of(url: str) -> str | None:
    """The origin of an address as browsers write it: scheme, host and port, no default port; None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" if port in (None, default) else f"{parts.scheme}://{host}:{port}"


def _referer_origin(request: Request) -> str | None:
    values = request.header_values("referer")
    return origin_of(values[0]) if len(values) == 1 else None


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
