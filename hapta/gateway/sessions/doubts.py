"""Since when PocketBase's word about the tokens of a record counts: of whatever may have changed since, it is asked again.

A change of a record says nothing of its tokens, and of some changes nothing is heard at all. What a doubt began before is not believed,
a login under way included: it may become a session when everybody else has been asked about.
"""

from __future__ import annotations

KEEP_MS = 180_000
"""How long it is known that a record has changed: a login that PocketBase was asked for before may take so long to become a session."""
UNHEARD_MS = 10_000
"""How often PocketBase is asked about a session while nobody tells of changes."""

Record = tuple[str, str]
"""Collection and record."""


class Doubts:
    """Doubts about everybody and about single records. Instants are Unix milliseconds.

    Args:
        now: what was not heard of before may be anything.
    """

    def __init__(self, now: int) -> None:
        self._everybody = now
        self._records: dict[Record, int] = {}
        self.unheard = False
        """Whether changes go unheard: then everybody is asked about again and again."""

    def since(self, record: Record) -> int:
        """Until when whatever is known of a record may be wrong, as far as anybody has heard."""
        return max(self._everybody, self._records.get(record, 0))

    def since_now(self, record: Record, now: int) -> int:
        """As `since`; where nobody would hear of a change, a few seconds ago at most."""
        since = self.since(record)
        return max(since, now // UNHEARD_MS * UNHEARD_MS) if self.unheard else since

    def about_everybody(self, now: int) -> None:
        """Anything may have changed until now."""
        self._everybody = now
        self._records.clear()

    def begin(self, record: Record, now: int) -> int:
        """A record has changed; the doubt about it, later than any before."""
        while self._records and self._records[oldest := next(iter(self._records))] < now - KEEP_MS:
            del self._records[oldest]
        doubt = self._records[record] = max(now, self._records.pop(record, 0) + 1)
        return doubt

    def settle(self, record: Record, doubt: int, now: int) -> None:
        """PocketBase was asked about every session of a record from `now` on; another doubt that came up meanwhile remains."""
        if self._records.get(record) == doubt:
            self._records[record] = now - 1
