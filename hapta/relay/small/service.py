"""What is behind the small routes: whether an app is too old, and lines that apps write into the server's log."""

from __future__ import annotations

import hmac
import re
from inspect import isawaitable

import structlog

from hapta.kit.errors import TooMany
from hapta.kit.networks import network_of
from hapta.kit.ratelimit import Limiter, Rate
from hapta.relay.small.errors import DebugLogOff, NotInProduction, WrongKey
from hapta.relay.small.schemas import DebugEntry
from hapta.settings.relay import RelaySettings

OLDEST = (1, 4, 1)
STORES = {
    "ios": "https://apps.apple.com/us/app/happy-claude-code-client/id6748571505",
    "android": "https://play.google.com/store/apps/details?id=com.ex3ndr.happy",
}
LOG_RATE = Rate(60, 60.0, 60)
SYNC_RATE = Rate(100, 60.0, 100)
CLIENT_RATE = Rate(50, 60.0, 50)

_VERSION = re.compile(
    r"\s*[v=]?\s*(\d{1,16})\.(\d{1,16})\.(\d{1,16})(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?\s*", re.ASCII
)
_log = structlog.get_logger("hapta.relay.debug")


def update_url(platform: str, version: str) -> str | None:
    """Where an app of a store gets a newer version; None for one that is new enough, or comes from no store.

    A version that cannot be read, or one before a release, counts as too old (contract relay, section 10).
    """
    store = STORES.get(platform.lower())
    if store is None:
        return None
    match = _VERSION.fullmatch(version)
    if match is None or match[4] is not None:
        return store
    return None if (int(match[1]), int(match[2]), int(match[3])) >= OLDEST else store


def same(given: str | None, expected: str) -> bool:
    """Whether a key is the expected one, in constant time; an empty one is never expected."""
    return bool(expected) and hmac.compare_digest((given or "").encode("utf-8", "replace"), expected.encode())


class Counted:
    """Budgets of routes that have one of their own.

    Args:
        limiter: None: no such limits.
    """

    def __init__(self, limiter: Limiter | None) -> None:
        self._limiter = limiter

    async def draw(self, key: str, rate: Rate) -> None:
        """Draws one request.

        Raises:
            TooMany: the budget is used up.
        """
        if self._limiter is None:
            return
        decision = self._limiter.hit(key, rate)
        if isawaitable(decision):
            decision = await decision
        if not decision.allowed:
            raise TooMany(retry_after_seconds=decision.retry_after_seconds)


class DebugLog:
    """Writes what apps send into the server's log, for developers of apps.

    Args:
        production: whether this server is one for production, which never does that.
    """

    def __init__(self, settings: RelaySettings, counted: Counted, *, production: bool) -> None:
        self._settings = settings
        self._counted = counted
        self._production = production

    async def write(self, entry: DebugEntry, token: str | None, address: str) -> None:
        """Writes one line.

        Args:
            token: what was sent to show that the app may.
            address: of the client.

        Raises:
            NotInProduction, DebugLogOff, WrongKey, TooMany: in this order (contract relay, section 10).
        """
        if self._production:
            raise NotInProduction
        if not self._settings.debug_log:
            raise DebugLogOff
        expected = self._settings.debug_log_token
        if expected and not same(token, expected):
            raise WrongKey
        await self._counted.draw(f"relay-debug-log:{entry.source}:{network_of(address)}", LOG_RATE)
        _log.info(
            "line of an app",
            level_of_app=entry.level,
            text=entry.message,
            source=entry.source,
            platform=entry.platform,
            app_time=entry.timestamp,
            raw=entry.message_raw_object,
        )
