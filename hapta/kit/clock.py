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

    # As they are: requests ask several times each, and a function around them would cost more than they do.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def iso_ms(milliseconds: int) -> str:
    """An instant on the wire: ISO 8601, UTC, exactly three fractional digits and `Z` (contract sync, section 1)."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_whole_second(seconds)}.{rest:03d}Z"


class Instants:
    """Formats instants and remembers the last one: the logs of one push share theirs, and so do the requests of a millisecond."""

    def __init__(self) -> None:
        self._milliseconds = -1
        self._text = ""

    def text(self, milliseconds: int) -> str:
        """`iso_ms`, cheaply for runs of equal values."""
        if milliseconds != self._milliseconds:
            self._milliseconds, self._text = milliseconds, iso_ms(milliseconds)
        return self._text


@lru_cache(maxsize=64)
def _whole_second(seconds: int) -> str:
    # Kept, since most instants that are written in one second are of that second, and formatting a date costs 10 times more.
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
