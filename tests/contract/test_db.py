"""One suite for both engines: whatever is promised by `Database` holds on a real SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import apsw
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from hapta.db.connect import connect
from hapta.db.database import Database, ReadTx, UniqueViolation, WriteTx
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Conflict, Unavailable
from hapta.settings import DatabaseSettings
from tests.db.pause import Pause

T = TypeVar("T")
Open = Callable[..., Awaitable[Database]]

NOTES = """
    CREATE TABLE notes (id text NOT NULL PRIMARY KEY, size bigint NOT NULL DEFAULT 0, body bytea, stamp text UNIQUE)"""
COLUMNS = [("id", "text"), ("size", "bigint"), ("body", "bytea")]
INSERT = "INSERT INTO notes (id, size, body) VALUES (:id, :size, :body)"
ENDLESS = """
    WITH RECURSIVE numbers (n) AS (SELECT 1::bigint UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000000000)
    SELECT count(*) FROM numbers"""


@pytest.fixture
async def open_db(database_url: str, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the same database as often as the test asks for, as so many processes would."""
    opened: list[Database] = []

    async def open_one(**settings: Any) -> Database:
        database = await connect(replace(DatabaseSettings(url=database_url), **settings), tmp_path, SystemClock())
        opened.append(database)
        return database

    yield open_one
    for database in opened:
        await database.close()


@pytest.fixture
async def db(open_db: Open) -> Database:
    database = await open_db()

    async def create(tx: WriteTx) -> None:
        await tx.execute(NOTES)

    await database.write(create)
    return database


def add(id: str, *, size: int = 0, body: bytes | None = None) -> Callable[[WriteTx], Awaitable[int]]:
    async def run(tx: WriteTx) -> int:
        return await tx.execute(INSERT, id=id, size=size, body=body)

    return run


def add_and_hold(id: str, pause: Pause) -> Callable[[WriteTx], Awaitable[None]]:
    async def run(tx: WriteTx) -> None:
        await tx.execute(INSERT, id=id, size=0, body=None)
        await pause.here(tx)

    return run


async def ids(db: Database) -> list[str]:
    async def body(tx: ReadTx) -> list[str]:
        return [id for (id,) in await tx.fetch_all("SELECT id FROM notes ORDER BY id")]

    return await db.read(body)


async def available(call: Callable[[], Awaitable[T]]) -> T:
    """What a call gives that may take no time to speak of, once the machine lets it."""
    while True:
        with suppress(Unavailable):
            return await call()


async def until_waiting(db: Database, number: int) -> None:
    while db.waiting < number:
        await checkpoint()


# --- one transaction ---


async def test_a_body_sees_what_it_wrote_and_so_does_who_reads_after_it(db: Database) -> None:
    async def body(tx: WriteTx) -> Any:
        await tx.execute(INSERT, id="a", size=7, body=b"x")
        return await tx.fetch_one("SELECT id, size, body FROM notes")

    assert await db.write(body) == ("a", 7, b"x")
    assert await ids(db) == ["a"]


async def test_a_body_that_raises_leaves_nothing_and_its_error_arrives_as_it_is(db: Database) -> None:
    error = Conflict("no")

    async def body(tx: WriteTx) -> None:
        await tx.execute(INSERT, id="a", size=0, body=None)
        raise error

    with pytest.raises(Conflict) as raised:
        await db.write(body)
    assert raised.value is error
    assert await ids(db) == []


async def test_bodies_that_share_a_commit_fail_alone(db: Database) -> None:
    async def failing(tx: WriteTx) -> None:
        await tx.execute(INSERT, id=f"bad{len(await tx.fetch_all('SELECT id FROM notes'))}", size=0, body=None)
        raise Conflict

    bodies = [failing if number % 3 == 0 else add(f"{number:03}") for number in range(60)]
    outcomes = await asyncio.gather(*[db.write(body) for body in bodies], return_exceptions=True)
    assert [isinstance(outcome, Conflict) for outcome in outcomes] == [number % 3 == 0 for number in range(60)]
    assert await ids(db) == [f"{number:03}" for number in range(60) if number % 3]


