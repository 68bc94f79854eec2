"""Tokens that were verified a moment ago, kept in memory so that a hot request costs one look-up.

Invariant: an entry is believed only while revocations are known to arrive (`trust_until`), for at most a minute, and never
after something that ended it was applied. `epoch` lets a look-up notice a revocation that overtook it. Session keys stand by
their hashes, which are bytes and no text: what was remembered of a key is never found by a token, nor the other way round.
"""

from __future__ import annotations

from collections import OrderedDict

from hapta.kit.access import Caller
from hapta.kit.clock import Clock

RECHECK_SECONDS = 60.0
Presented = str | bytes
"""An access token, or the hash of a session key."""


class TokenCache:
    """Callers by token or key, the least recently used thrown out first.

    Args:
        clock: its monotonic side decides how long an entry is believed.
        max_entries: tokens to keep.
    """

    def __init__(self, clock: Clock, max_entries: int = 50_000) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[Presented, tuple[Caller, float]] = OrderedDict()
        self._by_user: dict[str, set[Presented]] = {}
        self._trusted_until = float("-inf")
        self.epoch = 0
        """Raised by every drop. What was read before a rise must not be stored after it."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: Presented) -> Caller | None:
        """The caller, if the token is known and may be believed now."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        caller, until = entry
        now = self._clock.monotonic()
        if now >= until or now >= self._trusted_until:
            return None
        self._entries.move_to_end(token)
        return caller

    @property
    def trusted(self) -> bool:
        """Whether revocations are known to have arrived until a moment ago."""
        return self._clock.monotonic() < self._trusted_until

    def put(self, token: Presented, caller: Caller, at_most_seconds: float = RECHECK_SECONDS) -> None:
        """Keeps a caller until the token ends, at most for `at_most_seconds`."""
        left = min(at_most_seconds, caller.expires_at - self._clock.now())
        self._entries[token] = (caller, self._clock.monotonic() + left)
        self._entries.move_to_end(token)
        self._by_user.setdefault(caller.user_id, set()).add(token)
        while len(self._entries) > self._max_entries:
            oldest, (dropped, _) = self._entries.popitem(last=False)
            self._forget(oldest, dropped.user_id)

    def drop(self, user_id: str, session_id: str, before_generation: int | None = None) -> None:
        """Forgets a session's tokens: all of them, or those older than a generation."""
        self.epoch += 1
        for token in list(self._by_user.get(user_id, ())):
            caller = self._entries[token][0]
            if caller.session_id != session_id:
                continue
            if before_generation is None or caller.generation < before_generation:
                del self._entries[token]
                self._forget(token, user_id)

    def clear(self) -> None:
        """Forgets everything."""
        self.epoch += 1
        self._entries.clear()
        self._by_user.clear()

    def trust_until(self, monotonic: float) -> None:
        """Believes entries until an instant of the monotonic clock."""
        self._trusted_until = monotonic

    def _forget(self, token: Presented, user_id: str) -> None:
        tokens = self._by_user[user_id]
        tokens.discard(token)
        if not tokens:
            del self._by_user[user_id]
