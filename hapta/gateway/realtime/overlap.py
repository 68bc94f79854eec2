"""Tells events that come over several connections at once from events that are new.

While a connection takes over from another, both listen, so that nothing falls between them. Events come in no order and may repeat
in earnest, so they are counted: one is new when a connection brought it more often than it was passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import msgspec

from hapta.gateway.models import Json

KEEP_SECONDS = 3.0

_decode = msgspec.json.Decoder().decode
_sorted = msgspec.json.Encoder(order="sorted").encode


class Overlap:
    """The memory of one handing-over, or of several that run into each other."""

    def __init__(self) -> None:
        self._going_on = 0
        self._passed: Counter[tuple[str, bytes]] = Counter()
        self._brought: dict[Hashable, Counter[tuple[str, bytes]]] = {}
        self._seen: dict[tuple[str, bytes], float] = {}

    @property
    def active(self) -> bool:
        """Whether a handing-over goes on, so that each event has to be looked at."""
        return self._going_on > 0

    def begin(self) -> None:
        """Another connection is about to listen to what one listens to already."""
        self._going_on += 1

    def end(self, closed: Hashable) -> None:
        """One of the two listens no more."""
        self._going_on -= 1
        self._brought.pop(closed, None)
        if not self._going_on:
            self._passed.clear()
            self._brought.clear()
            self._seen.clear()

    def is_new(self, connection: Hashable, topic: str, data: bytes, now: float) -> bool:
        """Whether nobody else has brought this event yet."""
        if not self.active:
            return True
        key = (topic, _canonical(data))
        self._forget(now)
        self._seen[key] = now
        brought = self._brought.setdefault(connection, Counter())
        brought[key] += 1
        if brought[key] <= self._passed[key]:
            return False
        self._passed[key] = brought[key]
        return True

    def _forget(self, now: float) -> None:
        old = [key for key, seen in self._seen.items() if now - seen > KEEP_SECONDS] if len(self._seen) > 1000 else ()
        for key in old:
            del self._seen[key]
            self._passed.pop(key, None)
            for brought in self._brought.values():
                brought.pop(key, None)


def _canonical(data: bytes) -> bytes:
    """PocketBase orders the members of an object anew each time (contract gateway, A.2)."""
    try:
        value: Json = _decode(data)
    except msgspec.DecodeError:
        return data
    return _sorted(value)
