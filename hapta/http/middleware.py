"""The one chain that every request passes, compiled per endpoint at start-up.

Order: request id, caller, rate limit, body (bounded, decompressed, decoded, validated), handler, answer, headers, metrics,
log. It is one function on purpose: nested middleware apps cost more than most handlers. Errors rise untouched to
`_answer_error`, the only place that turns them into a body.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

from hapta.http.api import Endpoint, Reply
from hapta.http.begun import Begun, begun
from hapta.http.caller import CookieVerifier, InternalVerifier, bearer_token, check_access, one_token_in_its_header
from hapta.http.compress import choose, compress_off_loop, worth_compressing
from hapta.http.cors import CLOSED, OPEN, Cors
from hapta.http.errors import PROBLEM, Dialect, InternalError, RouteNotFound, render_problem, status_of
from hapta.http.errors import headers as error_headers
from hapta.http.limits import HANDLER, LimitClass, Limits, RateLimited, state_form, state_header
from hapta.http.metrics import Metrics
from hapta.http.protocol import ANSWER, LINE, Answer, Line, header_lines, header_pairs
from hapta.http.reading import reader_for
from hapta.http.requests import ClientGone, Message, Receive, Request, Scope, Send, SlowBody
from hapta.http.socket_refusals import ForeignOrigin, refuse
from hapta.http.sockets import SOCKET_LINE, Answered, Disconnected, Socket, SocketLine
from hapta.kit.access import HANDLER_DECIDES, Verifier
from hapta.kit.clock import Clock, Instants, iso_ms
from hapta.kit.errors import HaptaError, Unauthenticated, Unavailable
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import Decision, policy_header
from hapta.settings import ServerSettings

Headers = list[tuple[bytes, bytes]]
Compiled = Callable[[Scope, Receive, Send, dict[str, str]], Awaitable[None]]

_encode = msgspec.json.Encoder().encode
_WHOLE = frozenset((bytes, type(None)))
"""Contents that are there as a whole; everything else but a struct is streamed."""
access_lines = msgspec.json.Encoder().encode_lines
"""How `AccessLog` writes the entries of this edge."""
_JSON = (b"content-type", b"application/json")
_JSON_LINE = header_lines((_JSON,))
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


@dataclass(frozen=True, slots=True)
class Edge:
    """What the chain needs; `app.py` hands it in."""

    server: ServerSettings
    verifier: Verifier
    limits: Limits
    cors: Cors
    metrics: Metrics
    clock: Clock
    access_log: AccessLog | None
    cookies: CookieVerifier | None = None
    internal: InternalVerifier | None = None
    resource_metadata: str = ""
    """Address that 401 answers name, so that apps find the authorization server (RFC 9728, section 5.1)."""


class RequestIds:
    """Request ids: random per process, then counted, so that they are unique and cost next to nothing."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex()
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}-{next(self._count):x}"


def client_address(scope: Scope, headers: dict[bytes, bytes], trusted_hops: int) -> str:
    """The client's address. With `trusted_hops` proxies in front, the entry that the outermost trusted one has seen.

    X-Forwarded-For is read from the right: everything left of the trusted hops is the client's own invention.
    """
    client = scope.get("client")
    peer: str = client[0] if client else "unknown"
    if trusted_hops <= 0:
        return peer
    chain = [
        part.strip()
        for name, value in scope["headers"]
        if name == b"x-forwarded-for"
        for part in value.decode("latin-1").split(",")
    ]
    if len(chain) < trusted_hops:
        return peer
    return chain[-trusted_hops][:64] or peer


