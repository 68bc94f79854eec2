"""uvicorn's HTTP protocol with additions of ours: a bound on the head of a request, short ways for bodies that are there and answers
that are whole, a line for streams, and a word to the application when the server stops.

The parser gathers header lines without any limit, so whoever never ends a header line would fill the memory before the edge sees
anything; here a head that passes the limit is answered 431. What uvicorn does for every request is most of what a small one costs,
so less is done here: one timer watches the pauses of a connection, and an answer that is complete is written in one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from hapta.http.repeats import AtOnce, KnownHead

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
COPIED_BYTES = 16 * 1024
"""Up to here one buffer of head and body costs less than two."""

AT_ONCE_BYTES = 64 * 1024
"""A body up to here may be taken without a task: larger ones are not decoded on the event loop."""

ANSWER = "hapta.answer"
"""Where the edge finds `BoundedHttpProtocol.answer` in the scope of a request; other servers do not put it there."""

BODY = "hapta.body"
"""Where the edge finds the `Body` of a request in its scope."""

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


Answer = Callable[[dict[str, Any], int, bytes, bytes], bool]
Body = Callable[[dict[str, Any]], bytes | None]
"""The body of a request that has arrived as a whole, without waiting: once, and instead of `receive`. None: it has to be waited for."""


class Prepared(tuple[tuple[bytes, bytes], ...]):
    """Headers of an answer that is given again and again: as they stand on the wire, they are made once.

    Raises:
        ValueError: see `header_lines`.
    """

    lines: bytes

    def __new__(cls, headers: Iterable[tuple[bytes, bytes]]) -> Self:
        made = super().__new__(cls, headers)
        made.lines = header_lines(tuple(made))
        return made


def header_lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand on the wire.

    Args:
        headers: names in lower case.

    Raises:
        ValueError: one of them holds a line break, and would make headers of its own.
    """
    if type(headers) is Prepared:
        return headers.lines
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise ValueError("a header of the answer holds a line break")
    return lines


def header_pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    """What `header_lines` was made of."""
    pairs = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in pairs]


def _nothing() -> None:
    """What is done on an answer that is over."""


