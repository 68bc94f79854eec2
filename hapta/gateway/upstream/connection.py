"""One kept connection to PocketBase: one exchange at a time, parsed as it arrives, with both sides held back when slow.

aiohttp was measured first: on the same answers it takes three times the processor time of this (167 and 52 us), and a miss
of the cache may cost a millisecond at most. What is here knows only what PocketBase needs: HTTP/1.1, no redirects, no
cookies, no compression.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools

from hapta.gateway.errors import UpstreamBroken
from hapta.kit.errors import HaptaError

MAX_HEAD_BYTES = 64 * 1024
HIGH_BYTES = 256 * 1024
"""Bytes of an answer that may wait for their reader before the connection is read no further."""

_BODILESS = frozenset({204, 304})

RawHeaders = list[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """A connection and the exchange on it.

    Args:
        clock: the loop's time, in seconds.
        lost: called once when the connection is gone.
    """

    def __init__(self, clock: Callable[[], float], lost: Callable[[Connection], None]) -> None:
        self._clock = clock
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self.socket: socket.socket | None = None
        self._parser: Any = None
        self.gone = False
        self.idle_since = 0.0
        self.used = False
        """Whether it had an exchange before: then it may have been closed by the other side without our knowing yet."""
        self._busy = False
        self._full: asyncio.Future[None] | None = None
        """There while the other side takes no more; done when it does again."""
        self._reset()

    # --- an exchange ---

    def _reset(self) -> None:
        self.status = 0
        self.headers: RawHeaders = []
        self.answered = False
        """Whether any byte of the answer has come."""
        self.complete = False
        self.reusable = False
        self.last = 0.0
        """When something last moved, by the clock."""
        self.sending = False
        """Whether more of the request's body is still to come from us."""
        self.endless = False
        """Whether the answer may pause for as long as it likes (an event stream)."""
        self._head_bytes = 0
        self._no_body = False
        self._until_end = True
        self._whole = True
        self._limit: int | None = None
        self._size = 0
        self._chunks: deque[bytes] = deque()
        self._paused = False
        self._failed: HaptaError | None = None
        self._head: asyncio.Future[None] | None = None
        self._more: asyncio.Future[None] | None = None

    def begin(self, head: bytes, *, no_body: bool, whole: bool, limit: int | None) -> asyncio.Future[None]:
        """Starts an exchange by writing a request's head, with its body where that is at hand.

        Args:
            no_body: whether the answer has none whatever its head says (HEAD).
            whole: whether the answer is wanted as one; `limit` bounds it then, in bytes.

        Returns:
            Done when the whole answer is there, or without `whole` its head; or with an error of the gateway.
        """
        if self._busy:
            raise AssertionError("this connection has an exchange under way")
        self._reset()
        self._busy = True
        self._no_body = no_body
        self._whole = whole
        self._limit = limit
        self.last = self._clock()
        # Cheap, and a parser that saw an answer to HEAD would wait for its body.
        self._parser = httptools.HttpResponseParser(self)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = future
        if self._transport is None or self.gone:
            self._fail(UpstreamBroken())
        else:
            self._transport.write(head)
        return future

    def write(self, data: bytes) -> None:
        """Writes more of the request's body; `flushed` says when there may be more still."""
        self.last = self._clock()
        if self._transport is not None and not self.gone:
            self._transport.write(data)

    async def flushed(self) -> None:
        """Returns when the other side took most of what was written."""
        if self._full is not None:
            await asyncio.shield(self._full)

    @property
    def body(self) -> bytes:
        """The whole body, of a complete exchange with `whole`."""
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def silent_since(self, instant: float) -> bool:
        """Whether the other side is the one to move, and has not done so since an instant."""
        if self.last > instant or self.complete or (self.endless and self.status):
            return False
        if self.sending and self._full is None:
            return False
        return self._whole or not self._chunks

    async def chunk(self) -> bytes:
        """The next part of the body; empty at its end.

        Raises:
            UpstreamBroken: the connection was lost before the end.
            UpstreamSlow: nothing came for too long.
        """
        while True:
            if self._chunks:
                data = self._chunks.popleft() if len(self._chunks) == 1 else self._joined()
                self._size = 0
                self.last = self._clock()
                self._read_on()
                return data
            if self.complete:
                return b""
            if self._failed is not None:
                raise self._failed
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    def _read_on(self) -> None:
        if self._paused and self._transport is not None and not self.gone:
            self._paused = False
            self._transport.resume_reading()

    def _joined(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data

    def end(self) -> bool:
        """Ends the exchange; whether the connection may serve another one. It is closed otherwise."""
        self._busy = False
        self.used = True
        self._parser = None
        self._head = self._more = None
        self._chunks.clear()
        if self.complete and self.reusable and not self.gone and self._full is None:
            self._read_on()
            self.idle_since = self._clock()
            return True
        self.abort()
        return False

    def cut_short(self) -> None:
        """The request did not come to its end: nothing else can be said on this connection."""
        self.reusable = False
        self.sending = False

    def fail(self, error: HaptaError) -> None:
        """Ends an exchange under way with that error, and the connection."""
        self._fail(error)
        self.abort()

    def abort(self) -> None:
        """Closes the connection at once; an exchange under way fails."""
        if self._transport is not None and not self.gone:
            self._transport.abort()

    # --- from the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy or self.complete:
            # Nothing was asked: whatever that is, the next answer would be taken for another one's.
            self.abort()
            return
        self.answered = True
        self.last = self._clock()
        if not self.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.status:
                self.fail(UpstreamBroken())
        except httptools.HttpParserUpgrade:
            self.fail(UpstreamBroken())
        except httptools.HttpParserError:
            # After the end of an answer to HEAD, whatever follows does not matter.
            if not self.complete:
                self._fail(UpstreamBroken())
            self.reusable = False
            self.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        if self._busy and not self.complete:
            if exc is None and self.status and self._until_end and not self._failed:
                self._finish()  # the end of the connection is the end of such a body
            else:
                self._fail(UpstreamBroken())
        self._lost(self)

    def pause_writing(self) -> None:
        self._full = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        full, self._full = self._full, None
        self.last = self._clock()
        if full is not None and not full.done():
            full.set_result(None)

    # --- from the parser ---

    def on_message_begin(self) -> None:
        if self.complete:
            # Bytes behind the answer, which nobody asked for.
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status: int = self._parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        self.status = status
        for name, _ in self.headers:
            if name == b"content-length" or name == b"transfer-encoding":
                self._until_end = False
        if self._no_body or status in _BODILESS:
            self._until_end = False
        if self._no_body:
            self.reusable = bool(self._parser.should_keep_alive())
            self._finish()
        elif not self._whole:
            self._tell_head()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._whole:
            if self._limit is not None and self._size > self._limit:
                self.fail(UpstreamBroken("PocketBase's answer is too long."))
            return
        if self._size > HIGH_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if not self.status or self.complete:
            return
        self.reusable = bool(self._parser.should_keep_alive())
        self._finish()

    # --- ends ---

    def _finish(self) -> None:
        self.complete = True
        self._tell_head()
        self._wake()

    def _fail(self, error: HaptaError) -> None:
        if self._failed is None and not self.complete:
            self._failed = error
            head = self._head
            if head is not None and not head.done():
                head.set_exception(error)
            self._wake()

    def _tell_head(self) -> None:
        head = self._head
        if head is not None and not head.done() and self._failed is None:
            head.set_result(None)

    def _wake(self) -> None:
        more = self._more
        if more is not None and not more.done():
            more.set_result(None)
