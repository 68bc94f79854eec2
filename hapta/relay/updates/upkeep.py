"""Keeps the log of updates short."""

from __future__ import annotations

from hapta.db.database import Database, WriteTx
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.relay.updates import log
from hapta.settings.relay import RelaySettings


class Trimmer:
    """Removes updates that every worker has long told."""

    def __init__(self, db: Database, clock: Clock, settings: RelaySettings) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings

    async def trim(self) -> int:
        """Removes what is older than `relay.update_log_seconds`; how many."""
        before_ms = self._clock.now_ms() - round(self._settings.update_log_seconds * 1000)

        async def body(tx: WriteTx) -> int:
            return await log.trim(tx, before_ms)

        return await in_batches(lambda: self._db.write(body))
