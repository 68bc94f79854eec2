"""What only SQLite has: shared commits, bodies on threads, a file beside which other processes work."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from anyio.lowlevel import checkpoint

from hapta.db import sqlite_files
from hapta.db.connect import BadDatabaseUrl, connect
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.db.sqlite_files import RESET_PAGES
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Conflict, Unavailable
from hapta.settings import DatabaseSettings
from tests.db.pause import Pause

INSERT = "INSERT INTO notes (id) VALUES (:id)"


async def open_in(folder: Path, **settings: Any) -> Database:
    return await connect(replace(DatabaseSettings(), **settings), folder, SystemClock())


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_in(tmp_path)

    async def create(tx: WriteTx) -> None:
        await tx.execute("CREATE TABLE notes (id text NOT NULL PRIMARY KEY, body bytea)")

    await database.write(create)
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


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
async def test_what_is_prepared_meanwhile_is_ready_before_the_write_is_told(tmp_path: Path, synchronous: str) -> None:
    db = await open_in(tmp_path, sqlite_synchronous=synchronous)
    told: list[object] = []

    async def create(tx: WriteTx) -> None:
        await tx.execute("CREATE TABLE notes (id text NOT NULL PRIMARY KEY)")

    await db.write(create, meanwhile=lambda: told.append(threading.current_thread()))
    told.append("written")
    assert told == [*([threading.current_thread()] if synchronous == "FULL" else []), "written"]

    async def fail(tx: WriteTx) -> None:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await db.write(fail, meanwhile=lambda: told.append("prepared all the same"))
    await db.close()


async def test_bodies_that_wait_together_share_one_commit(db: Database) -> None:
    pause = Pause()
    held = asyncio.ensure_future(db.write(pause.here))
    await pause.reached()
    before = db.stats.commits
    adding = [asyncio.ensure_future(add(db, f"{number:03}")) for number in range(100)]
    while db.waiting < 100:
        await checkpoint()
    pause.end()
    await asyncio.gather(held, *adding)
    assert db.stats.commits - before == 2  # the held one, and one for the hundred
    assert len(await ids(db)) == 100


@pytest.mark.parametrize("beside_others", [False, True])
async def test_a_body_that_awaits_something_else_is_refused_and_undone(db: Database, beside_others: bool) -> None:
    async def rule_breaker(tx: WriteTx) -> None:
        await tx.execute(INSERT, id="bad")
        await asyncio.sleep(0)

    others = [add(db, f"good{number}") for number in range(5 if beside_others else 0)]
    error, *_ = await asyncio.gather(db.write(rule_breaker), *others, return_exceptions=True)
    assert isinstance(error, RuntimeError)
    assert "await only" in str(error)
    with pytest.raises(RuntimeError, match="await only"):
        await db.read(lambda tx: asyncio.sleep(0))
    assert await ids(db) == [f"good{number}" for number in range(len(others))]


async def test_a_long_read_leaves_the_event_loop_free_and_short_ones_overtake_it(db: Database) -> None:
    async def fill(tx: WriteTx) -> None:
        await tx.insert_rows("notes", [("id", "text")], [(f"{number:05}",) for number in range(3000)])

    async def long(tx: ReadTx) -> Any:
        try:
            return await tx.fetch_value("SELECT count(*) FROM notes AS a, notes AS b WHERE a.id < b.id")
        except Unavailable:
            raise Conflict("the budget of the event loop is nothing that a caller should hear of") from None

    await db.write(fill)
    overtaken = 0
    for _ in range(5):
        reading = asyncio.ensure_future(db.read(long))
        await checkpoint()
        assert len(await ids(db)) == 3000
        overtaken += (
            not reading.done()
        )  # now and then a busy machine leaves the loop alone for as long as the read takes
        assert await reading == 3000 * 2999 // 2
    assert overtaken > 0


async def test_a_read_that_overran_its_budget_leaves_its_connection_fit_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read in place is late here, so sooner or later the handler would also interrupt the commit that ends one."""
    for name, value in {"READ_BUDGET_SECONDS": 0.0, "READ_BUDGET_STEPS": 50, "READ_PENALTY": 0}.items():
        monkeypatch.setattr(f"hapta.db.sqlite.{name}", value)
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :upto) SELECT count(*) FROM n"
    db = await open_in(tmp_path)
    try:
        for round_number in range(600):
            upto = 100 + round_number if round_number % 2 else 1
            assert await db.read(lambda tx, upto=upto: tx.fetch_value(count, upto=upto)) == upto
    finally:
        await db.close()


