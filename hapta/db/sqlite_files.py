"""The SQLite file itself: how connections are opened, how the write-ahead log is kept short, how a copy is taken.

Every pragma that matters is stated here, so that no default of some SQLite build decides about durability.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from time import sleep
from typing import Any, Protocol, cast

import apsw


class Cursor(Protocol):
    """What we use of an apsw cursor; its own type leaves the rows partly unknown."""

    def fetchall(self) -> list[tuple[Any, ...]]: ...
    def fetchone(self) -> tuple[Any, ...] | None: ...
    def close(self, force: bool, /) -> None: ...


class Connection(Protocol):
    """What we use of an apsw connection."""

    @property
    def in_transaction(self) -> bool: ...
    def execute(self, sql: str, bindings: Any = None, /) -> Cursor: ...
    def executemany(self, sql: str, bindings: Iterable[Any], /) -> Cursor: ...
    def changes(self) -> int: ...
    def total_changes(self) -> int: ...
    def set_busy_timeout(self, milliseconds: int, /) -> None: ...
    def set_progress_handler(self, handler: Callable[[], bool] | None, steps: int, /) -> None: ...
    def set_wal_hook(self, hook: Callable[[Any, str, int], int] | None, /) -> None: ...
    def wal_checkpoint(self, dbname: str | None = None, mode: int = 0) -> tuple[int, int]: ...
    def backup(self, target: str, source: Any, name: str, /) -> Any: ...
    def close(self) -> None: ...


WRITER_CACHE_KIB = 8 * 1024
READER_CACHE_KIB = 4 * 1024
STATEMENT_CACHE = 256
_WAL_WAIT_MS = 10
CHECKPOINT_PAGES = 2000
"""Growth of the write-ahead log, in pages of 4 KiB, after which the checkpointer works beside the writer: once for each such
stretch, as it flushes the disk twice and every commit beside it waits for that. Pages that were written again and again within
a stretch are moved once, so a longer one is less work; a shorter one keeps commits waiting for less at a time."""
RESET_PAGES = 4 * CHECKPOINT_PAGES
"""Length from which the writer finishes a checkpoint however much there is left to do."""


def create_private_file(path: Path) -> None:
    """Makes the database file and its folder for this user only; SQLite gives its log files the same rights."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def open_writer(path: Path, synchronous: str, busy_ms: int) -> Connection:
    """The connection that writes."""
    connection = _open(path, apsw.SQLITE_OPEN_READWRITE, busy_ms, WRITER_CACHE_KIB)
    _keep_wal(connection, busy_ms)
    # FULL: a commit is on the disk before it is acknowledged. NORMAL: a power cut may take the last commits back.
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the Checkpointer does it, outside of commits
    connection.execute("PRAGMA journal_size_limit = 67108864")  # a log that grew under load gives its disk space back
    return connection


def _keep_wal(connection: Connection, busy_ms: int) -> None:
    """Writes to the file, if it is new, that it has a write-ahead log: readers never wait for the writer.

    Two processes that begin with the same new file both want to. SQLite lets neither of them wait for the other's lock there, as both
    hold one already; so the waiting is done here.
    """
    for waits_left in reversed(range(busy_ms // _WAL_WAIT_MS + 1)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if not waits_left:
                raise
            sleep(_WAL_WAIT_MS / 1000)
        else:
            return


def open_reader(path: Path, busy_ms: int) -> Connection:
    """A connection that cannot write."""
    connection = _open(path, apsw.SQLITE_OPEN_READONLY, busy_ms)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, flags: int) -> Connection:
    return cast(Connection, apsw.Connection(str(path), flags=flags, statementcachesize=STATEMENT_CACHE))


def _open(path: Path, flags: int, busy_ms: int, cache_kib: int = READER_CACHE_KIB) -> Connection:
    # NOMUTEX: each connection belongs to one thread, so SQLite need not lock it.
    connection = _connect(path, flags | apsw.SQLITE_OPEN_NOMUTEX)
    connection.set_busy_timeout(busy_ms)  # how long to wait for a lock that another process holds
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")  # an upper bound; a small database takes what it is
    connection.execute("PRAGMA mmap_size = 0")  # a read error of a mapped file would kill the process (SIGBUS)
    connection.execute("PRAGMA temp_store = MEMORY")  # sorting leaves no plain copies of rows in temporary files
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


class Checkpointer:
    """Moves the write-ahead log into the database file, on its own thread and connection.

    A checkpoint beside the writer delays no commit, but under constant load it never catches up with the end of the log, and only
    a finished one lets the log start over. So right after it, between two batches, the writer does the rest itself: what was
    written meanwhile, which is little. A log that starts over also makes commits cheaper: as long as its file grows, each flush has to
    write the file's length as well (measured: 0.2 ms of 0.7 for a commit of 26 pages).
    """

    def __init__(self, path: Path, writer: Connection) -> None:
        self._path = path
        self._writer = writer
        self._pages = 0
        self._moved = 0  # length of the log when it was last moved into the file
        self._due = threading.Event()
        self._rest_due = False
        self._closing = False
        writer.set_wal_hook(self._committed)
        self._thread = threading.Thread(target=self._run, name="hapta-db-checkpoint", daemon=True)
        self._thread.start()

    def _committed(self, _connection: object, _name: str, pages: int) -> int:
        self._pages = pages
        if pages < self._moved:  # the log started over
            self._moved = 0
        if pages - self._moved >= CHECKPOINT_PAGES and not self._due.is_set():
            self._moved = pages
            self._due.set()
        return apsw.SQLITE_OK

    def between_batches(self) -> None:
        """Called by the writer thread after each batch."""
        if self._rest_due:
            self._rest_due = False
            _checkpoint(self._writer)

    def _run(self) -> None:
        connection: Connection | None = None
        while self._due.wait() and not self._closing:
            self._due.clear()
            if connection is None:
                connection = _open(self._path, apsw.SQLITE_OPEN_READWRITE, 0)
            _checkpoint(connection)
            # Where as much again was written meanwhile, once more beside the writer, so that it pauses only for a little.
            self._rest_due = not self._due.is_set() or self._pages >= RESET_PAGES
        if connection is not None:
            connection.close()

    def close(self) -> None:
        self._closing = True
        self._due.set()
        self._thread.join()


def _checkpoint(connection: Connection) -> None:
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.Error:
        return  # another checkpoint runs, or the disk is in trouble, which the next commit will report


def copy_database(source: Path, target: Path) -> None:
    """Copies a database that is in use: one snapshot, under its name only when it is complete and on disk.

    Raises:
        FileExistsError: `target` is there already.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    create_private_file(part)
    try:
        reading = _open(source, apsw.SQLITE_OPEN_READONLY, 5000)
        writing = _connect(part, apsw.SQLITE_OPEN_READWRITE)
        try:
            with writing.backup("main", reading, "main") as backup:
                while not backup.done:
                    backup.step(-1)  # all pages in one step: later writes cannot make it start over
            writing.execute("PRAGMA journal_mode = DELETE")  # the copy is one file, without a log beside it
        finally:
            writing.close()
            reading.close()
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
