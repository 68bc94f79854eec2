"""uvicorn's HTTP protocol with a bound on the head of a request, and a word to the application when the server stops.

The parser gathers header lines without any limit, so whoever never ends a header line would fill the memory before the
edge sees anything. Here a head that passes the limit is answered 431 and the connection ends (RFC 6585 section 5).
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_BODY = b'{"error":"The request head is too large","code":"head_too_large"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedHttpProtocol(HttpToolsProtocol):
    """The limit comes from uvicorn's `h11_max_incomplete_event_size`, which means the same for its other parser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_head_bytes: int = self.config.h11_max_incomplete_event_size or 32 * 1024
        self._head_bytes = 0
        self._in_head = True

    def on_message_begin(self) -> None:
        """A new head starts; what was received before belongs to the request before."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: from here on the edge counts."""
        self._in_head = False
        super().on_headers_complete()

    def shutdown(self) -> None:
        """The server stops: tells the application, so that long polls answer now and not when their time is up."""
        super().shutdown()
        application = cast(Any, self.config).loaded_app
        if hasattr(application, "begin_stop"):
            application.begin_stop()

    def data_received(self, data: bytes) -> None:
        """Counts what arrives until the head is whole. One chunk is bounded by the transport, so a check after it will do."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()
