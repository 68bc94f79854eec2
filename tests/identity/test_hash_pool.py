"""The pool of hashing threads: results may wait for each other, but never for long and none for ever."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from hapta.identity.hash_pool import HELD_SECONDS, HashPool


class House:
    """A pool of one thread whose first job waits for the gate, so that all are queued before it ends."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.pool = HashPool(1, monotonic)
        self.first_runs = threading.Event()
        self.gate = threading.Event()
        self.second_runs = threading.Event()
        self.release = threading.Event()

    def first(self) -> asyncio.Future[str]:
        def work() -> str:
            self.first_runs.set()
            self.gate.wait()
            return "first"

        return self.pool.submit(work)

    def second(self) -> asyncio.Future[str]:
        def work() -> str:
            self.second_runs.set()
            self.release.wait()
            return "second"

        return self.pool.submit(work)


@pytest.fixture
async def quick() -> AsyncIterator[House]:
    """Hashes take no time."""
    house = House(lambda: 0.0)
    yield house
    house.gate.set()
    house.release.set()
    await house.pool.close()


@pytest.fixture
async def slow() -> AsyncIterator[House]:
    """Every look at the clock is later by the longest that a result may wait."""
    ticks = itertools.count()
    house = House(lambda: next(ticks) * HELD_SECONDS * 1.01)
    yield house
    house.gate.set()
    house.release.set()
    await house.pool.close()


async def test_while_others_wait_results_come_back_together(quick: House) -> None:
    first, second = quick.first(), quick.second()
    quick.gate.set()
    await asyncio.to_thread(quick.second_runs.wait)
    assert not first.done()
    quick.release.set()
    assert await first == "first"
    assert second.done()


async def test_a_result_does_not_wait_for_a_slow_hash(slow: House) -> None:
    first, second = slow.first(), slow.second()
    slow.gate.set()
    assert await first == "first"
    assert not second.done()
    slow.release.set()
    assert await second == "second"


async def test_a_result_that_waits_for_one_who_gave_up_still_comes(quick: House) -> None:
    first, second = quick.first(), quick.second()
    second.cancel()
    quick.gate.set()
    assert await first == "first"
    assert not quick.second_runs.is_set()


async def test_a_failure_reaches_who_waits_for_it_and_nobody_else(quick: House) -> None:
    first, failing = quick.first(), quick.pool.submit(lambda: int("no number"))
    quick.gate.set()
    with pytest.raises(ValueError, match="no number"):
        await failing
    assert await first == "first"


async def test_closing_drops_what_waits_and_ends_what_runs() -> None:
    house = House(lambda: 0.0)
    first, second = house.first(), house.second()
    await asyncio.to_thread(house.first_runs.wait)
    closing = asyncio.ensure_future(house.pool.close())
    await asyncio.sleep(0)
    assert second.cancelled()
    house.gate.set()
    await closing
    assert await first == "first"
