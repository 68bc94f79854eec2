"""Sync over a real database of each engine, with the hub on a real bus in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hapta.blobs.blobs import Blobs
from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.migrate import migrate
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import DatabaseSettings, SyncSettings
from hapta.sync.feature import open_sync
from hapta.testing.clock import FakeClock
from tests.sync.house import House, Open, Tokens


@pytest.fixture
async def open_house(database_url: str, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens workers over one database, or over the one whose URL is given."""
    houses: list[House] = []

    async def open_one(
        *, url: str = database_url, bus: MemoryBus | None = None, blobs: Blobs | None = None, **settings: Any
    ) -> House:
        clock = FakeClock()
        db = await connect(DatabaseSettings(url=url), tmp_path, SystemClock())
        await migrate(db, SystemClock())
        tokens = Tokens()
        revoked: list[tuple[str, str]] = []

        async def revoke(user_id: str, device_id: str) -> None:
            revoked.append((user_id, device_id))

        own_bus = bus or MemoryBus(clock)
        sync = await open_sync(
            db,
            own_bus,
            clock,
            RandomIds(),
            tokens,
            replace(SyncSettings(), **settings),
            revoke,
            run_upkeep=False,
            blobs=blobs,
        )
        houses.append(House(db, own_bus, clock, sync, tokens, revoked))
        return houses[-1]

    yield open_one
    for house in houses:
        await house.sync.close()
        await house.db.close()


@pytest.fixture
async def house(open_house: Open) -> House:
    return await open_house()


@pytest.fixture
def database_url(migrated_url: str) -> str:
    """Nothing here is about migrations, so each test gets a copy of a migrated database."""
    return migrated_url
