"""One server for each file of this folder, and two accounts for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from hapta.testing.server import Account, TestHapta
from tests.flows.contract.rows import (
    SECRET,
)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One loop for the whole file, as one server lives on it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def hapta(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TestHapta]:
    """One server for all tests that need nothing but accounts of their own."""
    async with TestHapta(tmp_path_factory.mktemp("hapta"), {"JWT_SECRET": SECRET}) as opened:
        yield opened


@pytest.fixture
async def on_both(tmp_path: Path, database_url: str) -> AsyncIterator[TestHapta]:
    """For facts in which the two databases could differ."""
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}) as opened:
        yield opened


@pytest.fixture
async def alice(hapta: TestHapta) -> Account:
    return await hapta.register(f"{uuid4()}@example.org")


@pytest.fixture
async def bob(hapta: TestHapta) -> Account:
    return await hapta.register(f"{uuid4()}@example.org")
