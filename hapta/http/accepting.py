"""The server's event loop: whoever connects is taken out of the kernel's queue soon, and served in small portions.

uvloop takes one connection in each turn of its loop, so that the kernel's queue, which holds 4,096 as Linux is set, drains no faster
than the handshakes are made. When thousands come back at once it overflows, and whoever is dropped tries again after 1, 3, 7 and 15
seconds. Here they wait in this process, as bare sockets, while connections that are open already have their turn between.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import structlog
import uvloop

TAKEN = 128
"""Connections taken from the kernel at a time; processes that share a listener take turns by it."""
PORTION = 16
"""Connections that begin in one turn of the loop."""
STEPS = 64
"""Ends of sockets, some milliseconds in all."""
MAX_WAITING = 8192
"""Taken and not begun yet; more stay in the kernel."""
PAUSE_SECONDS = 1.0
"""After the system gave no connection, as it does when the process has all the files that it may have."""

Factory = Callable[[], asyncio.BaseProtocol]

_log = structlog.stdlib.get_logger("hapta.http")


class Accepting(asyncio.AbstractServer):
    """One listening socket.

    Args:
        listener: listens already.
        factory: makes the protocol of a connection.
        options: of `connect_accepted_socket`: TLS.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, factory: Factory, options: dict[str, Any]
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._factory = factory
        self._options = options
        self._waiting: deque[socket.socket] = deque()
        self._beginning: set[asyncio.Task[None]] = set()
        self._turn: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._reading = False
        self._closed = False
        listener.setblocking(False)
        self._read()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on; empty once it is closed."""
        return () if self._closed else (self._listener,)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return not self._closed

    def close(self) -> None:
        """Takes no more; whoever was taken and has not begun is let go."""
        if self._closed:
            return
        self._closed = True
        self._stop_reading()
        for handle in (self._turn, self._pause):
            if handle is not None:
                handle.cancel()
        while self._waiting:
            self._waiting.popleft().close()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Returns when no connection is beginning any more; open ones stay."""
        while self._beginning:
            await asyncio.wait(self._beginning)

    # -- taking ----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._pause = None
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._listener, self.take)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._listener)

    def take(self) -> None:
        """Takes whoever waits in the kernel, as far as there is room."""
        if not self._reading:
            return
        waiting = self._waiting
        for _ in range(TAKEN):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionAbortedError:
                continue  # it went away again
            except OSError as error:
                _log.error("no connection can be taken", error=str(error))
                self._stop_reading()
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._read)
                break
            waiting.append(connection)
        if len(waiting) >= MAX_WAITING:
            self._stop_reading()
        if waiting and self._turn is None:
            self._begin()

    # -- beginning -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The next portion."""
        self._turn = None
        waiting = self._waiting
        for _ in range(min(PORTION, len(waiting))):
            task = self._loop.create_task(self._serve(waiting.popleft()))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
        if waiting:
            self._turn = self._loop.call_soon(self._begin)
        if self._pause is None and len(waiting) < MAX_WAITING:
            self._read()

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection, **self._options)
        except OSError:  # it went away before it began, or does not speak TLS
            connection.close()
        except BaseException:
            connection.close()
            raise


class Loop(uvloop.Loop):
    """uvloop, with another way to take connections."""

    def __init__(self) -> None:
        super().__init__()
        self._servers_of_ours: list[Accepting] = []
        self._steps = 0

    def step(self) -> None:
        """Is told of pieces of work of which thousands may fall into one turn: in between, whoever connects is taken."""
        self._steps += 1
        if self._steps >= STEPS:
            self._steps = 0
            for server in self._servers_of_ours:
                server.take()

    async def create_server(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, protocol_factory: Factory, *args: Any, sock: socket.socket | None = None, **options: Any
    ) -> asyncio.AbstractServer:
        """As asyncio has it. Where the socket is handed in it serves at once, and `start_serving` is not known."""
        if sock is None:
            return await super().create_server(protocol_factory, *args, **options)
        sock.listen(options.pop("backlog", socket.SOMAXCONN))
        server = Accepting(self, sock, protocol_factory, options)
        self._servers_of_ours.append(server)
        return server


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The loop of a server; uvicorn is told its name."""
    return cast(asyncio.AbstractEventLoop, Loop())
