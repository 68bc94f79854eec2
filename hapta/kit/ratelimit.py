"""Rate limits by GCRA: one instant per key says how much of its budget is used, and time itself fills it up again.

The HTTP edge calls `Limiter.hit` before it reads a body. A refused request consumes nothing, so whoever waits as long as
`Retry-After` says is let in.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple, Protocol, cast

Header = tuple[bytes, bytes]

_FORM = re.compile(r"(\d+)/(\d+(?:\.\d+)?)(?::(\d+))?", re.ASCII)
_SHARED_BUDGETS = 1024
_SWEEP_SECONDS = 1.0
_ROUNDING = 1e-6
"""Added before rounding down, as a sum of floats that should be 3 may be 2.9999999."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` requests per `period_seconds` in the long run, of which `burst` may come at once."""

    limit: int
    period_seconds: float
    burst: int
    interval_seconds: float = field(init=False, repr=False, compare=False)
    """How long one request takes to be forgiven."""
    tolerance_seconds: float = field(init=False, repr=False, compare=False)
    """How long a wholly used budget takes to be whole again."""

    def __post_init__(self) -> None:
        if self.limit < 1 or self.period_seconds <= 0 or self.burst < 1:
            raise ValueError("a rate needs a count, a period and a burst above zero")
        object.__setattr__(self, "interval_seconds", self.period_seconds / self.limit)
        object.__setattr__(self, "tolerance_seconds", self.period_seconds / self.limit * self.burst)

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Reads `"600/60:100"`: 600 in 60 seconds, 100 at once; without `:100` the burst is the whole count.

        Raises:
            ValueError: another form, or a zero.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a rate; write <count>/<seconds>:<burst>, as in 600/60:100")
        limit, period, burst = match.groups()
        return cls(int(limit), float(period), int(burst or limit))


class Decision(NamedTuple):
    """What became of one request.

    `remaining` more may come at once; the budget is whole in `reset_seconds`; a refused one may come again in
    `retry_after_seconds` (0 when allowed).
    """

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: float
    retry_after_seconds: float


_decision: Callable[..., Decision] = cast(Any, tuple).__new__
"""Makes the decision that every request gets, without counting its fields once more."""


class Limiter(Protocol):
    """Whoever keeps the budgets. The answer is there at once where that is possible, so that it costs no task switch."""

    def hit(self, key: str, rate: Rate, cost: int = 1) -> Decision | Awaitable[Decision]:
        """Draws `cost` from the budget of `key`, or refuses and draws nothing. A negative cost gives back what was drawn for
        something that did not come about; none asks only."""
        ...

    async def close(self) -> None: ...


class MemoryLimiter:
    """Budgets of this process alone.

    It keeps at most `max_keys` keys. A key whose budget is whole again is worth nothing and may be forgotten; a live one
    never is: otherwise whoever brings many keys would wash his own used budget away. When all are live, newcomers share
    one of 1,024 common budgets per rate, picked by a hash that nobody outside can foresee. So a flood of keys costs
    newcomers precision (they may be refused for others' requests) and gives nobody a fresh budget.

    Args:
        monotonic: seconds on a clock that never goes back.
        max_keys: some 150 bytes each.
    """

    def __init__(self, monotonic: Callable[[], float], max_keys: int = 65_536) -> None:
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._full_at: dict[str, float] = {}  # when each budget is whole again: GCRA's theoretical arrival time
        self._shared: dict[tuple[Rate, int], float] = {}
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._full_at) + len(self._shared)

    def hit(self, key: str, rate: Rate, cost: int = 1) -> Decision:
        now = self._monotonic()
        before = self._full_at.get(key)
        if before is None:
            if len(self._full_at) >= self._max_keys and not self._sweep(now):
                return self._hit_shared(key, rate, cost, now)
            before = now
        decision = decide(rate, before - now, cost)
        if decision.allowed:
            self._full_at[key] = now + decision.reset_seconds
        return decision

    async def close(self) -> None:
        self._full_at.clear()
        self._shared.clear()

    def _hit_shared(self, key: str, rate: Rate, cost: int, now: float) -> Decision:
        slot = (rate, hash(key) % _SHARED_BUDGETS)
        decision = decide(rate, self._shared.get(slot, now) - now, cost)
        if decision.allowed:
            self._shared[slot] = now + decision.reset_seconds
        return decision

    def _sweep(self, now: float) -> bool:
        """Forgets what is whole again; whether there is room now. At most once a second, as it looks at every key."""
        if now < self._next_sweep:
            return False
        self._next_sweep = now + _SWEEP_SECONDS
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        self._shared = {slot: full_at for slot, full_at in self._shared.items() if full_at > now}
        return len(self._full_at) < self._max_keys


def decide(rate: Rate, used_seconds: float, cost: int) -> Decision:
    """GCRA itself: what becomes of `cost` requests when the budget needs `used_seconds` more to be whole."""
    if used_seconds < 0.0:
        used_seconds = 0.0
    interval = rate.interval_seconds
    after = used_seconds + interval * cost
    over = after - rate.tolerance_seconds
    if over > interval * _ROUNDING:
        left = int((rate.tolerance_seconds - used_seconds) / interval + _ROUNDING)
        return Decision(False, rate.limit, left, used_seconds, over)
    return _decision(Decision, (True, rate.limit, int(-over / interval + _ROUNDING), after, 0.0))


def policy_header(name: str, rate: Rate) -> Header:
    """`RateLimit-Policy: "sync";q=600;w=60` (draft-ietf-httpapi-ratelimit-headers section 3); make it once per rate."""
    return b"ratelimit-policy", f'"{name}";q={rate.limit};w={ceil(rate.period_seconds)}'.encode()


def headers(decision: Decision, policy_name: str, rate: Rate) -> tuple[Header, ...]:
    """The headers of an answer: `RateLimit`, `RateLimit-Policy`, and `Retry-After` on a refusal.

    `t` is the time until the budget is whole (section 4 of the draft); `Retry-After` is whole seconds, rounded up and
    at least 1 (RFC 9110 section 10.2.3).
    """
    state = b'"%b";r=%d;t=%d' % (policy_name.encode(), decision.remaining, ceil(decision.reset_seconds))
    common = (b"ratelimit", state), policy_header(policy_name, rate)
    if decision.allowed:
        return common
    return *common, (b"retry-after", b"%d" % max(1, ceil(decision.retry_after_seconds)))
