"""Rate limits that all workers share, kept in Redis: the same GCRA as in `kit/ratelimit.py`, as a script that Redis runs.

What is asked while one round trip is under way goes out together as the next one. A key that is asked for again and again
takes several permits at once (a lease) and answers from them without a hop. Permits are taken before they are used, so the
limit is never passed; a lease in another worker can make it bite early, by at most `MAX_LEASE` permits for each worker.

While Redis is away each worker limits alone, with budgets that start whole: for N workers a caller may get N times the
rate. That is better than to refuse everybody, or to let everybody guess passwords.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from math import floor
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from hapta.kit.background import ended
from hapta.kit.clock import Clock
from hapta.kit.ratelimit import Decision, MemoryLimiter, Rate

MAX_LEASE = 16
LEASE_SECONDS = 1.0
MAX_LEASES = 65_536
TIMEOUT_SECONDS = 0.5
_RETRY_SECONDS = (0.05, 1.0)

# Microseconds throughout: Redis turns a Lua number into text with 14 digits unless it is told otherwise.
_SCRIPT = """
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local need, want, back = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local now = tonumber(ARGV[6])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local full_at = tonumber(redis.call('GET', KEYS[1]) or '0') - back * interval
if full_at < now then full_at = now end
local room = math.floor((tolerance - (full_at - now)) / interval + 0.000001)
local granted = 0
if room >= need then
    granted = math.min(room, want)
    full_at = full_at + granted * interval
