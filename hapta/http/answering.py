"""From what a handler returned to bytes: status, headers, body, the access log's line and the metrics. Compiled once for each endpoint.

An answer that is there as a whole leaves at once (`http/protocol.py`); what has to be compressed, streamed or waited for is handed
back as an awaitable. Errors become bodies here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from time import perf_counter
from typing import Any

import msgspec
import structlog

from hapta.http.api import Endpoint, Reply
from hapta.http.begun import Begun
from hapta.http.compress import Encoding, choose, compress_off_loop, worth_compressing
from hapta.http.cors import CLOSED, OPEN, Cors
from hapta.http.edge import Edge
from hapta.http.errors import PROBLEM, Dialect, InternalError, render_problem, status_of
from hapta.http.errors import headers as error_headers
from hapta.http.limits import HANDLER, RateLimited, state_form, state_header
from hapta.http.protocol import ANSWER, LINE, Answer, Line, header_lines, header_pairs
from hapta.http.requests import Request, Scope, Send, SlowBody
from hapta.kit.clock import Clock, Instants, iso_ms
from hapta.kit.errors import HaptaError
from hapta.kit.ratelimit import policy_header

Headers = list[tuple[bytes, bytes]]
Respond = Callable[[Request, Any, Scope, Send], Awaitable[None] | None]
"""Answers a request with what its handler returned. None: it is out. Else the rest has to be awaited."""
Failure = Callable[[Request, Exception], Reply]
"""The answer for what was raised."""
Finish = Callable[[Request, int, int], None]
"""Counts and logs a request that has been answered: status, and bytes of the body."""

_encode = msgspec.json.Encoder().encode
access_lines = msgspec.json.Encoder().encode_lines
"""How `AccessLog` writes the entries of this edge."""
JSON = (b"content-type", b"application/json")
_JSON_LINE = header_lines((JSON,))
_VARIES_LINE = header_lines(((b"vary", b"accept-encoding"),))
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_CLOSE = (b"connection", b"close")
"""Whoever does not send what was announced does not keep the connection either, or it would stay open for good."""
_BODILESS = frozenset((204, 304))  # never a body, nor a length (RFC 9110 section 8.6)
_log = structlog.get_logger("hapta.http")


class AccessLine(msgspec.Struct, gc=False):
    """One line of the access log. The query string is left out: clients put secrets there."""

    ts: str
    id: str
    client: str
    method: str
    path: str
    status: int
    ms: float
    bytes: int
    user: str | None = None


def compile_answering(endpoint: Endpoint, edge: Edge) -> tuple[Respond, Failure, Finish]:
    """How an endpoint answers, fails, and is counted."""
    dialect = endpoint.dialect
    is_public = endpoint.access.kind == "public"
    cors = {"listed": edge.cors, "open": OPEN, "none": CLOSED}[endpoint.cors]
    if endpoint.allows_credentials:
        cors = edge.cors.with_credentials()
    wraps = dialect.wraps
    limit = edge.limits.of(endpoint.limit if endpoint.limit != HANDLER else "default")
    policy, state = policy_header(limit.name, limit.rate), state_header(limit)
    default_status = endpoint.default_status
    finish = finisher(endpoint.name, edge)
    # A cache may hand an answer that anybody may see to a page of another origin; the others never get into one.
    without_origin = [header for header in cors.headers(None) if is_public or header[0] == b"vary"]
    compress_min = edge.server.compress_min_bytes
    without_origin_lines = header_lines(without_origin)
    always_lines = header_lines(security_headers(edge))
    rate_lines = header_lines((policy, state_form(limit)))
    # What one account may see must not stay in a cache that another one uses, nor what somebody signs in with.
    private = () if is_public and endpoint.method == "GET" else (_NO_STORE,)
    private_lines = header_lines(private)

    def failure(request: Request, error: Exception) -> Reply:
        if not isinstance(error, HaptaError):  # whatever is not ours becomes a 500 with an id, and a log entry
            return _unexpected(error, dialect, request, edge)
        if isinstance(error, RateLimited):
            request.decision = None  # its headers are among the error's own
        return error_reply(error, dialect, request, edge)

    def respond(request: Request, result: Any, scope: Scope, send: Send) -> Awaitable[None] | None:
        try:
            return render(request, result, scope, send)
        except Exception as error:  # the boundary: a bug of ours, such as a header with a line break
            return render(request, failure(request, error), scope, send)

    def render(request: Request, result: Any, scope: Scope, send: Send) -> Awaitable[None] | None:
        if type(result) is Reply:
            status = result.status
            content: Any = result.content
            media = JSON if result.media_type == "application/json" else (b"content-type", result.media_type.encode())
            extra: Any = result.headers
            if private and not (extra and _says_cache(extra)):
                extra = (*extra, *private) if extra else private
        else:
            status, content, media, extra = default_status, result, JSON, private
        if type(content) is bytes:
            body = content
        elif content is None:
            body = b""
        elif isinstance(content, msgspec.Struct):
            body = _encode(_wrapped(content, status, result, edge.clock)) if wraps else _encode(content)
        else:
            decision = request.decision
            more = extra if decision is None else (*extra, policy, state(decision))
            return _stream(status, content, media, more, request, cors, edge, scope, send, finish)
        typed = b"" if content is None else _JSON_LINE if media is JSON else header_lines((media,))
        if len(body) >= compress_min and worth_compressing(media[1].decode()) and not _is_encoded(extra):
            typed += _VARIES_LINE
            encoding = choose(request.raw_header(b"accept-encoding"))
            if encoding is not None:
                return send_compressed(request, scope, send, status, typed, extra, body, encoding)
        return send_whole(request, scope, send, status, typed, extra, body)

    def send_whole(
        request: Request, scope: Scope, send: Send, status: int, typed: bytes, extra: Any, body: bytes
    ) -> Awaitable[None] | None:
        decision = request.decision
        origin = request.raw_header(b"origin")
        head = b"".join(
            (
                typed,
                b"content-length: %d\r\n" % len(body) if typed or status not in _BODILESS else b"",
                b"x-request-id: %b\r\nserver-timing: app;dur=%.2f\r\n"
                % (request.request_id.encode(), (perf_counter() - request.started) * 1e3),
                always_lines,
                b"" if decision is None else rate_lines % (decision.remaining, ceil(decision.reset_seconds)),
                private_lines if extra is private else header_lines(extra),
                without_origin_lines if origin is None else header_lines(cors.headers(origin)),
            )
        )
        answer: Answer | None = scope.get(ANSWER)
        # The long way knows how to end a connection after its answer.
        if answer is None or _CLOSE in extra or not answer(scope, status, head, body):
            return send_long(request, send, status, head, body)
        finish(request, status, len(body))
        return None

    async def send_compressed(
        request: Request,
        scope: Scope,
        send: Send,
        status: int,
        typed: bytes,
        extra: Any,
        body: bytes,
        encoding: Encoding,
    ) -> None:
        body = await compress_off_loop(body, encoding)
        typed += header_lines(((b"content-encoding", encoding.encode()),))
        rest = send_whole(request, scope, send, status, typed, extra, body)
        if rest is not None:
            await rest

    async def send_long(request: Request, send: Send, status: int, head: bytes, body: bytes) -> None:
        await send({"type": "http.response.start", "status": status, "headers": header_pairs(head)})
        await send({"type": "http.response.body", "body": body})
        finish(request, status, len(body))

    return respond, failure, finish


def _says_cache(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether an answer decides itself what caches may do with it."""
    for name, _ in headers:  # noqa: SIM110 - a generator costs more than the loop
        if name == b"cache-control":
            return True
    return False


