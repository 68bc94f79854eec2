"""uvicorn's WebSocket protocol with additions of ours: frames that are written without waiting, short ways in for handshakes and
plain text, a sign of life, less memory at rest, and bounds for what a peer can send below the frames that anybody counts.

What uvicorn sends goes through a coroutine and an encoder for each socket, and what it receives through a parser made of
generators. Whoever tells thousands of sockets the same hands over the bytes of the frame instead
(`hapta.http.sockets.SocketLine`), and a text that came whole is unmasked where it lies. And an idle socket holds neither its
handshake nor the five deques of asyncio's queue and events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import (
    CloseCode,
    Frame,
    apply_mask,  # pyright: ignore[reportPrivateImportUsage]  (in C, or what stands in for it)
)
from websockets.protocol import OPEN, Protocol
from websockets.streams import StreamReader

from hapta.http import handshakes
from hapta.http.sockets import SOCKET_LINE, Message

_PING = b"\x89\x00"
MAX_FRAGMENTS = 4096
"""Of one message. Empty ones count against no size, and no reader is told of them."""
MAX_JOINED_BYTES = 16 * 1024
"""What is pushed within one turn of the loop is written together up to this size, and then at once."""
_WHOLE_TEXT = 0x81
"""First byte of a text that is not fragmented, without reserved bits (RFC 6455 section 5.2)."""
_LONGEST_SHORT_WAY = 0xFFFF
_BETWEEN_FRAMES = StreamReader.at_eof.__code__
"""Where the codec waits for the first byte of a frame."""


class _Inbox:
    """A queue without a bound for one reader, as far as uvicorn and `DirectSocketProtocol.take` use one."""

    __slots__ = ("items", "reader")

    def __init__(self) -> None:
        self.items: list[Message | str] = []
        self.reader: asyncio.Future[None] | None = None

    def put_nowait(self, item: Message | str) -> None:
        self.items.append(item)
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)


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


class _Turn:
    """The sockets of one event loop that were pushed frames in this turn of it: one callback writes for all of them."""

    __slots__ = ("__weakref__", "_sockets")

    def __init__(self) -> None:
        self._sockets: deque[DirectSocketProtocol] = deque()

    def add(self, socket: DirectSocketProtocol) -> None:
        if not self._sockets:
            socket.loop.call_soon(self._write, socket.loop)
        self._sockets.append(socket)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._sockets:
                self._sockets.popleft().write_unsent()
        finally:
            if self._sockets:  # one that fails takes nothing from the others
                loop.call_soon(self._write, loop)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()


class DirectSocketProtocol(WebSocketsSansIOProtocol):
    """Implements `SocketLine`; the edge finds it in the scope."""

    heard_at = 0.0
    queue: _Inbox

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = cast(Any, self)
        self.queue = _Inbox()  # pyright: ignore[reportIncompatibleVariableOverride]
        own.writable = _Gate()
        own.logger = own.conn.logger = handshakes.FAULTS
        own.conn.debug = False
        self._has_handshake = True
        self._accept = b""
        self._is_between_frames = False
        self._unsent = b""
        self._turn = _turns.get(self.loop) or _turns.setdefault(self.loop, _Turn())

    # -- in --------------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Remembers that the peer lives, and forgets how it came here. Takes whole texts itself, up to the first frame that is
        anything else; the codec sees that one and what follows, and never less than what it does not know yet."""
        self.heard_at = self.loop.time()
        if not self.handshake_initiated and self._begin(data):
            return
        if self._has_handshake and self.handshake_complete:
            self._has_handshake = False
            vars(self).pop("request", None)
            vars(self).pop("response", None)
        if self.conn.state is OPEN and (self._is_between_frames or self._codec_rests()):
            taken = self._take_texts(data)
            self._is_between_frames = taken == len(data)
            if self._is_between_frames:
                return
            if taken:
                data = data[taken:]
        else:
            self._is_between_frames = False
        super().data_received(data)

    def _begin(self, head: bytes) -> bool:
        """Takes a plain handshake; False: the codec has to read it."""
        codec = self.conn
        plain = None if codec.reader.buffer or codec.available_extensions else handshakes.read(head)
        if plain is None:
            return False
        self._accept = plain.accept
        self.handshake_initiated = True
        # The codec goes on where it would be after the handshake.
        self.conn.parser.close()
        self.conn.parser = Protocol.parse(self.conn)
        next(self.conn.parser)
        scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(plain.path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + plain.path,
            "query_string": plain.query_string,
            "headers": plain.headers,
            "subprotocols": [],
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.scope = cast(Any, scope)
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)
        return True

    def _codec_rests(self) -> bool:
        """Whether a plain text that comes now would leave the codec as it is: it has seen all of every frame and message before."""
        codec = self.conn
        if codec.extensions or codec.debug or codec.current_size is not None or codec.reader.buffer:
            return False
        if codec.max_fragment_size is not None or not _takes(codec.max_message_size, _LONGEST_SHORT_WAY):
            return False
        waits = cast(Any, codec.parser)
        while (inner := waits.gi_yieldfrom) is not None:
            waits = inner
        return waits.gi_code is _BETWEEN_FRAMES

    def _take_texts(self, data: bytes) -> int:
        """Takes the whole, unfragmented, masked texts that the data begin with (RFC 6455 sections 5.2 and 5.3).

        Returns:
            Their size. What is left is for the codec: it is of another kind, incomplete, long, or not as it should be.
        """
        inbox = self.queue
        at, end = 0, len(data)
        while end - at >= 6 and data[at] == _WHOLE_TEXT:
            length, begins = data[at + 1] - 0x80, at + 6
            if length == 126 and end - at >= 8:
                length, begins = data[at + 2] << 8 | data[at + 3], at + 8
            elif not 0 <= length < 126:  # not masked, longer, or cut off in the middle of its length
                break
            ends = begins + length
            if ends > end:
                break
            try:
                text = apply_mask(data[begins:ends], data[begins - 4 : begins]).decode()
            except UnicodeDecodeError:
                break
            inbox.put_nowait(text)
            at = ends
        # One text, and somebody about to take it: all others make the peer wait.
        if at and not self.read_paused and (inbox.reader is None or len(inbox.items) > 1):
            self.read_paused = True
            self.transport.pause_reading()
        return at

    async def take(self) -> Message | str:
        """See `SocketLine`."""
        inbox = self.queue
        while not inbox.items:
            inbox.reader = self.loop.create_future()
            try:
                await inbox.reader
            finally:
                inbox.reader = None
        item = inbox.items.pop(0)
        if self.read_paused and not inbox.items:
            self.read_paused = False
            self.transport.resume_reading()
        return item

    async def receive(self) -> Any:
        """The next message, as ASGI has it."""
        item = await self.take()
        return {"type": "websocket.receive", "text": item} if isinstance(item, str) else item

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

    def handle_close(self, event: Frame) -> None:
        """The peer closes: it hears first what was pushed before."""
        self.write_unsent()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """The peer broke the protocol."""
        self.write_unsent()
        super().handle_parser_exception()

    def shutdown(self) -> None:
        """The server stops."""
        self.write_unsent()
        super().shutdown()

    # -- the application -------------------------------------------------------------------------------------------------

    async def run_asgi(self) -> None:
        """Serves the socket, which finds its line in the scope."""
        scope = cast(dict[str, Any], self.scope)
        scope[SOCKET_LINE] = self
        try:
            await super().run_asgi()
        finally:
            scope.pop(SOCKET_LINE, None)  # or the two would hold each other until the collector comes by
            self._end_step()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of the codec's reader, which waits in the middle of its work and holds the whole connection: thousands that leave
        at once shall leave their memory at once."""
        self._unsent = b""
        super().connection_lost(exc)
        self.conn.parser.close()
        self._end_step()

    def _end_step(self) -> None:
        # When thousands leave in one turn of the loop, they come back in the same moment.
        step: Callable[[], None] | None = getattr(self.loop, "step", None)
        if step is not None:
            step()

    # -- out -------------------------------------------------------------------------------------------------------------

    def push(self, frame: bytes) -> bool:
        """See `SocketLine`. The codec below keeps no account of data that is sent whole, so nothing has to go through it.

        Writing costs more than all else of a small message, so that what one turn of the loop pushes leaves in one piece, after it.
        """
        if self._unsent:
            self._unsent += frame
        elif (
            not self.handshake_complete
            or self.close_sent
            or self.disconnected
            or not self.writable.is_set()
            or self.conn.state is not OPEN
            or self.conn.extensions
        ):
            return False
        else:
            self._unsent = frame
            self._turn.add(self)
        if len(self._unsent) >= MAX_JOINED_BYTES:
            self.write_unsent()
        return True

    def write_unsent(self) -> None:
        """Writes what was pushed. Whoever writes anything else than a control frame calls it before, as order counts."""
        unsent, self._unsent = self._unsent, b""
        if unsent and not self.transport.is_closing():
            self.transport.write(unsent)

    async def send(self, message: Any) -> None:
        """Sends what the application hands over as ASGI has it, after what was pushed before."""
        while self._unsent or not self.writable.is_set():
            await self.writable.wait()
            self.write_unsent()
        if self._accept and not self.handshake_complete and message["type"] == "websocket.accept":
            self._open(message)
        else:
            await super().send(message)

    def _open(self, message: Any) -> None:
        """Answers a plain handshake."""
        if self.disconnected or self.initial_response is not None:
            raise ClientDisconnected
        headers = [*self.default_headers, *[(name.lower(), value) for name, value in message.get("headers", ())]]
        head = handshakes.answer(self._accept, headers, message.get("subprotocol"))
        self._accept = b""
        self._has_handshake = False
        if not self.transport.is_closing():
            self.handshake_complete = True
            self.conn.state = OPEN
            self.transport.write(head)
            self.start_keepalive()

    def ping(self) -> None:
        """See `SocketLine`. A pong needs no look at what it carries: any byte of the peer is a sign of life."""
        self.push(_PING)

    def abort(self) -> None:
        """See `SocketLine`."""
        self.transport.abort()


def _takes(max_size: int | None, size: int) -> bool:
    return max_size is None or max_size >= size
