"""PostgreSQL through asyncpg: bodies run on the event loop, each over a connection of the pool.

A write body costs `BEGIN`, its statements and `COMMIT`; a deadlock, a serialization failure or a connection lost before
the commit runs it again. Nothing of a body that ended in an error is ever committed.
"""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from hapta.db.database import (
    BackupUnsupported,
    Columns,
    Database,
    DatabaseStats,
    Param,
    ReadTx,
    Row,
    UniqueViolation,
    WriteTx,
)
from hapta.db.postgres_pool import ERRORS, Connection, Pool
from hapta.db.statements import PostgresStatement, PostgresStatements, insert_for_postgres
from hapta.kit.clock import Clock
from hapta.kit.errors import Invalid, Unavailable
from hapta.settings import DatabaseSettings

T = TypeVar("T")

MAX_ATTEMPTS = 3
STATEMENT_CACHE = 512
CONNECT_SECONDS = 5.0
SCRIPT_SECONDS = 24 * 3600.0
"""A migration may take long, and may wait long for another process that migrates."""

_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError)


class _Again(Exception):
    """The transaction was undone through nobody's fault; the same body may succeed now."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__("the connection was lost" if lost else "a deadlock or a serialization failure")
        self.lost = lost


async def open_postgres(settings: DatabaseSettings, clock: Clock) -> PostgresDatabase:
    """Opens a pool and proves it with one connection.

    Raises:
        Unavailable: PostgreSQL cannot be reached or refuses us; the message says why.
    """
    statement_ms = int(settings.statement_timeout_seconds * 1000)
    server_settings = {
        "application_name": "hapta",
        "default_transaction_isolation": "read committed",
        "lock_timeout": str(int(settings.lock_timeout_seconds * 1000)),
        "statement_timeout": str(statement_ms),
        "idle_in_transaction_session_timeout": str(statement_ms),
        "jit": "off",  # short statements: compiling them costs more than it saves
        "timezone": "UTC",
    }

    untyped: Any = asyncpg

    async def connect_one() -> Connection:
        return await untyped.connect(
            settings.url,
            timeout=CONNECT_SECONDS,
            # The server's own time-out comes first; this one is for a network that swallows answers.
            command_timeout=settings.statement_timeout_seconds + CONNECT_SECONDS,
            server_settings=server_settings,
            statement_cache_size=STATEMENT_CACHE,
            max_cached_statement_lifetime=0,
        )

    stats = DatabaseStats()
    pool = Pool(
        connect_one,
        clock,
        stats,
        max_size=settings.pool_size,
        queue_limit=settings.queue_limit,
        wait_seconds=settings.lock_timeout_seconds,
    )
    try:
        pool.release(await pool.acquire(), discard=False)
    except Unavailable as error:
        raise Unavailable(f"PostgreSQL cannot be used: {error.__cause__}") from error
    return PostgresDatabase(pool, stats)


def _translated(error: Exception, connection: Connection) -> Exception:
    match error:
        case asyncpg.UniqueViolationError():
            return UniqueViolation(str(error))
        case asyncpg.LockNotAvailableError():
            return Unavailable("The data is locked by somebody else")
        case asyncpg.QueryCanceledError():
            return Unavailable("The database took too long")
        case asyncpg.InsufficientResourcesError():
            return Unavailable("The database is short of resources", retry_after_seconds=5.0)
        case asyncpg.CharacterNotInRepertoireError():
            return Invalid("Text must not contain the character U+0000")
        case _ if isinstance(error, _AGAIN):
            return _Again(lost=False)
        case _ if isinstance(error, _LOST) or connection.is_closed():
            return _Again(lost=True)
        case _:
            return error


class PostgresReadTx(ReadTx):
    """Statements over one connection."""

    engine = "postgres"

    def __init__(self, connection: Connection, statements: PostgresStatements) -> None:
        self._connection = connection
        self._statements = statements
        self.failure: Exception | None = None
        """What spoiled this transaction (or that it has ended); it refuses everything from then on."""

    def _compiled(self, sql: str) -> PostgresStatement:
        if self.failure is not None:
            raise self.failure
        return self._statements[sql]

    def _fail(self, error: Exception) -> Exception:
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError) and isinstance(self, WriteTx):
            # The server became a standby: a new connection may reach the new primary.
            self.failure = _Again(lost=True)
        else:
            self.failure = _translated(error, self._connection)
        return self.failure

    async def fetch_all(self, sql: str, **params: Param) -> list[Row]:
        text, names = self._compiled(sql)
        try:
            records = await self._connection.fetch(text, *[params[name] for name in names])
        except ERRORS as error:
            raise self._fail(error) from error
        return [tuple(record) for record in records]

    async def fetch_one(self, sql: str, **params: Param) -> Row | None:
        text, names = self._compiled(sql)
        try:
            record = await self._connection.fetchrow(text, *[params[name] for name in names])
        except ERRORS as error:
            raise self._fail(error) from error
        return None if record is None else tuple(record)


class PostgresWriteTx(PostgresReadTx, WriteTx):
    """Statements of a write transaction."""

    async def execute(self, sql: str, **params: Param) -> int:
        text, names = self._compiled(sql)
        try:
            return _rows_of(await self._connection.execute(text, *[params[name] for name in names]))
        except ERRORS as error:
            raise self._fail(error) from error

    async def execute_many(self, sql: str, rows: Sequence[dict[str, Param]]) -> None:
        text, names = self._compiled(sql)
        try:
            await self._connection.executemany(text, [[row[name] for name in names] for row in rows])
        except ERRORS as error:
            raise self._fail(error) from error

    async def execute_each(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        text, _ = self._compiled(sql)
        try:
            return sum([_rows_of(await self._connection.execute(text, *row)) for row in rows])
        except ERRORS as error:
            raise self._fail(error) from error

    async def insert_rows(
        self, table: str, columns: Columns, rows: Sequence[Sequence[Param]], *, ignore_conflicts: bool = False
    ) -> int:
        if self.failure is not None:
            raise self.failure
        if not rows:
            return 0
        sql = insert_for_postgres(table, tuple(columns), ignore_conflicts)
        try:
            return _rows_of(await self._connection.execute(sql, *map(list, zip(*rows, strict=True))))
        except ERRORS as error:
            raise self._fail(error) from error

    async def run_script(self, sql: str) -> None:
        """Runs many statements; for migrations only."""
        if self.failure is not None:
            raise self.failure
        try:
            # The last word is ours: asyncpg stumbles over a script that holds nothing but comments.
            await self._connection.execute(f"{sql}\n;SELECT 1", timeout=SCRIPT_SECONDS)
        except ERRORS as error:
            raise self._fail(error) from error


def _rows_of(status: str) -> int:
    """The count in a command tag such as `INSERT 0 3` or `UPDATE 1`."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


