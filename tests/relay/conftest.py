"""The relay over a real database of each engine, with a bus in memory or in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hapta.bus.bus import Bus
from hapta.bus.memory import MemoryBus
from hapta.bus.redis import open_redis
from hapta.relay.rpc import peers
from hapta.relay.updates import census
from tests.relay.house import SECONDS, Guest, House, OpenHouse, Tokens, open_house


@pytest.fixture
async def new_house(migrated_url: str, tmp_path: Path) -> AsyncIterator[OpenHouse]:
    """Opens workers over one database; those of a test share one bus in memory and one set of tokens, unless it says otherwise."""
    shared = {"bus": MemoryBus(), "tokens": Tokens()}
    async with AsyncExitStack() as stack:

        async def new(**more: Any) -> House:
            given = {**shared, **more}
            return await stack.enter_async_context(open_house(migrated_url, tmp_path, **given))

        yield new


@pytest.fixture
async def house(new_house: OpenHouse) -> House:
    """One worker."""
    return await new_house()


@pytest.fixture
def a(house: House) -> Guest:
    """Account A."""
    return house.guest("a")


@pytest.fixture
def b(house: House) -> Guest:
    """Account B, which must never see anything of A."""
    return house.guest("b")


@pytest.fixture(params=["memory", "redis"])
async def worker_buses(request: pytest.FixtureRequest) -> AsyncIterator[list[Bus]]:
    """The buses of two workers: one in memory for both, or a connection to Redis each."""
    if request.param == "memory":
        bus = MemoryBus()
        yield [bus, bus]
        return
    url = request.getfixturevalue("redis_url")
    async with AsyncExitStack() as stack:
        buses: list[Bus] = []
        for _ in range(2):
            bus = await open_redis(url)
            stack.push_async_callback(bus.close)
            buses.append(bus)
        yield buses


@pytest.fixture
async def two_workers(
    worker_buses: list[Bus], new_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> tuple[House, House]:
    """Two workers over one database, each of which waits for what the other one says however busy the machine is. (The buses
    come first, so that they are closed last.)"""
    monkeypatch.setattr(peers, "WHO_SECONDS", SECONDS)
    monkeypatch.setattr(census, "ANSWER_SECONDS", SECONDS)
    first = await new_house(bus=worker_buses[0])
    return first, await new_house(bus=worker_buses[1], clock=first.clock)
