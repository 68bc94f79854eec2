"""Checks the whole audit log against its hashes and signatures, while the server may go on writing to it.

Reads day by day in pages. What is appended during the check is left to the next one; a day that is swept meanwhile counts
as swept.
"""

from __future__ import annotations

from hapta.db.database import Database, ReadTx
from hapta.identity.audit import store
from hapta.identity.audit.chain import AuditKeys, hash_of
from hapta.identity.audit.models import NOTHING, Anchor, Day, Fault, Recorded, Verdict

PAGE = 1_000
MAX_FAULTS = 1_000


class Verification:
    """One check. Use it once."""

    def __init__(self, db: Database, keys: AuditKeys) -> None:
        self._db = db
        self._keys = keys
        self._faults: list[Fault] = []
        self._events = 0
        self._swept = 0
        self._found_expected = False

    async def run(self, expected: Anchor | None = None) -> Verdict:
        """The verdict; see `AuditLog.verify`."""
        days = await self._db.read(store.list_days, snapshot=False)
        head = NOTHING
        for day in days:
            self._check_day(day, head)
            head = day.head
            if day.swept_at is None:
                await self._check_events(day, expected)
            else:
                self._check_sweep(day, expected)
        for stray in await self._db.read(store.stray_days, snapshot=False):
            self._fault(stray, None, "events of a day that has no head")
        if expected is not None and not self._found_expected:
            self._fault(expected.day, expected.number, "the event that was noted elsewhere is not here")
        end = Anchor(days[-1].day, days[-1].events, days[-1].head) if days else None
        return Verdict(len(days), self._swept, self._events, self._faults, end)

    def _fault(self, day: int, number: int | None, what: str) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(Fault(day, number, what))

    def _check_day(self, day: Day, head_before: bytes) -> None:
        if not self._keys.knows(day.key_id):
            self._fault(day.day, None, f"signed by a key that is not known here: {day.key_id}")
        elif not self._keys.counts(day):
            self._fault(day.day, None, "the signature does not fit the head")
        if day.base != head_before:
            self._fault(day.day, None, "does not follow the day before: a day was removed, added or changed")

    def _check_sweep(self, day: Day, expected: Anchor | None) -> None:
        self._swept += 1
        if not self._keys.sweep_counts(day):
            self._fault(day.day, None, "marked as swept, but not by this server")
        if expected is not None and expected.day == day.day:
            # Of a swept day only the end can be compared; what was noted in the midst of it went with its age.
            self._found_expected = expected.number < day.events or expected == Anchor(day.day, day.events, day.head)

    async def _check_events(self, day: Day, expected: Anchor | None) -> None:
        faults_before, events_before = len(self._faults), self._events
        last = await self._walk(day, expected)
        now, (lowest, highest) = await self._db.read(lambda tx: _state(tx, day.day))
        if now is not None and now.swept_at is not None:  # swept while we read
            del self._faults[faults_before:]
            self._events = events_before
            self._check_sweep(now, expected)
            return
        if last != day.head:
            self._fault(day.day, day.events, "the day's events do not end in its head")
        if now is not None and highest > now.events:
            self._fault(day.day, highest, "an event beyond the day's head")
        if highest and lowest < 1:
            self._fault(day.day, lowest, "an event before the day's first")

    async def _walk(self, day: Day, expected: Anchor | None) -> bytes:
        """Follows the day's events; the hash of the last one."""
        before, number = day.base, 0
        while number < day.events:
            limit = min(PAGE, day.events - number)
            page = await self._db.read(
                lambda tx, number=number, limit=limit: store.events_of_day(tx, day.day, number, limit), snapshot=False
            )
            for event in page:
                if event.number > day.events:
                    break
                if event.number != number + 1:
                    self._fault(day.day, number + 1, _missing(number + 1, event.number - 1))
                self._check_event(event, before, follows=event.number == number + 1)
                if expected is not None and (day.day, event.number, event.hash) == tuple(expected):
                    self._found_expected = True
                before, number = event.hash, event.number
                self._events += 1
            if not page or page[-1].number >= day.events:
                break
        if number < day.events:
            self._fault(day.day, number + 1, _missing(number + 1, day.events))
        return before

    def _check_event(self, event: Recorded, before: bytes, *, follows: bool) -> None:
        if event.hash != hash_of(event):
            self._fault(event.day, event.number, "the event was changed")
        if follows and event.prev_hash != before:
            self._fault(event.day, event.number, "the event does not follow the one before it")


def _missing(first: int, last: int) -> str:
    return "the event is missing" if first == last else f"the events up to {last} are missing"


async def _state(tx: ReadTx, day: int) -> tuple[Day | None, tuple[int, int]]:
    return await store.find_day(tx, day), await store.numbers_of_day(tx, day)
