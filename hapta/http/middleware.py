"""The one chain that every request passes, compiled per endpoint at start-up.

Order: request id, caller, rate limit, body (bounded, decompressed, decoded, validated), handler, answer, headers, metrics,
log. It is one function on purpose: nested middleware apps cost more than most handlers. Errors rise untouched to
`hapta.http.answering`, the only place that turns them into a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

from hapta.http.answering import (
    JSON,
    AccessLine,
    Headers,
    compile_answering,
    error_reply,
    finisher,
    security_headers,
    server_timing,
)
from hapta.http.api import Endpoint, Reply
from hapta.http.begun import begun
from hapta.http.caller import InternalVerifier, bearer_token, check_access, one_token_in_its_header
from hapta.http.edge import Edge, RequestIds, client_address
from hapta.http.errors import Dialect, RouteNotFound, status_of
from hapta.http.limits import HANDLER, LimitClass, Limits, RateLimited
from hapta.http.reading import reader_for, small_json_reader
from hapta.http.repeats import AtOnce
from hapta.http.requests import ClientGone, Receive, Request, Scope, Send
from hapta.http.router import NO_PARAMS
from hapta.http.socket_refusals import ForeignOrigin, refuse
from hapta.http.sockets import SOCKET_LINE, Answered, Disconnected, Socket, SocketLine
from hapta.kit.access import HANDLER_DECIDES
from hapta.kit.clock import iso_ms
from hapta.kit.errors import HaptaError, Unauthenticated, Unavailable
from hapta.kit.ratelimit import Decision

Compiled = Callable[[Scope, Receive, Send, dict[str, str]], Awaitable[None]]

_WHOLE = frozenset((bytes, type(None)))
"""Contents that are there as a whole; everything else but a struct is streamed."""
_log = structlog.get_logger("hapta.http")


def compile_endpoint(endpoint: Endpoint, edge: Edge, request_ids: RequestIds) -> Compiled:
    """Composes the chain of one endpoint.

    Raises:
        TypeError: the endpoint names a limit class that does not exist.
    """
    if endpoint.kind == "websocket":
        return _compile_socket(endpoint, edge, request_ids)
    access = endpoint.access
    handler_decides = access.kind in HANDLER_DECIDES
    cookies = edge.cookies if endpoint.cookies else None
    internal = _internal(endpoint, edge)
    address_limit = edge.limits.of("default")
    guesses_cost = edge.limits.enabled
    limited = guesses_cost and endpoint.limit != HANDLER
    limit = edge.limits.of(endpoint.limit) if endpoint.limit != HANDLER else address_limit
    provide = _provider(endpoint)
    read_body = reader_for(endpoint, edge.server)
    new_id = request_ids.next
    verifier, verify_cached = edge.verifier, edge.verifier.cached
    hops = edge.server.trust_proxy
    hit = edge.limits.hit
    handler, answers_later = endpoint.handler, endpoint.answers_later
    respond, failure, finish = compile_answering(endpoint, edge)

    async def handle(scope: Scope, receive: Receive, send: Send, params: dict[str, str]) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = client_address(scope, headers, hops)
        request = Request(scope, headers, params, address, new_id())
        try:
            decision: Decision | None = None
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
            if decision is not None:
                request.decision = decision
                if not decision.allowed:
                    raise RateLimited(limit, decision)
            if read_body is not None:
                pending = read_body(request, receive)
                if pending is not None:
                    await pending
            if internal is not None:
                await internal.verify(request, request.body or b"")
            if answers_later:
                later = handler(*provide(request))
                result = later.answer(await later.future)
            else:
                result = await handler(*provide(request))
                if (
                    type(result) is Reply
                    and type(result.content) not in _WHOLE
                    and not isinstance(result.content, msgspec.Struct)
                ):
                    result = await begun(result)
        except ClientGone:
            finish(request, 499, 0)
            return
        except Exception as error:  # the boundary: whatever a handler raises has an answer
            result = failure(request, error)
        rest = respond(request, result, scope, send)
        if rest is not None:
            await rest

    return handle


def compile_at_once(endpoint: Endpoint, edge: Edge, request_ids: RequestIds) -> AtOnce | None:
    """The chain of an endpoint that answers `Later`, for requests of which everything is there: a known token, a whole body, a budget
    in memory. No task is made for them, and nothing of them stands on a stack while they wait.

    Returns:
        None where the endpoint cannot be served so.
    """
    decode = small_json_reader(endpoint, edge.server)
    limited = edge.limits.enabled and endpoint.limit != HANDLER
    if (
        not endpoint.answers_later
        or decode is None
        or endpoint.path_params
        or endpoint.access.kind in (*HANDLER_DECIDES, "internal")
        or (limited and not edge.limits.in_memory)
    ):
        return None
    handler, access, provide = endpoint.handler, endpoint.access, _provider(endpoint)
    limit = edge.limits.of(endpoint.limit) if limited else None
    verify_cached, hops, hit, new_id = edge.verifier.cached, edge.server.trust_proxy, edge.limits.hit, request_ids.next
    open_requests = edge.metrics.requests
    respond, failure, _ = compile_answering(endpoint, edge)
    tasks: set[asyncio.Future[None]] = set()

    def at_once(scope: Scope, body: bytes, send: Send) -> bool:
        pairs = scope["headers"]
        headers: dict[bytes, bytes] = dict(pairs)
        if len(headers) != len(pairs) or b"content-encoding" in headers or scope["query_string"]:
            return False
        try:
            caller = verify_cached(bearer_token(headers.get(b"authorization")))
        except Unauthenticated:
            return False
        if caller is None:
            return False
        request = Request(scope, headers, NO_PARAMS, client_address(scope, headers, hops), new_id())
        request.caller = caller
        open_requests.open += 1
        try:
            check_access(access, caller)
            if limit is not None:
                decision: Any = hit(limit, request.client_address if limit.by == "address" else caller.user_id)
                request.decision = decision
                if not decision.allowed:
                    raise RateLimited(limit, decision)
            request.body = decode(request, body)
            later = handler(*provide(request))
        except Exception as error:
            end(request, failure(request, error), scope, send)
            return True
        later.future.add_done_callback(partial(came, request, later.answer, scope, send))
        return True

    def came(
        request: Request, answer: Callable[[Any], Any], scope: Scope, send: Send, future: asyncio.Future[Any]
    ) -> None:
        try:
            result = answer(future.result())
        except asyncio.CancelledError:
            result = failure(request, Unavailable("The server is stopping"))
        except Exception as error:
            result = failure(request, error)
        end(request, result, scope, send)

    def end(request: Request, result: Any, scope: Scope, send: Send) -> None:
        open_requests.open -= 1
        rest = respond(request, result, scope, send)
        if rest is not None:  # a slow reader, or an answer to be compressed
            task = asyncio.ensure_future(rest)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return at_once


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


def _provider(endpoint: Endpoint) -> Callable[[Request], tuple[Any, ...]]:
    """Puts the handler's arguments together, in its own order."""
    sources: dict[str, Callable[[Request], Any]] = {
        "caller": lambda request: request.caller,
        "body": lambda request: request.body,
        "query": lambda request: request.query,
        "request": lambda request: request,
    }
    if len(endpoint.parameters) > 1 and {"caller", "body", "query"}.issuperset(endpoint.parameters):
        return attrgetter(*endpoint.parameters)  # which makes the tuple by itself
    wanted = [sources.get(name) or _parameter(name) for name in endpoint.parameters]
    if not wanted:
        return lambda request: ()
    if len(wanted) == 1:
        only = wanted[0]
        return lambda request: (only(request),)
    return lambda request: tuple([source(request) for source in wanted])


