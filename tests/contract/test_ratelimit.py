"""One suite for every limiter: in memory, and shared through Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from hapta.bus.redis_limits import RedisLimiter
from hapta.kit.ratelimit import Decision, Limiter, MemoryLimiter, Rate
from hapta.testing import FakeClock
from tests.servers import RedisServer

SLOW = Rate.parse("60/60:5")  # one a second, five at once


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Limiter]:
    limiter: Limiter
    if request.param == "memory":
        limiter = MemoryLimiter(clock.monotonic)
    else:
        url = request.getfixturevalue("redis_url")
        limiter = RedisLimiter(url, clock, now_micros=lambda: clock.now_ms() * 1000)
    yield limiter
    await limiter.close()


async def hit(limiter: Limiter, key: str, rate: Rate = SLOW, cost: int = 1) -> Decision:
    drawn = limiter.hit(key, rate, cost)
    return drawn if type(drawn) is Decision else await _of(drawn)


async def _of(drawn: Awaitable[Decision] | Decision) -> Decision:
    assert not isinstance(drawn, Decision)
    return await drawn


async def test_the_burst_is_allowed_at_once_and_the_next_is_refused(limiter: Limiter) -> None:
    decisions = [await hit(limiter, "a") for _ in range(6)]
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert [decision.remaining for decision in decisions] == [4, 3, 2, 1, 0, 0]
    assert decisions[0].limit == 60
    assert decisions[4].reset_seconds == pytest.approx(5)
    assert decisions[5].retry_after_seconds == pytest.approx(1)


async def test_who_waits_as_told_is_let_in_and_who_comes_earlier_is_not(limiter: Limiter, clock: FakeClock) -> None:
    for _ in range(5):
        await hit(limiter, "a")
    wait = (await hit(limiter, "a")).retry_after_seconds
    clock.advance(seconds=wait - 0.1)
    assert not (await hit(limiter, "a")).allowed
    clock.advance(seconds=0.1)
    assert (await hit(limiter, "a")).allowed
    assert not (await hit(limiter, "a")).allowed


async def test_a_refused_request_consumes_nothing(limiter: Limiter, clock: FakeClock) -> None:
    for _ in range(5):
        await hit(limiter, "a")
    refusals = [await hit(limiter, "a") for _ in range(20)]
    assert {decision.retry_after_seconds for decision in refusals} == {refusals[0].retry_after_seconds}
    clock.advance(seconds=5)
    assert (await hit(limiter, "a")).remaining == 4


async def test_keys_have_budgets_of_their_own(limiter: Limiter) -> None:
    for _ in range(6):
        await hit(limiter, "a")
    assert (await hit(limiter, "b")).remaining == 4


async def test_a_dear_request_draws_its_whole_cost_or_nothing(limiter: Limiter) -> None:
    assert (await hit(limiter, "a", cost=3)).remaining == 2
    refused = await hit(limiter, "a", cost=3)
    assert not refused.allowed
    assert refused.retry_after_seconds == pytest.approx(1)
    assert (await hit(limiter, "a", cost=2)).allowed


async def test_a_budget_never_grows_past_its_burst(limiter: Limiter, clock: FakeClock) -> None:
    await hit(limiter, "a")
    clock.advance(days=1)
    assert [(await hit(limiter, "a")).allowed for _ in range(6)] == [True] * 5 + [False]


async def test_exactly_the_burst_is_allowed_when_all_come_at_once(limiter: Limiter) -> None:
    rate = Rate.parse("600/60:200")
    decisions = await asyncio.gather(*(hit(limiter, "hot", rate) for _ in range(500)))
    assert sum(decision.allowed for decision in decisions) == 200


async def test_exactly_the_burst_is_allowed_when_all_come_in_turn(limiter: Limiter) -> None:
    rate = Rate.parse("600/60:200")
    decisions = [await hit(limiter, "hot", rate) for _ in range(300)]
    assert [decision.allowed for decision in decisions] == [True] * 200 + [False] * 100
    assert [decision.remaining for decision in decisions[:200]] == list(range(199, -1, -1))


# --- Redis alone ---


async def test_workers_share_one_budget_and_never_pass_it(redis_url: str, clock: FakeClock) -> None:
    rate = Rate.parse("600/60:200")
    workers = [RedisLimiter(redis_url, clock, now_micros=lambda: clock.now_ms() * 1000) for _ in range(3)]
    allowed = 0
    for _ in range(200):
        allowed += sum([(await hit(worker, "shared", rate)).allowed for worker in workers])
    assert 200 - 3 * 12 <= allowed <= 200  # burst / 16 permits may lie in each worker's lease
    for worker in workers:
        await worker.close()


async def test_permits_that_were_leased_and_not_used_come_back(redis_url: str, clock: FakeClock) -> None:
    rate = Rate.parse("600/60:200")
    limiter = RedisLimiter(redis_url, clock, now_micros=lambda: clock.now_ms() * 1000)
    used = 20
    for _ in range(used):
        await hit(limiter, "a", rate)
    clock.advance(seconds=2)  # the lease has run out, and 2 seconds forgive 20 requests
    assert (await hit(limiter, "a", rate)).remaining == 199
    await limiter.close()


async def test_the_clock_of_redis_is_used_when_no_other_is_given(redis_url: str) -> None:
    limiter = RedisLimiter(redis_url, FakeClock())
    rate = Rate.parse("1/3600:2")
    assert [(await hit(limiter, "a", rate)).allowed for _ in range(3)] == [True, True, False]
    wait = (await hit(limiter, "a", rate)).retry_after_seconds
    assert 3500 < wait <= 3600
    await limiter.close()


async def test_without_redis_each_worker_limits_alone_and_shares_again_when_it_is_back(
    own_redis: RedisServer, clock: FakeClock
) -> None:
    limiter = RedisLimiter(own_redis.url, clock)
    assert (await hit(limiter, "a")).allowed
    own_redis.kill()
    decisions = [await hit(limiter, "a") for _ in range(6)]
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert not limiter.healthy
    own_redis.start()
    recovery = limiter._recovery
    if recovery is not None:
        await recovery
    assert limiter.healthy
    other = RedisLimiter(own_redis.url, clock)
    for _ in range(5):
        assert (await hit(limiter, "b")).allowed
    assert not (await hit(other, "b")).allowed
    await limiter.close()
    await other.close()


async def test_a_redis_that_hangs_does_not_hang_the_callers(own_redis: RedisServer, clock: FakeClock) -> None:
    limiter = RedisLimiter(own_redis.url, clock)
    assert (await hit(limiter, "a")).allowed
    own_redis.pause()
    assert (await hit(limiter, "a")).allowed
    assert not limiter.healthy
    own_redis.resume()
    await limiter.close()


@pytest.mark.parametrize("later_seconds", [0.0, 0.9, 3.0])
async def test_what_is_given_back_can_be_drawn_again_and_no_more_than_that(
    limiter: Limiter, clock: FakeClock, later_seconds: float
) -> None:
    for _ in range(5):
        assert (await hit(limiter, "a")).allowed
    for _ in range(2):
        await hit(limiter, "a", cost=-1)
    clock.advance(seconds=later_seconds)
    allowed = [(await hit(limiter, "a")).allowed for _ in range(8)]
    assert sum(allowed) == min(5, 2 + int(later_seconds))


async def test_giving_back_more_than_was_drawn_makes_no_budget_larger_than_whole(limiter: Limiter) -> None:
    await hit(limiter, "a")
    await hit(limiter, "a", cost=-1)
    assert sum([(await hit(limiter, "a")).allowed for _ in range(9)]) == 5


async def test_a_question_of_no_cost_draws_nothing(limiter: Limiter) -> None:
    for _ in range(20):
        assert (await hit(limiter, "a", cost=0)).remaining == 5
    assert sum([(await hit(limiter, "a")).allowed for _ in range(9)]) == 5
