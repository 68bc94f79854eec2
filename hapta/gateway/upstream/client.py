"""`PocketBase`: every request of the gateway to PocketBase goes through here, with clean headers and over kept connections.

Paths and queries are sent exactly as given; the token and the visitor's address are stated here and nowhere else. A request
without a body to stream waits for one of a bounded number of turns; streams and uploads, whose length visitors decide, do
not take a turn from the others.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit

from hapta.gateway.errors import UpstreamAway, UpstreamBroken, UpstreamSlow
from hapta.gateway.models import Answer, Headers
from hapta.gateway.upstream.connection import Connection
from hapta.gateway.upstream.headers import answer_headers, request_headers
from hapta.kit.background import ended

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 55.0
"""A connection unused for longer is not used again: proxies close theirs after 60 seconds, right when we may write."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_SAFE = frozenset({"GET", "HEAD"})
_TARGET = re.compile(r"/[!-~]*")
_JOIN_BYTES = 64 * 1024
_KEEP_ALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


Observe = Callable[[str, str, float], None]
"""`(kind, outcome, seconds)`: `send` or `stream`; `2xx` and so on, `away`, `broken`, `slow`, or `left` by whoever asked."""

_OUTCOMES = {UpstreamAway: "away", UpstreamBroken: "broken", UpstreamSlow: "slow"}


def _unobserved(kind: str, outcome: str, seconds: float) -> None:
    """For a client without metrics."""


class Streamed(NamedTuple):
    """An answer whose body is still to be read.

    Attributes:
        chunks: the body as it comes; raises `UpstreamBroken` or `UpstreamSlow` when it does not come to its end.
        length: of the body in bytes as its head says, also in answer to HEAD; None when it does not.
    """

    status: int
    headers: Headers
    chunks: AsyncIterator[bytes]
    length: int | None


