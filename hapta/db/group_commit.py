"""Group commit: work that waits, of one owner or of many, is joined into one transaction.

An owner is in at most one transaction at a time, and what it handed in keeps its order of arrival. What waits is bounded in
number and in bytes, and no owner can fill the queue for the others. Whoever uses this says how a group is written; an outcome that
is wrong for one piece of work is the outcome of that piece alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec

from hapta.kit.errors import Unavailable

Work = TypeVar("Work")
Result = TypeVar("Result")
News = TypeVar("News")

ONE_OWNERS_SHARE = 0.25
"""Of the queue: what one owner's waiting work may fill. A piece that finds none of its owner waiting is never over it."""
POSTGRES_LANES = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a queue and of one transaction.

    Args:
        max_waiting, max_waiting_bytes: beyond either, new work is refused; that of one owner beyond a quarter of it.
        max_batch, max_batch_bytes: rows and bytes of one transaction. A single piece of work may be larger.
    """

    max_waiting: int
    max_waiting_bytes: int
    max_batch: int
    max_batch_bytes: int


class _Waiting(msgspec.Struct, Generic[Work, Result], eq=False):
    work: Work
    owner: str
    rows: int
    size: int
    result: asyncio.Future[Result]


class _Queue(deque[_Waiting[Work, Result]]):
    """What waits of one owner, never empty."""

    __slots__ = ("size",)

    size: int
    """Of all that waits, in bytes."""


def default_lanes(engine: Literal["sqlite", "postgres"]) -> int:
    """Transactions in flight at once. SQLite has one writer: more lanes would only make smaller groups."""
    return 1 if engine == "sqlite" else POSTGRES_LANES


class GroupCommit(Generic[Work, Result, News]):
    """A fair queue in front of transactions. `close()` waits for all that was accepted.

    Args:
        write: writes a group in one transaction; one outcome for each piece of work, in their order, and what to announce.
            `Unavailable` is everybody's outcome; after any other error each piece is tried apart.
        announce: called after each commit that made news. It must not raise.
        plural: what the work is called in refusals, such as "pushes".
        lanes: transactions that may be in flight at once, of different owners.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Work]], Awaitable[tuple[Sequence[Result | Exception], Sequence[News]]]],
        announce: Callable[[Sequence[News]], Awaitable[None]],
        limits: Limits,
        *,
        plural: str,
        lanes: int,
    ) -> None:
        self._write = write
        self._announce = announce
        self._limits = limits
        self._plural = plural
        self._free_lanes = lanes
        self._queues: dict[str, _Queue[Work, Result]] = {}
        self._ready: deque[str] = deque()  # owners with waiting work and no transaction in flight, first come first
        self._in_flight: set[str] = set()
        self._waiting = 0
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_planned = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Pieces of work that wait for a transaction."""
        return self._waiting

    def submit(self, work: Work, owner: str, rows: int, size: int) -> asyncio.Future[Result]:
        """Takes a piece of work; what becomes of it is known after the commit. A caller that goes away does not undo it.

        Args:
            owner: whose work is written in the order in which it was submitted.
            rows: that it writes, about.
            size: in bytes.

        Raises:
            Unavailable: too much waits, or the server stops.
        """
        if self._closed:
            raise Unavailable("The server is stopping")
        limits = self._limits
        waiting_bytes = self._waiting_bytes + size
        if self._waiting >= limits.max_waiting or waiting_bytes > limits.max_waiting_bytes:
            raise Unavailable(f"Too many {self._plural} are waiting")
        queue = self._queues.get(owner)
        if queue is not None and (
            len(queue) >= limits.max_waiting * ONE_OWNERS_SHARE
            or queue.size + size > limits.max_waiting_bytes * ONE_OWNERS_SHARE
        ):
            raise Unavailable(f"Too many {self._plural} of this account are waiting")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        waiting = _Waiting(work, owner, rows, size, result)
        if queue is None:
            self._queues[owner] = queue = _Queue((waiting,))
            queue.size = size
            if owner not in self._in_flight:
                self._ready.append(owner)
        else:
            queue.append(waiting)
            queue.size += size
        self._waiting += 1
        self._waiting_bytes = waiting_bytes
        if self._free_lanes and not self._start_planned:
            self._plan_start(loop)
        return result

    async def close(self) -> None:
        """Takes no more work and waits until all that was accepted is committed and announced."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _plan_start(self, loop: asyncio.AbstractEventLoop) -> None:
        # A task begins one turn of the loop later, so that all requests of this turn join.
        self._start_planned = True
        self._keep(loop.create_task(self._start()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        self._start_planned = False
        while self._free_lanes and self._ready:
            batch = self._take_batch()
            self._free_lanes -= 1
            if self._free_lanes and self._ready:
                self._keep(asyncio.get_running_loop().create_task(self._commit(batch)))
            else:
                await self._commit(batch)
                return

    def _take_batch(self) -> list[_Waiting[Work, Result]]:
        batch: list[_Waiting[Work, Result]] = []
        max_rows, max_size = self._limits.max_batch, self._limits.max_batch_bytes
        rows = size = 0
        # Lanes share what is ready; with one lane that is everything.
        owners = -(-len(self._ready) // self._free_lanes)
        while self._ready and owners:
            owner = self._ready[0]
            queue = self._queues[owner]
            taken, size_before = 0, size
            for waiting in queue:
                if batch and (rows + waiting.rows > max_rows or size + waiting.size > max_size):
                    break
                batch.append(waiting)
                rows += waiting.rows
                size += waiting.size
                taken += 1
            if not taken:
                break
            self._ready.popleft()
            self._in_flight.add(owner)
            owners -= 1
            if taken < len(queue):  # the batch is full
                for _ in range(taken):
                    queue.popleft()
                queue.size -= size - size_before
                break
            del self._queues[owner]
        self._waiting -= len(batch)
        self._waiting_bytes -= size
        return batch

    async def _commit(self, batch: list[_Waiting[Work, Result]]) -> None:
        outcomes: Sequence[Result | Exception]
        news: Sequence[News] = ()
        try:
            outcomes, news = await self._write([waiting.work for waiting in batch])
        except Unavailable as error:  # it would be the same for each of them
            outcomes = [error] * len(batch)
        except Exception as error:  # boundary: one of them is at fault, and only that one may hear of it
            outcomes, news = await self._write_apart(batch) if len(batch) > 1 else ([error], ())
        finally:
            self._release(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.result.done():  # the client went away; its work stays
                continue
            if isinstance(outcome, Exception):
                waiting.result.set_exception(outcome)
            else:
                waiting.result.set_result(outcome)
        if news:
            await self._announce(news)

    def _release(self, batch: Sequence[_Waiting[Work, Result]]) -> None:
        self._free_lanes += 1
        for owner in dict.fromkeys([waiting.owner for waiting in batch]):
            self._in_flight.discard(owner)
            if owner in self._queues:
                self._ready.append(owner)
        if self._ready and not self._start_planned:
            self._plan_start(asyncio.get_running_loop())

    async def _write_apart(
        self, batch: Sequence[_Waiting[Work, Result]]
    ) -> tuple[list[Result | Exception], list[News]]:
        outcomes: list[Result | Exception] = []
        news: list[News] = []
        for waiting in batch:
            try:
                one, told = await self._write([waiting.work])
            except Exception as error:  # boundary, as above
                outcomes.append(error)
            else:
                outcomes += one
                news += told
        return outcomes, news
