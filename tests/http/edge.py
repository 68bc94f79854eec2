"""A table behind the real edge, called in this process: for tests of routes that need no server of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import httpx

from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.kit.access import Caller
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.errors import InvalidToken
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings


class NobodyIsKnown:
    """A verifier for tables that are public altogether."""

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        raise InvalidToken


def client_of(
    endpoints: Sequence[Endpoint],
    *,
    address: str = "127.0.0.1",
    metrics: Metrics | None = None,
    clock: Clock | None = None,
) -> httpx.AsyncClient:
    """A client of an application that serves exactly these endpoints, without limits.

    Args:
        address: where the client seems to call from.
    """
    edge = Edge(
        server=ServerSettings(),
        verifier=NobodyIsKnown(),
        limits=Limits(None, {"default": LimitClass("default", Rate(600, 60, 200), "address")}),
        cors=Cors(["*"]),
        metrics=metrics or Metrics(),
        clock=clock or SystemClock(),
        access_log=None,
    )
    app = cast(Any, Application(endpoints, edge))  # httpx types messages a little differently
    transport = httpx.ASGITransport(app, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url="http://server.test")
