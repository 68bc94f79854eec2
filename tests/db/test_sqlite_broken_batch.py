"""A body that breaks the shared transaction of the writer: everybody is answered, and the writer goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.db.connect import connect
from hapta.db.database import Database, WriteTx
from hapta.kit.clock import SystemClock
from hapta.settings import DatabaseSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await connect(DatabaseSettings(url=f"sqlite:///{tmp_path / 'hapta.db'}"), tmp_path, SystemClock())
    await database.write(lambda tx: tx.execute("CREATE TABLE t (x bigint)"))
    yield database
    await database.close()


async def test_a_savepoint_that_cannot_be_ended_is_an_answer_and_not_a_hang(db: Database) -> None:
    async def add(tx: WriteTx) -> int:
        return await tx.execute("INSERT INTO t VALUES (1)")

    async def end_the_savepoint(tx: WriteTx) -> int:
        return await tx.execute("RELEASE body")

    # The first one keeps the writer busy for a moment, so that the others share one transaction.
    async with asyncio.timeout(120):
        outcomes = await asyncio.gather(
            add_many(db), *(db.write(add), db.write(end_the_savepoint), db.write(add)), return_exceptions=True
        )
    assert isinstance(outcomes[2], Exception)
    async with asyncio.timeout(120):
        assert await db.write(add) == 1


async def add_many(db: Database) -> None:
    async def body(tx: WriteTx) -> None:
        await tx.insert_rows("t", [("x", "bigint")], [(number,) for number in range(20_000)])

    await db.write(body)