def compile_endpoint(endpoint: Endpoint, edge: Edge, request_ids: RequestIds) -> Compiled:
    """Composes the chain of one endpoint.

    Raises:
        TypeError: the endpoint names a limit class that does not exist.
    """
    if endpoint.kind == "websocket":
        return _compile_socket(endpoint, edge, request_ids)
    handler = endpoint.handler
    dialect = endpoint.dialect
    access = endpoint.access
    is_public = access.kind == "public"
    handler_decides = access.kind in HANDLER_DECIDES
    cookies = edge.cookies if endpoint.cookies else None
    internal = _internal(endpoint, edge)
    cors = {"listed": edge.cors, "open": OPEN, "none": CLOSED}[endpoint.cors]
    if endpoint.allows_credentials:
        cors = edge.cors.with_credentials()
    wraps = dialect.wraps
    address_limit = edge.limits.of("default")
    draws = endpoint.limit != HANDLER
    limit = edge.limits.of(endpoint.limit) if draws else address_limit
    guesses_cost = edge.limits.enabled
    limited = guesses_cost and draws
    policy, state = policy_header(limit.name, limit.rate), state_header(limit)
    provide = _provider(endpoint)
    read_body = reader_for(endpoint, edge.server)
    default_status = endpoint.default_status
    new_id = request_ids.next
    verifier, verify_cached = edge.verifier, edge.verifier.cached
    hops = edge.server.trust_proxy
    finish = _finisher(endpoint.name, edge)
    hit = edge.limits.hit
    # A cache may hand an answer that anybody may see to a page of another origin; the others never get into one.
    without_origin = [header for header in cors.headers(None) if is_public or header[0] == b"vary"]
    compress_min = edge.server.compress_min_bytes
    without_origin_lines = header_lines(without_origin)
    always_lines = header_lines(_security_headers(edge))
    rate_lines = header_lines((policy, state_form(limit)))
    # What one account may see must not stay in a cache that another one uses, nor what somebody signs in with.
    private = () if is_public and endpoint.method == "GET" else (_NO_STORE,)
    private_lines = header_lines(private)

    async def handle(scope: Scope, receive: Receive, send: Send, params: dict[str, str]) -> None:
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = client_address(scope, headers, hops)
        request = Request(scope, headers, params, address, new_id())
        decision: Decision | None = None
        try:
            if handler_decides:
                if limited:
                    drawn = hit(limit, address)
                    decision = drawn if isinstance(drawn, Decision) else await drawn
            elif internal is None:
                try:
                    if b"access_token=" in request.query_string or len(headers) != len(scope["headers"]):
                        one_token_in_its_header(request)
                    if cookies is not None and b"authorization" not in headers:
                        caller = await cookies.verify(request)
                    else:
                        token = bearer_token(headers.get(b"authorization"))
                        caller = verify_cached(token) or await verifier.verify(token)
                except Unauthenticated:
                    if guesses_cost:
                        await _guess_costs(edge.limits, address_limit, address)
                    raise
                request.caller = caller
                check_access(access, caller)
                if limited:
                    drawn = hit(limit, address if limit.by == "address" else caller.user_id)
                    decision = drawn if isinstance(drawn, Decision) else await drawn
            if decision is not None and not decision.allowed:
                raise RateLimited(limit, decision)
            if read_body is not None:
                pending = read_body(request, receive)
                if pending is not None:
                    await pending
            if internal is not None:
                await internal.verify(request, request.body or b"")
            result = await handler(*provide(request))
            if (
                type(result) is Reply
                and type(result.content) not in _WHOLE
                and not isinstance(result.content, msgspec.Struct)
            ):
                result = await begun(result)
        except HaptaError as error:
            result = _error_reply(error, dialect, request, edge)
            if isinstance(error, RateLimited):
                decision = None  # its headers are among the error's own
        except ClientGone:
            finish(request, 499, 0, started)
            return
        except Exception as error:  # the boundary: whatever is not ours becomes a 500 with an id, and a log entry
            result = _unexpected(error, dialect, request, edge)

        if type(result) is Reply:
            status = result.status
            content: Any = result.content
            media = _JSON if result.media_type == "application/json" else (b"content-type", result.media_type.encode())
            extra: Any = result.headers
            if private and not (extra and _says_cache(extra)):
                extra = (*extra, *private) if extra else private
        else:
            status, content, media, extra = default_status, result, _JSON, private
        if type(content) is bytes:
            body = content
        elif content is None:
            body = b""
        elif isinstance(content, msgspec.Struct):
            body = _encode(_wrapped(content, status, result, edge.clock)) if wraps else _encode(content)
        else:
            more = extra if decision is None else (*extra, policy, state(decision))
            await _stream(
                status,
                content,
                media,
                more,
                request,
                cors.headers(headers.get(b"origin")),
                edge,
                scope,
                send,
                finish,
                started,
            )
            return
        encoded = b""
        if len(body) >= compress_min and worth_compressing(media[1].decode()) and not _is_encoded(extra):
            body, encoded = await _compressed(body, headers.get(b"accept-encoding"))
        origin = headers.get(b"origin")
        head = b"".join(
            (
                b"" if content is None else _JSON_LINE if media is _JSON else header_lines((media,)),
                encoded,
                b"content-length: %d\r\n" % len(body) if content is not None or status not in _BODILESS else b"",
                b"x-request-id: %b\r\nserver-timing: app;dur=%.2f\r\n"
                % (request.request_id.encode(), (perf_counter() - started) * 1e3),
                always_lines,
                b"" if decision is None else rate_lines % (decision.remaining, ceil(decision.reset_seconds)),
                private_lines if extra is private else header_lines(extra),
                without_origin_lines if origin is None else header_lines(cors.headers(origin)),
            )
        )
        answer: Answer | None = scope.get(ANSWER)
        # The long way knows how to end a connection after its answer.
        if answer is None or _CLOSE in extra or not answer(scope, status, head, body):
            await send({"type": "http.response.start", "status": status, "headers": header_pairs(head)})
            await send({"type": "http.response.body", "body": body})
        finish(request, status, len(body), started)

    return handle


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