async def test_a_second_row_with_the_same_key_is_a_unique_violation(db: Database) -> None:
    await db.write(add("a"))
    with pytest.raises(UniqueViolation):
        await db.write(add("a"))

    async def same_stamp(tx: WriteTx) -> None:
        for id in "bc":
            await tx.execute("INSERT INTO notes (id, stamp) VALUES (:id, 'one')", id=id)

    with pytest.raises(UniqueViolation):
        await db.write(same_stamp)
    assert await ids(db) == ["a"]


async def test_a_body_may_turn_a_unique_violation_into_its_own_error(db: Database) -> None:
    await db.write(add("a"))

    async def body(tx: WriteTx) -> None:
        try:
            await tx.execute(INSERT, id="a", size=0, body=None)
        except UniqueViolation:
            raise Conflict("taken") from None

    with pytest.raises(Conflict, match="taken"):
        await db.write(body)


async def test_a_body_that_swallows_a_failed_statement_commits_nothing(db: Database) -> None:
    await db.write(add("a"))

    async def body(tx: WriteTx) -> None:
        await tx.execute(INSERT, id="b", size=0, body=None)
        try:
            await tx.execute(INSERT, id="a", size=0, body=None)
        except UniqueViolation:
            return

    with pytest.raises(UniqueViolation):
        await db.write(body)
    assert await ids(db) == ["a"]


async def test_a_transaction_kept_after_its_end_refuses_to_work(db: Database) -> None:
    kept: list[WriteTx] = []

    async def body(tx: WriteTx) -> None:
        kept.append(tx)

    await db.write(body)
    with pytest.raises(RuntimeError, match="has ended"):
        await kept[0].execute(INSERT, id="late", size=0, body=None)
    assert await ids(db) == []


async def test_a_read_body_cannot_write(db: Database) -> None:
    async def body(tx: ReadTx) -> Any:
        return await tx.fetch_one("INSERT INTO notes (id) VALUES ('a') RETURNING id")

    with pytest.raises(Exception, match=r"(?i)read.?only"):
        await db.read(body)
    assert await ids(db) == []


# --- statements ---


async def test_values_come_back_as_they_went_in(db: Database) -> None:
    rows = [("ü\U0001f600'", 2**63 - 1, bytes(range(256))), ("", -(2**63), b""), ("nothing", 0, None)]

    async def body(tx: WriteTx) -> None:
        await tx.insert_rows("notes", COLUMNS, rows)

    async def back(tx: ReadTx) -> list[Any]:
        return await tx.fetch_all("SELECT id, size, body FROM notes ORDER BY size DESC")

    await db.write(body)
    assert await db.read(back) == [rows[0], rows[2], rows[1]]


@pytest.mark.parametrize(
    ("sql", "values", "expected"),
    [
        ("id = any(:values::text[])", ["a", "c", "zz"], ["a", "c"]),
        ("id = any(:values::text[])", [], []),
        ("id <> all(:values::text[])", ["a", "c"], ["b"]),
        ("id <> all(:values::text[])", [], ["a", "b", "c"]),
        ("size = any(:values::bigint[])", [2, 3, -9], ["b", "c"]),
        ("size = any(:values::bigint[])", (1,), ["a"]),
        ("body = any(:values::bytea[])", [b"\x00b"], ["b"]),
        ("id IN (SELECT value FROM unnest(:values::text[]) AS wanted (value))", ["b", "b"], ["b"]),
        ("size = greatest(:least::bigint, least(2, 5)) AND id <> all(:values::text[])", [], ["b"]),
    ],
)
async def test_a_list_is_one_parameter(db: Database, sql: str, values: Any, expected: list[str]) -> None:
    async def fill(tx: WriteTx) -> None:
        await tx.insert_rows("notes", COLUMNS, [("a", 1, b"a"), ("b", 2, b"\x00b"), ("c", 3, b"c")])

    async def query(tx: ReadTx) -> list[Any]:
        least = {"least": 1} if ":least" in sql else {}
        return await tx.fetch_all(f"SELECT id FROM notes WHERE {sql} ORDER BY id", values=values, **least)

    await db.write(fill)
    assert [id for (id,) in await db.read(query)] == expected


