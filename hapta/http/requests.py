"""What a handler may know of a request, and the body as it arrives: limits are enforced while reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from time import perf_counter
from typing import Any

from hapta.http.protocol import BODY, Body
from hapta.kit.access import Caller
from hapta.kit.errors import Invalid, TooLarge
from hapta.kit.ratelimit import Decision

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class SlowBody(Invalid):
    """The body stopped arriving."""

    code = "request_timeout"
    message = "The request body did not arrive in time"


class Request:
    """One HTTP request, after the edge has read it. Header names are lower case.

    The edge keeps with it what its answer will need: the `decision` of its budget, and when it `started`.
    """

    __slots__ = (
        "_cookies",
        "_headers",
        "_scope",
        "body",
        "caller",
        "client_address",
        "decision",
        "method",
        "params",
        "path",
        "query",
        "query_string",
        "request_id",
        "started",
    )

    def __init__(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        params: Mapping[str, str],
        client_address: str,
        request_id: str,
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query_string: bytes = scope["query_string"]
        self.params = params
        self.client_address = client_address
        self.request_id = request_id
        self.caller: Caller | None = None
        self.decision: Decision | None = None
        self.started = perf_counter()
        self.body: Any = None
        self.query: Any = None
        self._headers = headers
        self._scope = scope
        self._cookies: dict[str, str] | None = None

    def whole_body(self) -> bytes | None:
        """The raw body, if it has arrived as a whole: then it can be taken without waiting, once."""
        take: Body | None = self._scope.get(BODY)
        return None if take is None else take(self._scope)

    def raw_header(self, name: bytes) -> bytes | None:
        """As `header`, in bytes: for what is read on every request. `name` in lower case."""
        return self._headers.get(name)

    def has_any(self, names: frozenset[bytes]) -> bool:
        """Whether one of these headers was sent. `names` in lower case."""
        return not names.isdisjoint(self._headers)

    def header(self, name: str) -> str | None:
        """The value of a header, None when it was not sent. Bytes outside ASCII are read as Latin-1 (RFC 9110 5.5)."""
        value = self._headers.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def header_values(self, name: str) -> list[str]:
        """The value of each header line of that name, for headers that may stand only once (DPoP, Authorization)."""
        wanted = name.lower().encode("latin-1")
        if wanted not in self._headers:
            return []
        return [value.decode("latin-1") for key, value in self.header_pairs if key == wanted]

    @property
    def header_pairs(self) -> Sequence[tuple[bytes, bytes]]:
        """All header lines as they came, names in lower case."""
        return self._scope["headers"]

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name. Of two with one name the first counts, which browsers send for the more specific path."""
        if self._cookies is None:
            cookies: dict[str, str] = {}
            for line in self.header_values("cookie"):
                for pair in line.split(";"):
                    name, equals, value = pair.strip().partition("=")
                    if equals:
                        cookies.setdefault(name.strip(), value.strip().strip('"'))
            self._cookies = cookies
        return self._cookies


class BodyStream:
    """The raw body as it arrives, already bounded and decompressed. Iterate it once."""

    __slots__ = ("_chunks",)

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


async def read_chunks(receive: Receive, max_bytes: int, timeout_seconds: float) -> AsyncIterator[bytes]:
    """The body's chunks as the server hands them over.

    Args:
        max_bytes: the most that may come over the wire.
        timeout_seconds: how long the sender may pause between two chunks.

    Raises:
        TooLarge: as soon as more than `max_bytes` came, whatever Content-Length said.
        SlowBody: the sender paused for too long.
        ClientGone: the connection was closed before the end.
    """
    total = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(timeout_seconds):
                message = await receive()
        except TimeoutError:
            raise SlowBody from None
        if message["type"] != "http.request":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        total += len(chunk)
        if total > max_bytes:
            raise body_too_large(max_bytes)
        if chunk:
            yield chunk


async def read_all(receive: Receive, max_bytes: int, timeout_seconds: float) -> bytes:
    """The whole body; see `read_chunks` for the arguments and errors."""
    waiting = receive().__await__()
    try:
        pending = next(waiting)
    except StopIteration as done:  # it was there already, as most bodies are: no timer, no generator
        message: Message = done.value
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > max_bytes:
                raise body_too_large(max_bytes) from None
            return body
        first = _Begun(message)
    else:
        first = _Begun(None, waiting, pending)

    async def resumed() -> Message:
        return await (first if first.untouched else receive())

    return b"".join([chunk async for chunk in read_chunks(resumed, max_bytes, timeout_seconds)])


class _Begun:
    """A `receive()` whose first step was taken: either its result, or the rest of its steps. Can be awaited once."""

    def __init__(self, message: Message | None, waiting: Any = None, pending: Any = None) -> None:
        self._message = message
        self._waiting = waiting
        self._pending = pending
        self.untouched = True

    def __await__(self) -> Generator[Any, Any, Message]:
        self.untouched = False
        if self._message is not None:
            return self._message
        step = self._pending
        while True:
            sent = yield step
            try:
                step = self._waiting.send(sent)
            except StopIteration as done:
                return done.value


def body_too_large(max_bytes: int) -> TooLarge:
    """The error for a body past its limit."""
    return TooLarge("The request body is too large", limits={"maxBodyBytes": max_bytes})
