"""Where kept answers are: bounded by bytes, the least recently used goes first, and one identity cannot drive out all others.

The store knows nothing of what makes an answer stale beyond the counters that an entry carries. One loop, one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from hapta.gateway.cache.models import Entry
from hapta.gateway.cache.readable import matches
from hapta.gateway.cache.tags import PENDING
from hapta.gateway.models import GUEST

SHARED = "*"
"""The scope of what everybody may see."""

_GHOSTS = 8192
_MAX_LABELS = 16


class Store:
    """Entries by key.

    Args:
        max_bytes: for all entries.
        max_entry_bytes: for the body of one.
        identity_share: part of all bytes that one identity may fill; guests as a whole, and what is shared by everybody,
            may each fill all but that part.
    """

    def __init__(self, max_bytes: int, max_entry_bytes: int, identity_share: float) -> None:
        self.max_bytes = max_bytes
        self.max_entry_bytes = max_entry_bytes
        self._share = int(max_bytes * identity_share)
        self._crowd_share = max(max_bytes - self._share, self._share)
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._scopes: dict[str, OrderedDict[str, None]] = {}
        self._scope_bytes: dict[str, int] = {}
        self._labels: dict[str, dict[str, set[str]]] = {}
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self.bytes = 0
        self.evicted = 0
        self.not_admitted = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def identities(self) -> int:
        """How many scopes have something here."""
        return len(self._scopes)

    def get(self, key: str, now: float) -> Entry | None:
        """An entry that still holds. One that does not is dropped, unless a write under way may still be refused."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        for counter, value in entry.checks:
            if counter.value != value:
                if counter.value < PENDING:
                    self.remove(entry)
                return None
        if entry.expires_at <= now:
            self.remove(entry)
            return None
        self._entries.move_to_end(key)
        entry.used = True
        return entry

    def add(self, entry: Entry, *, long_tail: bool) -> bool:
        """Keeps an entry in place of the one with its key, if its size and the room for its scope allow.

        Args:
            long_tail: a list like many that are asked for once; when the store is full it has to be asked for twice.
        """
        if len(entry.body) > self.max_entry_bytes or entry.size > self._limit(entry.scope):
            return False
        old = self._entries.get(entry.key)
        if old is not None:
            self.remove(old)
        elif long_tail and self.bytes + entry.size > self.max_bytes and not self._seen_before(entry.key):
            self.not_admitted += 1
            return False
        self._entries[entry.key] = entry
        self._scopes.setdefault(entry.scope, OrderedDict())[entry.key] = None
        entry.in_store(self._grow)
        self._account(entry.scope, entry.size)
        self._make_room(entry)
        return True

    def remove(self, entry: Entry) -> None:
        """Drops an entry, if it is the one that is kept."""
        if self._entries.get(entry.key) is not entry:
            return
        del self._entries[entry.key]
        keys = self._scopes[entry.scope]
        del keys[entry.key]
        self._account(entry.scope, -entry.size)
        entry.in_store(None)
        for label in entry.labels:
            self._unlabel(entry, label)
        if not keys:
            del self._scopes[entry.scope]
            del self._scope_bytes[entry.scope]

    def clear(self) -> int:
        """Drops everything; tells how much there was."""
        count = len(self._entries)
        for entry in self._entries.values():
            entry.in_store(None)
        self._entries.clear()
        self._scopes.clear()
        self._scope_bytes.clear()
        self._labels.clear()
        self.bytes = 0
        return count

    def label(self, key: str, labels: Iterable[str]) -> None:
        """Puts readable tags, normalised, on the entry that is kept under a key."""
        entry = self._entries.get(key)
        if entry is None:
            return
        for label in labels:
            if label and label not in entry.labels and len(entry.labels) < _MAX_LABELS:
                entry.labels.add(label)
                self._labels.setdefault(entry.scope, {}).setdefault(label, set()).add(key)

    def drop_labelled(self, wanted: str, scope: str | None = None) -> int:
        """Drops the entries with a readable tag, of one scope or of all; tells how many."""
        scopes = list(self._labels) if scope is None else [scope]
        keys = {
            key
            for one in scopes
            for label, labelled in self._labels.get(one, {}).items()
            if matches(label, wanted)
            for key in labelled
        }
        for key in keys:
            self.remove(self._entries[key])
        return len(keys)

    def _unlabel(self, entry: Entry, label: str) -> None:
        labelled = self._labels[entry.scope]
        keys = labelled[label]
        keys.discard(entry.key)
        if not keys:
            del labelled[label]
            if not labelled:
                del self._labels[entry.scope]

    def _limit(self, scope: str) -> int:
        return self._crowd_share if scope in (SHARED, GUEST) else self._share

    def _account(self, scope: str, size: int) -> None:
        self.bytes += size
        self._scope_bytes[scope] = self._scope_bytes.get(scope, 0) + size

    def _grow(self, entry: Entry, size: int) -> None:
        entry.size += size
        self._account(entry.scope, size)
        self._make_room(entry)

    def _make_room(self, newest: Entry) -> None:
        limit = self._limit(newest.scope)
        while self._scope_bytes.get(newest.scope, 0) > limit:
            self._evict_of(newest.scope)
        while self.bytes > self.max_bytes:
            self._evict(next(iter(self._entries)))

    def _evict_of(self, scope: str) -> None:
        # The oldest that was not used since it was last passed over: an exact order for each scope would make hits dearer.
        keys = self._scopes[scope]
        oldest = next(iter(keys))
        while self._entries[oldest].used:
            self._entries[oldest].used = False
            keys.move_to_end(oldest)
            oldest = next(iter(keys))
        self._evict(oldest)

    def _evict(self, key: str) -> None:
        self.remove(self._entries[key])
        self.evicted += 1

    def _seen_before(self, key: str) -> bool:
        # Hashes are enough: a wrong guess admits an entry, no more.
        ghost = hash(key)
        if ghost in self._ghosts:
            del self._ghosts[ghost]
            return True
        self._ghosts[ghost] = None
        if len(self._ghosts) > _GHOSTS:
            self._ghosts.popitem(last=False)
        return False
