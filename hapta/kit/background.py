"""Work that goes on in the background: one loop for all of it, and one way to end a task.

A turn that fails is told in the log under the name of its work, and the next turn comes as if nothing had happened: whatever
befalls the database, a server that runs on must not go on without its clean-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import structlog

from hapta.kit.errors import Unavailable

Work = Callable[[], Awaitable[object]]
Key = TypeVar("Key", str, tuple[str, str])

CANCEL_AGAIN_SECONDS = 2.0

_log = structlog.stdlib.get_logger("hapta.background")


class Routine:
    """A piece of work that is done again and again, at most once at a time.

    Args:
        name: of the work, in the log and of the task.
        work: one turn. What it raises is logged; `Unavailable`, which says that something is away, once for each time.
        every_seconds: from the end of a turn to the next one; what it is changed to counts from the next pause on.
        at_once: whether the first turn comes without waiting.
    """

    def __init__(self, name: str, work: Work, every_seconds: float, *, at_once: bool = False) -> None:
        self.name = name
        self._work = work
        self.every_seconds = every_seconds
        self._at_once = at_once
        self._away = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Spares the work the rest of its pause; during a turn: there will be another one right after it."""
        self._woken.set()

    def start(self) -> None:
        """Works in a task of its own until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self.run(), name=self.name)

    async def stop(self) -> None:
        """Cuts the turn off that is under way, and returns when nothing runs any more."""
        await ended(self._task)

    async def run(self) -> None:
        """Works until cancelled."""
        if not self._at_once:
            await self._pause()
        while True:
            self._woken.clear()
            self._away = await attempted(self.name, self._work, told=self._away)
            await self._pause()

    async def _pause(self) -> None:
        try:
            # Not `wait_for`: that of Python 3.11 swallows a cancellation which comes together with the wake-up.
            async with asyncio.timeout(self.every_seconds):
                await self._woken.wait()
        except TimeoutError:
            return


async def run_all(routines: Iterable[Routine]) -> None:
    """Runs routines side by side until cancelled."""
    # Not a task group, which hands a second cancellation on to nobody. And all of them have ended when this has.
    await asyncio.gather(*[routine.run() for routine in routines], return_exceptions=True)


def in_turn(works: Mapping[str, Work]) -> Work:
    """Pieces of work as one, after each other. One that fails is told by its name and takes nothing from the others."""
    away: dict[str, bool] = {}

    async def all_of_them() -> None:
        for name, work in works.items():
            away[name] = await attempted(name, work, told=away.get(name, False))

    return all_of_them


async def attempted(name: str, work: Work, *, told: bool = False) -> bool:
    """One turn of some work, whose failure is logged.

    Args:
        told: whether it has been said already that what this needs is away.

    Returns:
        Whether something that it needs is away.
    """
    try:
        await work()
    except Unavailable as error:
        if not told:
            _log.warning("background work waits for what is away", work=name, error=str(error))
        return True
    except Exception:  # boundary: the next turn must come, and this must be heard of
        _log.exception("background work failed and will be tried again", work=name)
    return False


async def in_batches(batch: Callable[[], Awaitable[int]]) -> int:
    """Removes batch after batch until nothing is left to remove; how many rows in all."""
    total = 0
    while count := await batch():
        total += count
    return total


async def drained(keys: set[Key], most: int, work: Callable[[list[Key]], Awaitable[None]]) -> None:
    """Takes keys out of a set, in their order and so many at a time, until it is empty; others may add to it meanwhile.

    Args:
        work: what is done with some of them. Where it fails they are put back, for the next time, and that is raised.
    """
    while keys:
        taken = sorted(keys)[:most]
        keys.difference_update(taken)
        try:
            await work(taken)
        except BaseException:
            keys.update(taken)
            raise


def settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    """Tells whoever waits for a future what a thread found; one whose caller was cancelled is left as it is."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


async def ended(*tasks: asyncio.Task[None] | None, again_seconds: float = CANCEL_AGAIN_SECONDS) -> None:
    """Cancels tasks and returns when all of them have ended, however.

    Cancels them again while they do not end: libraries wait with the `wait_for` of Python 3.11 (a mail on its way does), and
    that one loses a cancellation which comes in the moment in which what it waits for is there.

    Args:
        again_seconds: how long they may take to clean up before that.
    """
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=again_seconds)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                _log.error("background work had ended by itself", work=task.get_name(), exc_info=error)
