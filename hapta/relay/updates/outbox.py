"""The way out of one socket: at once where the connection takes it, else in order behind what waits already.

What waits is bounded. Nothing exists at rest but the object itself: no task, no queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from hapta.http.sockets import Disconnected, Socket
from hapta.relay.updates.frames import Text

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Outbox:
    """What is on its way to a socket.

    Args:
        spawn: begins a short-lived task that somebody minds.
        max_bytes, max_frames: of what waits.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_frames", "_sender", "_socket", "_spawn", "_waiting")

    def __init__(self, socket: Socket, spawn: Spawn, *, max_bytes: int, max_frames: int) -> None:
        self._socket = socket
        self._spawn = spawn
        self._max_bytes = max_bytes
        self._max_frames = max_frames
        self._waiting: deque[Text] | None = None
        self._bytes = 0
        self._sender: asyncio.Task[None] | None = None

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def put(self, text: Text) -> bool:
        """Sends soon.

        Returns:
            False: the peer reads too slowly, and this one has no room.
        """
        if self._waiting is None:
            if self._socket.push(text.wire):
                return True
            self._waiting = deque()
        if len(self._waiting) >= self._max_frames or self._bytes + len(text.data) > self._max_bytes:
            return False
        self._waiting.append(text)
        self._bytes += len(text.data)
        if self._sender is None:
            self._sender = self._spawn(self._send_waiting())
        return True

    def drop(self) -> None:
        """Forgets what waits: the socket ends."""
        if self._waiting is not None:
            self._waiting.clear()
            self._bytes = 0
        if self._sender is not None:
            self._sender.cancel()

    async def flushed(self) -> None:
        """Returns when nothing waits any more."""
        if self._sender is not None:
            await asyncio.wait((self._sender,))

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                text = self._waiting.popleft()
                await self._socket.send_text(text.text)
                self._bytes = max(0, self._bytes - len(text.data))
        except Disconnected:
            pass  # whoever receives from the socket learns it too
        finally:
            self._sender = None
            self._waiting = None
            self._bytes = 0