def _parameter(name: str) -> Callable[[Request], str]:
    return lambda request: request.params[name]


async def _guess_costs(limits: Limits, limit: LimitClass, address: str) -> None:
    """A token that does not count draws on its sender's address, so that guessing tokens is limited like everything.

    Raises:
        RateLimited: this address has guessed too often.
    """
    drawn = limits.hit(limit, address)
    decision = drawn if isinstance(drawn, Decision) else await drawn
    if not decision.allowed:
        raise RateLimited(limit, decision)


def compile_not_found(
    dialect: Dialect, edge: Edge, request_ids: RequestIds, missing: HaptaError | None = None
) -> Compiled:
    """The answer for what is not in the table; it is limited and logged like everything else.

    Args:
        missing: what to say in place of `RouteNotFound`.
    """
    limit = edge.limits.of("default")
    finish = finisher("unknown", edge)

    async def handle(scope: Scope, receive: Receive, send: Send, params: dict[str, str]) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = client_address(scope, headers, edge.server.trust_proxy)
        request = Request(scope, headers, params, address, request_ids.next())
        error: HaptaError = missing or RouteNotFound()
        if edge.limits.enabled:
            try:
                await _guess_costs(edge.limits, limit, address)
            except RateLimited as limited:
                error = limited
        reply = error_reply(error, dialect, request, edge)
        out: Headers = [
            JSON,
            (b"content-length", str(len(reply.content)).encode()),
            (b"x-request-id", request.request_id.encode()),
            server_timing(request),
            *security_headers(edge),
            *reply.headers,
        ]
        out += edge.cors.headers(headers.get(b"origin"))
        await send({"type": "http.response.start", "status": reply.status, "headers": out})
        await send({"type": "http.response.body", "body": reply.content})
        finish(request, reply.status, len(reply.content))

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


__all__ = ["Compiled", "compile_at_once", "compile_endpoint", "compile_not_found"]
