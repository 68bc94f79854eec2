"""Usage reports by socket, their sums over HTTP, and the limits that machines tell."""

from __future__ import annotations

from typing import Any

import pytest

from hapta.relay.usage import service as usage_service
from tests.relay.house import Guest, House

pytestmark = pytest.mark.anyio

HOUR = 3600


async def create(guest: Guest) -> str:
    return (await guest.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]["id"]


async def query(guest: Guest, **wanted: Any) -> dict[str, Any]:
    answer = await guest.post("/v1/usage/query", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_report_is_replaced_by_a_later_one_and_told_to_apps(a: Guest, house: House) -> None:
    session_id = await create(a)
    now = house.clock.now_ms()
    report = {"key": "claude", "sessionId": session_id, "tokens": {"total": 5, "input": 3}, "cost": {"total": 0.25}}
    async with a.socket() as watcher, a.socket(session=session_id) as agent:
        first = await agent.emit("usage-report", report, ack=True)
        assert first == {"success": True, "reportId": first["reportId"], "createdAt": now, "updatedAt": now}
        assert await watcher.ephemeral("usage") == {
            "type": "usage",
            "id": session_id,
            "sid": session_id,
            "key": "claude",
            "tokens": {"total": 5, "input": 3},
            "cost": {"total": 0.25},
            "timestamp": now,
        }
        house.clock.advance(seconds=1)
        again = await agent.emit("usage-report", {**report, "tokens": {"total": 9}}, ack=True)
        assert again == {**first, "updatedAt": now + 1000}
        await watcher.seen()

        free = {"key": "claude", "sessionId": None, "tokens": {"total": 1}, "cost": {"total": 1}}
        assert (await agent.emit("usage-report", free, ack=True))["success"]
        assert await watcher.seen() == []
        assert await agent.seen() == []
    found = await query(a, sessionId=session_id)
    assert found["usage"] == [
        {"timestamp": now // 1000, "tokens": {"total": 9}, "cost": {"total": 0.25}, "reportCount": 1}
    ]
    assert (await query(a))["totalReports"] == 2


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"key": ""}, "Invalid key"),
        ({"key": 5}, "Invalid key"),
        ({"key": "x" * 257}, "Invalid key"),
        ({"tokens": None}, "Invalid tokens object - must include total"),
        ({"tokens": {"input": 5}}, "Invalid tokens object - must include total"),
        ({"tokens": {"total": "5"}}, "Invalid tokens object - must include total"),
        ({"tokens": {"total": 2**60}}, "Invalid tokens object - must include total"),
        (
            {"tokens": {"total": 1, **{f"{number}": 1 for number in range(64)}}},
            "Invalid tokens object - must include total",
        ),
        ({"cost": {}}, "Invalid cost object - must include total"),
        ({"cost": [1]}, "Invalid cost object - must include total"),
        ({"sessionId": 5}, "Invalid sessionId"),
        ({"sessionId": ""}, "Invalid sessionId"),
        ({"sessionId": "nobody"}, "Session not found"),
    ],
)
async def test_reports_that_do_not_fit_are_answered_so(a: Guest, wrong: dict[str, Any], error: str) -> None:
    report = {"key": "k", "tokens": {"total": 1}, "cost": {"total": 1}, **wrong}
    async with a.socket() as socket:
        assert await socket.emit("usage-report", report, ack=True) == {"success": False, "error": error}
        assert (await socket.emit("usage-report", [report], ack=True))["error"] == "Invalid key"