class PocketBase:
    """One PocketBase.

    Args:
        base_url: its address, perhaps with a path; no user, query or fragment.
        connections: how many requests may be under way at a time, beside streams and uploads.
        answer_seconds: how long it may be silent where it is the one to move.
        observe: told of every exchange.

    Raises:
        ValueError: `base_url` is none.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connections: int = 64,
        answer_seconds: float = 60.0,
        observe: Observe | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise ValueError("the address of PocketBase must look like http://127.0.0.1:8090")
        if parts.path and _TARGET.fullmatch(parts.path) is None:
            raise ValueError("the path in the address of PocketBase must be ASCII without spaces")
        self.base_url = base_url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._host_line = f" HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._limit = connections
        self._observe = observe or _unobserved
        self._answer_seconds = answer_seconds
        self._turns = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(
        self,
        method: str,
        target: str,
        *,
        token: str = "",
        headers: Headers = (),
        body: bytes | AsyncIterable[bytes] | None = None,
        media_type: str = "",
        address: str = "",
        max_bytes: int | None = None,
    ) -> Answer:
        """Sends a request and returns its whole answer, whatever its status.

        Args:
            target: path and query, canonical, in ASCII; sent as it is.
            token: PocketBase's own token of the visitor; none for nobody.
            headers: the visitor's; those that must not pass are dropped.
            body: bytes, or what yields them; an error of its own ends the request before PocketBase has all of it.
            address: of the visitor.
            max_bytes: of the answer's body.

        Raises:
            UpstreamAway: PocketBase cannot be reached; nothing was sent.
            UpstreamBroken: it went away within the exchange, or its answer cannot be read.
            UpstreamSlow: it was silent for too long.
        """
        head = self._head(method, target, token, headers, body, media_type, address)
        started = perf_counter()
        outcome = "left"
        try:
            answer = await self._sent(method, head, body, max_bytes)
            outcome = f"{answer.status // 100}xx"
            return answer
        except (UpstreamAway, UpstreamBroken, UpstreamSlow) as error:
            outcome = _OUTCOMES[type(error)]
            raise
        finally:
            self._observe("send", outcome, perf_counter() - started)

    async def _sent(
        self, method: str, head: bytes, body: bytes | AsyncIterable[bytes] | None, max_bytes: int | None
    ) -> Answer:
        if not isinstance(body, bytes | None):
            connection = await self._connection(method)
            try:
                await self._exchange(connection, head, body, no_body=False, whole=True, limit=max_bytes)
                return Answer(connection.status, answer_headers(connection.headers), connection.body)
            finally:
                self._give_back(connection)
        if self._turns >= self._limit:
            await self._turn()
        else:
            self._turns += 1
        try:
            connection = self._kept(method) or await self._connect()
            while True:
                try:
                    await self._begin(connection, head, body, no_body=method == "HEAD", whole=True, limit=max_bytes)
                    return Answer(connection.status, answer_headers(connection.headers), connection.body)
                except UpstreamBroken:
                    # A kept connection may have been closed from the other side a moment ago. Only where it does not matter
                    # whether the request came in twice.
                    if method not in _SAFE or not connection.used or connection.answered:
                        raise
                finally:
                    self._give_back(connection)
                self._drop_idle()
                connection = await self._connect()
        finally:
            self._end_turn()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        target: str,
        *,
        token: str = "",
        headers: Headers = (),
        body: bytes | AsyncIterable[bytes] | None = None,
        media_type: str = "",
        address: str = "",
    ) -> AsyncGenerator[Streamed]:
        """As `send`, for answers that are too long to be held, or have no end; to be used with `async with`.

        The bound on silence holds for the head, and within the body unless it is an event stream. Whoever leaves the block
        before the end of the body closes the connection.
        """
        head = self._head(method, target, token, headers, body, media_type, address)
        started = perf_counter()
        try:
            connection = await self._connection(method)
        except UpstreamAway:
            self._observe("stream", "away", perf_counter() - started)
            raise
        try:
            retry = method in _SAFE and body is None
            try:
                await self._exchange(connection, head, body, no_body=method == "HEAD", whole=False, limit=None)
            except UpstreamBroken:
                if not retry or not connection.used or connection.answered:
                    raise
                self._give_back(connection)
                self._drop_idle()
                connection = await self._connect()
                await self._exchange(connection, head, body, no_body=method == "HEAD", whole=False, limit=None)
            self._observe("stream", f"{connection.status // 100}xx", perf_counter() - started)
            raw = dict(connection.headers)
            connection.endless = raw.get(b"content-type", b"").lower().startswith(b"text/event-stream")
            length = raw.get(b"content-length", b"")
            yield Streamed(
                connection.status,
                answer_headers(connection.headers),
                _chunks(connection),
                int(length) if length.isdigit() else None,
            )
        finally:
            self._give_back(connection)

    async def close(self) -> None:
        """Ends all connections. Requests under way fail as if PocketBase were away; so do later ones."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(UpstreamAway())
        for connection in tuple(self._busy):
            connection.fail(UpstreamAway())
        self._drop_idle()
        # The transports close in the next turns of the loop.
        await asyncio.sleep(0)

    # --- a request ---

    def _head(
        self,
        method: str,
        target: str,
        token: str,
        headers: Headers,
        body: bytes | AsyncIterable[bytes] | None,
        media_type: str,
        address: str,
    ) -> bytes:
        """The request's head, with its body where that is short."""
        if method not in _METHODS or _TARGET.fullmatch(target) is None:
            raise ValueError("no request of HTTP can be made of that")
        lines = request_headers(headers) if headers else []
        text = f"{method} {self._prefix}{target}{self._host_line}"
        count = 3 + len(lines)
        if token:
            text += f"Authorization: {token}\r\n"
            count += 1
        if address:
            text += f"X-Forwarded-For: {address}\r\n"
            count += 1
        whole = isinstance(body, bytes)
        if whole:
            text += f"Content-Length: {len(body)}\r\n"
            count += 1
        elif body is not None:
            text += "Transfer-Encoding: chunked\r\n"
            count += 1
        elif method not in _SAFE:
            text += "Content-Length: 0\r\n"
            count += 1
        if media_type and body is not None:
            text += f"Content-Type: {media_type}\r\n"
            count += 1
        head = b"".join((text.encode("latin-1"), *lines, b"\r\n"))
        # A line end within a value would be a header of the visitor's making, or a second request.
        if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head:
            raise ValueError("no header may hold a line end")
        return head + body if whole and len(body) <= _JOIN_BYTES else head

    async def _exchange(
        self,
        connection: Connection,
        head: bytes,
        body: bytes | AsyncIterable[bytes] | None,
        *,
        no_body: bool,
        whole: bool,
        limit: int | None,
    ) -> None:
        answer = self._begin(connection, head, body, no_body=no_body, whole=whole, limit=limit)
        if body is None or isinstance(body, bytes):
            await answer
            return
        connection.sending = True
        pump = asyncio.get_running_loop().create_task(_pump(connection, body), name="upload to PocketBase")
        try:
            await asyncio.wait((answer, pump), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                pump.result()  # the body's own error goes before whatever the connection says
                await answer
            elif pump.done() and not pump.cancelled() and (error := pump.exception()) is not None:
                raise error
            answer.result()
        finally:
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                connection.abort()
                answer.cancel()
            if not pump.done():
                # It answered before it had all, such as 413: nothing else can be said on this connection.
                connection.cut_short()
                await ended(pump)
            elif not pump.cancelled():
                pump.exception()

    def _begin(
        self,
        connection: Connection,
        head: bytes,
        body: bytes | AsyncIterable[bytes] | None,
        *,
        no_body: bool,
        whole: bool,
        limit: int | None,
    ) -> asyncio.Future[None]:
        answer = connection.begin(head, no_body=no_body, whole=whole, limit=limit)
        if isinstance(body, bytes) and len(body) > _JOIN_BYTES:
            connection.write(body)
        self._busy.add(connection)
        if self._watch is None:
            self._watch_over()
        return answer

    # --- connections ---

    async def _connection(self, method: str) -> Connection:
        return self._kept(method) or await self._connect()

    def _kept(self, method: str) -> Connection | None:
        if not self._idle:
            return None
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if (
                not connection.gone
                and now - connection.idle_since < IDLE_SECONDS
                # A write must not be sent twice, so it is not sent where a look shows that the other side has closed.
                and (method in _SAFE or not _readable(connection.socket))
            ):
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        if self._closed:
            raise UpstreamAway()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop.time, self._lost), self._host, self._port, ssl=self._ssl
                )
        except OSError as error:  # TimeoutError is one
            raise UpstreamAway() from error
        connection.socket = transport.get_extra_info("socket")
        _keep_alive(connection.socket)
        return connection

    def _give_back(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection.end():
            if self._closed or len(self._idle) >= self._limit:
                connection.abort()
            else:
                self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    # --- turns ---

    async def _turn(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._answer_seconds):
                await waiting
        except TimeoutError:
            if not waiting.cancelled():
                self._end_turn()
            raise UpstreamSlow() from None
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._end_turn()
            raise

    def _end_turn(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)  # the turn goes over to it
                return
        self._turns -= 1

    # --- silence ---

    def _watch_over(self) -> None:
        loop = asyncio.get_running_loop()
        silent = loop.time() - self._answer_seconds
        for connection in tuple(self._busy):
            if connection.silent_since(silent):
                connection.fail(UpstreamSlow())
        pause = min(1.0, self._answer_seconds / 8)
        self._watch = loop.call_later(pause, self._watch_over) if self._busy and not self._closed else None


async def _pump(connection: Connection, body: AsyncIterable[bytes]) -> None:
    async for chunk in body:
        if chunk:
            connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await connection.flushed()
            if connection.gone:
                return
    connection.write(b"0\r\n\r\n")
    connection.sending = False


async def _chunks(connection: Connection) -> AsyncIterator[bytes]:
    while data := await connection.chunk():
        yield data


def _readable(plain: socket.socket | None) -> bool:
    """Whether something came in that the loop has not looked at yet: of an idle connection, its end."""
    if plain is None or not hasattr(select, "poll"):
        return False
    look = select.poll()
    look.register(plain.fileno(), select.POLLIN)
    return bool(look.poll(0))


def _keep_alive(plain: socket.socket | None) -> None:
    """Lets the system find out within half a minute that the other machine is gone."""
    if plain is None:
        return
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
