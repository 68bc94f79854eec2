"""Cross-origin rules of a browser, as contract sync, section 1 words them.

With `*` anybody's page may call, and no credentials are allowed: browsers refuse that pair, and tokens travel in a header.
With a list only a matching origin is echoed, and `Vary: Origin` keeps caches from mixing answers; routes that live on the session
cookie let those origins send it (contract identity, section 29). Headers are made once at start; a request costs one look-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Headers = tuple[tuple[bytes, bytes], ...]

METHODS = b"GET,HEAD,PUT,POST,DELETE,PATCH"
MAX_AGE_SECONDS = 86_400
EXPOSED = (
    b"RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, Server-Timing, ETag, WWW-Authenticate, DPoP-Nonce, "
    b"Accept-Ranges, Content-Disposition, Content-Range, Location, Hapta-File-Id, Tus-Checksum-Algorithm, Tus-Extension, "
    b"Tus-Max-Size, Tus-Resumable, Tus-Version, Upload-Defer-Length, Upload-Expires, Upload-Length, Upload-Metadata, Upload-Offset"
)
"""What a page's script may read of our answers beyond the few headers that it always may."""

MAX_REQUESTED_HEADERS_BYTES = 2048
_TOKEN_LIST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")  # RFC 9110 5.6.2
_VARY_ORIGIN = (b"vary", b"Origin")
_CREDENTIALS = (b"access-control-allow-credentials", b"true")


class Cors:
    """The answer headers for one list of allowed origins.

    Args:
        origins: `*` alone, or origins such as `https://app.example`; blanks round each are dropped, and so is a final slash,
            which no browser sends.
        credentials: whether pages of listed origins may send cookies along; with `*` nobody's may.
    """

    def __init__(self, origins: Iterable[str], *, credentials: bool = False) -> None:
        allowed = {origin.strip().rstrip("/") for origin in origins} - {""}
        self._origins = allowed
        self._any = "*" in allowed
        self._credentials: Headers = (_CREDENTIALS,) if credentials and not self._any else ()
        self._refused: Headers = () if self._any else (_VARY_ORIGIN,)
        self._for_any: Headers = _allow(b"*")
        self._for_origin: Mapping[bytes, Headers] = (
            {}
            if self._any
            else {origin.encode(): (*_allow(origin.encode()), *self._credentials, _VARY_ORIGIN) for origin in allowed}
        )

    def with_credentials(self) -> Cors:
        """The same origins, whose pages may send cookies: for routes that live on the session cookie."""
        return Cors(self._origins, credentials=True)

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin may call."""
        return self._any or origin in self._for_origin

    def headers(self, origin: bytes | None) -> Headers:
        """What every answer carries for a request with this `Origin` (None: it had none)."""
        if self._any:
            return self._for_any
        if origin is None:
            return self._refused
        return self._for_origin.get(origin, self._refused)

    def preflight(self, method: str, headers: Mapping[bytes, bytes]) -> Headers | None:
        """Headers of the 204 that answers a preflight; None when the request is none.

        A preflight is an OPTIONS request with `Origin` and `Access-Control-Request-Method`. An origin that is not allowed gets a
        204 without permission, which the browser takes for a no. Requested headers are echoed only if they are a list of
        header names of reasonable length: they come from the page.
        """
        origin = headers.get(b"origin")
        if method != "OPTIONS" or origin is None or b"access-control-request-method" not in headers:
            return None
        if not self._any and origin not in self._for_origin:
            return self._refused
        allow = (b"access-control-allow-origin", b"*" if self._any else origin)
        vary = b"Access-Control-Request-Headers" if self._any else b"Origin, Access-Control-Request-Headers"
        answer = [
            allow,
            *self._credentials,
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
            (b"vary", vary),
        ]
        requested = headers.get(b"access-control-request-headers", b"").strip()
        if len(requested) <= MAX_REQUESTED_HEADERS_BYTES and _TOKEN_LIST.fullmatch(requested):
            answer.append((b"access-control-allow-headers", requested))
        return tuple(answer)


def _allow(origin: bytes) -> Headers:
    return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED))


OPEN = Cors(("*",))
"""Anybody's page may read; never with credentials."""
CLOSED = Cors(())
"""No page of another origin may read."""
