"""A small pool of asyncpg connections: last in, first out, bounded in size, in waiters and in waiting time.

It hands out bare connections (no proxy, no reset query: every body leaves its connection outside of a transaction, and a
connection about which that is not certain is thrown away), and it heals by itself when PostgreSQL was restarted.
"""

# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import asyncpg

from hapta.db.database import DatabaseStats
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable


class Connection(Protocol):
    """What we use of an asyncpg connection, which comes without types."""

    async def fetch(self, sql: str, *args: Any) -> list[Any]: ...
    async def fetchrow(self, sql: str, *args: Any) -> Any: ...
    async def execute(self, sql: str, *args: Any, timeout: float | None = None) -> str: ...
    async def executemany(self, sql: str, args: Sequence[Sequence[Any]], /) -> None: ...
    async def close(self, *, timeout: float | None = None) -> None: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...


CLOSE_SECONDS = 5.0
# The last one is how asyncpg reports a connection that broke while it was busy with the server's last words.
ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)
"""All that a call of asyncpg may raise."""
Grant = Connection | None
"""What a waiter gets: a connection, or None for the right to open one."""


class Pool:
    """`max_size` connections at most; `acquire` waits `wait_seconds` at most, beside `queue_limit` others at most."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        clock: Clock,
        stats: DatabaseStats,
        *,
        max_size: int,
        queue_limit: int,
        wait_seconds: float,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._stats = stats
        self._max_size = max_size
        self._queue_limit = queue_limit
        self._wait_seconds = wait_seconds
        self._size = 0
        self._idle: list[Connection] = []
        self._waiters: deque[asyncio.Future[Grant]] = deque()
        self._closed = False
        self._emptied = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    async def acquire(self) -> Connection:
        """A live connection.

        Raises:
            Unavailable: the pool stayed exhausted, too many wait already, or PostgreSQL cannot be reached.
        """
        if self._closed:
            raise Unavailable("The database is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._size -= 1
        if self._size < self._max_size:
            self._size += 1
            return await self._open()
        return await self._wait() or await self._open()

    async def _wait(self) -> Grant:
        if len(self._waiters) >= self._queue_limit:
            self._stats.refused += 1
            raise Unavailable("Too many requests wait for the database")
        waiter: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # granted in the very moment in which we gave up
                self._pass_on(waiter.result())
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise Unavailable("All database connections are busy") from error
            raise
        finally:
            self._stats.lock_wait_seconds += self._clock.monotonic() - began

    async def _open(self) -> Connection:
        """Opens a connection; the caller has counted it already."""
        try:
            return await self._connect()
        except BaseException as error:
            self._pass_on(None)
            if isinstance(error, ERRORS):
                raise Unavailable("The database cannot be reached") from error
            raise

    def release(self, connection: Connection, *, discard: bool) -> None:
        """Takes a connection back, or throws it away where its state is not certain."""
        if discard or self._closed:
            connection.terminate()
        self._pass_on(None if connection.is_closed() else connection)

    def _pass_on(self, grant: Grant) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(grant)
                return
        if grant is None:
            self._size -= 1
            if self._closed and self._size <= 0:
                self._emptied.set()
        else:
            self._idle.append(grant)

    async def close(self) -> None:
        """Refuses newcomers, waits for those who hold a connection, then closes all."""
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            self._size -= 1
            try:
                await connection.close(timeout=CLOSE_SECONDS)
            except ERRORS:
                connection.terminate()  # the server is gone: there is nobody to say goodbye to
        if self._size > 0:
            await self._emptied.wait()
