"""Inner values of the audit log. Instants are Unix milliseconds, days are days since 1970-01-01 in UTC."""

from __future__ import annotations

from typing import NamedTuple

DAY_MS = 24 * 3600 * 1000
NOTHING = bytes(32)
"""What the chain begins with."""


class Recorded(NamedTuple):
    """An event as it is kept; the fields are the columns of `auth_events` in their order."""

    day: int
    """Of the chain: that of `at`, or a later one if a later day had begun already."""
    number: int
    id: str
    at: int
    type: str
    outcome: str
    actor: str | None
    user_id: str | None
    client_id: str | None
    session_id: str | None
    reason: str | None
    address: str | None
    user_agent: str | None
    device_id: str | None
    request_id: str | None
    data: str | None
    """A JSON object as text, letter by letter as it was hashed."""
    prev_hash: bytes = NOTHING
    hash: bytes = NOTHING


class Day(NamedTuple):
    """The head of one day's chain; the fields are the columns of `auth_event_days` in their order."""

    day: int
    base: bytes
    events: int
    head: bytes
    key_id: str
    signature: bytes
    swept_at: int | None = None
    sweep_signature: bytes | None = None


class EventFilter(NamedTuple):
    """Which events; None: whatever it is."""

    user_id: str | None = None
    type: str | None = None
    client_id: str | None = None
    actor: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None


class Cursor(NamedTuple):
    """A place between two events; on the wire `19723.17`."""

    day: int
    number: int

    def __str__(self) -> str:
        return f"{self.day}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises ValueError for anything that `str` did not make."""
        day, dot, number = text.partition(".")
        if not (dot and day.isascii() and number.isascii() and day.isdigit() and number.isdigit()) or len(text) > 24:
            raise ValueError("not a cursor")
        return cls(int(day), int(number))


class Page(NamedTuple):
    """Events, the newest first, and where the next page begins (None: that was all)."""

    events: list[Recorded]
    next: Cursor | None


class Fault(NamedTuple):
    """Something that the log's own writers cannot have done."""

    day: int
    number: int | None
    """The event; None: the day as a whole."""
    what: str


class Anchor(NamedTuple):
    """The end of the log as somebody noted it elsewhere: whoever cuts the log short cannot change that note."""

    day: int
    number: int
    hash: bytes


class Verdict(NamedTuple):
    """What a check of the whole log found."""

    days: int
    swept_days: int
    events: int
    faults: list[Fault]
    """At most `verify.MAX_FAULTS`."""
    end: Anchor | None
    """The end of the log, to be noted elsewhere; None: it is empty."""
