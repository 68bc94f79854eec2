"""`FakeClock`: a clock that stands still until the test moves it, so that a test about an hour takes no time."""

from __future__ import annotations

from datetime import UTC, datetime

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """A `Clock` that a test moves by hand. Unix time and monotonic time move together.

    Args:
        start: Unix time in seconds, or an aware datetime; 2030-01-01 00:00 UTC when left out.
    """

    def __init__(self, start: float | datetime = EPOCH) -> None:
        seconds = start.timestamp() if isinstance(start, datetime) else start
        self._unix_us = round(seconds * 1_000_000)
        self._elapsed_us = 0

    def now(self) -> float:
        """Unix time in seconds."""
        return self._unix_us / 1_000_000

    def now_ms(self) -> int:
        """Unix time in whole milliseconds, rounded down as the system's clock does."""
        return self._unix_us // 1000

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed_us / 1_000_000

    def advance(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Moves the clock on.

        Raises:
            ValueError: the sum is negative; use `set_back` for a wall clock that was corrected.
        """
        moved_us = round((seconds + 60 * minutes + 3600 * hours + 86_400 * days) * 1_000_000)
        if moved_us < 0:
            raise ValueError("a clock that advances does not go back; use set_back()")
        self._unix_us += moved_us
        self._elapsed_us += moved_us

    def set_back(self, *, seconds: float) -> None:
        """Sets Unix time back, as a corrected wall clock does; monotonic time is not touched."""
        self._unix_us -= round(seconds * 1_000_000)
