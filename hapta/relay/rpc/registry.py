"""Which socket of this worker answers calls of which method, and what answered a moment ago.

The newest socket wins, here and among workers: one that came back elsewhere takes over from the old one, which may be dead without
anybody having noticed. A machine or session answers all methods that begin with its id, whether it registered them or not.
"""

from __future__ import annotations

from collections import OrderedDict

from hapta.kit.clock import Clock
from hapta.relay.rpc.models import prefix_of, scope_key
from hapta.relay.updates.hub import Connection

MAX_METHODS = 500
"""Methods of one socket."""
MAX_REMEMBERED = 20_000
"""Of what answered a moment ago."""

Key = tuple[str, str]
"""(account id, method or `scope_key`)."""


class _Entry:
    __slots__ = ("connection", "taken_over_by")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.taken_over_by: tuple[str, str] | None = None
        """(worker, connection id) of a socket elsewhere that answers to the same since later."""


class Registry:
    """This worker's part.

    Args:
        remember_seconds: how long what left is remembered.
    """

    def __init__(self, clock: Clock, remember_seconds: float) -> None:
        self._clock = clock
        self._remember_seconds = remember_seconds
        self._entries: dict[Key, dict[str, _Entry]] = {}
        self._keys: dict[str, dict[str, None]] = {}
        self._left: OrderedDict[Key, float] = OrderedDict()

    @property
    def methods(self) -> int:
        """How many methods are registered, machines and sessions themselves included."""
        return len(self._entries)

    def add(self, connection: Connection, key: str) -> bool:
        """From now on the socket answers to `key`; False when it answers to too much already."""
        keys = self._keys.setdefault(connection.id, {})
        if key not in keys and len(keys) >= MAX_METHODS:
            return False
        keys[key] = None
        at = (connection.account_id, key)
        entries = self._entries.setdefault(at, {})
        entries.pop(connection.id, None)  # the newest stands last
        entries[connection.id] = _Entry(connection)
        self._left.pop(at, None)
        return True

    def remove(self, connection: Connection, key: str) -> bool:
        """It no longer answers to `key`, on purpose; False when it never did."""
        keys = self._keys.get(connection.id, {})
        if key not in keys:
            return False
        del keys[key]
        if not keys:
            del self._keys[connection.id]
        self._forget((connection.account_id, key), connection.id)
        return True

    def drop(self, connection: Connection) -> list[str]:
        """The socket is gone; what it answered to."""
        keys = list(self._keys.pop(connection.id, ()))
        ends_at = self._clock.monotonic() + self._remember_seconds
        for key in keys:
            at = (connection.account_id, key)
            self._forget(at, connection.id)
            if at not in self._entries:
                self._left[at] = ends_at
                self._left.move_to_end(at)
        while len(self._left) > MAX_REMEMBERED:
            self._left.popitem(last=False)
        self._expire()
        return keys

    def _forget(self, at: Key, connection_id: str) -> None:
        entries = self._entries.get(at)
        if entries is not None:
            entries.pop(connection_id, None)
            if not entries:
                del self._entries[at]

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._left:
            at, ends_at = next(iter(self._left.items()))
            if ends_at > now:
                return
            del self._left[at]

    def taken_over(self, account_id: str, key: str, by: tuple[str, str]) -> None:
        """A socket of another worker answers to `key` from now on. `by`: (worker, connection id)."""
        self._left.pop((account_id, key), None)
        for entry in self._entries.get((account_id, key), {}).values():
            entry.taken_over_by = by

    def given_back(self, account_id: str, key: str, by: tuple[str, str]) -> None:
        """A socket of another worker no longer does."""
        for entry in self._entries.get((account_id, key), {}).values():
            if entry.taken_over_by == by:
                entry.taken_over_by = None

    def worker_lost(self, worker: str) -> None:
        """What that worker's sockets took over is given back."""
        for entries in self._entries.values():
            for entry in entries.values():
                if entry.taken_over_by is not None and entry.taken_over_by[0] == worker:
                    entry.taken_over_by = None

    def find(self, account_id: str, method: str, caller: str, *, also_old: bool = False) -> Connection | None:
        """The socket that answers calls of a method: who registered it last, else the newest one whose session or machine it
        belongs to. Never the caller.

        Args:
            also_old: whether one counts that another worker's socket took over from.
        """
        for key in keys_of(method):
            for entry in reversed(self._entries.get((account_id, key), {}).values()):
                if entry.connection.id != caller and (also_old or not entry.taken_over_by):
                    return entry.connection
        return None

    def answers_itself(self, account_id: str, method: str, caller: str) -> bool:
        """Whether the caller is one that answers calls of this method."""
        return any(caller in self._entries.get((account_id, key), {}) for key in keys_of(method))

    def missed_seconds(self, account_id: str, method: str) -> float:
        """So long a call should still wait for one that answered a moment ago; 0: none did."""
        now = self._clock.monotonic()
        return max(0.0, *[self._left.get((account_id, key), 0.0) - now for key in keys_of(method)])


def keys_of(method: str) -> tuple[str, ...]:
    """The keys under which somebody may answer a method, the best one first."""
    prefix = prefix_of(method)
    return (method, scope_key(prefix)) if prefix else (method,)
