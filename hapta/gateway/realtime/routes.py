"""URL table and handlers of realtime: open a stream, submit topics."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from hapta.gateway.bodies.envelopes import REALTIME, read_envelope
from hapta.gateway.limits.service import Drawn
from hapta.gateway.models import NOBODY, Client, Collection, Headers, LimitName, Visitor
from hapta.gateway.realtime.service import Realtime
from hapta.gateway.table import visitors
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request
from hapta.kit.errors import (
    BadGateway,
    Forbidden,
    GatewayTimeout,
    Invalid,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS: Headers = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""Proxies that gather what they pass on would keep events back."""


class Visitors(Protocol):
    """Who asks, by the token of the request."""

    def visitor_now(self, authorization: bytes | None) -> Visitor | None: ...
    async def visitor(self, authorization: bytes | None) -> Visitor: ...


class Limits(Protocol):
    def draw(
        self, name: LimitName, collection: Collection | None, visitor: Visitor, address: str
    ) -> Drawn | Awaitable[Drawn]: ...


class RealtimeRoutes:
    """Handlers of realtime."""

    def __init__(self, realtime: Realtime, sessions: Visitors, limits: Limits) -> None:
        self._realtime = realtime
        self._sessions = sessions
        self._limits = limits

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix."""
        table = visitors(prefix)
        path = prefix + "/api/realtime"
        return [
            table.get(
                path,
                self.connect,
                summary="Open a stream of events",
                answers={200: Content(EVENT_STREAM, "Events, the first one `PB_CONNECT`")},
                errors=(TooMany,),
            ),
            table.post(
                path,
                self.subscribe,
                summary="Replace the topics of a stream",
                answers={204: None},
                errors=(
                    Invalid,
                    Unauthenticated,
                    Forbidden,
                    NotFound,
                    TooLarge,
                    UnsupportedMedia,
                    TooMany,
                    BadGateway,
                    Unavailable,
                    GatewayTimeout,
                ),
            ),
        ]

    async def connect(self, request: Request) -> Reply:
        """A stream does not know whose it is before its topics come: browsers cannot send a token with it."""
        headers = await self._draw("connect", NOBODY, request)
        stream = self._realtime.connect(request.client_address)
        return Reply(200, stream, (*STREAM_HEADERS, *headers), EVENT_STREAM)

    async def subscribe(self, request: Request, body: BodyStream) -> Reply:
        authorization = request.raw_header(b"authorization")
        visitor = self._sessions.visitor_now(authorization)
        if visitor is None:
            visitor = await self._sessions.visitor(authorization)
        headers = await self._draw("subscribe", visitor, request)
        given = await read_envelope(request, body, REALTIME, request.query_string)
        client = Client(request.client_address, request.request_id, raw=request.header_pairs)
        topics = given.get("subscriptions") or ()
        await self._realtime.submit(given.get("clientId") or "", visitor, client, topics)
        return Reply(204, None, headers)

    async def _draw(self, name: LimitName, visitor: Visitor, request: Request) -> Headers:
        drawn = self._limits.draw(name, None, visitor, request.client_address)
        return (drawn if isinstance(drawn, Drawn) else await drawn).headers
