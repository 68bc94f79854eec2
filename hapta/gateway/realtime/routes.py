"""URL table and handlers of realtime: open a stream, submit topics."""

from __future__ import annotations

from typing import Protocol

from hapta.gateway.bodies.envelopes import REALTIME, read_envelope
from hapta.gateway.limits.service import Limits
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import NOBODY, Client, Headers, Visitor
from hapta.gateway.realtime.service import Realtime
from hapta.gateway.table import WRITE_ERRORS, client_of, visitors
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request
from hapta.kit.errors import TooMany

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS: Headers = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""Proxies that gather what they pass on would keep events back."""


class Visitors(Protocol):
    """Who asks, by the token of the request."""

    async def visitor(self, authorization: bytes | None, client: Client | None = None) -> Visitor: ...


class RealtimeRoutes:
    """Handlers of realtime."""

    def __init__(self, realtime: Realtime, sessions: Visitors, limits: Limits, metrics: GatewayMetrics) -> None:
        self._realtime = realtime
        self._sessions = sessions
        self._limits = limits
        self._metrics = metrics

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
                errors=WRITE_ERRORS,
            ),
        ]

    async def connect(self, request: Request) -> Reply:
        """A stream does not know whose it is before its topics come: browsers cannot send a token with it."""
        with self._metrics.call("connect"):
            headers = await self._limits.drawn("connect", None, NOBODY, request.client_address)
            stream = self._realtime.connect(request.client_address)
        return Reply(200, stream, (*STREAM_HEADERS, *headers), EVENT_STREAM)

    async def subscribe(self, request: Request, body: BodyStream) -> Reply:
        client = client_of(request)
        visitor = await self._sessions.visitor(request.raw_header(b"authorization"), client)
        with self._metrics.call("subscribe"):
            headers = await self._limits.drawn("subscribe", None, visitor, client.address)
            given = await read_envelope(request, body, REALTIME, request.query_string)
            topics = given.get("subscriptions") or ()
            await self._realtime.submit(given.get("clientId") or "", visitor, client, topics)
        return Reply(204, None, headers)
