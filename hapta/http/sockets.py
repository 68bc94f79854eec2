"""A WebSocket as handlers see it: text and bytes in and out, close codes, and nothing of ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, Protocol

Message = dict[str, Any]

SOCKET_LINE = "hapta.socket_line"
"""Where the edge finds the `SocketLine` of a socket in its scope; servers that are not ours do not put one there."""


class SocketLine(Protocol):
    """The connection below a socket, for whoever sends the same frame to thousands: no task, no waiting, no encoding."""

    heard_at: float
    """When the peer was last heard, in the seconds of the event loop."""

    async def take(self) -> Message | str:
        """The next message as ASGI has it; one of text may be the text alone."""
        ...

    def push(self, frame: bytes) -> bool:
        """Sends a whole frame, without waiting for anything, at the end of this turn of the event loop.

        Returns:
            False: it has to go the usual way, which waits for a slow reader. Nothing was sent.
        """
        ...

    def ping(self) -> None:
        """Sends a ping, which every WebSocket answers by itself (RFC 6455 section 5.5.2)."""
        ...

    def abort(self) -> None:
        """Cuts the connection of a peer that takes nothing any more."""
        ...


def text_frame(data: bytes) -> bytes:
    """An unmasked text frame as servers send it (RFC 6455 section 5.2).

    Args:
        data: UTF-8.
    """
    size = len(data)
    if size < 126:
        return bytes((0x81, size)) + data
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data


class Disconnected(Exception):
    """The peer is gone, or the server closes. `code` is the close code (RFC 6455 section 7.4)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


Answered = Callable[["Socket", int], None]
"""Is told the status that a handshake was answered with."""


class Socket:
    """One WebSocket connection. Not for two tasks to receive from at once; sending from several is fine."""

    __slots__ = (
        "_answered",
        "_can_answer",
        "_receive",
        "_send",
        "_state",
        "began",
        "client_address",
        "headers",
        "line",
        "path",
        "query_string",
        "request_id",
    )

    def __init__(
        self,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        headers: Mapping[bytes, bytes],
        query_string: bytes,
        client_address: str,
        request_id: str,
        *,
        can_answer: bool = False,
        line: SocketLine | None = None,
        path: str = "",
        answered: Answered | None = None,
    ) -> None:
        self.line = line
        self.began = perf_counter()
        self.path = path
        self._answered = answered
        self._receive = receive
        self._send = send
        self._can_answer = can_answer
        self._state = "connecting"
        self.headers = headers
        self.query_string = query_string
        self.client_address = client_address
        self.request_id = request_id

    @property
    def open(self) -> bool:
        """Whether frames can be sent."""
        return self._state == "open"

    async def accept(self, subprotocol: str | None = None) -> None:
        """Completes the handshake.

        Raises:
            Disconnected: the peer went away before.
        """
        message = await self._receive()
        if message["type"] != "websocket.connect":
            raise self._gone(message)
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        self._state = "open"
        self._tell(101)

    def _tell(self, status: int) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(self, status)

    async def refuse(self, status: int, body: str, media_type: str = "text/plain; charset=utf-8") -> None:
        """Answers the handshake with a plain HTTP answer in place of an open socket.

        A server that cannot do that (ASGI extension `websocket.http.response`) says 403.
        """
        if not self._can_answer:
            await self.close(1008)
            return
        self._state = "closed"
        await self._receive()  # the connect message must be taken first
        content = body.encode()
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-request-id", self.request_id.encode()),
        ]
        await self._quietly({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._quietly({"type": "websocket.http.response.body", "body": content})
        self._tell(status)

    def push(self, frame: bytes) -> bool:
        """Sends a whole frame without waiting; see `SocketLine.push`. False where there is no line."""
        return self.line is not None and self._state == "open" and self.line.push(frame)

    async def receive(self) -> str | bytes:
        """The next frame's payload.

        Raises:
            Disconnected: there is no next frame.
        """
        if self._state == "closed":
            raise Disconnected(1006)
        message = await (self._receive() if self.line is None else self.line.take())
        if isinstance(message, str):
            return message
        if message["type"] != "websocket.receive":
            raise self._gone(message)
        text = message.get("text")
        return text if text is not None else message["bytes"]

    async def send_text(self, text: str) -> None:
        """Sends a text frame; waits while the peer's buffer is full.

        Raises:
            Disconnected: the peer is gone.
        """
        await self._deliver({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """Sends a binary frame; see `send_text`."""
        await self._deliver({"type": "websocket.send", "bytes": data})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes with a code; does nothing on a socket that is closed already."""
        if self._state == "closed":
            return
        was_open, self._state = self._state == "open", "closed"
        if not was_open:
            await self._receive()  # the connect message must be taken before it may be refused
        await self._quietly({"type": "websocket.close", "code": code, "reason": reason})
        if not was_open:
            self._tell(403)  # which is what servers make of it (ASGI, "Close - send event")

    async def _deliver(self, message: Message) -> None:
        if self._state != "open":
            raise Disconnected(1006)
        try:
            await self._send(message)
        except (
            OSError,
            RuntimeError,
        ) as gone:  # uvicorn raises ClientDisconnected (OSError), or RuntimeError after a close
            self._state = "closed"
            raise Disconnected(1006) from gone

    async def _quietly(self, message: Message) -> None:
        try:
            await self._send(message)
        except (OSError, RuntimeError):
            return

    def _gone(self, message: Message) -> Disconnected:
        self._state = "closed"
        return Disconnected(message.get("code", 1006))
