"""Is it there, is it ready, how is it doing: `/`, `/healthz`, `/readyz` and `/metrics`.

`/` and `/healthz` ask nothing of any other part, so they answer under load and while the database is away; `/readyz` asks
every part that a request may need.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from hapta.http.api import Content, Endpoint, Reply, Table
from hapta.http.compress import accept_weights
from hapta.http.errors import SYNC
from hapta.http.metrics import CONTENT_TYPE, Metrics
from hapta.http.requests import Request
from hapta.http.validate import Wire
from hapta.kit.access import PUBLIC
from hapta.kit.clock import Clock, iso_ms
from hapta.kit.errors import Forbidden, HaptaError, Unavailable

Check = Callable[[], Awaitable[None]]
"""Returns when its part can serve; raises `Unavailable` with a public reason, or anything else."""

CHECK_SECONDS = 3.0
_log = structlog.get_logger("hapta.http")


class HealthLimits(Wire, frozen=True):
    """What one request may carry; clients size their batches by it."""

    max_logs_per_push: int
    max_body_bytes: int
    max_log_bytes: int
    max_pull_limit: int


class HealthAnswer(Wire, frozen=True):
    """The server says what it is (contract sync, section 2.1)."""

    name: str
    version: str
    status: str
    env: str
    server_time: str
    limits: HealthLimits
    features: list[str]


class AliveAnswer(Wire, frozen=True):
    """The process runs and its event loop turns."""

    status: str


class ReadyAnswer(Wire, frozen=True):
    """Every part that a request may need is there."""

    status: str
    checks: dict[str, str]


class NotReady(Unavailable):
    """At least one part cannot serve; `checks` says which, and why."""

    code = "not_ready"
    message = "The server is not ready"


class MetricsForbidden(Forbidden):
    """The metrics page is for this machine, or for whoever has its token."""

    code = "metrics_forbidden"
    message = "Ask from the server's own machine, or send the token of the setting server.metrics_token"


@dataclass(frozen=True, slots=True)
class Identity:
    """What `/` tells of this server."""

    name: str
    version: str
    environment: str
    limits: HealthLimits
    features: tuple[str, ...]
    greeting: str = ""
    """What `/` says to whoever asks for plain text; empty: the same as to everybody."""


def routes(
    identity: Identity, clock: Clock, checks: Mapping[str, Check], metrics: Metrics, metrics_token: str = ""
) -> list[Endpoint]:
    """The four routes.

    Args:
        checks: what `/readyz` asks, by the name it answers with.
        metrics_token: bearer token that opens `/metrics` to other machines; empty: none does.
    """
    api = _HealthApi(identity, clock, checks, metrics, metrics_token)
    table = Table(dialect=SYNC, access=PUBLIC, limit="default", tag="health")
    return [
        table.get(
            "/",
            api.root,
            summary="What this server is; browsers are sent to the API pages",
            answers={200: HealthAnswer, 302: None},
        ),
        table.get("/healthz", api.alive, summary="Whether the process runs", answers={200: AliveAnswer}),
        table.get(
            "/readyz",
            api.ready,
            summary="Whether every part that a request may need is there",
            answers={200: ReadyAnswer},
            errors=[NotReady],
        ),
        table.get(
            "/metrics",
            api.metrics_page,
            summary="Numbers for Prometheus",
            description="Answers callers on the server's own machine, and others with the token of `server.metrics_token`.",
            answers={200: Content("text/plain", "Prometheus text format")},
            errors=[MetricsForbidden],
        ),
    ]


_HOUR = "<the hour>"
_VARY = ((b"vary", b"Accept"),)


class _HealthApi:
    def __init__(
        self, identity: Identity, clock: Clock, checks: Mapping[str, Check], metrics: Metrics, metrics_token: str
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._checks = checks
        self._metrics = metrics
        self._metrics_token = metrics_token.encode()
        # Everything but the hour is the same in each answer, so it is encoded once.
        answer = HealthAnswer(
            name=identity.name,
            version=identity.version,
            status="ok",
            env=identity.environment,
            server_time=_HOUR,
            limits=identity.limits,
            features=list(identity.features),
        )
        before, _, after = msgspec.json.encode(answer).partition(_HOUR.encode())
        self._around_time = (before, after)

    async def root(self, request: Request) -> Reply:
        if prefers_html(request.header("accept")):
            return Reply(302, None, ((b"location", b"/docs"), (b"vary", b"Accept"), (b"cache-control", b"no-store")))
        if self._identity.greeting and prefers_text(request.header("accept")):
            return Reply(200, self._identity.greeting.encode(), _VARY, "text/plain; charset=utf-8")
        before, after = self._around_time
        return Reply(200, before + iso_ms(self._clock.now_ms()).encode() + after, _VARY)

    async def alive(self) -> AliveAnswer:
        return AliveAnswer(status="ok")

    async def ready(self) -> ReadyAnswer:
        states = dict(zip(self._checks, await asyncio.gather(*map(_state, self._checks.items())), strict=True))
        failed = [name for name, state in states.items() if state != "ok"]
        if failed:
            raise NotReady(f"The server is not ready: {', '.join(failed)}", checks=states)
        return ReadyAnswer(status="ready", checks=states)

    async def metrics_page(self, request: Request) -> Reply:
        if not (_is_local(request) or self._has_token(request)):
            raise MetricsForbidden
        return Reply(200, self._metrics.render(), ((b"cache-control", b"no-store"),), CONTENT_TYPE)

    def _has_token(self, request: Request) -> bool:
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        given = token.strip().encode()
        return (
            bool(self._metrics_token) and scheme.lower() == "bearer" and hmac.compare_digest(given, self._metrics_token)
        )


async def _state(named: tuple[str, Check]) -> str:
    name, check = named
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return "no answer in time"
    except HaptaError as error:
        return error.message
    except (
        Exception
    ) as error:  # the boundary: a check may fail in any way; its text may hold addresses, so it is only logged
        _log.warning("readiness check failed", check=name, exc_info=error)
        return "failed"
    return "ok"


_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip", "via")


def _is_local(request: Request) -> bool:
    """Whether the caller sits on this machine. A reverse proxy here does too, so a forwarded request never counts."""
    if any(request.header(name) is not None for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client_address).is_loopback
    except ValueError:
        return False


def prefers_html(accept: str | None) -> bool:
    """Whether a caller names `text/html` and weighs it no less than JSON: browsers do, programs do not."""
    if accept is None or "text/html" not in accept:
        return False
    weights = accept_weights(accept.encode("latin-1", "replace"))
    html = weights.get(b"text/html", 0.0)
    return html > 0.0 and html >= weights.get(b"application/json", 0.0)


def prefers_text(accept: str | None) -> bool:
    """Whether a caller names `text/plain` and weighs it above JSON: programs that take anything name both, or none."""
    if accept is None or "text/plain" not in accept:
        return False
    weights = accept_weights(accept.encode("latin-1", "replace"))
    return weights.get(b"text/plain", 0.0) > weights.get(b"application/json", 0.0)
