"""`/v1/updates` and `/v1/websocket`: which of the two protocols a client speaks there (contract relay, sections 0 and 15).

`EIO` in the query: Socket.IO, over a WebSocket or by polling. Else a WebSocket: the native protocol. Else there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qsl

from hapta.http.api import Content, Endpoint, Reply, Request, Socket, Table
from hapta.http.errors import RELAY
from hapta.http.limits import HANDLER
from hapta.kit.access import IN_BAND, PUBLIC
from hapta.relay.updates import engineio
from hapta.relay.updates.engineio import BadRequest, Engine, Link

PATHS = ("/v1/updates", "/v1/updates/", "/v1/websocket")
PROTOCOL = "4"
MAX_PARAMETERS = 32

_TEXT = "text/plain; charset=UTF-8"
_HEADERS = ((b"cache-control", b"no-store"),)
_UPGRADE = (*_HEADERS, (b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
_ANSWERS = {200: Content(_TEXT, "packets of Engine.IO 4"), 400: Content("application/json"), 426: Content(_TEXT)}


class NativeFace(Protocol):
    """Serves sockets of the native protocol."""

    async def serve(self, socket: Socket) -> None:
        """One socket, from its handshake to its end."""
        ...


class UpdatesDoor:
    """Lets clients in."""

    def __init__(self, native: NativeFace, engine: Engine) -> None:
        self._native = native
        self._engine = engine

    async def socket(self, socket: Socket) -> None:
        query = _query(socket.query_string)
        if "EIO" not in query:
            await self._native.serve(socket)
            return
        try:
            _check(query, "websocket")
        except BadRequest as error:
            await socket.refuse(400, error.body.decode(), "application/json")
            return
        sid = query.get("sid")
        if sid is None:
            await self._engine.serve(socket)
        else:
            await self._engine.upgrade(socket, sid)

    async def poll(self, request: Request) -> Reply:
        query = _query(request.query_string)
        if "EIO" not in query:
            return _upgrade_required()
        try:
            _check(query, "polling")
            sid = query.get("sid")
            text = (
                self._engine.begin_polling(request.client_address)
                if sid is None
                else await self._engine.find(sid).poll()
            )
        except BadRequest as error:
            return Reply(400, error.body, _HEADERS)
        return Reply(200, text.encode(), _HEADERS, _TEXT)

    async def post(self, request: Request, body: bytes) -> Reply:
        query = _query(request.query_string)
        if "EIO" not in query:
            return _upgrade_required()
        try:
            await self._link_to_post(query).post(body)
        except BadRequest as error:
            return Reply(400, error.body, _HEADERS)
        return Reply(200, b"ok", _HEADERS, "text/html")

    def _link_to_post(self, query: Mapping[str, str]) -> Link:
        _check(query, "polling")
        sid = query.get("sid")
        if sid is None:
            raise BadRequest(*engineio.BAD_METHOD)
        return self._engine.find(sid)

    async def look(self, request: Request) -> Reply:
        """An OPTIONS that is no preflight."""
        return Reply(204, None, ((b"allow", b"GET,POST,OPTIONS"),))


def _query(raw: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
    except ValueError:  # too many
        return {}


def _check(query: Mapping[str, str], transport: str) -> None:
    """Raises: BadRequest: the handshake is not one of this protocol and transport."""
    if query["EIO"] != PROTOCOL:
        raise BadRequest(*engineio.UNSUPPORTED_VERSION)
    if query.get("transport") not in ("polling", "websocket"):
        raise BadRequest(*engineio.UNKNOWN_TRANSPORT)
    if query["transport"] != transport or "j" in query:
        raise BadRequest(*engineio.BAD_REQUEST)


def _upgrade_required() -> Reply:
    return Reply(426, b"Expected WebSocket upgrade", _UPGRADE, _TEXT)


def routes(door: UpdatesDoor, max_body_bytes: int) -> list[Endpoint]:
    """The table. What it costs is bounded by the engine and the hub, so that everybody may come back at the same time.

    Args:
        max_body_bytes: of what a client that polls sends at once.
    """
    table = Table(dialect=RELAY, limit=HANDLER, tag="relay realtime", cors="open")
    # The document has one entry for a method and path, and that is the socket's.
    polling = replace(table, hidden=True, max_body_bytes=max_body_bytes)
    endpoints: list[Endpoint] = []
    for path in PATHS:
        common: dict[str, Any] = {"access": PUBLIC, "answers": _ANSWERS}
        endpoints += [
            table.websocket(
                path,
                door.socket,
                summary="Updates, events and calls over one socket",
                description="With `EIO=4` in the query Socket.IO, also by polling; else JSON frames `{event, data}`.",
                access=IN_BAND,
            ),
            polling.get(path, door.poll, summary="Updates by polling (Engine.IO 4)", **common),
            polling.post(path, door.post, summary="Events by polling (Engine.IO 4)", **common),
            polling.options(
                path,
                door.look,
                summary="What may be asked here",
                answers={204: None},
                access=PUBLIC,
            ),
        ]
    return endpoints