async def test_ten_thousand_rows_go_in_at_once_and_present_ones_are_left_out(db: Database) -> None:
    rows = [(f"{number:05}", number, b"x" * 100) for number in range(10_000)]

    async def half(tx: WriteTx) -> int:
        return await tx.insert_rows("notes", COLUMNS, rows[:5000])

    async def all_of_them(tx: WriteTx) -> int:
        return await tx.insert_rows("notes", COLUMNS, rows, ignore_conflicts=True)

    async def none(tx: WriteTx) -> int:
        return await tx.insert_rows("notes", COLUMNS, [])

    assert await db.write(half) == 5000
    assert await db.write(all_of_them) == 5000
    assert await db.write(none) == 0
    assert await ids(db) == [id for id, _, _ in rows]
    with pytest.raises(UniqueViolation):
        await db.write(half)


@pytest.mark.parametrize("ignore_conflicts", [False, True])
async def test_rows_of_which_one_is_refused_leave_nothing_behind(db: Database, ignore_conflicts: bool) -> None:
    async def refused(tx: WriteTx) -> None:
        rows: list[tuple[Any, ...]] = [("a", 1, None), ("b", None, None), ("c", 3, None)]  # a size may not be missing
        try:
            await tx.insert_rows("notes", COLUMNS, rows, ignore_conflicts=ignore_conflicts)
        except Exception:
            return  # a body that swallows it changes nothing about it

    async def beside(tx: WriteTx) -> int:
        return await tx.insert_rows("notes", COLUMNS, [("beside", 4, None)])

    outcomes = await asyncio.gather(db.write(refused), db.write(beside), db.write(refused), return_exceptions=True)
    assert isinstance(outcomes[0], Exception)
    assert outcomes[1] == 1
    assert isinstance(outcomes[2], Exception)
    assert await ids(db) == ["beside"]


async def test_execute_counts_the_rows_it_changed(db: Database) -> None:
    async def body(tx: WriteTx) -> list[int]:
        await tx.execute_many(INSERT, [{"id": id, "size": 1, "body": None} for id in "abc"])
        return [
            await tx.execute("UPDATE notes SET size = 2 WHERE id <> :id", id="a"),
            await tx.execute("UPDATE notes SET size = 3 WHERE id = :id", id="zz"),
            await tx.execute("INSERT INTO notes (id) VALUES (:id) ON CONFLICT DO NOTHING", id="a"),
            await tx.execute("DELETE FROM notes WHERE size = :size", size=2),
        ]

    assert await db.write(body) == [2, 0, 0, 2]


async def test_a_statement_for_each_row_counts_all_that_it_changed(db: Database) -> None:
    async def body(tx: WriteTx) -> list[int]:
        await tx.execute_many(INSERT, [{"id": id, "size": 1, "body": None} for id in "abc"])
        update = "UPDATE notes SET size = :new WHERE id = :id AND size = :old"
        return [
            await tx.execute_each(update, [(2, "a", 1), (2, "b", 1)]),
            await tx.execute_each(update, [(3, "a", 2), (3, "b", 1), (3, "zz", 1)]),
            await tx.execute_each(update, []),
        ]

    assert await db.write(body) == [2, 1, 0]


async def test_a_single_statement_is_a_transaction_by_itself(db: Database) -> None:
    async def add(tx: WriteTx) -> int:
        return await tx.execute(INSERT, id="a", size=1, body=None)

    commits = db.stats.commits
    assert await db.write(add, single=True) == 1
    assert db.stats.commits == commits + 1
    with pytest.raises(UniqueViolation):
        await db.write(add, single=True)
    assert await ids(db) == ["a"]


async def test_text_for_one_engine_reaches_only_that_one(db: Database) -> None:
    async def body(tx: ReadTx) -> Any:
        return await tx.fetch_value("SELECT /*sqlite: 'sqlite' */ /*postgres: 'postgres' */ FOR UPDATE")

    assert await db.write(body) == db.engine


# --- beside each other ---


@pytest.mark.parametrize("snapshot", [True, False])
async def test_a_read_body_sees_one_state_unless_it_says_that_it_need_not(
    db: Database, database_url: str, snapshot: bool
) -> None:
    other = None if db.engine == "sqlite" else await asyncpg.connect(database_url)

    async def body(tx: ReadTx) -> tuple[int, int]:
        first = await tx.fetch_value("SELECT count(*) FROM notes")
        if other is None:
            with closing(apsw.Connection(database_url.removeprefix("sqlite:///"))) as file:
                file.execute("INSERT INTO notes (id) VALUES ('a')")
        else:
            await other.execute("INSERT INTO notes (id) VALUES ('a')")
        return first, await tx.fetch_value("SELECT count(*) FROM notes")

    assert await db.read(body, snapshot=snapshot) == ((0, 0) if snapshot else (0, 1))
    assert await ids(db) == ["a"]
    if other is not None:
        await other.close()


