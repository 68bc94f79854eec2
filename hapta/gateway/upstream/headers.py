"""Which headers pass between visitors and PocketBase; everything about the connection itself stays on its side.

What says who somebody is (Authorization, Cookie, forwarded addresses) never passes: the gateway states both anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from hapta.gateway.models import Headers
from hapta.http.hops import HOP_BY_HOP

_STAYS = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"accept-encoding",
    b"expect",
    b"http2-settings",
    # Who it is, and from where: stated by the gateway alone (contract gateway, A.5).
    b"authorization",
    b"cookie",
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"cf-connecting-ip",
    b"cf-connecting-ipv6",
    b"fastly-client-ip",
    b"fly-client-ip",
    # CORS is the gateway's.
    b"origin",
}
_STAYS_PREFIXES = (b"x-forwarded", b"x-hapta-", b"access-control-")

_DROPPED_FROM_ANSWERS = HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    b"set-cookie",
    b"vary",
    b"x-content-type-options",
}
"""The edge writes its own of these."""
_CORS = b"access-control-"

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def request_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Lines of a request's head for those headers of a visitor that PocketBase may see."""
    return [b"%b: %b\r\n" % pair for pair in headers if passes(pair[0])]


@lru_cache(maxsize=1024)
def passes(name: bytes) -> bool:
    """Whether PocketBase may see a visitor's header of this name."""
    # PocketBase's rules write `-` in a header's name as `_`, so both are one name to it.
    plain = name.lower().replace(b"_", b"-")
    return plain not in _STAYS and not plain.startswith(_STAYS_PREFIXES) and _NAME.fullmatch(name) is not None


def answer_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The end-to-end headers of an answer. `Vary` loses `Origin`, which belongs to the CORS of PocketBase.

    Args:
        raw: names in lower case.
    """
    kept: list[tuple[bytes, bytes]] = []
    for pair in raw:
        name, value = pair
        if name in _DROPPED_FROM_ANSWERS:
            if name == b"vary" and (rest := _without_origin(value)):
                kept.append((name, rest))
            continue
        if not name.startswith(_CORS):
            kept.append(pair)
    return tuple(kept)


def _without_origin(value: bytes) -> bytes:
    if value == b"Origin":  # what PocketBase sends, as good as always
        return b""
    parts = [part.strip() for part in value.split(b",")]
    return b", ".join(part for part in parts if part and part.lower() != b"origin")
