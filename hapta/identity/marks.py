"""Marks: what third-party tokens are held against, so that they end before their time (contract identity, section 4.6).

A mark is a row of `auth_revocations` with a subject, and travels the same way as the end of a session: by the bus at once,
by the watch's poll within two seconds. They are kept in memory as long as any token could live that they end.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity import session_store as store
from hapta.identity.models import Revocation
from hapta.identity.token_cache import TokenCache
from hapta.kit.access import SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids

KEEP_MARKS_MS = 2 * 3_600_000
"""Longer than the longest life of a third-party access token (one hour) and every difference between clocks."""


class Marks:
    """Subjects whose tokens have ended: `g:<grant family>`, `j:<token id>`, `c:<client>`.

    Args:
        cache: knows whether this worker hears of revocations.
    """

    def __init__(self, db: Database, clock: Clock, ids: Ids, cache: TokenCache) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._cache = cache
        self._at: dict[str, int] = {}
        self.epoch = 0
        """Raised by every mark: what was read before a rise must not be cached after it."""

    def __len__(self) -> int:
        return len(self._at)

    async def put(self, tx: WriteTx, user_id: UserId, subjects: Sequence[str]) -> list[Revocation]:
        """Marks subjects inside the caller's transaction of the auth database; `SessionService.announce` them after it.

        Args:
            user_id: whose they are; empty for marks of a client that concern many people.
        """
        at = self._clock.now_ms()
        marks = [Revocation(self._ids.uuid(), user_id, SessionId(""), None, at, subject) for subject in subjects]
        await store.insert_revocations(tx, marks)
        return marks

    def revoked(self, subject: str, issued_at: float | None = None) -> bool:
        """Whether the subject is marked, as far as this worker has heard.

        Args:
            issued_at: Unix time in seconds at which a token was made: what is newer than the mark still counts.
        """
        at = self._at.get(subject)
        return at is not None and (issued_at is None or issued_at * 1000 <= at)

    async def check(self, subjects: Sequence[str], issued_at: float | None = None) -> bool:
        """Whether any of the subjects is marked. Asks the database while this worker may not have heard of a mark.

        Raises:
            Unavailable: it could not be asked.
        """
        if self._cache.trusted:
            return any(self.revoked(subject, issued_at) for subject in subjects)
        found = await self._db.read(lambda tx: store.marked(tx, subjects), snapshot=False)
        return any(issued_at is None or issued_at * 1000 <= at for at in found.values())

    async def load(self) -> None:
        """Reads the marks that are in force; once, before the worker serves."""
        since = self._clock.now_ms() - KEEP_MARKS_MS
        for mark in await self._db.read(lambda tx: store.marks_since(tx, since), snapshot=False):
            self.apply(mark)

    def apply(self, mark: Revocation) -> None:
        """Takes a mark into effect in this worker."""
        if mark.subject is not None:
            self.epoch += 1
            self._at[mark.subject] = max(mark.at, self._at.get(mark.subject, 0))

    def forget(self) -> None:
        """Drops marks that no living token can fall under."""
        before = self._clock.now_ms() - KEEP_MARKS_MS
        self._at = {subject: at for subject, at in self._at.items() if at >= before}
