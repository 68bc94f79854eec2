"""Keeps rows and objects of blobs together: takes objects away that nobody stands for, and notes which blobs the store has lost.

Several workers may sweep at once, beside uploads: an object is only ever judged by what the database says after the object was
seen, no object key is used twice, and to remove what is gone is no error. What the store has lost keeps its row, since a store that
was mounted empty or restored late may have it again; until then clients hear that it is missing and may send it again.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog

from hapta.blobs.blobs import Blobs
from hapta.db.database import Database
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.sync.blobs import store
from hapta.sync.blobs.service import FOLDER

DRAIN_SECONDS = 60.0
SWEEP_SECONDS = 6 * 3600.0
GRACE_MS = 24 * 3600 * 1000
"""What is younger may be under way: an upload is given up after so long."""
PAGE = 500
LAST = "\x7f"
"""Sorts behind every key."""

_log = structlog.stdlib.get_logger("hapta.sync.blobs")


class Swept(NamedTuple):
    """What one sweep found."""

    given_up: int
    """Uploads that were cut off."""
    orphans: int
    """Objects that nothing stood for."""
    lost: int
    """Blobs whose object is gone from the store."""
    found: int
    """Blobs that counted as lost and are there again."""


class Sweeper:
    """The rounds of one worker."""

    def __init__(self, db: Database, clock: Clock, blobs: Blobs) -> None:
        self._db = db
        self._clock = clock
        self._blobs = blobs
        self._draining = Routine("blobs: removal", self.drain, DRAIN_SECONDS, at_once=True)
        self._sweeping = Routine("blobs: sweep", self._round, SWEEP_SECONDS)

    def start(self) -> None:
        """Works from now on until `close`."""
        self._draining.start()
        self._sweeping.start()

    def wake(self) -> None:
        """Something waits for its removal."""
        self._draining.wake()

    async def close(self) -> None:
        await self._draining.stop()
        await self._sweeping.stop()

    async def drain(self) -> int:
        """Removes the objects that were given up; how many."""
        total = 0
        while keys := await self._db.read(lambda tx: store.doomed(tx, PAGE), snapshot=False):
            await self._blobs.delete(keys)
            await self._db.write(lambda tx, keys=keys: store.forget(tx, keys))
            total += len(keys)
        return total

    async def sweep(self) -> Swept:
        """Gives up what was cut off, and compares all objects with all rows."""
        before_ms = self._clock.now_ms() - GRACE_MS
        given_up = await self._db.write(lambda tx: store.doom_stale(tx, before_ms))
        await self._blobs.tidy(before_ms)
        orphans = lost = found = 0
        after = FOLDER
        while True:
            page = await self._blobs.listed(FOLDER, "" if after == FOLDER else after, PAGE)
            upto = page[-1].key if len(page) == PAGE else FOLDER + LAST
            orphans += await self._remove_orphans([each.key for each in page if each.modified_at <= before_ms])
            counts = await self._compare(after, upto, before_ms, {each.key for each in page})
            lost, found = lost + counts[0], found + counts[1]
            if len(page) < PAGE:
                break
            after = upto
        await self.drain()
        return Swept(given_up, orphans, lost, found)

    async def _round(self) -> None:
        done = await self.sweep()
        if any(done):
            _log.info("swept", **done._asdict())
        if done.lost:
            _log.error("the store has lost blobs; clients that still have them will send them again", lost=done.lost)

    async def _remove_orphans(self, keys: list[str]) -> int:
        known = await self._db.read(lambda tx: store.known(tx, keys), snapshot=False)
        orphans = [key for key in keys if key not in known]
        await self._blobs.delete(orphans)
        return len(orphans)

    async def _compare(self, after: str, upto: str, before_ms: int, there: set[str]) -> tuple[int, int]:
        """Notes what the store has lost, and what it has again, of the blobs in a range of keys."""
        lost = found = 0
        now_ms = self._clock.now_ms()
        while True:
            rows = await self._db.read(
                lambda tx, after=after: store.between(tx, after, upto, before_ms, PAGE), snapshot=False
            )
            gone = [key for key, is_lost in rows if not is_lost and key not in there]
            back = [key for key, is_lost in rows if is_lost and key in there]
            if gone:
                # Looked at one by one: the list was made a while ago.
                gone = [key for key in gone if await self._blobs.stat(key) is None]
                lost += await self._db.write(lambda tx, gone=gone: store.set_lost(tx, gone, now_ms))
            if back:
                found += await self._db.write(lambda tx, back=back: store.set_found(tx, back))
            if len(rows) < PAGE:
                return lost, found
            after = rows[-1][0]