end
if granted > 0 or back > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
end
return {granted, math.ceil(full_at - now)}
"""

_log = structlog.get_logger("hapta.limits")


class _Lease:
    """Permits that this worker has taken for one key and not used yet."""

    __slots__ = ("asking", "expires_at", "permits", "size", "used_micros")

    def __init__(self) -> None:
        self.asking = 0  # questions under way
        self.permits = 0
        self.size = 0  # how many to take beyond what is needed
        self.used_micros = 0  # what Redis said the whole budget needs to be whole again
        self.expires_at = 0.0


class _Question(NamedTuple):
    key: str
    rate: Rate
    cost: int
    back: int
    want: int
    answer: asyncio.Future[Decision]


class RedisLimiter:
    """Budgets shared by all workers through one Redis.

    Args:
        url: `redis://...`.
        clock: for leases, and for the budgets of the time without Redis.
        prefix: of the keys in Redis.
        now_micros: the time of the budgets; Redis's own clock when left out, as it is the same for all workers.
    """

    def __init__(
        self, url: str, clock: Clock, *, prefix: str = "hapta:limit:", now_micros: Callable[[], int] | None = None
    ) -> None:
        self._client = _client(url)
        self._clock = clock
        self._prefix = prefix
        self._now_micros = now_micros
        self._alone = MemoryLimiter(clock.monotonic)
        self._leases: dict[str, _Lease] = {}
        self._waiting: list[_Question] = []
        self._sender: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._digest = ""

    @property
    def healthy(self) -> bool:
        """Whether budgets are shared now; False while this worker limits alone."""
        return self._recovery is None

    def hit(self, key: str, rate: Rate, cost: int = 1) -> Decision | Awaitable[Decision]:
        if self._recovery is not None:
            return self._alone.hit(key, rate, cost)
        lease = self._lease_of(key)
        now = self._clock.monotonic()
        if lease.permits >= cost and now < lease.expires_at:
            lease.permits -= cost
            return _decision(rate, lease, allowed=True, cost=cost)
        return self._ask(key, rate, cost, lease, now)

    async def close(self) -> None:
        await ended(self._sender, self._recovery)
        self._limit_alone(self._waiting)
        self._waiting = []
        await self._client.aclose()

    def _lease_of(self, key: str) -> _Lease:
        lease = self._leases.get(key)
        if lease is None:
            if len(self._leases) >= MAX_LEASES:
                # Loses permits that were taken; never gives any.
                self._leases = {name: kept for name, kept in self._leases.items() if kept.asking}
            lease = self._leases[key] = _Lease()
        return lease

    def _ask(self, key: str, rate: Rate, cost: int, lease: _Lease, now: float) -> asyncio.Future[Decision]:
        back = extra = 0
        if lease.asking == 0:  # only one of those who ask at the same time takes more than it needs
            # All used within its time: take twice as many. Not all used: give them back and start from none again.
            grown = max(1, lease.size * 2) if now < lease.expires_at and lease.permits == 0 else 0
            lease.size = extra = min(grown, MAX_LEASE, rate.burst // 16)
            back, lease.permits = lease.permits, 0
            lease.expires_at = now + LEASE_SECONDS
        lease.asking += 1
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Question(key, rate, cost, back, cost + extra, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="rate limits to Redis")
        return answer

    async def _send_all(self) -> None:
        """Sends what waits until nothing does. A task starts on the loop's next turn: what one turn asks goes together."""
        try:
            while self._waiting:
                questions, self._waiting = self._waiting, []
                try:
                    self._answer(questions, await self._run(questions))
                except (RedisError, OSError, TimeoutError) as error:
                    _log.warning("Redis is away: each worker limits alone", error=str(error))
                    self._recovery = self._recovery or asyncio.create_task(self._recover(), name="wait for Redis")
                    self._limit_alone([*questions, *self._waiting])
                    self._waiting = []
                except BaseException:
                    self._limit_alone(questions)
                    raise
        finally:
            self._sender = None

    async def _run(self, questions: list[_Question]) -> list[Any]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if not self._digest:
                self._digest = str(await self._client.script_load(_SCRIPT))
            replies = await self._pipeline(questions)
            if any(isinstance(reply, NoScriptError) for reply in replies):  # Redis was started again: none has run
                self._digest = str(await self._client.script_load(_SCRIPT))
                replies = await self._pipeline(questions)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _pipeline(self, questions: list[_Question]) -> list[Any]:
        now = "" if self._now_micros is None else str(self._now_micros())
        async with self._client.pipeline(transaction=False) as pipe:
            for key, rate, cost, back, want, _ in questions:
                interval, tolerance = rate.interval_seconds * 1e6, rate.tolerance_seconds * 1e6
                words = (repr(interval), repr(tolerance), str(cost), str(want), str(back), now)
                pipe.evalsha(self._digest, 1, self._prefix + key, *words)
            return await pipe.execute(raise_on_error=False)

    def _answer(self, questions: list[_Question], replies: list[Any]) -> None:
        for (key, rate, cost, _, _, answer), (granted, used_micros) in zip(questions, replies, strict=True):
            lease = self._lease_of(key)
            lease.asking -= 1
            lease.used_micros = used_micros
            # One that Redis has nothing left for may still draw on what another took a moment before.
            allowed = lease.permits + granted >= cost
            lease.permits += granted - cost if allowed else 0
            if not answer.done():  # else the caller has gone away meanwhile
                answer.set_result(_decision(rate, lease, allowed=allowed, cost=cost))

    def _limit_alone(self, questions: list[_Question]) -> None:
        for question in questions:
            if not question.answer.done():
                question.answer.set_result(self._alone.hit(question.key, question.rate, question.cost))

    async def _recover(self) -> None:
        pause, longest = _RETRY_SECONDS
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await self._client.ping()  # pyright: ignore[reportUnknownMemberType]
                break
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, longest)
        self._leases.clear()
        self._recovery = None
        _log.info("Redis is back: limits are shared again")


def _client(url: str) -> Redis:
    # No retry of its own: a second attempt could draw twice, and the caller is not to wait for it.
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  (untyped keyword arguments)
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        decode_responses=True,
    )


def _decision(rate: Rate, lease: _Lease, *, allowed: bool, cost: int) -> Decision:
    """The answer in the caller's terms: permits in the lease are used in Redis's view and free in the caller's."""
    used = max(0.0, lease.used_micros / 1e6 - lease.permits * rate.interval_seconds)
    remaining = floor((rate.tolerance_seconds - used) / rate.interval_seconds + 1e-5)
    wait = 0.0 if allowed else used + cost * rate.interval_seconds - rate.tolerance_seconds
    return Decision(allowed, rate.limit, max(0, remaining), used, max(0.0, wait))
