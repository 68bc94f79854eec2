"""What only PostgreSQL has: deadlocks, a server that goes away and comes back, a pool of connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from hapta.db.connect import connect
from hapta.db.database import BackupUnsupported, Database, ReadTx, WriteTx
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Invalid, Unavailable
from hapta.settings import DatabaseSettings
from tests.servers import PostgresServer

INSERT = "INSERT INTO notes (id) VALUES (:id)"


async def open_at(url: str, **settings: Any) -> Database:
    database = await connect(replace(DatabaseSettings(url=url), **settings), Path("unused"), SystemClock())

    async def create(tx: WriteTx) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS notes (id text NOT NULL PRIMARY KEY, size bigint)")

    await database.write(create)
    return database


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = await open_at(postgres_url, pool_size=4)
    yield database
    await database.close()


async def add(db: Database, id: str) -> None:
    async def body(tx: WriteTx) -> None:
        await tx.execute(INSERT, id=id)

    await db.write(body)


async def ids(db: Database) -> list[str]:
    async def body(tx: ReadTx) -> list[str]:
        return [id for (id,) in await tx.fetch_all("SELECT id FROM notes ORDER BY id")]

    return await db.read(body)


async def test_two_bodies_in_a_deadlock_both_succeed_in_the_end(db: Database) -> None:
    await add(db, "a")
    await add(db, "b")
    both_hold = asyncio.Barrier(2)
    attempts = 0

    async def update(tx: WriteTx, first: str, second: str) -> None:
        nonlocal attempts
        attempts += 1
        await tx.execute("UPDATE notes SET size = coalesce(size, 0) + 1 WHERE id = :id", id=first)
        if attempts <= 2:
            await both_hold.wait()
        await tx.execute("UPDATE notes SET size = coalesce(size, 0) + 1 WHERE id = :id", id=second)

    await asyncio.gather(db.write(lambda tx: update(tx, "a", "b")), db.write(lambda tx: update(tx, "b", "a")))
    assert attempts >= 3  # the victim may overtake the one it made way for, and meet it once more
    assert db.stats.retries == attempts - 2
    assert await db.read(lambda tx: tx.fetch_all("SELECT size FROM notes")) == [(2,), (2,)]


async def test_who_waits_too_long_for_a_connection_is_told_so(postgres_url: str) -> None:
    narrow = await open_at(postgres_url, pool_size=1, lock_timeout_seconds=0.05)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold(tx: WriteTx) -> None:
        entered.set()
        await leave.wait()

    holding = asyncio.ensure_future(narrow.write(hold))
    await entered.wait()
    with pytest.raises(Unavailable, match="busy"):
        await add(narrow, "late")
    assert narrow.waiting == 0
    leave.set()
    await holding
    await add(narrow, "next")
    assert await ids(narrow) == ["next"]
    await narrow.close()


async def test_a_body_cancelled_inside_a_statement_is_undone_and_its_connection_replaced(postgres_url: str) -> None:
    narrow = await open_at(postgres_url, pool_size=1)
    blocker = await asyncpg.connect(postgres_url)
    await blocker.execute("BEGIN; LOCK TABLE notes")
    adding = asyncio.ensure_future(add(narrow, "cancelled"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'hapta'"
    while not await blocker.fetchval(waiting):
        await checkpoint()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    await blocker.execute("ROLLBACK")
    await blocker.close()
    await add(narrow, "next")
    assert await ids(narrow) == ["next"]
    await narrow.close()


async def test_connections_that_the_server_closed_are_replaced_unnoticed(db: Database, postgres_url: str) -> None:
    await asyncio.gather(*[add(db, str(number)) for number in range(8)])
    admin = await asyncpg.connect(postgres_url)
    await admin.fetch("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'hapta'")
    await admin.close()
    await asyncio.gather(*[add(db, str(number)) for number in range(8, 16)])
    assert len(await ids(db)) == 16


async def test_a_server_killed_under_load_loses_nothing_acknowledged_and_the_pool_heals(server_run: Any) -> None:
    with PostgresServer(server_run, durable=True) as server:
        db = await open_at(server.url, pool_size=4)
        acknowledged: set[str] = set()
        refused = asyncio.Event()
        healed = asyncio.Event()
        busy = asyncio.Event()
        restarted = False

        async def writer(name: int) -> None:
            number = 0
            after = 0
            while after < 20:
                number += 1
                try:
                    await add(db, f"{name}-{number}")
                except Unavailable:
                    refused.set()
                    await healed.wait()
                else:
                    acknowledged.add(f"{name}-{number}")
                    after += restarted
                    if len(acknowledged) == 100:
                        busy.set()

        writers = [asyncio.ensure_future(writer(name)) for name in range(8)]
        await busy.wait()
        await to_thread.run_sync(server.kill)
        await refused.wait()
        with pytest.raises(Unavailable):
            await db.ping()
        await to_thread.run_sync(server.start)
        restarted = True
        healed.set()
        await asyncio.gather(*writers)
        assert acknowledged <= set(await ids(db))
        await db.close()


async def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    with pytest.raises(Unavailable, match="cannot be used"):
        await open_at("postgresql://nobody@127.0.0.1:1/nothing")


async def test_a_zero_byte_in_text_is_the_callers_fault(db: Database) -> None:
    with pytest.raises(Invalid, match=r"U\+0000"):
        await add(db, "a\x00b")


async def test_backups_are_left_to_the_tools_of_postgresql(db: Database, tmp_path: Path) -> None:
    with pytest.raises(BackupUnsupported, match="pg_dump"):
        await db.backup(tmp_path / "copy.db")
