"""Time as an argument: everything that needs the hour is handed a `Clock`, so a test can move it by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Unix time in seconds."""
        ...

    def now_ms(self) -> int:
        """Unix time in whole milliseconds: the form in which the database keeps instants."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


def iso_ms(milliseconds: int) -> str:
    """An instant on the wire: ISO 8601, UTC, exactly three fractional digits and `Z` (contract sync, section 1)."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_whole_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=64)
def _whole_second(seconds: int) -> str:
    # Kept, since most instants that are written in one second are of that second, and formatting a date costs 10 times more.
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
