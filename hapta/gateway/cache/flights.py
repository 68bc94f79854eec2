"""Single flight: equal fetches at the same time become one (contract gateway, C.5).

A fetch belongs to nobody: it goes on when the client that began it leaves. Who asks after something changed does not get the
answer of a fetch that began before: `mark` tells the state in which a fetch began, and only equal marks meet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from hapta.gateway.errors import UpstreamAway, UpstreamSlow

T = TypeVar("T")
Mark = tuple[int, ...]
Fetch = Callable[[Mark], Awaitable[T]]


class _Flight(Generic[T]):
    __slots__ = ("mark", "task")

    def __init__(self) -> None:
        self.mark: Mark | None = None
        """None until it starts."""
        self.task: asyncio.Task[T] | None = None


class Flights(Generic[T]):
    """Fetches under way, by key.

    Args:
        wait_seconds: how long one caller waits for the answer of a shared fetch.
    """

    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._running: dict[str, _Flight[T]] = {}
        self._waiting: dict[str, _Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def join(self, key: str, mark: Callable[[], Mark], fetch: Fetch[T], *, fresh: bool) -> tuple[T, bool]:
        """The answer of a fetch that runs already, or of a new one.

        Args:
            mark: tells the state of now; called again when the fetch starts, and then handed to `fetch`.
            fresh: only a fetch will do that starts after this call. While one runs, all who come wait together for the next:
                so a write under way costs at most two fetches at a time, and nobody sees less than one who came before.

        Returns:
            The answer, and whether another caller's fetch gave it.

        Raises:
            UpstreamSlow: the wait was too long for this caller.
        """
        running = self._running.get(key)
        if fresh:
            flight = self._waiting.get(key)
            if flight is not None:
                return await self._answer(flight), True
            flight = _Flight[T]()
            if running is not None:
                self._waiting[key] = flight
            self._start(key, flight, mark, fetch, after=running)
            return await self._answer(flight), False
        if running is not None and running.mark == mark():
            return await self._answer(running), True
        flight = _Flight[T]()
        self._start(key, flight, mark, fetch, after=None)
        return await self._answer(flight), False

    async def close(self) -> None:
        """Ends all fetches under way; who waits for one is told that PocketBase is away."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What was ended before its first step could not take itself out.
        self._running.clear()
        self._waiting.clear()

    def _start(
        self, key: str, flight: _Flight[T], mark: Callable[[], Mark], fetch: Fetch[T], *, after: _Flight[T] | None
    ) -> None:
        if after is None:
            flight.mark = mark()
            self._running[key] = flight
        task = asyncio.get_running_loop().create_task(self._fly(key, flight, mark, fetch, after))
        flight.task = task
        self._tasks.add(task)
        task.add_done_callback(self._landed)

    async def _fly(
        self, key: str, flight: _Flight[T], mark: Callable[[], Mark], fetch: Fetch[T], after: _Flight[T] | None
    ) -> T:
        try:
            if after is not None and after.task is not None:
                await asyncio.wait((after.task,))
            if flight.mark is None:
                if self._waiting.get(key) is flight:
                    del self._waiting[key]
                flight.mark = mark()
                self._running[key] = flight
            return await fetch(flight.mark)
        finally:
            for flights in (self._running, self._waiting):
                if flights.get(key) is flight:
                    del flights[key]

    def _landed(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Asked for, since all who waited may have left, and nobody would hear of it.
            task.exception()

    async def _answer(self, flight: _Flight[T]) -> T:
        task = flight.task
        if task is None:
            raise UpstreamAway
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await asyncio.shield(task)
        except TimeoutError:
            if task.done() and not task.cancelled():
                # The fetch's own answer to being late, not this caller's.
                return task.result()
            raise UpstreamSlow from None
        except asyncio.CancelledError:
            if task.cancelled():
                raise UpstreamAway from None
            raise
