"""Equal fetches become one, belong to nobody, and never answer who came after a change."""

from __future__ import annotations

import asyncio

import pytest

from hapta.gateway.cache.flights import Flights, Mark
from hapta.gateway.errors import UpstreamAway, UpstreamSlow


class Source:
    """Fetches that end when the test says so, each with its number."""

    def __init__(self) -> None:
        self.state = 0
        self.started = 0
        self.ends: list[asyncio.Future[int]] = []

    def mark(self) -> Mark:
        return (self.state,)

    async def fetch(self, mark: Mark) -> int:
        self.started += 1
        end = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        return await end

    def join(self, flights: Flights[int], *, fresh: bool = False) -> asyncio.Task[tuple[int, bool]]:
        return asyncio.create_task(flights.join("key", self.mark, self.fetch, fresh=fresh))


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_two_hundred_equal_fetches_are_one_and_it_goes_on_when_the_first_client_leaves() -> None:
    flights, source = Flights[int](10), Source()
    callers = [source.join(flights) for _ in range(200)]
    await settle()
    callers[0].cancel()
    await settle()
    assert source.started == 1
    source.ends[0].set_result(7)
    answers = await asyncio.gather(*callers[1:])
    assert answers == [(7, True)] * 199
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    assert len(flights) == 0


async def test_who_comes_after_a_change_gets_a_fetch_of_his_own_and_who_came_before_still_gets_the_old_one() -> None:
    flights, source = Flights[int](10), Source()
    before = source.join(flights)
    await settle()
    source.state += 1
    after, too = source.join(flights), source.join(flights)
    await settle()
    assert source.started == 2
    source.ends[1].set_result(2)
    assert await after == (2, False)
    assert await too == (2, True)
    source.ends[0].set_result(1)
    assert await before == (1, False)


async def test_an_error_goes_to_all_who_wait_and_the_next_caller_tries_anew() -> None:
    flights, source = Flights[int](10), Source()
    callers = [source.join(flights) for _ in range(3)]
    await settle()
    source.ends[0].set_exception(KeyError("broken"))
    for answer in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(answer, KeyError)
    again = source.join(flights)
    await settle()
    source.ends[1].set_result(3)
    assert await again == (3, False)


async def test_an_error_that_nobody_waits_for_is_told_to_nobody() -> None:
    flights, source = Flights[int](10), Source()
    caller = source.join(flights)
    await settle()
    caller.cancel()
    await settle()
    source.ends[0].set_exception(KeyError("broken"))
    await settle()
    assert len(flights) == 0


async def test_while_something_is_being_written_all_who_come_share_the_next_fetch() -> None:
    flights, source = Flights[int](10), Source()
    first = source.join(flights, fresh=True)
    await settle()
    later = [source.join(flights, fresh=True) for _ in range(50)]
    await settle()
    assert source.started == 1
    source.ends[0].set_result(1)
    assert await first == (1, False)
    await settle()
    assert source.started == 2
    # It runs already: who comes now has to wait for the one after it.
    last = source.join(flights, fresh=True)
    await settle()
    assert source.started == 2
    source.ends[1].set_result(2)
    assert await asyncio.gather(*later) == [(2, False), *[(2, True)] * 49]
    await settle()
    source.ends[2].set_result(3)
    assert await last == (3, False)
    assert len(flights) == 0


async def test_a_failed_fetch_does_not_fail_those_who_wait_for_the_next() -> None:
    flights, source = Flights[int](10), Source()
    first = source.join(flights, fresh=True)
    await settle()
    second = source.join(flights, fresh=True)
    await settle()
    source.ends[0].set_exception(KeyError("broken"))
    with pytest.raises(KeyError):
        await first
    await settle()
    source.ends[1].set_result(2)
    assert await second == (2, False)


async def test_each_caller_waits_for_so_long_and_no_longer() -> None:
    flights, source = Flights[int](0.01), Source()
    with pytest.raises(UpstreamSlow):
        await source.join(flights)
    assert source.started == 1
    source.ends[0].set_result(1)
    await settle()
    assert len(flights) == 0


async def test_a_fetch_that_is_late_itself_says_so_in_its_own_words() -> None:
    flights, source = Flights[int](10), Source()
    caller = source.join(flights)
    await settle()
    source.ends[0].set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        await caller


async def test_closing_ends_the_fetches_and_tells_those_who_wait() -> None:
    flights, source = Flights[int](10), Source()
    callers = [source.join(flights), source.join(flights, fresh=True)]
    await settle()
    await flights.close()
    for answer in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(answer, UpstreamAway)
    assert len(flights) == 0
