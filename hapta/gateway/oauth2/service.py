"""Brings what an OAuth2 provider answered to whoever waits for it under its `state`.

Clients of the SDKs wait at their stream: their `state` is their own id, and the event must carry it back unchanged. So the gateway
delivers it itself. PocketBase is only told of what it keeps until the code is exchanged: the name that Apple sends once (contract
gateway, A.7).
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import structlog

from hapta.gateway.changes.connection import ADDRESS, Connection, Upstream
from hapta.gateway.realtime.topics import OAUTH2
from hapta.gateway.upstream.sse import Event
from hapta.kit.errors import HaptaError

PATH = "/api/oauth2-redirect"
MAX_STATE_LENGTH = 256
MAX_VALUE_LENGTH = 8192

_log = structlog.stdlib.get_logger("hapta.gateway.oauth2")


class Arrived(NamedTuple):
    """What came back from a provider."""

    state: str
    code: str = ""
    error: str = ""
    user: str = ""
    """Apple's: JSON with the name, only with the first consent."""


class Clients(Protocol):
    """Who waits at a stream (hapta.gateway.realtime)."""

    async def oauth2_arrived(self, client_id: str, address: str, data: dict[str, Any]) -> bool: ...


class OAuth2Redirects:
    """The one place that providers lead back to."""

    def __init__(self, clients: Clients, upstream: Upstream) -> None:
        self._clients = clients
        self._upstream = upstream

    async def arrive(self, arrived: Arrived, address: str) -> bool:
        """Hands an answer to whoever waits for it, once.

        Args:
            address: of the browser, which has to be that of whoever waits.

        Returns:
            Whether the sign-in can go on: somebody waited, and there is a code.

        Raises:
            UpstreamAway, UpstreamBroken, UpstreamSlow: Apple's name could not be kept; nobody was told, and it may be tried again.
        """
        if not 0 < len(arrived.state) <= MAX_STATE_LENGTH or max(map(len, arrived)) > MAX_VALUE_LENGTH:
            return False
        if arrived.user and arrived.code and not arrived.error:
            await self._keep_name(arrived)
        data = {"state": arrived.state, "code": arrived.code}
        if arrived.error:
            data["error"] = arrived.error
        told = await self._clients.oauth2_arrived(arrived.state, address, data)
        return told and bool(arrived.code) and not arrived.error

    async def _keep_name(self, arrived: Arrived) -> None:
        """Lets PocketBase see the answer under the id of a stream of ours: it takes no other."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def receive(connection: Connection, event: Event) -> None:
            if not told.done():
                told.set_result(None)

        connection = Connection(self._upstream, (OAUTH2,), receive, lambda connection: None)
        await connection.start("")
        try:
            form = {"state": connection.client_id, "code": arrived.code, "user": arrived.user}
            answer = await self._upstream.send(
                "POST",
                PATH,
                body=urlencode(form).encode(),
                media_type="application/x-www-form-urlencoded",
                address=ADDRESS,
            )
            if not told.done():
                _log.info("PocketBase did not take a name of Apple's", status=answer.status)
        except HaptaError as error:
            _log.warning("PocketBase did not take a name of Apple's", error=str(error))
            raise
        finally:
            await connection.close()
