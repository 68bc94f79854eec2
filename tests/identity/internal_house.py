"""The two ends of the line between the servers of a pair, over a real socket, for the tests of what crosses it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from hapta.cli.server_process import uvicorn_config
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import Limits
from hapta.http.metrics import Metrics
from hapta.http.upstream import Upstream
from hapta.identity.internal.peer import Peer
from hapta.identity.internal.routes import InternalRequests
from hapta.identity.internal.tokens import InternalTokens
from hapta.kit.access import Caller
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken
from hapta.serving import limit_classes
from hapta.settings import RateLimitSettings, ServerSettings, Settings


class Nobody:
    """A verifier to whom no token counts: internal routes never ask one."""

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        raise InvalidToken


def internal_app(endpoints: Sequence[Endpoint], tokens: InternalTokens, clock: Clock) -> Application:
    """Internal routes behind the real edge."""
    limits = Limits(None, limit_classes(RateLimitSettings()))
    verifier = InternalRequests(tokens)
    edge = Edge(ServerSettings(), Nobody(), limits, Cors(()), Metrics(), clock, None, internal=verifier)
    return Application(endpoints, edge)


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """An ASGI application behind uvicorn on a port of its own, set up as `hapta serve` does it; its address."""

    async def outer(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await app(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn_config(outer, Settings()))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def peer_at(url: str, tokens: InternalTokens) -> AsyncIterator[Peer]:
    """A caller of the server at `url`."""
    peer = Peer(Upstream(url), tokens)
    try:
        yield peer
    finally:
        await peer.close()
