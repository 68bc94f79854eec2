"""Migrations on both engines: in order, once, by whoever comes first, and never past what the code knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hapta.db.connect import connect
from hapta.db.database import Database, ReadTx, UniqueViolation
from hapta.db.migrate import (
    MigrationChanged,
    MigrationsMisnamed,
    SchemaTooNew,
    load,
    migrate,
    packaged,
    pending,
)
from hapta.kit.clock import SystemClock
from hapta.settings import DatabaseSettings

Open = Callable[[], Awaitable[Database]]


class NoonClock(SystemClock):
    def now_ms(self) -> int:
        return 43_200_000


@pytest.fixture
async def open_db(database_url: str, tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[Database] = []

    async def open_one() -> Database:
        database = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
        opened.append(database)
        return database

    yield open_one
    for database in opened:
        await database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    write(folder, "0001_first.sql", "CREATE TABLE first (a text NOT NULL); INSERT INTO first (a) VALUES ('one');")
    write(folder, "0002_second.sql", "ALTER TABLE first ADD COLUMN b bigint NOT NULL DEFAULT 2;")
    return folder


def write(folder: Path, name: str, sql: str) -> None:
    (folder / name).write_text(sql)


async def rows(db: Database, sql: str) -> list[Any]:
    async def body(tx: ReadTx) -> list[Any]:
        return await tx.fetch_all(sql)

    return await db.read(body)


async def test_pending_migrations_are_applied_in_order_and_only_once(open_db: Open, folder: Path) -> None:
    db = await open_db()
    assert [migration.name for migration in await pending(db, folder)] == ["first", "second"]
    assert [migration.name for migration in await migrate(db, NoonClock(), folder)] == ["first", "second"]
    assert await rows(db, "SELECT a, b FROM first") == [("one", 2)]
    assert await rows(db, "SELECT version, name, applied_at FROM schema_migrations ORDER BY version") == [
        (1, "first", 43_200_000),
        (2, "second", 43_200_000),
    ]
    assert await pending(db, folder) == []
    assert await migrate(db, NoonClock(), folder) == []


async def test_looking_at_what_is_pending_changes_nothing(open_db: Open, folder: Path) -> None:
    db = await open_db()
    await pending(db, folder)
    assert len(await pending(db, folder)) == 2
    with pytest.raises(Exception, match="schema_migrations"):
        await rows(db, "SELECT * FROM schema_migrations")


async def test_a_migration_that_fails_leaves_nothing_and_those_before_it_stay(open_db: Open, folder: Path) -> None:
    db = await open_db()
    write(folder, "0003_third.sql", "CREATE TABLE third (a text); INSERT INTO nowhere (a) VALUES ('x');")
    with pytest.raises(Exception, match="nowhere"):
        await migrate(db, NoonClock(), folder)
    assert [migration.name for migration in await pending(db, folder)] == ["third"]
    write(folder, "0003_third.sql", "CREATE TABLE third (a text);")
    assert [migration.name for migration in await migrate(db, NoonClock(), folder)] == ["third"]


async def test_a_schema_newer_than_the_code_is_refused(open_db: Open, folder: Path) -> None:
    db = await open_db()
    await migrate(db, NoonClock(), folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(SchemaTooNew, match="0002_second"):
        await pending(db, folder)
    with pytest.raises(SchemaTooNew):
        await migrate(db, NoonClock(), folder)


async def test_a_migration_edited_after_it_was_applied_is_refused(open_db: Open, folder: Path) -> None:
    db = await open_db()
    await migrate(db, NoonClock(), folder)
    write(folder, "0001_first.sql", "CREATE TABLE first (a text NOT NULL);")
    write(folder, "0003_third.sql", "CREATE TABLE third (a text);")
    with pytest.raises(MigrationChanged, match="0001_first"):
        await migrate(db, NoonClock(), folder)
    with pytest.raises(Exception, match="third"):
        await rows(db, "SELECT a FROM third")


async def test_workers_that_start_at_once_apply_each_migration_once(open_db: Open, folder: Path) -> None:
    for number in range(3, 12):
        write(folder, f"{number:04}_more.sql", f"INSERT INTO first (a) VALUES ('{number}');")
    databases = [await open_db() for _ in range(4)]
    applied = await asyncio.gather(*[migrate(database, NoonClock(), folder) for database in databases])
    assert sorted(migration.version for some in applied for migration in some) == list(range(1, 12))
    assert len(await rows(databases[0], "SELECT a FROM first")) == 10


async def test_each_engine_runs_its_own_variant(open_db: Open, folder: Path) -> None:
    db = await open_db()
    write(folder, "0003_third.sqlite.sql", "CREATE TABLE third (a text NOT NULL PRIMARY KEY) WITHOUT ROWID;")
    write(folder, "0003_third.postgres.sql", "CREATE UNLOGGED TABLE third (a text NOT NULL PRIMARY KEY);")
    write(
        folder,
        "0004_fourth.sql",
        "INSERT INTO third (a) VALUES (/*sqlite: 'sqlite'*/ /*postgres: 'postgres'*/);",
    )
    await migrate(db, NoonClock(), folder)
    assert await rows(db, "SELECT a FROM third") == [(db.engine,)]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("0004_gap.sql", "gap"), ("0002_other.sql", "0002"), ("3_short.sql", "NNNN"), ("0003_x.sqlite.sql", "postgres")],
)
def test_a_folder_that_is_not_one_clear_list_is_refused(folder: Path, name: str, complaint: str) -> None:
    write(folder, name, "SELECT 1;")
    with pytest.raises(MigrationsMisnamed, match=complaint):
        load("postgres", folder)


async def test_the_migrations_of_this_release_run_on_an_empty_database(open_db: Open) -> None:
    db = await open_db()
    applied = await migrate(db, NoonClock())
    assert [migration.version for migration in applied] == list(range(1, len(applied) + 1))
    assert len(applied) == len(load(db.engine, packaged())) > 0


async def test_rows_of_the_relay_survive_that_their_tables_are_laid_out_anew(open_db: Open, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for entry in packaged().iterdir():
        if entry.name[:4].isdigit() and int(entry.name[:4]) < 16:
            write(older, entry.name, entry.read_text(encoding="utf-8"))
    db = await open_db()
    await migrate(db, NoonClock(), older)
    tables = {
        "res_relay_messages": [
            "account_id",
            "session_id",
            "seq",
            "id",
            "local_id",
            "content",
            "created_at",
            "updated_at",
        ],
        "res_relay_sessions": [
            "account_id",
            "id",
            "tag",
            "seq",
            "metadata",
            "metadata_version",
            "agent_state",
            "agent_state_version",
            "data_encryption_key",
            "active",
            "last_active_at",
            "stopped_at",
            "stopped_reason",
            "archived_at",
            "archive_reason",
            "archive_error",
            "changed_seq",
            "created_seq",
            "created_at",
            "updated_at",
        ],
    }
    texts = frozenset(
        [
            "account_id",
            "session_id",
            "id",
            "local_id",
            "tag",
            "metadata",
            "agent_state",
            "stopped_reason",
            "archive_reason",
            "archive_error",
        ]
    )
    kept: dict[str, list[tuple[Any, ...]]] = {}
    for table, columns in tables.items():
        kept[table] = [
            tuple(
                f"{name} {row}"
                if name in texts
                else f"{name} {row}".encode()
                if name in {"content", "data_encryption_key"}
                else row * 100 + at
                for at, name in enumerate(columns)
            )
            for row in range(3)
        ]
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"
        for values in kept[table]:
            given = dict(zip(columns, values, strict=True))
            await db.write(lambda tx, sql=sql, given=given: tx.execute(sql, **given))

    assert await migrate(db, NoonClock())
    for table, columns in tables.items():
        assert await rows(db, f"SELECT {', '.join(columns)} FROM {table} ORDER BY account_id") == kept[table]
        names = ", ".join(columns)
        again = f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}"
        with pytest.raises(UniqueViolation):
            await db.write(lambda tx, again=again: tx.execute(again))
