"""SQLite: one writer thread with group commit, and readers, each with its own connection to one WAL file.

All write bodies that wait at a moment share one transaction, each in its own savepoint, and hear of their success only after
that transaction's commit: what is acknowledged is on disk. A read body is first tried in place on the event loop, which
costs less than waking a thread; when its small budget of time is spent, it starts over on a reader thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar, cast

import apsw

from hapta.db.database import Columns, Database, DatabaseStats, Param, ReadTx, Row, UniqueViolation, WriteTx
from hapta.db.sqlite_files import (
    Checkpointer,
    Connection,
    Cursor,
    copy_database,
    create_private_file,
    open_reader,
    open_writer,
)
from hapta.db.statements import SqliteStatement, SqliteStatements, insert_for_sqlite
from hapta.kit.background import settle
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.settings import DatabaseSettings

T = TypeVar("T")

MAX_BATCH = 256
"""Write bodies that share one commit at most."""
BATCH_SECONDS = 0.05
"""A batch stops taking further bodies after this time, so that the first of it need not wait for slow ones behind it."""
ROWS_PER_INSERT = 32
"""Rows that `insert_rows` hands to SQLite in one call: each call gives the interpreter lock away and must win it back."""

READ_BUDGET_SECONDS = 0.001
"""Time that a read body may take on the event loop before it moves to a thread."""
READ_BUDGET_STEPS = 50
"""Steps of SQLite's machine between two looks at that budget: a key look-up takes about twenty."""
READ_PENALTY = 50
"""Calls of a body that go to a thread at once after one of them has spent its budget."""
READS_IN_A_ROW = 32
"""Reads after which the event loop gets a turn."""

_UNIQUE = frozenset({apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY, apsw.SQLITE_CONSTRAINT_ROWID})
_AWAY = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.NoMemError,
    apsw.InterruptError,
    apsw.CantOpenError,
    apsw.ProtocolError,
)


async def open_sqlite(path: Path, settings: DatabaseSettings, clock: Clock) -> SqliteDatabase:
    """Opens (and creates, readable by this user only) the database file `path`.

    Raises:
        Unavailable: the file cannot be opened, or another process holds it.
    """
    database = SqliteDatabase(path, settings, clock, asyncio.get_running_loop())
    await asyncio.to_thread(database.open)
    return database


def _unavailable(error: Exception) -> Unavailable:
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return Unavailable("The database is locked by another process")
        case apsw.FullError():
            return Unavailable("The database's disk is full", retry_after_seconds=30.0)
        case apsw.InterruptError():
            return Unavailable("The database took too long")
        case _:
            return Unavailable("The database is temporarily unavailable")


def _translated(error: apsw.Error) -> Exception:
    if isinstance(error, apsw.ConstraintError) and cast(Any, error).extendedresult in _UNIQUE:
        return UniqueViolation(str(error))
    return _unavailable(error) if isinstance(error, _AWAY) else error


_UNTYPED: Any = apsw  # for what its stubs leave partly unknown
_ARRAY_FLAGS = {"text": apsw.SQLITE_CARRAY_TEXT, "bytea": apsw.SQLITE_CARRAY_BLOB, "bigint": apsw.SQLITE_CARRAY_INT64}


def _bind_lists(statement: SqliteStatement, params: dict[str, Any]) -> None:
    for name, kind in statement.lists:
        values: Sequence[Any] | None = params[name]
        if not values:
            params[name] = None  # an array binding needs a member; carray(NULL) has no rows
        elif kind == "bigint":
            params[name] = _UNTYPED.carray(memoryview(_int64s(values)), flags=_ARRAY_FLAGS[kind])
        else:
            params[name] = _UNTYPED.carray(tuple(values), flags=_ARRAY_FLAGS[kind])


