"""Visitors, collections and a waiting that takes no time, for the tests of limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hapta.gateway.limits.service import Drawn, Limits
from hapta.gateway.limits.specs import parse
from hapta.gateway.models import NOBODY, Collection, LimitName, Visitor
from hapta.kit.ratelimit import Limiter, MemoryLimiter
from hapta.testing.clock import FakeClock

ADDRESS = "192.0.2.1"
_NONE: Mapping[str, Any] = MappingProxyType({})


def collection(name: str, collection_id: str = "") -> Collection:
    """A collection without fields, open to everybody."""
    return Collection(collection_id or f"pbc_{name}", name, "base", False, {}, "", "", "", "", "", {})


POSTS = collection("posts")
NOTES = collection("notes")
USERS = collection("users")


def visitor(name: str, session: str = "s1") -> Visitor:
    return Visitor(f"u:pbc_users/{name}", "pbc_users", name, session, 1, "", "token")


class Waiting:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._sleepers: list[asyncio.Future[None]] = []

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await sleeper

    def wake(self) -> None:
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()


def new_limits(
    clock: FakeClock,
    own: Mapping[str, Any] = _NONE,
    limiter: Limiter | None = None,
    waiting: Waiting | None = None,
    **caps: int,
) -> Limits:
    sleep = (waiting or Waiting()).sleep
    limiter = MemoryLimiter(clock.monotonic) if limiter is None else limiter
    return Limits(parse(json.dumps(dict(own))), limiter, clock, sleep=sleep, **caps)


async def draw(
    limits: Limits,
    name: LimitName = "list",
    where: Collection | None = POSTS,
    who: Visitor = NOBODY,
    address: str = ADDRESS,
    **more: Any,
) -> Drawn:
    drawn = limits.draw(name, where, who, address, **more)
    return drawn if isinstance(drawn, Drawn) else await drawn