async def test_sums_are_by_hour_or_day_of_utc_in_the_order_of_time(a: Guest, b: Guest, house: House) -> None:
    session_id = await create(a)
    start = house.clock.now_ms() // 1000
    async with a.socket() as socket, b.socket() as other:

        async def report(key: str, total: int, **more: Any) -> None:
            data = {"key": key, "tokens": {"total": total, "input": 1}, "cost": {"total": 0.5}, **more}
            assert (await socket.emit("usage-report", data, ack=True))["success"]

        await report("1", 1, sessionId=session_id)
        house.clock.advance(minutes=59)
        await report("2", 2)
        house.clock.advance(hours=1)
        await report("3", 4)
        house.clock.advance(days=1)
        await report("4", 8)
        theirs = {"key": "1", "tokens": {"total": 100}, "cost": {"total": 1}}
        assert (await other.emit("usage-report", theirs, ack=True))["success"]

    hours = await query(a, groupBy="hour")
    assert (hours["groupBy"], hours["totalReports"]) == ("hour", 4)
    assert [(one["timestamp"] - start, one["tokens"], one["reportCount"]) for one in hours["usage"]] == [
        (0, {"total": 3, "input": 2}, 2),
        (HOUR, {"total": 4, "input": 1}, 1),
        (25 * HOUR, {"total": 8, "input": 1}, 1),
    ]
    days = await query(a, sessionId=None, startTime=None, endTime=None, groupBy=None)
    assert days["groupBy"] == "day"
    assert [(one["timestamp"] - start, one["tokens"]["total"], one["cost"]["total"]) for one in days["usage"]] == [
        (0, 7, 1.5),
        (24 * HOUR, 8, 0.5),
    ]
    assert (await query(a, startTime=start + HOUR))["totalReports"] == 2
    assert (await query(a, endTime=start + HOUR))["totalReports"] == 2
    assert (await query(a, startTime=start, endTime=start))["totalReports"] == 1
    assert (await query(a, sessionId=session_id))["totalReports"] == 1
    assert await query(b, groupBy="hour") == {
        "usage": [{"timestamp": start + 25 * HOUR, "tokens": {"total": 100}, "cost": {"total": 1}, "reportCount": 1}],
        "groupBy": "hour",
        "totalReports": 1,
    }
    assert (await b.post("/v1/usage/query", json={"sessionId": session_id})).status_code == 404


async def test_sums_over_many_pages_miss_and_double_nothing(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_service, "PAGE", 3)
    async with a.socket() as socket:
        for number in range(10):
            report = {"key": f"{number}", "tokens": {"total": 1}, "cost": {"total": 1}}
            assert (await socket.emit("usage-report", report, ack=True))["success"]
            if number % 4 == 0:
                house.clock.advance(seconds=1)
    assert (await query(a))["usage"][0]["tokens"] == {"total": 10}


@pytest.mark.parametrize(
    "body",
    [
        {"groupBy": "week"},
        {"startTime": 0},
        {"endTime": -1},
        {"startTime": "1"},
        {"sessionId": 5},
        {"endTime": 1e12},
        [],
    ],
)
async def test_a_query_that_does_not_fit_is_refused(a: Guest, body: Any) -> None:
    assert (await a.post("/v1/usage/query", json=body)).status_code == 400


async def test_limits_are_kept_as_they_were_told(a: Guest, b: Guest, house: House) -> None:
    none = {"limitsAvailable": False, "weeklyLimits": [], "lastUpdatedAt": house.clock.now_ms()}
    assert (await a.get("/v1/usage/limits")).json() == none
    limit = {
        "id": "weekly",
        "label": "Weekly",
        "percentageUsed": 12.5,
        "resetsAt": None,
        "resetDisplayType": "countdown",
        "more": 1,
    }
    limits = {"limitsAvailable": True, "weeklyLimits": [limit], "sessionLimit": limit, "provider": "x", "extra": [1]}
    async with a.socket(machine="m") as socket:
        assert await socket.emit("update-usage-limits", limits, ack=True) == {"success": True}
        house.clock.advance(seconds=1)
        for wrong in (
            None, [], {}, {"limitsAvailable": 1, "weeklyLimits": []}, {"limitsAvailable": True, "weeklyLimits": [{}]},
            {"limitsAvailable": True, "weeklyLimits": [], "provider": "x" * 65},
            {"limitsAvailable": True, "weeklyLimits": [], "pad": "x" * 70_000},
        ):  # fmt: skip
            answer = await socket.emit("update-usage-limits", wrong, ack=True)
            assert answer == {"success": False, "error": "Invalid parameters"}
    assert (await a.get("/v1/usage/limits")).json() == {**limits, "lastUpdatedAt": house.clock.now_ms() - 1000}
    assert (await b.get("/v1/usage/limits")).json()["limitsAvailable"] is False