def _internal(endpoint: Endpoint, edge: Edge) -> InternalVerifier | None:
    """The judge of an internal endpoint.

    Raises:
        TypeError: there is none, or the body would be decoded before it was judged. Such a table does not start.
    """
    if endpoint.access.kind != "internal":
        return None
    if edge.internal is None or endpoint.body_type not in (None, bytes):
        raise TypeError(f"{endpoint.name}: an internal endpoint needs a verifier, and takes its body raw")
    return edge.internal


def _security_headers(edge: Edge) -> Headers:
    """Headers of every answer. With TLS of our own, browsers are told to stay with it (RFC 6797)."""
    return [_NOSNIFF, _HSTS] if edge.server.tls_cert is not None else [_NOSNIFF]


def _server_timing(started: float) -> tuple[bytes, bytes]:
    return b"server-timing", b"app;dur=%.2f" % ((perf_counter() - started) * 1e3)


def _provider(endpoint: Endpoint) -> Callable[[Request], tuple[Any, ...]]:
    """Puts the handler's arguments together, in its own order."""
    sources: dict[str, Callable[[Request], Any]] = {
        "caller": lambda request: request.caller,
        "body": lambda request: request.body,
        "query": lambda request: request.query,
        "request": lambda request: request,
    }
    wanted = [sources.get(name) or _parameter(name) for name in endpoint.parameters]
    if not wanted:
        return lambda request: ()
    if len(wanted) == 1:
        only = wanted[0]
        return lambda request: (only(request),)
    return lambda request: tuple([source(request) for source in wanted])


def _parameter(name: str) -> Callable[[Request], str]:
    return lambda request: request.params[name]


Finish = Callable[[Request, int, int, float], None]


def _finisher(name: str, edge: Edge) -> Finish:
    """Counts and logs a request that has been answered."""
    observe = edge.metrics.observer(name)
    access_log, clock, instant = edge.access_log, edge.clock, Instants().text

    def finish(request: Request, status: int, size: int, started: float) -> None:
        seconds = perf_counter() - started
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
                round(seconds * 1e3, 3),
                size,
                user,
            )
            access_log.write(line)

    return finish


async def _guess_costs(limits: Limits, limit: LimitClass, address: str) -> None:
    """A token that does not count draws on its sender's address, so that guessing tokens is limited like everything.

    Raises:
        RateLimited: this address has guessed too often.
    """
    drawn = limits.hit(limit, address)
    decision = drawn if isinstance(drawn, Decision) else await drawn
    if not decision.allowed:
        raise RateLimited(limit, decision)


def _error_reply(error: HaptaError, dialect: Dialect, request: Request, edge: Edge) -> Reply:
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
    return _error_reply(InternalError(), dialect, request, edge)


async def _compressed(body: bytes, accept: bytes | None) -> tuple[bytes, bytes]:
    """The body in an encoding that the client takes, and the header lines that say so."""
    out: Headers = [(b"vary", b"accept-encoding")]
    encoding = choose(accept)
    if encoding is not None:
        out.append((b"content-encoding", encoding.encode()))
        body = await compress_off_loop(body, encoding)
    return body, header_lines(out)


async def _stream(
    status: int,
    chunks: Begun,
    media: tuple[bytes, bytes],
    extra: tuple[tuple[bytes, bytes], ...],
    request: Request,
    cors: Sequence[tuple[bytes, bytes]],
    edge: Edge,
    scope: Scope,
    send: Send,
    finish: Finish,
    started: float,
) -> None:
    """Sends an answer chunk by chunk. After its start nothing can be taken back: a failure ends the connection loudly.

    When the client goes away, no further chunk is taken. Contents that wait for something to happen are told as it goes, if they have
    methods `connected(line)` and `gone()`: nobody else would ever wake them.
    """
    headers: Headers = [media, (b"x-request-id", request.request_id.encode()), _server_timing(started)]
    headers += [*_security_headers(edge), *extra, *cors]
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
        finish(request, status, size, started)


