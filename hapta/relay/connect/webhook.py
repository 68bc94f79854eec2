"""GitHub's webhook: checked and answered; nothing here depends on what it says (contract relay-native, section 2.10)."""

from __future__ import annotations

import asyncio
import hmac
from typing import NamedTuple

import msgspec

from hapta.relay.connect.errors import InvalidPayload, InvalidSignature, NoEvent

ACKNOWLEDGED = frozenset(
    {
        "push",
        "installation",
        "installation_repositories",
        "repository",
        "pull_request",
        "issues",
        "issue_comment",
    }
)
MAX_BYTES = 10 * 1024 * 1024
INLINE_BYTES = 128 * 1024
"""A larger body is checked on another thread."""
_PREFIX = "sha256="


class Received(NamedTuple):
    """What GitHub is told."""

    event: str
    processed: bool
    message: str


async def receive(secret: str, body: bytes, signature: str, event: str) -> Received:
    """Judges one call.

    Args:
        secret: the one that GitHub signs with.
        signature: `sha256=<hex>` of the raw body; empty: none was sent.
        event: its name; empty: none was sent.

    Raises:
        InvalidSignature, NoEvent, InvalidPayload
    """
    if len(body) > INLINE_BYTES:
        await asyncio.to_thread(_check, secret, body, signature, event)
    else:
        _check(secret, body, signature, event)
    if event == "ping":
        return Received(event, True, "pong")
    if event in ACKNOWLEDGED:
        return Received(event, True, f"{event} acknowledged")
    return Received(event, False, f"event {event} not processed")


def _check(secret: str, body: bytes, signature: str, event: str) -> None:
    expected = _PREFIX + hmac.digest(secret.encode(), body, "sha256").hex()
    # Bytes: texts with other characters than ASCII cannot be compared in constant time.
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        raise InvalidSignature
    if not event:
        raise NoEvent
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidPayload from None
