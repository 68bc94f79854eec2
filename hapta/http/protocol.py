"""uvicorn's HTTP protocol with three additions of ours: a bound on the head of a request, a short way for small answers, and a
word to the application when the server stops.

The parser gathers header lines without any limit, so whoever never ends a header line would fill the memory before the edge sees
anything; here a head that passes the limit is answered 431. And uvicorn checks each header of an answer with two regular
expressions, which costs more than most handlers: an answer that is complete is written in one piece, checked as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_BODY = b'{"error":"The request head is too large","code":"head_too_large"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
HEAD_SECONDS = 30.0
"""Time for the head of a request, from the connection's start or from the head's first bytes. uvicorn's own timer only sees
what is idle between two requests, and whoever never finishes a head would hold his connection for good."""
MAX_WHOLE_BYTES = 64 * 1024
"""Larger answers go the long way, which waits for a slow reader."""

ANSWER = "hapta.answer"
"""Where the edge finds `BoundedHttpProtocol.answer` in the scope of a request; other servers do not put it there."""

Answer = Callable[[dict[str, Any], int, Sequence[tuple[bytes, bytes]], bytes], bool]


class BoundedHttpProtocol(HttpToolsProtocol):
    """The limit of a head comes from uvicorn's `h11_max_incomplete_event_size`, which means the same for its other parser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_head_bytes: int = self.config.h11_max_incomplete_event_size or 32 * 1024
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From now on the first head is waited for."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

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
        cast(dict[str, Any], self.scope)[ANSWER] = self.answer
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

    def shutdown(self) -> None:
        """The server stops: tells the application, so that long polls answer now and not when their time is up."""
        super().shutdown()
        application = cast(Any, self.config).loaded_app
        if hasattr(application, "begin_stop"):
            application.begin_stop()
