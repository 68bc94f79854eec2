"""Background work: every turn comes, every failure is told, and stopping always ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from hapta.kit.background import Routine, attempted, ended, in_turn, run_all
from hapta.kit.errors import Unavailable

NEVER = 3600.0
AT_ONCE = 0.0
PATIENCE_SECONDS = 120
"""A bound for what would take for ever."""


class Turns:
    """Work that counts its turns and fails as it is told to."""

    def __init__(self, *failures: Exception | None) -> None:
        self.count = 0
        self._failures = list(failures)
        self._done = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        self._done.set()
        if self._failures and (failure := self._failures.pop(0)) is not None:
            raise failure

    async def reach(self, count: int) -> None:
        """Returns when there were so many turns."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.count < count:
                self._done.clear()
                await self._done.wait()


async def settle() -> None:
    """Lets everything that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_work_is_done_again_and_again_until_it_is_stopped() -> None:
    turns = Turns()
    routine = Routine("counting", turns, AT_ONCE)
    routine.start()
    await turns.reach(3)
    await routine.stop()
    count = turns.count
    await settle()
    assert turns.count == count


async def test_the_first_turn_comes_after_a_pause_unless_it_is_wanted_at_once() -> None:
    later, now = Turns(), Turns()
    routines = Routine("later", later, NEVER), Routine("now", now, NEVER, at_once=True)
    for routine in routines:
        routine.start()
    await now.reach(1)
    await settle()
    assert (later.count, now.count) == (0, 1)
    routines[0].wake()
    await later.reach(1)
    for routine in routines:
        await routine.stop()


async def test_waking_during_a_turn_brings_another_one() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    turns = Turns()

    async def work() -> None:
        await turns()
        begun.set()
        await may_end.wait()

    routine = Routine("slow", work, NEVER, at_once=True)
    routine.start()
    await begun.wait()
    routine.wake()
    await settle()
    assert turns.count == 1  # never two at once
    may_end.set()
    await turns.reach(2)
    await routine.stop()


async def test_a_failure_is_told_by_name_and_the_next_turn_comes() -> None:
    turns = Turns(LookupError("a bug"), None, ValueError("another"))
    with capture_logs() as logs:
        routine = Routine("counting", turns, AT_ONCE)
        routine.start()
        await turns.reach(4)
        await routine.stop()
    assert [(log["work"], log["log_level"], log["exc_info"]) for log in logs] == [("counting", "error", True)] * 2


async def test_what_is_away_is_told_once_for_each_time() -> None:
    away = Unavailable("The database cannot be reached")
    turns = Turns(away, away, away, None, away, away, None)
    with capture_logs() as logs:
        routine = Routine("counting", turns, AT_ONCE)
        routine.start()
        await turns.reach(8)
        await routine.stop()
    assert [(log["work"], log["log_level"], log["error"]) for log in logs] == [
        ("counting", "warning", "The database cannot be reached")
    ] * 2


async def test_one_piece_of_work_that_fails_takes_nothing_from_those_after_it() -> None:
    first, second, third = Turns(), Turns(LookupError("a bug"), Unavailable(), Unavailable()), Turns()
    work = in_turn({"first": first, "second": second, "third": third})
    with capture_logs() as logs:
        for _ in range(3):
            await work()
    assert (first.count, second.count, third.count) == (3, 3, 3)
    assert [(log["work"], log["log_level"]) for log in logs] == [("second", "error"), ("second", "warning")]


async def test_a_cancellation_is_no_failure() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await attempted("cut off", work)
    with pytest.raises(asyncio.CancelledError):
        await in_turn({"cut off": work})()
    assert logs == []


@pytest.mark.parametrize("turns", range(8))
async def test_stopping_ends_it_also_in_the_moment_in_which_it_is_woken(turns: int) -> None:
    routine = Routine("woken", Turns(), NEVER)
    routine.start()
    await settle()
    routine.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await routine.stop()


async def test_stopping_cuts_a_turn_off_and_waits_until_it_has_cleaned_up() -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            cleaned.set()

    routine = Routine("long", work, NEVER, at_once=True)
    routine.start()
    await begun.wait()
    await routine.stop()
    assert cleaned.is_set()


async def test_what_was_never_started_is_stopped_already() -> None:
    await Routine("idle", Turns(), NEVER).stop()


def swallowing(times: int) -> tuple[Callable[[], Awaitable[None]], list[str]]:
    """Work that loses so many cancellations, as `wait_for` does; and what befell it."""
    befell: list[str] = []

    async def work() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                befell.append("cancelled")
                if len(befell) > times:
                    raise

    return work, befell


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    work, befell = swallowing(2)
    routine = Routine("deaf", work, NEVER, at_once=True)
    task = asyncio.create_task(run_all([routine, Routine("other", Turns(), NEVER)]))
    await settle()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await ended(task, None, again_seconds=0.01)
    assert task.cancelled()
    assert len(befell) == 3


async def test_a_task_that_had_ended_by_itself_is_told_when_it_is_stopped() -> None:
    async def fails() -> None:
        raise LookupError("a bug")

    task = asyncio.create_task(fails(), name="a job")
    await settle()
    with capture_logs() as logs:
        await ended(task)
    assert [(log["work"], log["log_level"], str(log["exc_info"])) for log in logs] == [("a job", "error", "a bug")]
