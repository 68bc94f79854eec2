"""The bus of a single worker. A message is delivered on the loop's next turn, never inside `publish`: whoever publishes
does not run its subscribers' code, here as little as over Redis, and so cannot be re-entered by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hapta.bus.bus import Bus, Gap, Receive
from hapta.bus.subscribers import Subscribers
from hapta.kit.clock import Clock, SystemClock

_SWEEP_ABOVE = 10_000


class MemoryBus(Bus):
    """An open bus for this process alone: always healthy, no gaps."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._subscribers = Subscribers()
        self._waiting: list[tuple[str, bytes]] = []
        self._counters: dict[str, tuple[int, float]] = {}
        self._sweep_above = _SWEEP_ABOVE
        self._closed = False

    @property
    def healthy(self) -> bool:
        return not self._closed

    def is_alone(self, channel: str) -> bool:
        return self._subscribers.count(channel) < 2

    async def publish(self, channel: str, message: bytes) -> None:
        if self._closed:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._waiting.append((channel, message))

    async def subscribe(self, channel: str, receive: Receive, gap: Gap | None = None) -> Callable[[], None]:
        end = self._subscribers.add(channel, receive, gap)
        return lambda: _discard(end())

    async def increment(self, key: str, by: int = 1, *, ttl_seconds: int) -> int:
        now = self._clock.monotonic()
        value, ends_at = self._counters.get(key, (0, 0.0))
        value = value + by if ends_at > now else by
        self._counters[key] = value, now + ttl_seconds
        if len(self._counters) > self._sweep_above:
            self._counters = {name: kept for name, kept in self._counters.items() if kept[1] > now}
            self._sweep_above = max(_SWEEP_ABOVE, 2 * len(self._counters))
        return value

    async def close(self) -> None:
        self._closed = True
        self._waiting.clear()

    def _deliver(self) -> None:
        waiting, self._waiting = self._waiting, []
        for channel, message in waiting:
            self._subscribers.deliver(channel, message)


def _discard(_: bool) -> None:
    """Makes a function that returns nothing of one that does."""
