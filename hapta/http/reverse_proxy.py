"""Both ends of the relay between the servers of a pair (contract identity, section 1): `Relay` passes requests on as they came,
`RelayedOnly` stands before the server behind and takes the client's address from the relay's signed word.

Invariant: what a client says of itself or of proxies (`X-Forwarded-*`, `X-Identity-*` and the like) ends at the relay.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import perf_counter
from urllib.parse import unquote_to_bytes

import structlog

from hapta.http.edge import RequestIds, client_address
from hapta.http.errors import RouteNotFound, dialect_for_path, status_of
from hapta.http.errors import headers as error_headers
from hapta.http.hops import HOP_BY_HOP
from hapta.http.metrics import Metrics
from hapta.http.requests import ClientGone, Receive, Scope, Send, read_chunks
from hapta.http.upstream import BROKEN, Upstream
from hapta.kit.clock import Clock, iso_ms
from hapta.kit.errors import Forbidden, HaptaError, Unauthenticated, Unavailable
from hapta.settings import ServerSettings

RELAY_HEADER = b"x-hapta-relayed"
MAX_DECODINGS = 8
"""A path that is percent-encoded more often than that is nobody's honest address."""

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
SignRelay = Callable[[str, str, str], str]
"""`(method, target, address)` to the token that goes with a relayed request."""
CheckRelay = Callable[[str, str, str], str]
"""`(token, method, target)` to the client's address; Unauthenticated when the token is not over this request."""

_SPOKEN_BY_PROXIES = frozenset({b"forwarded", b"x-real-ip", b"x-user-id", b"via", b"expect"})
_SPOKEN_BY_PROXIES_PREFIXES = (b"x-forwarded-", b"x-identity-", b"x-hapta-")

_log = structlog.get_logger("hapta.http")


def is_internal(raw_path: bytes) -> bool:
    """Whether a path means `/internal`, in whichever spelling: encoded, doubled slashes, dot segments, letter case."""
    if b"%" not in raw_path and b"internal" not in raw_path.lower():
        return False
    path = raw_path
    for _ in range(MAX_DECODINGS):
        decoded = unquote_to_bytes(path)
        if decoded == path:
            break
        path = decoded
    else:
        return True
    segments: list[bytes] = []
    for part in path.lower().replace(b"\\", b"/").split(b"/"):
        segment = part.partition(b";")[0].strip(b" \t\r\n\0")
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return segments[:1] == [b"internal"]


class Relay:
    """Passes requests on to the server behind and its answers back, both streamed and unchanged but for hop-by-hop headers.

    Args:
        upstream: the server behind.
        sign: makes the word that goes with each request.
        server: limits of bodies, and how many proxies are in front.
    """

    def __init__(
        self, upstream: Upstream, sign: SignRelay, server: ServerSettings, metrics: Metrics, clock: Clock
    ) -> None:
        self._upstream = upstream
        self._sign = sign
        self._server = server
        self._observe = metrics.observer("relay")
        self._clock = clock
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relays one HTTP request."""
        started = perf_counter()
        method, target = scope["method"], target_of(scope)
        headers, has_body = self._forwarded(scope, method, target)
        body = read_chunks(receive, self._server.max_body_bytes, self._server.body_timeout_seconds)
        answering = False
        status = 499
        try:
            async with self._upstream.request(method, target, headers, body if has_body else b"") as answered:
                status, answering = answered.status, True
                own = _end_to_end(answered.headers)
                await send({"type": "http.response.start", "status": status, "headers": own})
                await _pass_on(answered.body, send)
        except ClientGone:
            pass
        except HaptaError as error:
            status = await self._refuse(error, scope, send)
        except BROKEN:
            if not answering:
                status = await self._refuse(Unavailable(), scope, send)
            else:
                # Nothing can be taken back; that the answer ends early is what closes the connection.
                _log.warning("the server behind went away within its answer", path=scope["path"])
        finally:
            self._observe(status, perf_counter() - started)

    def _forwarded(self, scope: Scope, method: str, target: bytes) -> tuple[Headers, bool]:
        """The headers that go on, with our own word, and whether there is a body."""
        given: Sequence[tuple[bytes, bytes]] = scope["headers"]
        address = client_address(scope, dict(given), self._server.trust_proxy)
        chunked = any(name == b"transfer-encoding" for name, _ in given)
        headers = [
            (name, value)
            for name, value in _end_to_end(given)
            if name not in _SPOKEN_BY_PROXIES
            and not name.startswith(_SPOKEN_BY_PROXIES_PREFIXES)
            and not (chunked and name == b"content-length")
        ]
        if chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        headers.append((RELAY_HEADER, self._sign(method, target.decode("latin-1"), address).encode()))
        return headers, chunked or any(name == b"content-length" for name, _ in headers)

    async def _refuse(self, error: HaptaError, scope: Scope, send: Send) -> int:
        return await refuse(error, scope, send, self._clock, self._ids.next())


class RelayedOnly:
    """Lets in what the relay passed on, the server's own health checks, and calls that `/internal` routes judge themselves.

    Args:
        app: the server behind.
        check: judges the relay's word.
        open_paths: what anybody who can reach the port may ask.
    """

    def __init__(self, app: Asgi, check: CheckRelay, clock: Clock, open_paths: Sequence[str]) -> None:
        self._app = app
        self._check = check
        self._clock = clock
        self._open_paths = frozenset(open_paths)
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judges one request and hands it on."""
        path: str = scope["path"]
        if scope["type"] == "http" and not path.startswith("/internal/") and path not in self._open_paths:
            tokens = [value for name, value in scope["headers"] if name == RELAY_HEADER]
            try:
                if len(tokens) != 1:
                    raise Unauthenticated
                token, target = tokens[0].decode("latin-1"), target_of(scope).decode("latin-1")
                scope["client"] = (self._check(token, scope["method"], target), 0)
            except Unauthenticated:
                await refuse(Forbidden("Come in by the resource server"), scope, send, self._clock, self._ids.next())
                return
        # In place: the protocol knows its scope by identity (`protocol.ANSWER`).
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != RELAY_HEADER]
        await self._app(scope, receive, send)


def target_of(scope: Scope) -> bytes:
    """Path and query as they stood in the request line."""
    raw: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return raw + b"?" + query if query else raw


async def refuse(error: HaptaError, scope: Scope, send: Send, clock: Clock, request_id: str) -> int:
    """Answers with an error in the words of the path's family; its status."""
    dialect, status = dialect_for_path(scope["path"]), status_of(type(error))
    body = dialect.render(error, status, request_id, iso_ms(clock.now_ms()))
    headers = [
        (b"content-type", dialect.media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        *(dialect.headers or ((b"cache-control", b"no-store"),)),
        *error_headers(error),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
    return status


async def not_found(scope: Scope, send: Send, clock: Clock, request_id: str) -> None:
    """Answers that there is no such path."""
    await refuse(RouteNotFound(), scope, send, clock, request_id)


def _end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Headers without those of one connection. `Date` goes too: the server that sends the answer writes its own."""
    named = frozenset(
        part.strip().lower() for name, value in headers if name.lower() == b"connection" for part in value.split(b",")
    )
    return [
        (lower, value)
        for name, value in headers
        if (lower := name.lower()) not in HOP_BY_HOP and lower not in named and lower != b"date"
    ]


async def _pass_on(chunks: AsyncIterator[bytes], send: Send) -> None:
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
