"""What one worker knows of sessions for a second: verified headers and live sessions, so that a hot request costs one look-up.

Invariant: nothing is believed for longer than a second, nor after its session ended or rolled here. `epoch` lets a look-up notice
that something ended while it read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from hapta.gateway.models import Visitor

BELIEVED_SECONDS = 1.0
"""How late a revocation may be noticed on a worker that no message reaches."""


class Memory:
    """Visitors by what was presented (a header's bytes) or by session (its id as text), the least recently stored thrown out first.

    Args:
        monotonic: seconds on a clock that never goes back.
        max_entries: to keep.
    """

    def __init__(self, monotonic: Callable[[], float], max_entries: int = 50_000) -> None:
        self._monotonic = monotonic
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, tuple[Visitor, float]] = OrderedDict()
        self._by_session: dict[str, set[Hashable]] = {}
        self._sessions_of: dict[str, set[str]] = {}
        self.epoch = 0
        """Raised by every drop. What was read before a rise must not be stored after it."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Visitor | None:
        """The visitor, if it may be believed now."""
        entry = self._entries.get(key)
        if entry is None or self._monotonic() >= entry[1]:
            return None
        return entry[0]

    def put(self, key: Hashable, visitor: Visitor, at_most_seconds: float) -> None:
        """Keeps a visitor for a second, or for less."""
        self._entries[key] = visitor, self._monotonic() + min(BELIEVED_SECONDS, at_most_seconds)
        self._entries.move_to_end(key)
        self._by_session.setdefault(visitor.session_id, set()).add(key)
        self._sessions_of.setdefault(visitor.scope, set()).add(visitor.session_id)
        while len(self._entries) > self._max_entries:
            oldest, (dropped, _) = self._entries.popitem(last=False)
            keys = self._by_session[dropped.session_id]
            keys.discard(oldest)
            if not keys:
                self._forget(dropped)

    def drop(self, session_id: str) -> None:
        """Forgets a session."""
        self.epoch += 1
        for key in list(self._by_session.get(session_id, ())):
            visitor, _ = self._entries.pop(key)
            self._by_session[session_id].discard(key)
            if not self._by_session[session_id]:
                self._forget(visitor)

    def drop_scope(self, scope: str) -> None:
        """Forgets all sessions of a record."""
        self.epoch += 1
        for session_id in list(self._sessions_of.get(scope, ())):
            self.drop(session_id)

    def clear(self) -> None:
        """Forgets everything."""
        self.epoch += 1
        self._entries.clear()
        self._by_session.clear()
        self._sessions_of.clear()

    def _forget(self, visitor: Visitor) -> None:
        """Nothing is known of this session any more."""
        del self._by_session[visitor.session_id]
        sessions = self._sessions_of[visitor.scope]
        sessions.discard(visitor.session_id)
        if not sessions:
            del self._sessions_of[visitor.scope]
