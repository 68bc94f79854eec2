"""Redirect URIs: what may be registered, and whether the one in a request is the one that was registered.

Comparison is of exact strings (RFC 9700, section 2.1): no prefix, no wildcard, no decoding, no folding of case, no default ports. The
one exception is the port of a native app's loopback address (RFC 8252, section 7.3).
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from hapta.oauth.errors import InvalidRedirectUri

MAX_URI_CHARACTERS = 2048
LOOPBACK = frozenset({"127.0.0.1", "[::1]", "localhost"})

# Characters of RFC 3986 alone: no blanks, controls, backslashes, quotes or letters outside ASCII, on which browsers and
# servers disagree. `#` is missing on purpose: a redirect URI has no fragment (RFC 6749, section 3.1.2).
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_DOT_SEGMENT = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_LOOPBACK_URI = re.compile(r"http://(127\.0\.0\.1|\[::1\]|localhost)(?::([0-9]{1,5}))?(/[^?#]*)?(\?[^#]*)?")


def check_registration(uri: str, *, native: bool = False) -> None:
    """Refuses a redirect URI that nobody should register (contract identity, section 5; RFC 8252, sections 7 and 8.4).

    Args:
        native: whether the client is an app on a device: only those may have private-use schemes and loopback addresses.

    Raises:
        InvalidRedirectUri: says what is wrong with it.
    """
    if not uri or len(uri) > MAX_URI_CHARACTERS:
        raise InvalidRedirectUri(f"A redirect URI has 1 to {MAX_URI_CHARACTERS} characters")
    if "#" in uri:
        raise InvalidRedirectUri("A redirect URI has no fragment")
    if _CHARACTERS.fullmatch(uri) is None or _BROKEN_ESCAPE.search(uri) is not None:
        raise InvalidRedirectUri("A redirect URI has a character that does not belong into a URI")
    scheme, colon, rest = uri.partition(":")
    if not colon or _SCHEME.fullmatch(scheme) is None:
        raise InvalidRedirectUri("A redirect URI is absolute, with its scheme in lower case")
    if scheme in ("https", "http"):
        _check_web(uri, scheme, native=native)
    else:
        _check_private(scheme, rest, native=native)


def _check_web(uri: str, scheme: str, *, native: bool) -> None:
    parts = _split(uri)
    authority = (
        uri[len(scheme) + 3 :].partition("/")[0].partition("?")[0] if uri[len(scheme) :].startswith("://") else ""
    )
    if "@" in authority:
        raise InvalidRedirectUri("A redirect URI names no user")
    host, port = _host_and_port(authority)
    if _HOST.fullmatch(host) is None or (port is not None and (_PORT.fullmatch(port) is None or int(port) > 65535)):
        raise InvalidRedirectUri("A redirect URI names its host in lower case, and a port from 1 to 65535 if any")
    if _DOT_SEGMENT.search(parts.path) is not None:
        raise InvalidRedirectUri("The path of a redirect URI has no . and .. in it")
    # On the parsed host, never on a prefix of the text: `http://localhost:80@evil.test/` begins like a loopback address.
    if scheme == "http" and host not in LOOPBACK:
        raise InvalidRedirectUri("Only loopback addresses may be called over http")
    del native  # http on a loopback address is for native apps, and for web apps while they are developed


def _check_private(scheme: str, rest: str, *, native: bool) -> None:
    # RFC 8252, section 7.1: a reversed domain name. The dot also keeps javascript:, data:, file: and the like out.
    labels = scheme.split(".")
    if len(labels) < 2 or not all(labels):
        raise InvalidRedirectUri("A private scheme is a reversed domain name, like com.example.app")
    if not native:
        raise InvalidRedirectUri("Private schemes are for native apps")
    if not rest.strip("/") and rest not in ("/", "//", "///"):
        raise InvalidRedirectUri("A redirect URI with a private scheme has a path")
    if "@" in rest:
        raise InvalidRedirectUri("A redirect URI names no user")


def _split(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError:
        raise InvalidRedirectUri("A redirect URI is an address") from None


def _host_and_port(authority: str) -> tuple[str, str | None]:
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        if rest and not rest.startswith(":"):
            return "", None
        return host + bracket, rest[1:] if rest else None
    host, colon, port = authority.partition(":")
    return host, port if colon else None


class _Loopback(NamedTuple):
    host: str
    path: str
    query: str


def _loopback(uri: str) -> _Loopback | None:
    """The parts of a loopback address but its port; None for every other URI."""
    match = _LOOPBACK_URI.fullmatch(uri)
    if match is None or (match[2] is not None and not 0 < int(match[2]) <= 65535):
        return None
    return _Loopback(match[1], match[3] or "", match[4] or "")


def matches(registered: str, given: str, native: bool) -> bool:
    """Whether the redirect URI of a request is a registered one.

    Args:
        native: whether the client is a native app: then the port of a loopback address may vary, and nothing else.
    """
    if registered == given:
        return True
    if not native or not _CHARACTERS.fullmatch(given):
        return False
    here, there = _loopback(registered), _loopback(given)
    return here is not None and here == there


def find(registered: tuple[str, ...], given: str, *, native: bool) -> str | None:
    """The registered URI that a request's matches, None when it matches none."""
    return next((uri for uri in registered if matches(uri, given, native)), None)


def host_of(uri: str) -> str:
    """What people are shown as the place an app lives at: the host, or the private scheme."""
    parts = urlsplit(uri)
    return parts.hostname or parts.scheme
