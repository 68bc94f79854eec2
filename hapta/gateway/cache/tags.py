"""Tags and their counters: the one thing that decides whether a kept answer still holds (contract gateway, C.3 and C.4).

An answer remembers the values its counters had before it was fetched, and holds while all are the same. A write under way
lifts the value by `PENDING`, so that one comparison of integers tells both a change and a write that may become one; a
refused write takes the mark back, and what was kept holds again.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

PENDING = 1 << 40
"""Beyond any number of changes; each write under way adds one."""

ALL = "all"
"""In every answer: gaps in the stream of changes, the schema."""

ANY = "any"
"""Bumped with every change; for answers whose dependencies are not known."""


def whole(collection_id: str) -> str:
    """Any change in a collection."""
    return f"c:{collection_id}"


def record(collection_id: str, record_id: str) -> str:
    """A change of one record; of a visitor's own record too."""
    return f"r:{collection_id}/{record_id}"


def sweep(collection_id: str) -> str:
    """A change of records in a collection that cannot be told one by one, such as a deletion that cascades into it."""
    return f"w:{collection_id}"


class Counter:
    """The state of one tag."""

    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value = 0


class Tags:
    """All counters that somebody holds. Nobody needs one that no answer, no fetch and no write refers to, so it goes."""

    def __init__(self) -> None:
        self._counters: WeakValueDictionary[str, Counter] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._counters)

    def counter(self, tag: str) -> Counter:
        """The counter of a tag; hold it for as long as its value is of interest."""
        found = self._counters.get(tag)
        if found is None:
            found = self._counters[tag] = Counter()
        return found

    def bump(self, tags: Iterable[str]) -> None:
        """Tells changes."""
        for tag in tags:
            found = self._counters.get(tag)
            if found is not None:
                found.value += 1
