"""Versions of apps, the development log with its order of checks, numbers that are dropped, and health under the relay's names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog

from hapta.http import health as server_health
from hapta.http.metrics import Metrics
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Unavailable
from hapta.kit.ratelimit import MemoryLimiter
from hapta.relay.personal import Surroundings
from hapta.relay.small import health
from hapta.relay.small import routes as small_routes
from hapta.relay.small.routes import DEBUG_LOG_PATH
from hapta.settings.relay import RelaySettings
from hapta.testing.clock import FakeClock
from tests.http.edge import client_of
from tests.relay.house import Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

APP_STORE = "https://apps.apple.com/us/app/happy-claude-code-client/id6748571505"
PLAY = "https://play.google.com/store/apps/details?id=com.ex3ndr.happy"


VERSIONS = [
    ("ios", "1.4.1", None),
    ("iOS", "2.0.0", None),
    ("ANDROID", "1.10.0+build.5", None),
    ("android", "v1.4.1", None),
    ("ios", "1.4.0", APP_STORE),
    ("android", "1.3.9", PLAY),
    ("ios", "1.5.0-beta.1", APP_STORE),
    ("ios", "", APP_STORE),
    ("ios", "1.4", APP_STORE),
    ("android", "new", PLAY),
    ("ios", "١.٤.١", APP_STORE),
    ("ios", "9" * 200, APP_STORE),
    ("web", "0.0.1", None),
    ("", "x", None),
]


async def test_an_app_of_a_store_learns_whether_it_is_too_old(house: House) -> None:
    for platform, version, url in VERSIONS:
        body = {"platform": platform, "version": version, "app_id": "com.example"}
        answer = await house.http.post("/v1/version", json=body)
        assert (answer.status_code, answer.json()) == (200, {"updateUrl": url}), (platform, version)


async def test_a_version_outside_the_bounds_is_refused(house: House) -> None:
    good = {"platform": "ios", "version": "1", "app_id": "x"}
    for bad in ({"platform": 1}, {"version": "x" * 257}, {"app_id": None}):
        assert (await house.http.post("/v1/version", json={**good, **bad})).status_code == 400
    assert (
        await house.http.post("/v1/version", content=b"{", headers={"content-type": "application/json"})
    ).status_code == 400


# --- the development log ---

ENTRY = {
    "timestamp": "2030-01-01T00:00:00Z",
    "level": "info",
    "message": "hello",
    "source": "mobile",
    "platform": "ios",
}


def log_client(*, production: bool = False, limited: bool = False, **settings: Any) -> httpx.AsyncClient:
    limiter = MemoryLimiter(FakeClock().monotonic) if limited else None
    return client_of(small_routes.routes(RelaySettings(**settings), limiter, production=production)[:2])


async def test_the_checks_of_the_log_come_in_their_order() -> None:
    large = b"x" * 204_801
    headers = {"content-type": "application/json"}
    on = {"debug_log": True, "debug_log_token": "secret"}
    async with log_client(production=True, **on) as http:
        answer = await http.post(DEBUG_LOG_PATH, content=large, headers=headers)
        assert answer.status_code == 413
        assert (answer.json()["maxMessageLength"], answer.json()["maxRawObjectSize"]) == (51_200, 102_400)
        assert (await http.post(DEBUG_LOG_PATH, json={**ENTRY, "source": "web"})).status_code == 400
        answer = await http.post(DEBUG_LOG_PATH, json=ENTRY)
        assert (answer.status_code, answer.json()) == (403, {"error": "Debug logging is not available in production"})
    async with log_client(debug_log_token="secret") as http:
        answer = await http.post(DEBUG_LOG_PATH, json=ENTRY)
        assert (answer.status_code, answer.json()) == (403, {"error": "Debug logging is disabled"})
    async with log_client(limited=True, **on) as http:
        for token in (None, "", "wrong", "sécret"):
            sent = {} if token is None else {b"x-dev-logging-token": token.encode()}
            answer = await http.post(DEBUG_LOG_PATH, json=ENTRY, headers=sent)
            assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})
        good = {"x-dev-logging-token": "secret"}
        for _ in range(60):
            answer = await http.post(DEBUG_LOG_PATH, json=ENTRY, headers=good)
            assert (answer.status_code, answer.json()) == (200, {"success": True})
        answer = await http.post(DEBUG_LOG_PATH, json=ENTRY, headers=good)
        assert answer.status_code == 429
        assert answer.json()["error"] == "Rate limit exceeded"
        other = await http.post(DEBUG_LOG_PATH, json={**ENTRY, "source": "cli"}, headers=good)
        assert other.status_code == 200


async def test_a_line_reaches_the_log_whole() -> None:
    entry = {**ENTRY, "message": "first\nsecond", "timestamp": 5, "messageRawObject": {"a": [1]}}
    async with log_client(debug_log=True) as http:
        with structlog.testing.capture_logs() as lines:
            assert (await http.post(DEBUG_LOG_PATH, json=entry)).status_code == 200
    (line,) = [line for line in lines if line["event"] == "line of an app"]
    assert (line["text"], line["raw"], line["source"], line["level_of_app"]) == (
        "first\nsecond",
        {"a": [1]},
        "mobile",
        "info",
    )


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1000


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"message": "x" * 51_200}, 200),
        ({"message": "x" * 51_201}, 400),
        ({"messageRawObject": "x" * 102_398}, 200),
        ({"messageRawObject": "x" * 102_399}, 400),
        ({"level": "x" * 33}, 400),
        ({"timestamp": None}, 400),
        ({"platform": None}, 200),
    ],
    ids=range(7),
)
async def test_a_line_has_bounds(change: dict[str, Any], status: int) -> None:
    async with log_client(debug_log=True) as http:
        assert (await http.post(DEBUG_LOG_PATH, json={**ENTRY, **change})).status_code == status


async def test_a_line_without_a_length_or_a_type_is_bounded_too() -> None:
    async with log_client(debug_log=True) as http:
        headers = {"content-type": "application/json"}
        assert (await http.post(DEBUG_LOG_PATH, content=chunks(205), headers=headers)).status_code == 413
        assert (await http.post(DEBUG_LOG_PATH, content=chunks(2), headers=headers)).status_code == 400
        text = await http.post(DEBUG_LOG_PATH, content=json.dumps(ENTRY), headers={"content-type": "text/plain"})
        assert text.status_code == 415


# --- numbers ---

SYNC = {
    "type": "messages",
    "mode": "full",
    "sessionId": None,
    "bytesReceived": 1,
    "itemsReceived": 2,
    "itemsSkipped": 0,
    "durationMs": 3,
}
VALIDATION = {
    "schemaFailures": 1,
    "unknownTypes": 0,
    "strictValidationFailures": 0,
    "sessionDurationMs": 5,
    "unknownTypeBreakdown": [{"typeName": "x", "count": 1}],
    "firstFailureAt": None,
}
RESTORE = {"sessionId": "s", "machineId": "m", "success": True, "timedOut": False, "durationMs": 1}
BUILD = {
    "platform": "ios",
    "branch": "main",
    "commitHash": "0123456",
    "jsBundleSize": 1,
    "assetsSize": 1,
    "totalSize": 2,
    "prNumber": None,
    "buildId": "b",
}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/analytics/sync", SYNC, {}),
        ("/v1/analytics/client/validation", VALIDATION, {"dataPointsWritten": 0}),
        ("/v1/analytics/client/restore", RESTORE, {"dataPointsWritten": 0}),
    ],
    ids=["sync", "validation", "restore"],
)
async def test_numbers_are_checked_and_dropped(house: House, a: Guest, path: str, body: Any, told: Any) -> None:
    answer = await a.post(path, json=body)
    assert answer.status_code == 200
    assert answer.headers["x-ingested"] == "false"
    warning = answer.json()["warning"]
    assert answer.json() == {"success": True, "ingested": False, "warning": warning, **told}
    for name in body:
        assert (await a.post(path, json={**body, name: {"not": "this"}})).status_code == 400
    assert (await house.http.post(path, json=body)).status_code == 401


async def test_numbers_have_a_budget_for_each_account(new_house: OpenHouse) -> None:
    clock = FakeClock()
    house = await new_house(limiter=MemoryLimiter(clock.monotonic), clock=clock)
    a, b = house.guest("a"), house.guest("b")
    for path, body, budget in (("/v1/analytics/sync", SYNC, 100), ("/v1/analytics/client/restore", RESTORE, 50)):
        for _ in range(budget):
            assert (await a.post(path, json=body)).status_code == 200
        refused = await a.post(path, json=body)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert (await b.post(path, json=body)).status_code == 200


async def test_sizes_of_builds_need_a_key_of_their_own(new_house: OpenHouse) -> None:
    house = await new_house(ci_metrics_key="ci-secret")

    async def status(body: Any, key: str | None) -> int:
        headers = {} if key is None else {"x-ci-api-key": key}
        return (await house.http.post("/v1/ci/metrics", json=body, headers=headers)).status_code

    assert await status({**BUILD, "commitHash": "short"}, None) == 400
    assert await status(BUILD, None) == 401
    assert await status(BUILD, "wrong") == 401
    assert await status(BUILD, "ci-secret") == 200
    closed = await new_house()
    assert (await closed.http.post("/v1/ci/metrics", json=BUILD, headers={"x-ci-api-key": ""})).status_code == 401


# --- health ---


async def fine() -> None:
    return


async def away() -> None:
    raise Unavailable("The database does not answer")


async def broken() -> None:
    raise OSError("connect to 10.0.0.7 failed")


async def test_health_asks_nothing(new_house: OpenHouse) -> None:
    around = Surroundings(version="1.2.3", checks={"database": broken, "schema": fine, "bus": fine})
    house = await new_house(relay={"around": around})
    answer = await house.http.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "timestamp": "2030-01-01T00:00:00.000Z",
        "version": "1.2.3",
        "service": "happy-server",
    }


@pytest.mark.parametrize("database", [fine, away, broken], ids=["fine", "away", "broken"])
@pytest.mark.parametrize("bus", [fine, away], ids=["bus", "no bus"])
async def test_a_server_is_ready_when_all_of_its_parts_are(database: health.Check, bus: health.Check) -> None:
    checks = {"database": database, "schema": fine, "bus": bus}
    async with client_of(health.routes("1", FakeClock(), checks)) as http:
        ready = await http.get("/ready")
        messages = await http.get("/health/messages")
    well, bus_well = database is fine, bus is fine
    assert ready.status_code == (200 if well and bus_well else 503)
    assert ready.json()["ready"] is (well and bus_well)
    assert ready.json()["checks"] == {
        "environment": True,
        "database": well,
        "storage": True,
        "durableObjects": bus_well,
    }
    assert ("error" in ready.json()) is not (well and bus_well)
    assert messages.status_code == (200 if well else 503)
    assert messages.json()["status"] == ("healthy" if well else "unhealthy")
    assert messages.json()["checks"] == {"database": "ok" if well else "error", "schema": "ok"}
    assert messages.json()["latencyMs"] == 0
    assert "10.0.0.7" not in ready.text + messages.text


@pytest.mark.parametrize(
    ("accept", "greets"),
    [
        ("text/plain", True),
        ("text/plain, */*;q=0.1", True),
        ("application/json, text/plain, */*", False),
        ("*/*", False),
        (None, False),
    ],
    ids=str,
)
async def test_an_app_that_asks_for_text_knows_the_server_by_its_greeting(accept: str | None, greets: bool) -> None:
    limits = server_health.HealthLimits(max_logs_per_push=1, max_body_bytes=1, max_log_bytes=1, max_pull_limit=1)
    for greeting in ("Welcome to Happy Server!", ""):
        identity = server_health.Identity("hapta", "1", "development", limits, (), greeting)
        async with client_of(server_health.routes(identity, SystemClock(), {}, Metrics())) as http:
            headers = {"accept": accept} if accept else {}
            answer = await http.get("/", headers=headers)
        assert answer.status_code == 200
        if greets and greeting:
            assert answer.text == greeting
            assert answer.headers["content-type"].startswith("text/plain")
        else:
            assert answer.json()["name"] == "hapta"
