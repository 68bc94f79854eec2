"""Rate limits by class: which budget an endpoint draws on, and whose.

Public endpoints draw on the budget of the client's address, the others on that of the account: a new login, a reconnect or
a header of the client's own making gives nobody a new budget.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address
from math import ceil
from typing import Literal

from hapta.kit.errors import TooMany
from hapta.kit.ratelimit import Decision, Limiter, Rate, policy_header

Headers = tuple[tuple[bytes, bytes], ...]


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

    def hit(self, limit: LimitClass, who: str) -> Decision | Awaitable[Decision]:
        """Draws one request from a budget; only to be called while limits are enabled."""
        if self._limiter is None:
            raise RuntimeError("limits are switched off")
        if ":" in who:
            who = _network(who)
        return self._limiter.hit(f"{limit.name}:{who}", limit.rate)


@lru_cache(maxsize=4096)
def _network(address: str) -> str:
    """Who is behind an address that is more than four numbers: of IPv6 the /64, which is the least that a line gets, so that
    nobody has a budget for each of its 2^64 addresses; without the port that some proxies write."""
    host = address[1:].partition("]")[0] if address.startswith("[") else address
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))


def state_header(limit: LimitClass) -> Callable[[Decision], tuple[bytes, bytes]]:
    """Makes `RateLimit`: what is left, and in how many seconds the budget is whole (the draft's section 4)."""
    form = b'"%b";r=%%d;t=%%d' % limit.name.encode()
    return lambda decision: (b"ratelimit", form % (decision.remaining, ceil(decision.reset_seconds)))
