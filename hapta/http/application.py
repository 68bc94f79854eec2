"""The ASGI application made from an endpoint table: routes, HEAD and preflight, sockets, and what is not in the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hapta.http.api import Endpoint
from hapta.http.cors import CLOSED, OPEN, Cors
from hapta.http.edge import Edge, RequestIds
from hapta.http.errors import (
    ENVELOPE,
    OAUTH,
    POCKETBASE,
    RELAY,
    SYNC,
    Dialect,
    MethodNotAllowed,
    dialect_for_path,
)
from hapta.http.middleware import Compiled, compile_at_once, compile_endpoint, compile_not_found
from hapta.http.repeats import AtOnce
from hapta.http.requests import Receive, Scope, Send
from hapta.http.router import NO_PARAMS, Router

OTHER_METHODS = "*"
"""Where the router keeps the 405 of a path whose dialect tells methods."""

Lifespan = Callable[[Receive, Send], Awaitable[None]]


class Application:
    """Serves a table over ASGI.

    Args:
        endpoints: the whole table.
        edge: what every request passes.
        dialects: in which dialect further beginnings of paths say that there is nothing.
    """

    def __init__(self, endpoints: Sequence[Endpoint], edge: Edge, dialects: Sequence[tuple[str, Dialect]] = ()) -> None:
        self._dialects = tuple(dialects)
        ids = RequestIds()
        self._new_id = ids.next
        self._cors = edge.cors
        self._in_flight = edge.metrics.requests
        self._http: Router[Compiled] = Router()
        self._at_once: dict[tuple[str, bytes], AtOnce] = {}
        self._sockets: Router[Compiled] = Router()
        self._preflights: Router[Cors] = Router()
        with_credentials = edge.cors.with_credentials()
        special: dict[str, Cors] = {}
        methods: dict[str, tuple[Dialect, list[str]]] = {}
        for endpoint in endpoints:
            router = self._sockets if endpoint.kind == "websocket" else self._http
            router.add(endpoint.method, endpoint.path, compile_endpoint(endpoint, edge, ids))
            at_once = compile_at_once(endpoint, edge, ids)
            if at_once is not None:
                self._at_once[endpoint.method, endpoint.path.encode()] = at_once
            if endpoint.cors != "listed":
                special[endpoint.path] = OPEN if endpoint.cors == "open" else CLOSED
            elif endpoint.allows_credentials:
                special.setdefault(endpoint.path, with_credentials)
            if endpoint.kind == "http" and endpoint.dialect.tells_methods:
                methods.setdefault(endpoint.path, (endpoint.dialect, []))[1].append(endpoint.method)
        for path, cors in special.items():
            self._preflights.add("OPTIONS", path, cors)
        for path, (dialect, known) in methods.items():
            allowed = [*known, *(["HEAD"] if "GET" in known else []), "OPTIONS"]
            wrong = compile_not_found(dialect, edge, ids, MethodNotAllowed(allowed))
            self._http.add(OTHER_METHODS, path, wrong)
        self._not_found = {
            dialect.name: compile_not_found(dialect, edge, ids)
            for dialect in (SYNC, ENVELOPE, OAUTH, RELAY, POCKETBASE)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        method: str = scope["method"]
        found = self._http.match(scope["raw_path"])
        if found is not None:
            entries, params = found
            handle = entries.get(method) or (entries.get("GET") if method == "HEAD" else None)
            if method == "OPTIONS" and handle is not None and await self._preflight(scope, send):
                return
            if handle is None and method != "OPTIONS":
                handle = entries.get(OTHER_METHODS)
            if handle is not None:
                self._in_flight.open += 1
                try:
                    await handle(scope, receive, send, params)
                finally:
                    self._in_flight.open -= 1
                return
        if method == "OPTIONS" and await self._preflight(scope, send):
            return
        await self._not_found[self._dialect_of(scope["path"]).name](scope, receive, send, NO_PARAMS)

    def find_at_once(self, method: str, raw_path: bytes) -> AtOnce | None:
        """The way without a task for requests to this address; None where there is only the usual one."""
        return self._at_once.get((method, raw_path))

    def _dialect_of(self, path: str) -> Dialect:
        for beginning, dialect in self._dialects:
            if path.startswith(beginning):
                return dialect
        return dialect_for_path(path)

    async def _preflight(self, scope: Scope, send: Send) -> bool:
        """Answers a CORS preflight for any path; False for an OPTIONS request that is none."""
        found = self._preflights.match(scope["raw_path"])
        cors = self._cors if found is None else found[0]["OPTIONS"]
        headers = cors.preflight(scope["method"], dict(scope["headers"]))
        if headers is None:
            return False
        named = [(b"x-request-id", self._new_id().encode()), *headers]
        await send({"type": "http.response.start", "status": 204, "headers": named})
        await send({"type": "http.response.body", "body": b""})
        return True

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._sockets.match(scope["raw_path"])
        if found is not None:
            entries, params = found
            await entries["GET"](scope, receive, send, params)
            return
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        body = b'{"error":"Not Found"}'
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self._new_id().encode()),
        ]
        await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