async def test_a_body_that_calls_its_database_is_refused(db: Database) -> None:
    async def nested(tx: ReadTx) -> Any:
        return await db.read(lambda tx: tx.fetch_value("SELECT 1"))

    with pytest.raises(RuntimeError, match="await only"):
        await db.write(nested)


async def test_another_process_with_the_write_lock_makes_writes_unavailable_but_not_reads(
    db: Database, tmp_path: Path
) -> None:
    impatient = await open_in(tmp_path, lock_timeout_seconds=0.05)
    other = apsw.Connection(str(tmp_path / "hapta.db"))
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(*[add(impatient, str(number)) for number in range(5)], return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert await ids(impatient) == []
    other.execute("COMMIT")
    other.close()
    await add(impatient, "later")
    assert await ids(db) == ["later"]
    await impatient.close()


async def test_a_full_disk_makes_every_body_of_the_commit_unavailable_and_leaves_nothing(db: Database) -> None:
    async def limit(tx: WriteTx) -> None:
        await tx.fetch_value("PRAGMA max_page_count = 40")

    async def unlimited(tx: WriteTx) -> None:
        await tx.fetch_value("PRAGMA max_page_count = 1000000")

    async def large(tx: WriteTx) -> None:
        await tx.execute("INSERT INTO notes (id, body) VALUES ('large', :body)", body=bytes(1024 * 1024))

    await db.write(limit)
    outcomes = await asyncio.gather(add(db, "a"), add(db, "b"), db.write(large), return_exceptions=True)
    assert isinstance(outcomes[2], Unavailable)
    acknowledged = [id for id, outcome in zip("ab", outcomes, strict=False) if outcome is None]
    assert await ids(db) == acknowledged
    await db.write(unlimited)
    await db.write(large)
    assert await ids(db) == [*acknowledged, "large"]


async def test_a_write_stopped_halfway_never_separates_what_happened_from_what_was_said(
    db: Database, tmp_path: Path
) -> None:
    hasty = await open_in(tmp_path, statement_timeout_seconds=0.1)
    pause = Pause()

    async def endless(tx: WriteTx) -> None:
        await tx.execute("""
            WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
            INSERT INTO notes (id) SELECT 'endless ' || n FROM numbers""")

    held = asyncio.ensure_future(hasty.write(pause.here))
    await pause.reached()
    adding = [add(hasty, "a"), hasty.write(endless), add(hasty, "b")]
    waiting = [asyncio.ensure_future(one) for one in adding]
    while hasty.waiting < 3:
        await checkpoint()
    pause.end()
    await held
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[1], Unavailable)
    assert await ids(db) == [id for id, outcome in zip("a-b", outcomes, strict=True) if outcome is None]
    await hasty.close()


async def test_the_log_does_not_grow_with_what_was_written(db: Database, tmp_path: Path) -> None:
    async def rewrite(tx: WriteTx) -> None:
        await tx.execute("UPDATE notes SET body = :body", body=os.urandom(400 * 1024))

    await add(db, "a")
    for _ in range(200):  # 80 MB through the log
        await db.write(rewrite)
    assert (tmp_path / "hapta.db-wal").stat().st_size < 1.1 * RESET_PAGES * 4096


async def test_a_closed_database_is_one_file_that_holds_everything(db: Database, tmp_path: Path) -> None:
    await add(db, "kept")
    assert len(await db.read(lambda tx: tx.fetch_all("SELECT id FROM notes"))) == 1  # readers are open too
    await db.close()
    assert [path.name for path in tmp_path.iterdir()] == ["hapta.db"]
    alone = apsw.Connection(str(tmp_path / "hapta.db"), flags=apsw.SQLITE_OPEN_READONLY)
    assert list(alone.execute("SELECT id FROM notes")) == [("kept",)]
    alone.close()