def _int64s(values: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


class Session:
    """A connection on its thread, with the deadline of the body that runs there now."""

    def __init__(self, connection: Connection, clock: Clock, timeout_seconds: float, steps: int = 100_000) -> None:
        self.connection = connection
        self.statements = SqliteStatements()
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._deadline = 0.0
        self._watching = False
        self.late = False
        # Asked after so many steps of SQLite's machine; 100,000 are about a millisecond: rare enough to cost nothing.
        connection.set_progress_handler(self._is_late, steps)

    def start(self) -> None:
        """Gives the next body its full time."""
        self.late = False
        self._watching = True
        self._deadline = self._clock.monotonic() + self._timeout_seconds

    def end(self) -> None:
        """The body is over: what follows (commit, rollback) must not be interrupted, or the connection would be left inside
        its transaction. `late` still tells how the body fared."""
        self._watching = False

    def take_all_time(self) -> None:
        """Lifts the deadline of the body that runs now: a migration may take long."""
        self._deadline = float("inf")

    def _is_late(self) -> bool:
        if not self._watching:
            return False
        self.late = self.late or self._clock.monotonic() > self._deadline
        return self.late


class SqliteReadTx(ReadTx):
    """Methods are coroutines only in form: none of them ever suspends."""

    engine = "sqlite"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection
        self.failure: Exception | None = None
        """What spoiled this transaction (or that it has ended); it refuses everything from then on."""

    def _run(self, sql: str, params: dict[str, Any]) -> Cursor:
        if self.failure is not None:
            raise self.failure
        statement = self._session.statements[sql]
        if statement.lists:
            _bind_lists(statement, params)
        return self._connection.execute(statement.text, params)

    def _fail(self, error: apsw.Error) -> Exception:
        self.failure = _translated(error)
        return self.failure

    async def fetch_all(self, sql: str, **params: Param) -> list[Row]:
        try:
            return self._run(sql, params).fetchall()
        except apsw.Error as error:
            raise self._fail(error) from error

    async def fetch_one(self, sql: str, **params: Param) -> Row | None:
        try:
            cursor = self._run(sql, params)
            row = cursor.fetchone()
            cursor.close(True)  # a statement left open would hold the snapshot
            return row
        except apsw.Error as error:
            raise self._fail(error) from error


class SqliteWriteTx(SqliteReadTx, WriteTx):
    """The writer's transaction, or one savepoint of it."""

    async def execute(self, sql: str, **params: Param) -> int:
        try:
            self._run(sql, params).close(True)
        except apsw.Error as error:
            raise self._fail(error) from error
        return self._connection.changes() if self._session.statements[sql].counted else 0

    async def execute_many(self, sql: str, rows: Sequence[dict[str, Param]]) -> None:
        if self.failure is not None:
            raise self.failure
        statement = self._session.statements[sql]
        if statement.lists:
            rows = [dict(row) for row in rows]
            for row in rows:
                _bind_lists(statement, cast(dict[str, Any], row))
        try:
            self._connection.executemany(statement.text, rows).close(True)
        except apsw.Error as error:
            raise self._fail(error) from error

    async def execute_each(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        if self.failure is not None:
            raise self.failure
        before = self._connection.total_changes()
        try:
            self._connection.executemany(self._session.statements[sql].text, rows).close(True)
        except apsw.Error as error:
            raise self._fail(error) from error
        return self._connection.total_changes() - before

    async def insert_rows(
        self, table: str, columns: Columns, rows: Sequence[Sequence[Param]], *, ignore_conflicts: bool = False
    ) -> int:
        if self.failure is not None:
            raise self.failure
        names = tuple(name for name, _ in columns)
        inserted = 0
        try:
            for start in range(0, len(rows), ROWS_PER_INSERT):
                chunk = rows[start : start + ROWS_PER_INSERT]
                sql = insert_for_sqlite(table, names, len(chunk), ignore_conflicts)
                self._connection.execute(sql, list(chain.from_iterable(chunk))).close(True)
                inserted += self._connection.changes()
        except apsw.Error as error:
            raise self._fail(error) from error
        return inserted

    async def run_script(self, sql: str) -> None:
        """Runs many statements without a deadline; for migrations only."""
        self._session.take_all_time()
        try:
            self._connection.execute(sql).close(True)
        except apsw.Error as error:
            raise self._fail(error) from error


class Job(NamedTuple):
    """A body that waits for a thread."""

    body: Callable[[Any], Awaitable[Any]]
    future: asyncio.Future[Any]
    snapshot: bool
    meanwhile: Callable[[], None] | None = None


class Outcome(NamedTuple):
    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None


_ENDED = RuntimeError("this transaction has ended: a body must not hand it out")
_SUSPENDED = "a database body may await only the methods of its transaction; await everything else outside"


def drive(body: Callable[[Any], Awaitable[T]], tx: SqliteReadTx) -> T:
    """Runs a body to its end on this thread. A statement that failed is raised even if the body swallowed it.

    Raises:
        RuntimeError: the body awaited something other than its transaction.
    """
    try:
        steps = body(tx).__await__()
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
        else:
            cast(Any, steps).close()
            raise RuntimeError(_SUSPENDED)
        if tx.failure is not None:
            raise tx.failure
        return value
    finally:
        tx.failure = _ENDED


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


class SqliteDatabase(Database):
    """See `Database`. Made by `open_sqlite`."""

    engine = "sqlite"

    def __init__(self, path: Path, settings: DatabaseSettings, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self.stats = DatabaseStats()
        self._settings = settings
        self._clock = clock
        self._loop = loop
        self._reads: SimpleQueue[Job | None] = SimpleQueue()
        self._writes: SimpleQueue[Job | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._delivery_due = False
        self._flushes = settings.sqlite_synchronous == "FULL"  # else a commit keeps nobody waiting
        self._threads: list[threading.Thread] = []
        self._loop_thread = threading.get_ident()
        self._here: Session | None = None
        self._penalties: dict[object, int] = {}
        self._checkpointer: Checkpointer | None = None
        self._closed = False

    def open(self) -> None:
        """Opens the connections and starts the threads. Runs off the event loop: a first open may replay a WAL."""
        busy_ms = int(self._settings.lock_timeout_seconds * 1000)
        try:
            create_private_file(self.path)
            writer = open_writer(self.path, self._settings.sqlite_synchronous, busy_ms)
            here = open_reader(self.path, busy_ms=0)  # 0: the event loop never waits for a lock
            readers = [open_reader(self.path, busy_ms) for _ in range(max(1, self._settings.sqlite_readers))]
        except (apsw.Error, OSError) as error:
            raise Unavailable(f"The database file cannot be opened: {error}") from error
        self._here = Session(here, self._clock, READ_BUDGET_SECONDS, READ_BUDGET_STEPS)
        self._checkpointer = Checkpointer(self.path, writer)
        self._start("hapta-db-write", self._write_loop, writer)  # the first one; see `_end_threads`
        for number, reader in enumerate(readers):
            self._start(f"hapta-db-read-{number}", self._read_loop, reader)

    def _start(self, name: str, loop: Callable[[Session], None], connection: Connection) -> None:
        session = Session(connection, self._clock, self._settings.statement_timeout_seconds)
        thread = threading.Thread(target=loop, args=(session,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def waiting(self) -> int:
        return self._reads.qsize() + self._writes.qsize()

    async def read(self, body: Callable[[ReadTx], Awaitable[T]], *, snapshot: bool = True) -> T:
        self._refuse_when_closed_or_nested()
        self.stats.reads += 1
        if self.stats.reads % READS_IN_A_ROW == 0:
            await asyncio.sleep(
                0
            )  # reads in place never yield by themselves: a loop of them would keep all others waiting
            self._refuse_when_closed_or_nested()
        code = getattr(body, "__code__", type(body))  # the same for all closures that one `def` makes
        penalty = self._penalties.get(code, 0)
        if penalty:
            self._penalties[code] = penalty - 1
        elif self._here is not None:
            here = self._here
            value, error = self._read(here, body, snapshot)
            if error is None:
                return value
            if not here.late and not isinstance(error, Unavailable):
                raise error
            if here.late:
                self._penalties[code] = READ_PENALTY
        return await self._submit(self._reads, body, snapshot)

    def _refuse_when_closed_or_nested(self) -> None:
        if self._closed:
            raise Unavailable("The database is closed")
        if threading.get_ident() != self._loop_thread:  # called from inside a body
            raise RuntimeError(_SUSPENDED)

    async def write(
        self,
        body: Callable[[WriteTx], Awaitable[T]],
        *,
        single: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        self._refuse_when_closed_or_nested()
        return await self._submit(self._writes, body, True, meanwhile)

    def _submit(
        self,
        queue: SimpleQueue[Job | None],
        body: Callable[[Any], Awaitable[Any]],
        snapshot: bool,
        meanwhile: Callable[[], None] | None = None,
    ) -> asyncio.Future[Any]:
        if queue.qsize() >= self._settings.queue_limit:
            self.stats.refused += 1
            raise Unavailable("Too many requests wait for the database")
        future: asyncio.Future[Any] = self._loop.create_future()
        queue.put(Job(body, future, snapshot, meanwhile))
        return future

    # -- reader threads

    def _read_loop(self, session: Session) -> None:
        while (job := self._reads.get()) is not None:
            if not job.future.cancelled():
                value, error = self._read(session, job.body, job.snapshot)
                if isinstance(error, Unavailable):
                    self.stats.unavailable += 1
                self._deliver([Outcome(job.future, value, error)])
        self._reads.put(None)  # for the next reader
        session.connection.close()

    def _read(
        self, session: Session, body: Callable[[Any], Awaitable[Any]], snapshot: bool
    ) -> tuple[Any, BaseException | None]:
        connection = session.connection
        try:
            if not snapshot:
                session.start()
                return drive(body, SqliteReadTx(session)), None
            connection.execute("BEGIN")
            session.start()  # not before: what opens and ends the transaction must not be interrupted
            try:
                return drive(body, SqliteReadTx(session)), None
            finally:
                session.end()
                if connection.in_transaction:
                    connection.execute("COMMIT")
        except apsw.Error as error:
            return None, _translated(error)
        except BaseException as error:  # the boundary of a thread: whatever a body raises belongs to its caller
            return None, error
        finally:
            session.end()

    def _failed(self, job: Job, error: BaseException) -> Outcome:
        if isinstance(error, apsw.Error):
            error = _translated(error)
        if isinstance(error, Unavailable):
            self.stats.unavailable += 1
        return Outcome(job.future, None, error)

    # -- the writer thread

    def _write_loop(self, session: Session) -> None:
        pending: deque[Job] = deque()
        closing = False
        while True:
            if not pending:
                job = None if closing else self._writes.get()
                if job is None:
                    break
                pending.append(job)
            while len(pending) < MAX_BATCH and not closing:
                try:
                    job = self._writes.get_nowait()
                except Empty:
                    break
                if job is None:
                    closing = True
                else:
                    pending.append(job)
            self._deliver(self._commit_batch(session, pending))
            if self._checkpointer is not None:
                self._checkpointer.between_batches()
        session.connection.close()

    def _commit_batch(self, session: Session, pending: deque[Job]) -> list[Outcome]:
        """Takes bodies off `pending`, runs them in one transaction and commits it."""
        connection = session.connection
        outcomes: list[Outcome] = []
        meanwhile: list[Callable[[], None]] = []
        job: Job | None = None  # the one that runs, until its outcome is there
        began = self._clock.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            outcomes = [self._failed(job, error) for job in pending]
            pending.clear()
            return outcomes
        started = self._clock.monotonic()
        self.stats.lock_wait_seconds += started - began
        savepoints = len(pending) > 1
        try:
            while pending and self._clock.monotonic() - started < BATCH_SECONDS:
                job = pending.popleft()
                if job.future.cancelled():
                    continue
                outcomes.append(self._write(session, job, savepoints))
                if job.meanwhile is not None:
                    meanwhile.append(job.meanwhile)
                job = None
                if not connection.in_transaction:
                    # SQLite itself rolls all back when the disk is full or a write breaks
                    return self._undone(outcomes, Unavailable("The database had to undo a shared transaction"))
            if meanwhile and self._flushes:
                self._on_loop(_call_all, meanwhile)
            connection.execute("COMMIT")
        except apsw.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if (
                job is not None
            ):  # its savepoint could not be made or ended; whoever waits for it must hear of it as well
                outcomes.append(self._failed(job, error))
            return self._undone(outcomes, _translated(error))
        self.stats.commits += 1
        return outcomes

    def _write(self, session: Session, job: Job, savepoint: bool) -> Outcome:
        self.stats.writes += 1
        session.start()
        connection = session.connection
        if savepoint:
            connection.execute("SAVEPOINT body")
        try:
            outcome = Outcome(job.future, drive(job.body, SqliteWriteTx(session)), None)
        except BaseException as error:  # the boundary of the thread: whatever a body raises belongs to its caller
            session.end()
            if connection.in_transaction:
                # Alone in its transaction the body is undone by the start of the whole, which then commits nothing.
                connection.execute("ROLLBACK TO body" if savepoint else "ROLLBACK")
                connection.execute("RELEASE body" if savepoint else "BEGIN")
            return self._failed(job, error)
        session.end()
        if savepoint:
            connection.execute("RELEASE body")
        return outcome

    def _undone(self, outcomes: list[Outcome], error: Exception) -> list[Outcome]:
        """The same outcomes once nothing of them was committed; a body that failed by itself keeps its own error."""
        if not isinstance(error, Unavailable) and len(outcomes) > 1:
            error = Unavailable("The database could not commit a shared transaction")
        self.stats.unavailable += sum(1 for outcome in outcomes if outcome.error is None)
        return [
            outcome if outcome.error is not None else outcome._replace(value=None, error=error) for outcome in outcomes
        ]

    # -- back on the event loop

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Called on a database thread. One wake-up of the loop carries everything that is ready by then."""
        self._outcomes.extend(outcomes)
        if not self._delivery_due:
            self._delivery_due = True
            self._on_loop(self._hand_over)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop was closed without close(): nobody is left to hear of it

    def _hand_over(self) -> None:
        self._delivery_due = False  # before the queue is emptied: what comes later wakes the loop again
        while self._outcomes:
            settle(*self._outcomes.popleft())

    async def backup(self, target: Path) -> None:
        await asyncio.to_thread(copy_database, self.path, target)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._here is not None:
            self._here.connection.close()
        await asyncio.to_thread(self._end_threads)

    def _end_threads(self) -> None:
        """Readers first: only a last connection that may write moves the log into the file, so that this holds everything."""
        writer, *readers = self._threads or (None,)
        self._reads.put(None)
        for reader in readers:
            reader.join()
        if self._checkpointer is not None:
            self._checkpointer.close()
        self._writes.put(None)
        if writer is not None:
            writer.join()
