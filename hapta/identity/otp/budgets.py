"""Budgets in fixed windows, kept in the database so that every worker counts together and a restart forgets nothing.

Drawing is one statement inside the caller's transaction: a refusal rolls back what else the transaction drew. Keys are HMACs,
so that the table tells nobody whom it counts.
"""

from __future__ import annotations

import hmac
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from hapta.db.database import WriteTx
from hapta.identity.otp import store
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
LEEWAY_MS = 30_000
"""How far clocks of two workers may differ (contract identity, section 30)."""


class Window(NamedTuple):
    """`limit` draws in `period_ms` milliseconds, counted from the first of them."""

    limit: int
    period_ms: int


class Budgets:
    """Draws from budgets.

    Args:
        key: of purpose `otp`.
    """

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    async def has_left(self, tx: WriteTx, window: Window, *words: str) -> bool:
        """Draws one; whether it was there. The draw counts in either case, unless the caller's transaction is rolled back."""
        used, _ = await self._draw(tx, window, words)
        return used <= window.limit

    async def draw(self, tx: WriteTx, window: Window, *words: str) -> None:
        """Draws one.

        Raises:
            TooMany: none was left, with the time until the window ends.
        """
        used, ends_at = await self._draw(tx, window, words)
        if used > window.limit:
            left_ms = min(ends_at - self._clock.now_ms(), window.period_ms)
            raise TooMany(retry_after_seconds=max(1.0, left_ms / 1000))

    async def _draw(self, tx: WriteTx, window: Window, words: tuple[str, ...]) -> tuple[int, int]:
        now = self._clock.now_ms()
        key = keyed(self._key, "budget", *words)
        return await store.draw(tx, key, now=now, ends_at=now + window.period_ms, leeway_ms=LEEWAY_MS)


def keyed(key: bytes, *words: str) -> bytes:
    """HMAC-SHA-256 over the words, each with its length in front: no two lists of words run into each other."""
    parts = [word.encode("utf-8", "surrogatepass") for word in words]
    return hmac.digest(key, b"".join([len(part).to_bytes(4) + part for part in parts]), "sha256")


def network_of(address: str | None) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, since that is what one customer gets."""
    if address is None:
        return "unknown"
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"
    return str(parsed)
