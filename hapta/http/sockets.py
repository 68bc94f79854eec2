"""A WebSocket as handlers see it: text and bytes in and out, close codes, and nothing of ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Message = dict[str, Any]


class Disconnected(Exception):
    """The peer is gone, or the server closes. `code` is the close code (RFC 6455 section 7.4)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Socket:
    """One WebSocket connection. Not for two tasks to receive from at once; sending from several is fine."""

    __slots__ = ("_receive", "_send", "_state", "client_address", "headers", "query_string", "request_id")

    def __init__(
        self,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        headers: Mapping[bytes, bytes],
        query_string: bytes,
        client_address: str,
        request_id: str,
    ) -> None:
        self._receive = receive
        self._send = send
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

    async def receive(self) -> str | bytes:
        """The next frame's payload.

        Raises:
            Disconnected: there is no next frame.
        """
        if self._state == "closed":
            raise Disconnected(1006)
        message = await self._receive()
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
