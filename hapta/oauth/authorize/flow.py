"""Sealing of what lies between two requests of a flow: compressed, encrypted, bound to its purpose, good for a quarter of an hour.

Nobody but us can read or change a flow; that it is the right browser's is proven by the session and the CSRF token, not by it.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import TypeVar

import msgspec

from hapta.kit.clock import Clock
from hapta.kit.errors import Invalid
from hapta.kit.seal import BadSeal, Sealer

FLOW_MS = 15 * 60 * 1000
MAX_SEALED_CHARACTERS = 8000
"""It travels in the path that the login page leads on to, which has 8,192 characters at most."""

T = TypeVar("T")


class FlowTooLarge(Invalid):
    """The request is so long that it could not travel through the login page."""

    message = "The request is too large"


class BadFlow(Invalid):
    """Not sealed here, for something else, or too old."""

    message = "This page has expired. Go back to the app and start again."


class FlowSealer:
    """Seals and opens values of flows.

    Args:
        sealer: its key is that of purpose `flow-seal`.
    """

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        self._sealer = sealer
        self._clock = clock

    def seal(self, value: msgspec.Struct, purpose: str, *, until: int | None = None) -> str:
        """The value as URL-safe text.

        Args:
            purpose: what it is for; it opens for nothing else.
            until: Unix milliseconds at which it ends; a quarter of an hour from now when left out.

        Raises:
            FlowTooLarge: the text would be longer than 8,000 characters.
        """
        end = self._clock.now_ms() + FLOW_MS if until is None else until
        plain = end.to_bytes(8) + zlib.compress(msgspec.msgpack.encode(value), 9)
        text = urlsafe_b64encode(self._sealer.seal(plain, _context(purpose))).rstrip(b"=").decode()
        if len(text) > MAX_SEALED_CHARACTERS:
            raise FlowTooLarge
        return text

    def open(self, text: str, kind: type[T], purpose: str) -> T:
        """What was sealed for this purpose.

        Raises:
            BadFlow: anything else.
        """
        if len(text) > MAX_SEALED_CHARACTERS or not text.isascii():
            raise BadFlow
        try:
            plain = self._sealer.open(urlsafe_b64decode(text + "=" * (-len(text) % 4)), _context(purpose))
        except (BadSeal, Base64Error, ValueError):
            raise BadFlow from None
        if int.from_bytes(plain[:8]) <= self._clock.now_ms():
            raise BadFlow
        try:
            return msgspec.msgpack.decode(zlib.decompress(plain[8:]), type=kind)
        except msgspec.ValidationError:  # sealed by another release
            raise BadFlow from None


def _context(purpose: str) -> bytes:
    return b"oauth-flow:" + purpose.encode()
