"""An event log that keeps what it is told: for tests of those who tell."""

from __future__ import annotations

from hapta.db.database import WriteTx
from hapta.identity.events import Event


class KeptEvents:
    """Keeps events whatever becomes of their transaction; a body that is run again is told twice."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    async def record(self, tx: WriteTx, event: Event) -> None:
        await tx.fetch_value("SELECT 1")
        self.all.append(event)

    def types(self) -> list[str]:
        return [event.type for event in self.all]
