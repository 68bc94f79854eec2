"""Absolute addresses of this server as a client reaches it, for clients that cannot follow relative ones.

The configured address, else what a trusted proxy says, else the Host of the request. All the caller can do with the last is to
mislead themselves: the address goes back to nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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


def absolute(avatar: Mapping[str, Any] | None, base: str) -> Mapping[str, Any] | None:
    """An avatar with the whole address of its picture.

    Args:
        avatar: its `url` begins with a slash.
        base: as `base_of` tells it.
    """
    return None if avatar is None else {**avatar, "url": f"{base}{avatar['url']}"}


def _last(value: str | None) -> str:
    return (value or "").rpartition(",")[2].strip()
