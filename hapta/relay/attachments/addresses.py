"""Absolute addresses of this server as a client reaches it, for clients that cannot follow relative ones.

The configured address, else what a trusted proxy says, else the Host of the request. All the caller can do with the last is to
mislead themselves: the address goes back to nobody else.
"""

from __future__ import annotations

import re

from hapta.http.api import Request
from hapta.settings import ServerSettings

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def base_of(server: ServerSettings, request: Request) -> str:
    """Scheme and authority, without a slash at the end."""
    if server.public_url:
        return server.public_address
    scheme = "https" if server.tls_cert is not None else "http"
    host = request.header("host") or ""
    if server.trust_proxy:
        # The last word is the one of the proxy next to us; what stands left of it, a client may have written.
        said = _last(request.header("x-forwarded-proto")).lower()
        scheme = said if said in ("http", "https") else scheme
        host = _last(request.header("x-forwarded-host")) or host
    return f"{scheme}://{host}" if _HOST.fullmatch(host) else server.public_address


def _last(value: str | None) -> str:
    return (value or "").rpartition(",")[2].strip()
