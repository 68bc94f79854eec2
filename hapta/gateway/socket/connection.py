"""One connection: whose it is, what it sends and when it ends. It knows nothing of what messages mean.

Frames go out one after the other, in the order in which they were handed over; whoever hands one over waits until the peer has room
for it. So nothing piles up here but what work is under way, and of that there is a bounded amount: a peer that does not read is
not read from either, and is closed when it takes nothing for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Protocol

from hapta.gateway.limits.slots import Stream
from hapta.gateway.models import NOBODY, Client, Visitor
from hapta.gateway.socket.failures import Failure
from hapta.gateway.socket.protocol import POLICY, Message, answer, refusal
from hapta.http.sockets import Disconnected, Socket
from hapta.kit.background import ended

SEND_SECONDS = 20.0
"""A peer that takes no frame for so long is closed."""
MAX_AT_WORK = 32
"""Messages of one connection that are worked on at a time; the next one is read when one of them is answered."""


class Home(Protocol):
    """Who minds connections."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...


class Connection:
    """One open socket. `Sockets.serve` owns it.

    Args:
        client: its address, and the headers of its handshake.
        now: the monotonic clock's time.
    """

    def __init__(self, home: Home, socket: Socket, client: Client, now: float) -> None:
        self.socket = socket
        self.client = client
        self.visitor: Visitor = NOBODY
        """Who signed in here; what else is known of the session is asked for with each message."""
        self.token = ""
        self.token_ends_at = 0.0
        """Unix time in seconds."""
        self.channel = ""
        """Made by the server at each sign-in, known to this connection alone, and never taken from a client."""
        self.seat: Stream | None = None
        self.opened_at = self.heard_at = self.said_at = now
        self.strikes = 0
        self.flows = 0
        """Sign-ins, uploads and downloads under way."""
        self.ending = False
        self.places = asyncio.Semaphore(MAX_AT_WORK)
        self.gone: list[Callable[[], None]] = []
        """Called when it is over."""
        self._home = home
        self._reader = asyncio.current_task()
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._held = 0
        self._end_later: tuple[int, str] | None = None

    # --- sending ---

    async def deliver(self, frame: str | bytes) -> None:
        """Sends a frame when its turn has come.

        Raises:
            Disconnected: the peer is gone, or was closed meanwhile.
        """
        async with self._sending:
            if self.ending:
                raise Disconnected(1006)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    if isinstance(frame, str):
                        await self.socket.send_text(frame)
                    else:
                        await self.socket.send_bytes(frame)
            except TimeoutError:
                self.end(POLICY, "too slow")
                raise Disconnected(1006) from None

    async def reply(self, message: Message, payload: object, *, type: str = "", **beside: object) -> None:
        """Answers a message. Raises as `deliver`."""
        await self.deliver(answer(message, payload, type=type, **beside))

    async def fail(self, message: Message, failure: Failure, *, type: str = "") -> None:
        """Answers a message with an error. Raises as `deliver`."""
        await self.deliver(refusal(message, failure, type=type))

    # --- work ---

    def spawn(self, work: Coroutine[Any, Any, None], *, to_the_end: bool = False) -> None:
        """Works on something beside the reading.

        Args:
            to_the_end: also when the peer goes away meanwhile, as with a write that is under way.
        """
        if to_the_end:
            self._home.spawn(work)
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the end ---

    def end(self, code: int, reason: str) -> None:
        """Closes the socket; nothing more is sent, not even what waits. Never waits."""
        if self._held:
            self._end_later = self._end_later or (code, reason)
        elif not self.ending:
            self.ending = True
            self._closing = self._home.spawn(self._close(code, reason))

    @contextmanager
    def held(self) -> Generator[None]:
        """While this lasts the socket is not closed: what ends a session is answered before the session's end is heard of."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if not self._held and self._end_later is not None:
                self.end(*self._end_later)

    async def closed(self) -> None:
        """Waits for the close that has begun: whoever returns first closes the socket, and it must be the one that says why."""
        if self._closing is not None:
            await asyncio.wait((self._closing,))

    async def let_go(self) -> None:
        """The socket is gone: ends everything that was done for it."""
        self.ending = True
        for gone in self.gone:
            gone()
        if self.seat is not None:
            self.seat.close()
        await ended(*self._tasks)

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.socket.close(code, reason)
        except TimeoutError:
            pass
        finally:
            # Whoever does not even take the close frame is not waited for.
            if self._reader is not None:
                self._reader.cancel()
