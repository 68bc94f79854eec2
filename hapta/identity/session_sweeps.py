"""The clean-up of sessions: what ended, what was told to every worker, and what was used up, in small batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hapta.db.database import Database, WriteTx
from hapta.identity import session_store as store
from hapta.identity.marks import KEEP_MARKS_MS, Marks
from hapta.identity.session_tokens import OVERLAP_MS
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock

SWEEP_BATCH = 500
KEEP_ENDED_MS = 86_400_000


class SessionSweeps:
    """Removes what nobody asks for any more."""

    def __init__(self, db: Database, clock: Clock, marks: Marks) -> None:
        self._db = db
        self._clock = clock
        self._marks = marks

    async def erase_successors(self) -> int:
        """Forgets the sealed keys of rolls whose overlap is over; how many."""
        before = self._clock.now_ms() - OVERLAP_MS
        return await self._swept(lambda tx: store.erase_successors(tx, before, SWEEP_BATCH))

    def sweeps(self) -> dict[str, Callable[[], Awaitable[int]]]:
        """The clean-up, by name: each removes what is over in small batches, and says how many rows that were."""
        return {
            "ended sessions": self._sweep_sessions,
            "old revocations": self._sweep_revocations,
            "changes that were taken in": self._sweep_spent,
        }

    async def sweep(self) -> int:
        """All of `sweeps`, once; how many rows."""
        return sum([await sweep() for sweep in self.sweeps().values()])

    async def _sweep_sessions(self) -> int:
        before = self._clock.now_ms() - KEEP_ENDED_MS
        return await self._swept(lambda tx: store.sweep_sessions(tx, before, SWEEP_BATCH))

    async def _sweep_revocations(self) -> int:
        self._marks.forget()
        before = self._clock.now_ms() - KEEP_MARKS_MS
        return await self._swept(lambda tx: store.sweep_revocations(tx, before, SWEEP_BATCH))

    async def _sweep_spent(self) -> int:
        now = self._clock.now_ms()
        return await self._swept(lambda tx: store.sweep_spent(tx, now, SWEEP_BATCH))

    async def _swept(self, sweep: Callable[[WriteTx], Awaitable[int]]) -> int:
        return await in_batches(lambda: self._db.write(sweep))
