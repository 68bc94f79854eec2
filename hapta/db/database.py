"""`Database`: the one seam to SQL. A *body* is an `async def` that takes a transaction and awaits nothing else.

On PostgreSQL the body runs on the event loop over a pooled connection. On SQLite the same coroutine is driven to its
end on a database thread, in one hop, and bodies that wait there share a commit. That works because a body may await only the
methods of its transaction: no sleep, no HTTP, no lock. Whoever breaks the rule gets a RuntimeError on SQLite at once.
A body may run twice (PostgreSQL: deadlock or serialization failure), so it must not change anything outside.

SQL is written once for both engines: named parameters (`:user`), lists as `= any(:ids::text[])`, instants as
`bigint` Unix milliseconds, binary as `bytea`, flags as `bigint` 0/1. Rows come back as tuples in column order.
`statements.py` lists all that may be written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Engine = Literal["sqlite", "postgres"]
Param = str | int | float | bytes | None | Sequence[str] | Sequence[int] | Sequence[bytes]
Row = tuple[Any, ...]
Columns = Sequence[tuple[str, str]]
"""Columns of a bulk insert with their SQL types: `[("stream_id", "text"), ("sequence", "bigint")]`."""


class ReadTx(ABC):
    """One consistent snapshot: all statements of a read body see the same state of the database."""

    engine: Engine

    @abstractmethod
    async def fetch_all(self, sql: str, **params: Param) -> list[Row]: ...

    @abstractmethod
    async def fetch_one(self, sql: str, **params: Param) -> Row | None: ...

    async def fetch_value(self, sql: str, **params: Param) -> Any:
        """The first column of the first row; None when there is no row."""
        row = await self.fetch_one(sql, **params)
        return None if row is None else row[0]


class WriteTx(ReadTx):
    """A write transaction. A statement that fails spoils it: whatever the body does next, nothing of it is committed
    (write `on conflict` where a conflict is normal). Every statement sees what was committed before it (READ COMMITTED on PostgreSQL, so that a
    statement after a row lock sees what the previous holder of that lock wrote); SQLite has one writer at a time."""

    @abstractmethod
    async def execute(self, sql: str, **params: Param) -> int:
        """Runs one statement; the number of rows it changed."""

    @abstractmethod
    async def execute_many(self, sql: str, rows: Sequence[dict[str, Param]]) -> None:
        """Runs one statement for each set of parameters."""

    @abstractmethod
    async def execute_each(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        """As `execute_many`, and counts: cheap on SQLite, a round trip for each row on PostgreSQL.

        Args:
            rows: values in the order in which the statement's parameters first appear in it.

        Returns:
            The number of rows changed by all of them together.
        """

    @abstractmethod
    async def insert_rows(
        self, table: str, columns: Columns, rows: Sequence[Sequence[Param]], *, ignore_conflicts: bool = False
    ) -> int:
        """Inserts many rows with a number of statement parameters that does not grow with them.

        Returns the number of rows really inserted (fewer than given only with `ignore_conflicts`).
        """


class Database(ABC):
    """A database that is open. Made by `connect()`, closed by `close()`.

    Errors, of both calls: `Unavailable` on lock or statement time-out, lost connection or a full queue, with nothing
    written; `UniqueViolation` when a body lets one escape; whatever the body raises rolls back and is raised again.
    """

    engine: Engine
    stats: DatabaseStats

    @abstractmethod
    async def read(self, body: Callable[[ReadTx], Awaitable[T]], *, snapshot: bool = True) -> T:
        """Runs `body` on one snapshot.

        Args:
            snapshot: False for a body of a single statement: it is a snapshot by itself, and PostgreSQL saves the round
                trips of a transaction. With more statements each one sees what was committed before it began.
        """

    @abstractmethod
    async def write(
        self,
        body: Callable[[WriteTx], Awaitable[T]],
        *,
        single: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """Runs `body` in one write transaction; returns only after the commit is durable as configured.

        Args:
            single: for a body that is a single statement on PostgreSQL: a transaction by itself, which saves round trips. What
                the body raises after it undoes nothing there, so it may raise only where the statement wrote nothing.
            meanwhile: may be called on the event loop while the database keeps others waiting (SQLite: for the flush of the commit), to
                prepare what the caller will need. It must not raise, nor tell anybody: nothing is committed yet.
        """

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Bodies that wait for a thread or a connection now."""

    async def ping(self) -> None:
        """Comes back when the database answers a query; raises Unavailable when it does not."""
        await self.read(_ping, snapshot=False)

    @abstractmethod
    async def backup(self, target: Path) -> None:
        """Writes a consistent copy of the whole database to `target` while it stays in use.

        Raises:
            FileExistsError: `target` is there already.
            BackupUnsupported: the engine has its own tool for it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Lets running bodies end, then closes everything. Later calls raise Unavailable."""


@dataclass(slots=True)
class DatabaseStats:
    """Counters since the database was opened, for the metrics page."""

    reads: int = 0
    writes: int = 0
    """Write bodies that were run, committed or not."""
    commits: int = 0
    """Transactions: on SQLite one commit carries many write bodies."""
    retries: int = 0
    """Bodies run again after a deadlock or a serialization failure."""
    refused: int = 0
    """Calls turned away because too many waited already."""
    unavailable: int = 0
    """Bodies that ended in Unavailable for any other reason."""
    lock_wait_seconds: float = 0.0
    """Time spent waiting for the write lock (SQLite) or for a connection of the pool (PostgreSQL)."""


class BackupUnsupported(Exception):
    """This engine is not backed up by Hapta."""


class UniqueViolation(Exception):
    """A unique constraint refused a row."""


async def _ping(tx: ReadTx) -> None:
    await tx.fetch_value("SELECT 1")