def compile_not_found(
    dialect: Dialect, edge: Edge, request_ids: RequestIds, missing: HaptaError | None = None
) -> Compiled:
    """The answer for what is not in the table; it is limited and logged like everything else.

    Args:
        missing: what to say in place of `RouteNotFound`.
    """
    limit = edge.limits.of("default")
    finish = _finisher("unknown", edge)

    async def handle(scope: Scope, receive: Receive, send: Send, params: dict[str, str]) -> None:
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = client_address(scope, headers, edge.server.trust_proxy)
        request = Request(scope, headers, params, address, request_ids.next())
        error: HaptaError = missing or RouteNotFound()
        if edge.limits.enabled:
            try:
                await _guess_costs(edge.limits, limit, address)
            except RateLimited as limited:
                error = limited
        reply = _error_reply(error, dialect, request, edge)
        out: Headers = [
            _JSON,
            (b"content-length", str(len(reply.content)).encode()),
            (b"x-request-id", request.request_id.encode()),
            _server_timing(started),
            *_security_headers(edge),
            *reply.headers,
        ]
        out += edge.cors.headers(headers.get(b"origin"))
        await send({"type": "http.response.start", "status": reply.status, "headers": out})
        await send({"type": "http.response.body", "body": reply.content})
        finish(request, reply.status, len(reply.content), started)

    return handle


def _handshake_logger(edge: Edge) -> Answered:
    """Logs a handshake when it is answered; its socket may stay for days."""
    access_log, clock = edge.access_log, edge.clock

    def answered(socket: Socket, status: int) -> None:
        if access_log is not None:
            ms = round((perf_counter() - socket.began) * 1e3, 3)
            at, who = iso_ms(clock.now_ms()), socket.client_address
            access_log.write(AccessLine(at, socket.request_id, who, "GET", socket.path, status, ms, 0))

    return answered


def _compile_socket(endpoint: Endpoint, edge: Edge, request_ids: RequestIds) -> Compiled:
    draws = endpoint.limit != HANDLER
    limit = edge.limits.of(endpoint.limit if draws else "default")
    limited = edge.limits.enabled and draws
    observe = edge.metrics.observer(endpoint.name)
    sockets = edge.metrics.sockets
    handler, names = endpoint.handler, endpoint.parameters
    answered = _handshake_logger(edge)
    any_origin = endpoint.cors == "open"  # no cookie counts there, so that it does not matter whose page it is
    own_origin = "{0.scheme}://{0.netloc}".format(urlsplit(edge.server.public_address)).encode()

    async def handle(scope: Scope, receive: Receive, send: Send, params: dict[str, str]) -> None:
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = client_address(scope, headers, edge.server.trust_proxy)
        can_answer = "websocket.http.response" in scope.get("extensions", {})
        line: SocketLine | None = scope.get(SOCKET_LINE)
        socket = Socket(
            receive,
            send,
            headers,
            scope["query_string"],
            address,
            request_ids.next(),
            can_answer=can_answer,
            line=line,
            path=scope["path"],
            answered=answered,
        )
        refusal: HaptaError | None = None
        origin = headers.get(b"origin")
        if not any_origin and origin is not None and origin != own_origin and not edge.cors.allows(origin):
            refusal = ForeignOrigin()
        elif limited:
            drawn = edge.limits.hit(limit, address)
            decision = drawn if isinstance(drawn, Decision) else await drawn
            refusal = None if decision.allowed else RateLimited(limit, decision)
        if refusal is None and sockets.open >= edge.server.max_sockets:
            refusal = Unavailable("There are too many open sockets")
        if refusal is not None:
            await refuse(scope, receive, send, refusal, endpoint.dialect, edge.clock, socket.request_id)
            observe(status_of(type(refusal)), perf_counter() - started)
            answered(socket, status_of(type(refusal)))
            return
        sockets.open += 1
        observe(101, perf_counter() - started)
        try:
            await handler(*[socket if name == "socket" else params[name] for name in names])
            await socket.close(1000)
        except Disconnected:
            pass
        except Exception as error:  # the boundary: a bug in one socket must not end quietly, nor touch the others
            _log.error("socket failed", request_id=socket.request_id, path=scope["path"], exc_info=error)
            await socket.close(1011)
        finally:
            sockets.open -= 1

    return handle


__all__ = ["Compiled", "Edge", "Message", "RequestIds", "compile_endpoint", "compile_not_found"]