async def test_the_file_and_its_logs_belong_to_this_user_alone(db: Database, tmp_path: Path) -> None:
    await add(db, "a")
    assert rights_of_files_in(tmp_path) == {"hapta.db": 0o600, "hapta.db-shm": 0o600, "hapta.db-wal": 0o600}


def rights_of_files_in(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


async def test_a_backup_taken_under_load_is_one_consistent_state(db: Database, tmp_path: Path) -> None:
    async def pair(tx: WriteTx) -> None:
        number = await tx.fetch_value("SELECT count(*) / 2 FROM notes")
        await tx.execute(INSERT, id=f"{number:05}-a")
        await tx.execute(INSERT, id=f"{number:05}-b")

    async def storm() -> None:
        for _ in range(200):
            await db.write(pair)

    target = tmp_path / "copies" / "backup.db"
    storming = asyncio.ensure_future(storm())
    await db.write(pair)
    await db.backup(target)
    await storming
    assert [file.name for file in target.parent.iterdir()] == ["backup.db"]
    copy = apsw.Connection(str(target))
    names = [str(row[0]) for row in copy.execute("SELECT id FROM notes ORDER BY id")]
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    copy.close()
    assert names == [f"{number:05}-{half}" for number in range(len(names) // 2) for half in "ab"]
    assert len(names) >= 2
    with pytest.raises(FileExistsError):
        await db.backup(target)


WRITE_STORM = """
import asyncio, sys
from pathlib import Path
from hapta.db.connect import connect
from hapta.kit.clock import SystemClock
from hapta.settings import DatabaseSettings

async def writer(db, name):
    for number in range(1_000_000):
        async def body(tx):
            await tx.execute("INSERT INTO notes (id) VALUES (:id)", id=f"{name}-{number}-a")
            await tx.execute("INSERT INTO notes (id) VALUES (:id)", id=f"{name}-{number}-b")
        await db.write(body)
        sys.stdout.write(f"{name}-{number}\\n")
        sys.stdout.flush()

async def main():
    db = await connect(DatabaseSettings(), Path(sys.argv[1]), SystemClock())
    await asyncio.gather(*[writer(db, name) for name in range(16)])

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9_and_no_transaction_is_torn(db: Database, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_STORM, str(tmp_path)], stdout=subprocess.PIPE, env={"PYTHONPATH": os.getcwd()}
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().decode().strip() for _ in range(500)]
    process.kill()
    acknowledged += [line.decode().strip() for line in process.stdout if line.endswith(b"\n")]
    process.stdout.close()
    process.wait()
    present = set(await ids(db))
    assert {f"{id}-{half}" for id in acknowledged for half in "ab"} <= present
    assert {id[:-2] for id in present if id.endswith("a")} == {id[:-2] for id in present if id.endswith("b")}


@pytest.mark.parametrize(
    "url", ["mysql://localhost/hapta", "hapta.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x"]
)
async def test_a_url_that_names_no_database_is_refused_by_the_name_of_its_setting(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadDatabaseUrl, match=r"database\.url"):
        await open_in(tmp_path, url=url)


async def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "hapta.db").mkdir()
    with pytest.raises(Unavailable, match="cannot be opened"):
        await open_in(tmp_path)


def test_two_processes_may_begin_with_the_same_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")  # as the other one does while it makes the file its own
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        other.execute("COMMIT")

    monkeypatch.setattr(sqlite_files, "sleep", wait)
    writer = sqlite_files.open_writer(path, "FULL", 1000)
    assert writer.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert len(waits) == 1
    writer.close()


def test_a_file_that_another_process_keeps_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []
    monkeypatch.setattr(sqlite_files, "sleep", waits.append)
    with pytest.raises(apsw.BusyError):
        sqlite_files.open_writer(path, "FULL", 1000)
    assert sum(waits) == pytest.approx(1.0)
