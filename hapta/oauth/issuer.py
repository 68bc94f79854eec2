"""The issuer: the public address of the authorization server, and the only root of every URL, `iss` and `htu`.

It comes from the settings and never from a request's `Host` (contract identity, section 1.2), so no header can poison a link.
"""

from __future__ import annotations

from urllib.parse import urlsplit

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class BadIssuer(ValueError):
    """The configured address cannot be an issuer; the text says why."""


class Issuer:
    """An issuer identifier (RFC 8414, section 2).

    Args:
        url: `https://host[:port][/path]`, without query, fragment and final slash; `http` is for loopback addresses only,
            unless `allow_http` says otherwise.
        allow_http: whether plain http is fine for any host (a development server in a container, say).

    Raises:
        BadIssuer: another form.
    """

    __slots__ = ("host", "origin", "path", "secure", "url")

    def __init__(self, url: str, *, allow_http: bool = False) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            _ = parts.port
        except ValueError as error:
            raise BadIssuer(f"{url!r} is not an address: {error}") from None
        if parts.scheme not in ("https", "http") or not host:
            raise BadIssuer(f"{url!r} does not start with https:// and a host")
        if parts.scheme == "http" and host not in _LOOPBACK and not allow_http:
            raise BadIssuer(f"{url!r} is reachable from elsewhere, so it needs https")
        if "?" in url or "#" in url or parts.username is not None or not url.isascii():
            raise BadIssuer(f"{url!r} has a query, a fragment, credentials or letters outside ASCII")
        if url.endswith("/"):
            raise BadIssuer(f"{url!r} ends with a slash; leave it out")
        self.url = url
        """The identifier, byte for byte as `iss` and the metadata have it."""
        self.path = parts.path
        """Empty for an issuer at the root of its host."""
        self.origin = url[: len(url) - len(parts.path)] if parts.path else url
        """Scheme, host and port: what browsers call the origin."""
        self.host = host
        self.secure = parts.scheme == "https"

    def at(self, path: str) -> str:
        """The public address of one of our paths: `at("/oauth/token")`."""
        return self.url + path

    def __repr__(self) -> str:
        return f"Issuer({self.url!r})"