class _Cycle(RequestResponseCycle):
    """uvicorn's state of one request, made with fewer steps; its task leaves the server's set by itself."""

    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    body: Any = b""
    """A body that comes in one piece is that piece; only one of several is put together."""
    body_taken = False
    _event: asyncio.Event | None = None

    def __init__(self, protocol: BoundedHttpProtocol, scope: dict[str, Any], *, keep_alive: bool) -> None:
        # Not uvicorn's own: the class says how a request begins.
        self.scope = scope  # pyright: ignore[reportAttributeAccessIssue] - uvicorn describes it more narrowly
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.access_logger = protocol.access_logger
        self.default_headers = protocol.server_state.default_headers
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = protocol.expect_100_continue
        self.task: asyncio.Task[None] | None = None
        self.tasks = protocol.tasks

    @property
    def message_event(self) -> asyncio.Event:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Something has arrived, or the request is over. Made for those who wait: most bodies are there before anybody asks."""
        event = self._event
        if event is None:
            event = self._event = asyncio.Event()
            if self.body or self.disconnected or self.response_complete or not (self.more_body or self.body_taken):
                event.set()
        return event

    def wake(self) -> None:
        """Tells whoever waits for `message_event`."""
        if self._event is not None:
            self._event.set()

    async def run_asgi(self, app: Any) -> None:
        """Answers the request by the application; one that fails, or ends without an answer, is answered by 500 or cut off."""
        failure: BaseException | None = None
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:  # the boundary of a request, as uvicorn has it
            failure = error
        if failure is not None or not (self.response_complete or self.disconnected):
            self.logger.error("the application failed or gave no whole answer", exc_info=failure)
            if self.response_started:
                self.transport.close()
            else:
                await self.send_500_response()
        self.on_response = _nothing
        if self.task is not None:
            self.tasks.discard(self.task)


class BoundedHttpProtocol(HttpToolsProtocol):
    """The limit of a head comes from uvicorn's `h11_max_incomplete_event_size`, which means the same for its other parser. Its
    `limit_concurrency` and its own access log are not looked at: nothing of ours sets them."""

    # In uvicorn they are of its own kinds; and `cast` is a call, which small requests would notice.
    app: Any
    cycle: Any  # pyright: ignore[reportIncompatibleVariableOverride]
    parser: Any  # pyright: ignore[reportIncompatibleVariableOverride]
    scope: Any  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._common_scope: dict[str, Any] = {}
        self._max_head_bytes: int = self.config.h11_max_incomplete_event_size or 32 * 1024
        self._head_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._pause_began: float | None = None
        self._pause_timer: asyncio.TimerHandle | None = None
        self._common: list[tuple[bytes, bytes]] = []
        self._common_lines = b""
        self._between = True  # no request has begun and is not whole
        self._arrived = 0  # requests that became whole in the parser
        self._url = b""  # of the request before
        self._known: KnownHead | None = None
        self._find_at_once: Callable[[str, bytes], AtOnce | None] | None = None
        self._watched: Any = None
        self._lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From now on the first head is waited for."""
        super().connection_made(transport)
        self._find_at_once = getattr(cast(Any, self.config).loaded_app, "find_at_once", None)
        self._common_scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            ANSWER: self.answer,
            BODY: self.whole_body,
            LINE: self,
        }
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        self._forget_pause()
        self._common_scope = {}  # it leads back here
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

    def handle_websocket_upgrade(self) -> None:
        """From here on the connection is another protocol's."""
        self._forget_pause()
        super().handle_websocket_upgrade()
        # Both lead back here: thousands of these would wait for the collector, and their memory with them.
        self.parser = self.scope = None
        self._common_scope = {}

    def _unset_keepalive_if_required(self) -> None:
        # In uvicorn's place, which makes a timer for each pause: ours stays, and looks when it fires.
        self._pause_began = None

    def _forget_pause(self) -> None:
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None

    def _pause_over(self) -> None:
        """Closes a connection that has been idle for as long as it may be."""
        self._pause_timer = None
        if self._pause_began is None:
            return  # a request is being answered; the timer starts again when it is
        left = self._pause_began + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._pause_timer = self.loop.call_later(left, self._pause_over)
        else:
            self.timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        """An answer is out: the next pipelined request has its turn, or a pause begins."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._pause_began = self.loop.time()
        if self._pause_timer is None:
            self._pause_timer = self.loop.call_later(self.timeout_keep_alive, self._pause_over)

    def on_message_begin(self) -> None:
        """A new head starts; what was received before belongs to the request before."""
        self._between = False
        self._known = None  # it has to be of the newest message, as more of the parser's findings are kept beside it
        self._head_bytes = 0
        self._in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """The head is whole: from here on the edge counts."""
        self._in_head = False
        if self._head_timer is not None:
            self._stop_waiting()
        parser = self.parser
        version = parser.get_http_version()
        self.scope = scope = self._common_scope.copy()
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["headers"] = self.headers
        scope["state"] = self.app_state.copy()
        if parser.should_upgrade() and self._should_upgrade():
            return
        url = httptools.parse_url(self.url)
        raw_path = url.path
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = url.query or b""
        self._begin(_Cycle(self, scope, keep_alive=version != "1.0" and parser.should_keep_alive()))

    def _begin(self, cycle: _Cycle) -> None:
        before = self.cycle
        self.cycle = cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined: its turn comes when the one before it is answered
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        cycle = self.cycle
        if cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = body
        else:
            if type(cycle.body) is bytes:
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._between = True
        self._arrived += 1
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.wake()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        cycle.task = task

    def whole_body(self, scope: dict[str, Any]) -> bytes | None:
        """See `Body`."""
        cycle = self.cycle
        if (
            cycle.scope is not scope
            or cycle.more_body
            or cycle.disconnected
            or cycle.response_complete
            or cycle.waiting_for_100_continue
        ):
            return None
        self.flow.resume_reading()
        if cycle._event is not None:
            cycle._event.clear()
        body = bytes(cycle.body)  # nothing is copied where it came in one piece
        cycle.body = b""
        cycle.body_taken = True
        return body

    def data_received(self, data: bytes) -> None:
        """Counts what arrives until the head is whole. One chunk is bounded by the transport, so a check after it will do."""
        between = self._between
        if between and self._known is not None and self._repeats(self._known, data):
            return
        arrived = self._arrived
        super().data_received(data)
        if between and self._between and self._arrived == arrived + 1:
            self._learn(data)
        if self._in_head:
            self._wait_for_head()
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def _learn(self, data: bytes) -> None:
        """Keeps the head of a request that came alone and whole, once a second one goes to the same address."""
        cycle, url = self.cycle, self._url
        self._url = self.url
        if url == self.url and cycle.scope is self.scope and cycle.keep_alive:
            parsed = self.scope.copy()
            del parsed["headers"], parsed["state"]
            self._known = known = KnownHead.of(data, self.headers, parsed)
            if known is not None and self._find_at_once is not None:
                known.at_once = self._find_at_once(parsed["method"], parsed["raw_path"])

    def _repeats(self, known: KnownHead, data: bytes) -> bool:
        """Takes a request by a known head, without the parser; it stands between two messages and notices nothing."""
        repeat = known.repeated(data)
        if repeat is None:
            return False
        self._unset_keepalive_if_required()
        if self._head_timer is not None:
            self._stop_waiting()
        headers, body = repeat
        self.scope = scope = known.scope.copy()
        scope["headers"] = self.headers = headers
        scope["state"] = self.app_state.copy()
        before, cycle = self.cycle, _Cycle(self, scope, keep_alive=True)
        cycle.more_body = False
        if known.at_once is not None and before.response_complete and len(body) <= AT_ONCE_BYTES:
            self.cycle = cycle
            cycle.body_taken = True
            if known.at_once(scope, body, cycle.send):
                return True
            self.cycle = before
            cycle.body_taken = False
        cycle.body = body
        self._begin(cycle)
        return True

    def answer(self, scope: dict[str, Any], status: int, head: bytes, body: bytes) -> bool:
        """Writes a whole answer at once.

        Args:
            head: the headers as `header_lines` makes them; with a `content-length` that is right.

        Returns:
            False when it has to go the long way: a slow reader, a pipelined request, HEAD, or a large body. Nothing was written.
        """
        cycle = self.cycle
        if (
            cycle.scope is not scope
            or cycle.response_started
            or cycle.disconnected
            or self.flow.write_paused
            or len(body) > MAX_WHOLE_BYTES
            or scope["method"] == "HEAD"
        ):
            return False
        common = self.server_state.default_headers
        if common is not self._common:  # uvicorn makes them anew each second
            self._common, self._common_lines = common, header_lines(common)
        closing = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        lead = b"".join((STATUS_LINE[status], self._common_lines, head, closing))
        if len(body) <= COPIED_BYTES:
            self.transport.write(lead + body)
        else:
            self.transport.writelines((lead, body))  # one system call as well, without a copy
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.wake()
        if not cycle.keep_alive:
            self.transport.close()
        done, cycle.on_response = (
            cycle.on_response,
            _nothing,
        )  # or the two would hold each other until they are collected
        done()
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
