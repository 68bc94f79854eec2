"""What a session is known by: the token of a header, the scope of a record, the network of an address."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hapta.gateway.errors import TokenRefused


def token_of(authorization: bytes | None) -> str:
    """The token of a header, with or without `Bearer` (contract gateway, A.3).

    Raises:
        TokenRefused: it holds what no token holds.
    """
    text = (authorization or b"").strip(b" \t")
    if text[:7].lower() == b"bearer ":
        text = text[7:].strip(b" \t")
    elif text.lower() == b"bearer":
        return ""
    if not text.isascii():
        raise TokenRefused
    return text.decode("ascii")


def scope_of(collection_id: str, record_id: str) -> str:
    """The key of everything that belongs to a record (`Visitor.scope`)."""
    return f"u:{collection_id}/{record_id}"


def coarse_network(address: str) -> str:
    """The network of an address: enough for its owner to know it by, and no trace of a single device."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))
