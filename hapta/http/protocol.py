"""uvicorn's HTTP protocol with four additions of ours: a bound on the head of a request, a short way for small answers, a line for
streams, and a word to the application when the server stops.

The parser gathers header lines without any limit, so whoever never ends a header line would fill the memory before the edge sees
anything; here a head that passes the limit is answered 431. And uvicorn checks each header of an answer with two regular
expressions, which costs more than most handlers: an answer that is complete is written in one piece, checked as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_BODY = b'{"error":"The request head is too large","code":"head_too_large"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
HEAD_SECONDS = 30.0
"""Time for the head of a request, from the connection's start or from the head's first bytes. uvicorn's own timer only sees
what is idle between two requests, and whoever never finishes a head would hold his connection for good."""
MAX_WHOLE_BYTES = 256 * 1024
"""Larger answers go the long way, which waits for a slow reader."""

ANSWER = "hapta.answer"
"""Where the edge finds `BoundedHttpProtocol.answer` in the scope of a request; other servers do not put it there."""

LINE = "hapta.line"
"""Where the edge finds the `Line` of a request in its scope."""


class Line(Protocol):
    """The connection below an answer that is streamed: uvicorn sends into the void when the client is gone, and tells nobody."""

    def watch(self, scope: dict[str, Any], lost: Callable[[], None]) -> None:
        """Calls `lost` once when the client goes away before the answer to this request is complete; at once if it has."""
        ...

    def push(self, chunk: bytes) -> bool:
        """Writes a chunk of the answer that is being streamed, without waking its task; for one whose task waits for more to send.

        Returns:
            False: it has to go the usual way, which waits for a slow reader. Nothing was written.
        """
        ...

    def abort(self) -> None:
        """Cuts the connection of somebody who takes nothing any more."""
        ...


Answer = Callable[[dict[str, Any], int, Sequence[tuple[bytes, bytes]], bytes], bool]


class BoundedHttpProtocol(HttpToolsProtocol):
    """The limit of a head comes from uvicorn's `h11_max_incomplete_event_size`, which means the same for its other parser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_head_bytes: int = self.config.h11_max_incomplete_event_size or 32 * 1024
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._watched: Any = None
        self._lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From now on the first head is waited for."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)
        watched, lost = self._watched, self._lost
        self._watched = self._lost = None
        if lost is not None and not watched.response_complete:
            lost()

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_message_begin(self) -> None:
        """A new head starts; what was received before belongs to the request before."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: from here on the edge counts."""
        self._in_head = False
        self._stop_waiting()
        scope = cast(dict[str, Any], self.scope)
        scope[ANSWER] = self.answer
        scope[LINE] = self
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Counts what arrives until the head is whole. One chunk is bounded by the transport, so a check after it will do."""
        super().data_received(data)
        if self._in_head:
            self._wait_for_head()
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def answer(self, scope: dict[str, Any], status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Writes a whole answer at once.

        Args:
            headers: names in lower case; with a `content-length` that is right.

        Returns:
            False when it has to go the long way: a slow reader, a pipelined request, HEAD, or a large body. Nothing was written.
        """
        cycle = self.cycle
        if (
            cast(object, cycle.scope) is not scope
            or cycle.response_started
            or cycle.disconnected
            or self.flow.write_paused
            or len(body) > MAX_WHOLE_BYTES
            or scope["method"] == "HEAD"
        ):
            return False
        lines = [*self.server_state.default_headers, *headers]
        head = b"".join([b"%b: %b\r\n" % line for line in lines])
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise ValueError("a header of the answer holds a line break")
        closing = b"" if cycle.keep_alive else b"connection: close\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], head, closing, b"\r\n", body)))
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def watch(self, scope: dict[str, Any], lost: Callable[[], None]) -> None:
        """See `Line`."""
        cycle = self.cycle
        if cast(object, cycle.scope) is not scope:
            return  # a pipelined request, whose cycle is not the newest one
        if cycle.disconnected:
            lost()
            return
        self._watched, self._lost = cycle, lost

    def push(self, chunk: bytes) -> bool:
        """See `Line`."""
        cycle = self._watched
        if (
            cycle is None
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
            or self.flow.write_paused
        ):
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True

    def abort(self) -> None:
        """See `Line`."""
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: tells the application, so that long polls answer now and not when their time is up."""
        super().shutdown()
        application = cast(Any, self.config).loaded_app
        if hasattr(application, "begin_stop"):
            application.begin_stop()
