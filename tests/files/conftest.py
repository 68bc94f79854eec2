"""A server with files, and the feature alone, on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta
from tests.files.house import House, opened_house, served


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(migrated_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    """Files without HTTP, with a clock of their own."""
    async with opened_house(migrated_url, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def hapta(migrated_url: str, tmp_path: Path) -> AsyncIterator[TestHapta]:
    async with served(migrated_url, tmp_path) as server:
        yield server


@pytest.fixture
async def alice(hapta: TestHapta) -> Account:
    return await hapta.register("alice@example.org")


@pytest.fixture
async def bob(hapta: TestHapta) -> Account:
    return await hapta.register("bob@example.org")
