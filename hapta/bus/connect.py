"""Picks the bus: the only place that knows which ones there are."""

from __future__ import annotations

from urllib.parse import urlsplit

from hapta.bus.bus import Bus
from hapta.kit.errors import Invalid
from hapta.settings import BusSettings


class BadBusUrl(Invalid):
    """The setting `bus.url` names no bus that we know."""

    code = "bad_bus_url"


async def connect(settings: BusSettings) -> Bus:
    """Opens the bus that the settings name: in memory when `url` is empty, Redis otherwise.

    Raises:
        BadBusUrl: another kind of URL.
        Unavailable: Redis does not answer.
    """
    match urlsplit(settings.url).scheme:
        case "":
            from hapta.bus.memory import MemoryBus

            return MemoryBus()
        case "redis" | "rediss" | "unix":
            from hapta.bus.redis import open_redis

            return await open_redis(settings.url)
        case other:
            raise BadBusUrl(f"bus.url: unknown scheme {other!r}; use redis:// or rediss://, or leave it empty")