async def test_a_write_that_waits_too_long_for_a_lock_is_unavailable_and_writes_nothing(
    db: Database, open_db: Open
) -> None:
    await db.write(add("a"))
    impatient = await open_db(lock_timeout_seconds=0.1)
    pause = Pause()

    async def hold(tx: WriteTx) -> None:
        await tx.execute("UPDATE notes SET size = 1 WHERE id = 'a'")
        await pause.here(tx)

    async def late(tx: WriteTx) -> None:
        await tx.execute(INSERT, id="b", size=0, body=None)
        await tx.execute("UPDATE notes SET size = size + 10 WHERE id = 'a'")

    holding = asyncio.ensure_future(db.write(hold))
    await pause.reached()
    with pytest.raises(Unavailable) as raised:
        await impatient.write(late)
    assert raised.value.retry_after_seconds > 0
    pause.end()
    await holding
    assert await ids(db) == ["a"]
    await available(lambda: impatient.write(late))
    assert await ids(db) == ["a", "b"]


async def test_who_comes_to_a_full_queue_is_turned_away_and_the_queue_moves_on(open_db: Open, db: Database) -> None:
    narrow = await open_db(queue_limit=2, pool_size=1, sqlite_readers=1)
    pause = Pause()
    holding = asyncio.ensure_future(narrow.write(add_and_hold("0", pause)))
    await pause.reached()
    queued = [asyncio.ensure_future(narrow.write(add(id))) for id in "12"]
    await until_waiting(narrow, 2)
    with pytest.raises(Unavailable):
        await narrow.write(add("3"))
    assert narrow.stats.refused == 1
    pause.end()
    await asyncio.gather(holding, *queued)
    assert await ids(db) == ["0", "1", "2"]


async def test_a_caller_who_gives_up_leaves_the_database_whole(open_db: Open, db: Database) -> None:
    narrow = await open_db(pool_size=1)
    pause = Pause()
    holding = asyncio.ensure_future(narrow.write(add_and_hold("held", pause)))
    await pause.reached()
    given_up = asyncio.ensure_future(narrow.write(add("given up")))
    await until_waiting(narrow, 1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    holding.cancel()
    pause.end()
    with pytest.raises(asyncio.CancelledError):
        await holding
    await narrow.write(add("next"))
    assert "given up" not in await ids(db)
    assert "next" in await ids(db)


async def test_a_statement_that_takes_too_long_is_unavailable_and_undoes_its_body(open_db: Open, db: Database) -> None:
    hasty = await open_db(statement_timeout_seconds=0.1)

    async def read(tx: ReadTx) -> Any:
        return await tx.fetch_value(ENDLESS)

    async def write(tx: WriteTx) -> Any:
        await tx.execute(INSERT, id="a", size=0, body=None)
        return await tx.fetch_value(ENDLESS)

    with pytest.raises(Unavailable):
        await hasty.read(read)
    with pytest.raises(Unavailable):
        await hasty.write(write)
    assert await ids(db) == []
    assert await available(lambda: ids(hasty)) == []


# --- open and closed ---


async def test_an_open_database_answers_and_a_closed_one_is_unavailable(open_db: Open) -> None:
    database = await open_db()
    await database.ping()
    await database.close()
    with pytest.raises(Unavailable):
        await database.ping()
    with pytest.raises(Unavailable):
        await database.write(add("a"))


async def test_close_waits_for_the_bodies_that_run(open_db: Open, db: Database) -> None:
    database = await open_db()
    pause = Pause()
    holding = asyncio.ensure_future(database.write(add_and_hold("a", pause)))
    await pause.reached()
    closing = asyncio.ensure_future(database.close())
    await checkpoint()
    assert not closing.done()
    pause.end()
    await asyncio.gather(holding, closing)
    assert await ids(db) == ["a"]
