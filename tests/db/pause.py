"""Holding a database body in the middle, so that a test decides what happens meanwhile."""

from __future__ import annotations

import threading

from anyio import to_thread

from hapta.db.database import ReadTx


class Pause:
    """Holds a body in the middle, until the test lets it go: on a database thread or on the event loop."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._leave = threading.Event()

    async def here(self, tx: ReadTx) -> None:
        self._entered.set()
        if tx.engine == "sqlite":
            self._leave.wait()
        else:
            await to_thread.run_sync(self._leave.wait)

    async def reached(self) -> None:
        await to_thread.run_sync(self._entered.wait)

    def end(self) -> None:
        self._leave.set()
