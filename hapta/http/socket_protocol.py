"""uvicorn's WebSocket protocol with four additions of ours: frames that are written at once, a sign of life, less memory at rest, and
bounds for what a peer can send below the frames that anybody counts.

What uvicorn sends goes through a coroutine and an encoder for each socket. Whoever tells thousands of sockets the same hands over
the bytes of the frame instead (`hapta.http.sockets.SocketLine`). And an idle socket holds neither its handshake nor the five
deques of asyncio's queue and events.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import OPEN

from hapta.http.sockets import SOCKET_LINE

_PING = b"\x89\x00"
MAX_FRAGMENTS = 4096
"""Of one message. Empty ones count against no size, and no reader is told of them."""


class _Inbox:
    """A queue without a bound for one reader, as far as uvicorn uses one."""

    __slots__ = ("_items", "_reader")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, item: Any) -> None:
        self._items.append(item)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def empty(self) -> bool:
        return not self._items

    async def get(self) -> Any:
        while not self._items:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._items.pop(0)


class _Gate:
    """An event that is almost always set, as far as uvicorn uses one."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed: asyncio.Event | None = None

    def is_set(self) -> bool:
        return self._closed is None

    def set(self) -> None:
        if self._closed is not None:
            self._closed.set()
            self._closed = None

    def clear(self) -> None:
        if self._closed is None:
            self._closed = asyncio.Event()

    async def wait(self) -> None:
        while self._closed is not None:
            await self._closed.wait()


class DirectSocketProtocol(WebSocketsSansIOProtocol):
    """Implements `SocketLine`; the edge finds it in the scope."""

    heard_at = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = cast(Any, self)
        own.queue = _Inbox()
        own.writable = _Gate()
        self._has_handshake = True

    def data_received(self, data: bytes) -> None:
        """Remembers that the peer lives, and forgets how it came here."""
        self.heard_at = self.loop.time()
        if self._has_handshake and self.handshake_complete:
            self._has_handshake = False
            vars(self).pop("request", None)
            vars(self).pop("response", None)
        super().data_received(data)

    def handle_ping(self) -> None:
        """Answers, unless the peer does not take what was answered before: what it does not read would fill the memory."""
        answer = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(answer)

    def handle_cont(self, event: Frame) -> None:
        """A further fragment of a message."""
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.frames = []
            self.conn.fail(CloseCode.POLICY_VIOLATION, "too many fragments")
            self.handle_parser_exception()

    async def run_asgi(self) -> None:
        """Serves the socket, which finds its line in the scope."""
        scope = cast(dict[str, Any], self.scope)
        scope[SOCKET_LINE] = self
        try:
            await super().run_asgi()
        finally:
            scope.pop(SOCKET_LINE, None)  # or the two would hold each other until the collector comes by

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the codec's reader, which waits in the middle of its work and holds the whole connection: thousands that leave
        at once shall leave their memory at once."""
        super().connection_lost(exc)
        self.conn.parser.close()

    def push(self, frame: bytes) -> bool:
        """See `SocketLine`. The codec below keeps no account of data that is sent whole, so nothing has to go through it."""
        if (
            not self.handshake_complete
            or self.close_sent
            or self.disconnected
            or not self.writable.is_set()
            or self.conn.state is not OPEN
            or self.conn.extensions
        ):
            return False
        self.transport.write(frame)
        return True

    def ping(self) -> None:
        """See `SocketLine`. A pong needs no look at what it carries: any byte of the peer is a sign of life."""
        self.push(_PING)

    def abort(self) -> None:
        """See `SocketLine`."""
        self.transport.abort()