def _is_encoded(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a handler has compressed its answer itself."""
    return any(name == b"content-encoding" for name, _ in headers)


class Envelope(msgspec.Struct):
    """An answer of a dialect that wraps (contract identity, section 2)."""

    status: str
    message: str
    code: int
    data: msgspec.Struct
    timestamp: str


def _wrapped(content: msgspec.Struct, status: int, result: object, clock: Clock) -> Envelope:
    message = result.message if isinstance(result, Reply) and result.message else "OK"
    return Envelope("success", message, status, content, iso_ms(clock.now_ms()))


def security_headers(edge: Edge) -> Headers:
    """Headers of every answer. With TLS of our own, browsers are told to stay with it (RFC 6797)."""
    return [_NOSNIFF, _HSTS] if edge.server.tls_cert is not None else [_NOSNIFF]


def server_timing(request: Request) -> tuple[bytes, bytes]:
    """How long it took until now, for the developer tools of browsers (Server Timing, W3C)."""
    return b"server-timing", b"app;dur=%.2f" % ((perf_counter() - request.started) * 1e3)


def finisher(name: str, edge: Edge) -> Finish:
    """Counts and logs a request that has been answered."""
    observe = edge.metrics.observer(name)
    access_log, clock, instant = edge.access_log, edge.clock, Instants().text

    def finish(request: Request, status: int, size: int) -> None:
        seconds = perf_counter() - request.started
        observe(status, seconds)
        if access_log is not None:
            user = None if request.caller is None else request.caller.user_id
            line = AccessLine(
                instant(clock.now_ms()),
                request.request_id,
                request.client_address,
                request.method,
                request.path,
                status,
                int(seconds * 1e6) / 1e3,  # microseconds; to round a float costs ten times as much
                size,
                user,
            )
            access_log.write(line)

    return finish


def error_reply(error: HaptaError, dialect: Dialect, request: Request, edge: Edge) -> Reply:
    """An error in the words of a dialect."""
    status = status_of(type(error))
    body = dialect.render(error, status, request.request_id, iso_ms(edge.clock.now_ms()))
    media_type = dialect.media_type
    if dialect.wraps and PROBLEM in (request.header("accept") or ""):
        body, media_type = render_problem(error, status, request.request_id, body), PROBLEM
    own: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, RateLimited):
        own = error.headers()
    elif isinstance(error, SlowBody):
        own = (_CLOSE,)
    common = dialect.headers or (_NO_STORE,)
    return Reply(status, body, (*common, *own, *_challenged(error_headers(error), edge.resource_metadata)), media_type)


def _challenged(headers: Sequence[tuple[bytes, bytes]], resource_metadata: str) -> Sequence[tuple[bytes, bytes]]:
    if not resource_metadata:
        return headers
    pointer = f'resource_metadata="{resource_metadata}"'.encode()
    return [
        (name, value + (b", " if b"=" in value else b" ") + pointer)
        if name == b"www-authenticate" and value.startswith((b"Bearer", b"DPoP")) and b"resource_metadata" not in value
        else (name, value)
        for name, value in headers
    ]


def _unexpected(error: Exception, dialect: Dialect, request: Request, edge: Edge) -> Reply:
    _log.error(
        "request failed", request_id=request.request_id, method=request.method, path=request.path, exc_info=error
    )
    return error_reply(InternalError(), dialect, request, edge)


async def _stream(
    status: int,
    chunks: Begun,
    media: tuple[bytes, bytes],
    extra: tuple[tuple[bytes, bytes], ...],
    request: Request,
    cors: Cors,
    edge: Edge,
    scope: Scope,
    send: Send,
    finish: Finish,
) -> None:
    """Sends an answer chunk by chunk. After its start nothing can be taken back: a failure ends the connection loudly.

    When the client goes away, no further chunk is taken. Contents that wait for something to happen are told as it goes, if they have
    methods `connected(line)` and `gone()`: nobody else would ever wake them.
    """
    headers: Headers = [media, (b"x-request-id", request.request_id.encode()), server_timing(request)]
    headers += [*security_headers(edge), *extra, *cors.headers(request.raw_header(b"origin"))]
    size = 0
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if request.method != "HEAD":  # what nobody will read is not made
            line: Line | None = scope.get(LINE)
            if line is not None:
                chunks.connected(line)
                line.watch(scope, chunks.gone)
            async for chunk in chunks:
                size += len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await chunks.aclose()
        finish(request, status, size)
