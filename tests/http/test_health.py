"""What probes, browsers and Prometheus see."""

from __future__ import annotations

import re

import httpx
import pytest

from hapta.http import health
from hapta.http.health import Check, HealthLimits, Identity, prefers_html
from hapta.http.metrics import Metrics
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Unavailable
from tests.http.edge import client_of

pytestmark = pytest.mark.anyio

LIMITS = HealthLimits(max_logs_per_push=10, max_body_bytes=20, max_log_bytes=30, max_pull_limit=40)
IDENTITY = Identity("hapta", "1.2.3", "development", LIMITS, ("sync",))
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


async def fine() -> None:
    return


async def away() -> None:
    raise Unavailable("The database does not answer")


async def broken() -> None:
    raise OSError("connect to 10.0.0.7 failed")


async def untouchable() -> None:
    raise AssertionError("this must not be asked")


def client(*, token: str = "", address: str = "127.0.0.1", **checks: Check) -> httpx.AsyncClient:
    metrics = Metrics()
    return client_of(health.routes(IDENTITY, SystemClock(), checks, metrics, token), address=address, metrics=metrics)


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html;q=0.5"])
async def test_programs_get_the_health_and_no_other_part_is_asked(accept: str | None) -> None:
    async with client(database=untouchable) as http:
        answer = await http.get("/", headers={} if accept is None else {"accept": accept})
    body = answer.json()
    assert answer.status_code == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("serverTime"))
    assert body == {
        "name": "hapta",
        "version": "1.2.3",
        "status": "ok",
        "env": "development",
        "limits": {"maxLogsPerPush": 10, "maxBodyBytes": 20, "maxLogBytes": 30, "maxPullLimit": 40},
        "features": ["sync"],
    }
    assert "accept" in answer.headers["vary"].lower()


async def test_browsers_are_sent_to_the_pages() -> None:
    async with client() as http:
        answer = await http.get("/", headers={"accept": BROWSER})
    assert (answer.status_code, answer.headers["location"]) == (302, "/docs")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("accept", "html"), [(BROWSER, True), ("text/html", True), ("text/html;q=0", False), ("text/*", False), ("", False)]
)
def test_only_who_asks_for_html_gets_it(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


async def test_alive_asks_nobody() -> None:
    async with client(database=untouchable) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}


async def test_ready_when_every_part_is() -> None:
    async with client(database=fine, bus=fine) as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"database": "ok", "bus": "ok"}}


async def test_not_ready_says_which_part_and_leaks_nothing() -> None:
    async with client(database=away, bus=broken, schema=fine) as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    body = answer.json()
    assert body["code"] == "not_ready"
    assert body["checks"] == {"database": "The database does not answer", "bus": "failed", "schema": "ok"}
    assert "10.0.0.7" not in answer.text


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
async def test_metrics_are_open_to_this_machine(address: str) -> None:
    async with client(address=address) as http:
        await http.get("/healthz")
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'hapta_requests_total{method="GET",route="/healthz",status="2xx",worker="0"} 1.0' in answer.text


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
async def test_a_proxy_on_this_machine_does_not_open_the_metrics(header: str) -> None:
    async with client() as http:
        answer = await http.get("/metrics", headers={header: "127.0.0.1"})
    assert answer.status_code == 403
    assert answer.json()["code"] == "metrics_forbidden"


@pytest.mark.parametrize(
    ("token", "sent", "status"),
    [
        ("", None, 403),
        ("", "Bearer ", 403),
        ("", "Bearer x", 403),
        ("secret", None, 403),
        ("secret", "Bearer other", 403),
        ("secret", "Basic secret", 403),
        ("secret", "Bearer secret", 200),
        ("secret", "bearer secret", 200),
    ],
)
async def test_other_machines_need_the_token(token: str, sent: str | None, status: int) -> None:
    async with client(token=token, address="192.0.2.7") as http:
        answer = await http.get("/metrics", headers={} if sent is None else {"authorization": sent})
    assert answer.status_code == status