_ENDED = RuntimeError("this transaction has ended: a body must not hand it out")


class PostgresDatabase(Database):
    """See `Database`. Made by `open_postgres`."""

    engine = "postgres"

    def __init__(self, pool: Pool, stats: DatabaseStats) -> None:
        self.stats = stats
        self._pool = pool
        self._statements = PostgresStatements()

    @property
    def waiting(self) -> int:
        return self._pool.waiting

    async def read(self, body: Callable[[ReadTx], Awaitable[T]], *, snapshot: bool = True) -> T:
        self.stats.reads += 1
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if snapshot else None
        return await self._run(body, PostgresReadTx, begin)

    async def write(
        self,
        body: Callable[[WriteTx], Awaitable[T]],
        *,
        single: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        self.stats.writes += 1
        running = self._run(body, PostgresWriteTx, None if single else "BEGIN")
        if meanwhile is None:
            return await running
        task = asyncio.ensure_future(running)
        await asyncio.sleep(0)  # its first statement is on its way
        meanwhile()
        return await task

    async def _run(self, body: Callable[[Any], Awaitable[T]], kind: type[PostgresReadTx], begin: str | None) -> T:
        attempt = 1
        while True:
            try:
                return await self._attempt(body, kind, begin)
            except _Again as error:
                if attempt == MAX_ATTEMPTS:
                    self.stats.unavailable += 1
                    raise Unavailable(f"The database gave up: {error}") from error
                self.stats.retries += 1
                attempt += 1
            except Unavailable:
                self.stats.unavailable += 1
                raise

    async def _attempt(self, body: Callable[[Any], Awaitable[T]], kind: type[PostgresReadTx], begin: str | None) -> T:
        connection = await self._pool.acquire()
        settled = False  # whether the connection is known to be outside of a transaction
        try:
            tx = kind(connection, self._statements)
            try:
                if begin is not None:
                    await _control(connection, begin)
                value = await body(tx)
                if tx.failure is not None:
                    raise tx.failure
            except Exception as error:
                if begin is not None and not connection.is_closed():
                    await _control(connection, "ROLLBACK")
                settled = not any(isinstance(cause, _Again) and cause.lost for cause in (error, tx.failure))
                if kind is PostgresWriteTx and begin is None and not settled:
                    raise _unknown_outcome() from error
                # A body may dress up a failed statement as its own error, but not one that nobody is to blame for.
                if tx.failure is not error and isinstance(tx.failure, (_Again, Unavailable)):
                    raise tx.failure from error
                raise
            finally:
                tx.failure = _ENDED
            if begin is not None:
                await self._commit(connection)
            elif kind is PostgresWriteTx:
                self.stats.commits += 1
            settled = True
            return value
        finally:
            self._pool.release(connection, discard=not settled)

    async def _commit(self, connection: Connection) -> None:
        try:
            status = await connection.execute("COMMIT")
        except ERRORS as error:
            translated = _translated(error, connection)
            if isinstance(translated, _Again) and translated.lost:
                raise _unknown_outcome() from error
            raise translated from error
        if status != "COMMIT":
            raise Unavailable("The database undid the transaction")
        self.stats.commits += 1

    async def backup(self, target: Path) -> None:
        raise BackupUnsupported("a PostgreSQL database is backed up with pg_dump or its own continuous archiving")

    async def close(self) -> None:
        await self._pool.close()


def _unknown_outcome() -> Unavailable:
    """Committed or not: nobody can tell any more. The caller's idempotent retry will find out."""
    return Unavailable("The connection was lost during the commit")


async def _control(connection: Connection, sql: str) -> None:
    try:
        await connection.execute(sql)
    except ERRORS as error:
        raise _translated(error, connection) from error
