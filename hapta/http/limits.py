"""Rate limits by class: which budget an endpoint draws on, and whose.

Public endpoints draw on the budget of the client's address, the others on that of the account: a new login, a reconnect or
a header of the client's own making gives nobody a new budget. An endpoint of the class `handler` draws on nothing here: what
it costs depends on what is asked, and only its handler knows that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from hapta.kit.errors import TooMany
from hapta.kit.networks import network_of
from hapta.kit.ratelimit import Decision, Limiter, MemoryLimiter, Rate, policy_header

Headers = tuple[tuple[bytes, bytes], ...]
HANDLER = "handler"
"""The limit of endpoints whose handlers draw themselves, and put what came of it on their answers."""


@dataclass(frozen=True, slots=True)
class LimitClass:
    """One budget. `by` says whose: the client address's or the account's."""

    name: str
    rate: Rate
    by: Literal["address", "account"]


class RateLimited(TooMany):
    """This budget is used up. `limit` and `decision` are for the headers of the answer: it need not be the endpoint's own
    budget, as guesses at tokens draw on that of the address."""

    def __init__(self, limit: LimitClass, decision: Decision) -> None:
        super().__init__(retry_after_seconds=decision.retry_after_seconds)
        self.limit = limit
        self.decision = decision

    def headers(self) -> Headers:
        """`RateLimit-Policy` and `RateLimit` of the budget that is used up."""
        return policy_header(self.limit.name, self.limit.rate), state_header(self.limit)(self.decision)


class Limits:
    """All limit classes over one limiter; `limiter` None switches them off."""

    def __init__(self, limiter: Limiter | None, classes: Mapping[str, LimitClass]) -> None:
        self._limiter = limiter
        self.classes = classes

    def of(self, name: str) -> LimitClass:
        """The class of that name.

        Raises:
            TypeError: an endpoint names a class that does not exist; such a table does not start.
        """
        try:
            return self.classes[name]
        except KeyError:
            raise TypeError(f"there is no limit class {name!r}") from None

    @property
    def enabled(self) -> bool:
        return self._limiter is not None

    @property
    def in_memory(self) -> bool:
        """Whether `hit` answers at once, always."""
        return isinstance(self._limiter, MemoryLimiter)

    def hit(self, limit: LimitClass, who: str) -> Decision | Awaitable[Decision]:
        """Draws one request from a budget; only to be called while limits are enabled."""
        if self._limiter is None:
            raise RuntimeError("limits are switched off")
        if ":" in who:
            who = network_of(who)
        return self._limiter.hit(f"{limit.name}:{who}", limit.rate)


def state_header(limit: LimitClass) -> Callable[[Decision], tuple[bytes, bytes]]:
    """Makes `RateLimit`: what is left, and in how many seconds the budget is whole (the draft's section 4)."""
    name, form = state_form(limit)
    return lambda decision: (name, form % (decision.remaining, ceil(decision.reset_seconds)))


def state_form(limit: LimitClass) -> tuple[bytes, bytes]:
    """`RateLimit` with two places for numbers: what is left, and the seconds until the budget is whole."""
    return b"ratelimit", b'"%b";r=%%d;t=%%d' % limit.name.encode()
