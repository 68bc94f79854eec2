"""`/api/health` as PocketBase answers it: the gateway is there, and whether PocketBase behind it is, asked at most once a second."""

from __future__ import annotations

import asyncio

import msgspec

from hapta.gateway.errors import UpstreamAway
from hapta.gateway.upstream.client import PocketBase
from hapta.http.api import Endpoint, Table
from hapta.http.errors import POCKETBASE
from hapta.kit.access import PUBLIC
from hapta.kit.clock import Clock
from hapta.kit.errors import BadGateway, GatewayTimeout, Unavailable

PROBE_SECONDS = 1.0


class Healthy(msgspec.Struct):
    """PocketBase's own words, without what only superusers see."""

    code: int = 200
    message: str = "API is healthy."
    data: dict[str, str] = {}


class Health:
    """Asks PocketBase whether it is there."""

    def __init__(self, pb: PocketBase, clock: Clock) -> None:
        self._pb = pb
        self._clock = clock
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[bool] | None = None

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix."""
        table = Table(dialect=POCKETBASE, access=PUBLIC, tag="gateway", cors="open", hidden=bool(prefix))
        return [
            table.get(
                prefix + "/api/health",
                self.health,
                summary="Whether the gateway and PocketBase are there",
                answers={200: Healthy},
                errors=(Unavailable,),
            )
        ]

    async def health(self) -> Healthy:
        if not await self.alive():
            raise UpstreamAway
        return Healthy()

    async def alive(self) -> bool:
        """Whether PocketBase answered within the last second. Those who ask at the same time ask it once."""
        now = self._clock.monotonic()
        if self._asking is None or now - self._asked_at >= PROBE_SECONDS:
            self._asked_at = now
            self._asking = asyncio.get_running_loop().create_task(self._probe(), name="gateway-health")
        return await asyncio.shield(self._asking)

    async def _probe(self) -> bool:
        try:
            return (await self._pb.send("GET", "/api/health")).status == 200
        except (Unavailable, BadGateway, GatewayTimeout):
            return False

    async def close(self) -> None:
        """Ends a question that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
