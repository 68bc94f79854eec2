"""A worker that stops after its bus: nothing waits for ever, and nothing speaks to Redis any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hapta.bus.redis import open_redis
from hapta.kit.errors import Unavailable
from hapta.relay.messages.models import Item
from tests.relay.house import SECONDS, A, open_house

pytestmark = pytest.mark.anyio


async def test_a_relay_closes_over_a_bus_that_is_closed(migrated_url: str, tmp_path: Path, redis_url: str) -> None:
    bus = await open_redis(redis_url)
    async with asyncio.timeout(2 * SECONDS):
        async with open_house(migrated_url, tmp_path, bus) as house:
            guest = house.guest("a")
            session = (await guest.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]
            async with guest.socket(machine="m"), guest.socket() as watcher:
                await bus.close()
                before = bus.dropped
                posted = await house.relay.messages.post(A, session["id"], [Item("l", b"1")])
                assert posted.new == 1
                assert (await watcher.update("new-message"))["body"]["message"]["seq"] == 1
                assert bus.dropped > before
                with pytest.raises(Unavailable):
                    await bus.increment("x", ttl_seconds=1)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "send to Redis"]
