"""One writer at a time for each record: number modifiers (`n+`) are read-modify-write inside PocketBase, and lose updates when they
overlap (contract gateway, C.6).

The order is that of arrival, the wait is bounded, and a record nobody writes costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from hapta.gateway.errors import UpstreamAway

RecordKey = tuple[str, str]
"""Collection id and record id."""


class RecordLocks:
    """Locks by record.

    Args:
        max_waiting: writers that may wait for one record.
        wait_seconds: how long each of them waits.
    """

    def __init__(self, *, max_waiting: int = 256, wait_seconds: float = 30.0) -> None:
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._waiting: dict[RecordKey, deque[asyncio.Future[None]]] = {}
        """By record that is being written: who comes next."""

    def __len__(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def hold(self, key: RecordKey) -> AsyncGenerator[None]:
        """Holds a record while the context lasts.

        Raises:
            UpstreamAway: too many wait for it already, or the turn did not come in time.
        """
        await self._acquire(key)
        try:
            yield
        finally:
            self._release(key)

    @asynccontextmanager
    async def hold_all(self, keys: Iterable[RecordKey]) -> AsyncGenerator[None]:
        """Holds several records, taken in one order whoever asks, so that two never wait for each other."""
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):
                await stack.enter_async_context(self.hold(key))
            yield

    async def _acquire(self, key: RecordKey) -> None:
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque()
            return
        if len(queue) >= self._max_waiting:
            raise UpstreamAway("Too many writers wait for this record.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException as error:  # whoever stops waiting must not keep the record, nor its place
            if turn.done() and not turn.cancelled():
                self._release(key)
            elif turn in queue:  # whoever released the record in this very moment has passed it over already
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise UpstreamAway("This record is being written for too long.") from None
            raise

    def _release(self, key: RecordKey) -> None:
        queue = self._waiting[key]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]
