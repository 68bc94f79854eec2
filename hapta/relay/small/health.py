"""Health under the names that clients and monitors of the relay know (contract relay, section 10); `hapta/http/health.py` has
the server's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from msgspec import UNSET

from hapta.http.api import Endpoint, Reply, Table
from hapta.http.errors import RELAY
from hapta.kit.access import PUBLIC
from hapta.kit.clock import Clock, iso_ms
from hapta.relay.small.schemas import HealthAnswer, MessagesHealthAnswer, ReadyAnswer

Check = Callable[[], Awaitable[None]]
"""Comes back when its part can serve; raises when it cannot."""
CHECK_SECONDS = 3.0
_NO_STORE = ((b"cache-control", b"no-store"),)
_log = structlog.get_logger("hapta.relay")


def routes(version: str, clock: Clock, checks: Mapping[str, Check]) -> list[Endpoint]:
    """The URL table of health.

    Args:
        checks: `database`, `schema` and whatever else has to be well, by the server's own names; `bus` is told as
            `durableObjects`, which is what clients know in its place.
    """
    api = HealthApi(version, clock, checks)
    table = Table(dialect=RELAY, access=PUBLIC, limit="default", tag="health")
    return [
        table.get("/health", api.health, summary="Whether the process runs", answers={200: HealthAnswer}),
        table.get(
            "/ready", api.ready, summary="Whether every part is there", answers={200: ReadyAnswer, 503: ReadyAnswer}
        ),
        table.get(
            "/health/messages",
            api.messages,
            summary="Whether messages can be stored",
            answers={200: MessagesHealthAnswer, 503: MessagesHealthAnswer},
        ),
    ]


class HealthApi:
    """Handlers of health."""

    def __init__(self, version: str, clock: Clock, checks: Mapping[str, Check]) -> None:
        self._version = version
        self._clock = clock
        self._checks = checks

    async def health(self) -> HealthAnswer:
        return HealthAnswer(status="healthy", timestamp=self._now(), version=self._version, service="happy-server")

    async def ready(self) -> Reply:
        states = await self._states(self._checks)
        checks = {
            "environment": True,
            "database": states.get("database", True) and states.get("schema", True),
            "storage": states.get("storage", True),
            "durableObjects": states.get("bus", True),
        }
        ready = all(states.values())
        error = UNSET if ready else f"Not ready: {', '.join(name for name, well in checks.items() if not well)}"
        answer = ReadyAnswer(ready=ready, checks=checks, timestamp=self._now(), error=error)
        return Reply(200 if ready else 503, answer, _NO_STORE)

    async def messages(self) -> Reply:
        began = self._clock.monotonic()
        wanted = {name: check for name, check in self._checks.items() if name in ("database", "schema")}
        states = await self._states(wanted)
        healthy = all(states.values())
        answer = MessagesHealthAnswer(
            status="healthy" if healthy else "unhealthy",
            checks={name: "ok" if well else "error" for name, well in states.items()},
            timestamp=self._now(),
            latency_ms=round((self._clock.monotonic() - began) * 1000),
            error=UNSET if healthy else "Messages cannot be stored",
        )
        return Reply(200 if healthy else 503, answer, _NO_STORE)

    def _now(self) -> str:
        return iso_ms(self._clock.now_ms())

    async def _states(self, checks: Mapping[str, Check]) -> dict[str, bool]:
        return dict(zip(checks, await asyncio.gather(*[_is_well(*named) for named in checks.items()]), strict=True))


async def _is_well(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except (
        Exception
    ) as error:  # the boundary: a check may fail in any way; its text may hold addresses, so it is only logged
        _log.warning("health check failed", check=name, exc_info=error)
        return False
    return True
