"""NO-SKIP on both engines through real servers: whole, with broken connections, and with kill -9 in the middle.

The same code is the command `hapta bench no-skip`, which runs longer. Here every run is short; a fault strikes when enough
has been acknowledged for it to hurt, not after a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hapta.cli import no_skip
from tests.faults.topologies import NewHapta, Topology, on_postgres, on_sqlite
from tests.servers import PostgresServer, Run

SECONDS = 4.0
BEFORE_THE_FAULT = 300
"""Logs that must have been acknowledged before something is killed."""


async def prove(topology: Topology, *, fault: Callable[[], None] | None = None, seed: int = 1) -> no_skip.Report:
    """Runs the test, and the fault in its middle; nothing may be lost, doubled or skipped."""
    due = anyio.Event()
    reports: list[no_skip.Report] = []
    latest = no_skip.Progress()
    acknowledged_when_back = 0
    is_back = fault is None

    def enough() -> bool:
        return is_back and latest.cuts > 0 and latest.acknowledged > max(acknowledged_when_back, BEFORE_THE_FAULT)

    plan = no_skip.Plan(
        urls=topology.urls,
        token=await topology.account(),
        seconds=SECONDS,
        drop=0.1,
        payload_bytes=48,
        patience_seconds=120.0,
        seed=seed,
        enough=enough,
    )

    def on_progress(now: no_skip.Progress) -> None:
        nonlocal latest
        latest = now
        if now.acknowledged >= BEFORE_THE_FAULT:
            due.set()

    async def strike() -> None:
        nonlocal acknowledged_when_back, is_back
        assert fault is not None
        await due.wait()
        await run_sync(fault)
        acknowledged_when_back, is_back = latest.acknowledged, True

    async def test() -> None:
        reports.append(await no_skip.run(plan, on_progress))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(test)
        if fault is not None:
            tasks.start_soon(strike)
    report = reports[0]
    assert report.violations == ()
    assert report.progress.cuts > 0
    assert report.progress.acknowledged > max(acknowledged_when_back, BEFORE_THE_FAULT)  # it went on afterwards
    assert report.distinct == report.progress.acknowledged == report.last_sequence
    await topology.verify()
    return report


async def test_sqlite_loses_and_doubles_nothing_while_connections_break(new_hapta: NewHapta) -> None:
    await prove(on_sqlite(new_hapta))


async def test_two_workers_on_postgres_lose_and_double_nothing_while_connections_break(
    new_hapta: NewHapta, postgres_url: str, redis_url: str
) -> None:
    await prove(on_postgres(new_hapta, postgres_url, redis_url))


async def test_what_sqlite_acknowledged_survives_kill_9_of_the_server(new_hapta: NewHapta) -> None:
    topology = on_sqlite(new_hapta)
    await prove(topology, fault=topology.workers[0].restart)


async def test_what_postgres_acknowledged_survives_kill_9_of_a_worker(
    new_hapta: NewHapta, postgres_url: str, redis_url: str
) -> None:
    topology = on_postgres(new_hapta, postgres_url, redis_url)
    await prove(topology, fault=topology.workers[1].restart)


async def test_what_was_acknowledged_survives_kill_9_of_postgres(
    new_hapta: NewHapta, server_run: Run, redis_url: str
) -> None:
    with PostgresServer(server_run, durable=True) as postgres:
        topology = on_postgres(new_hapta, postgres.url, redis_url, postgres)
        await prove(topology, fault=postgres.restart)
        for worker in topology.workers:
            worker.kill()


async def test_the_test_itself_finds_a_server_that_skips(new_hapta: NewHapta, tmp_path: Path) -> None:
    """A proof that cannot fail proves nothing: rows that vanish behind the server's back must be noticed."""
    import apsw

    topology = on_sqlite(new_hapta)
    database = topology.workers[0].data / "hapta.db"
    struck = False
    plan = no_skip.Plan(
        urls=topology.urls,
        token=await topology.account(),
        seconds=2.0,
        drop=0.0,
        payload_bytes=48,
        patience_seconds=120.0,
        enough=lambda: struck,
    )

    def on_progress(now: no_skip.Progress) -> None:
        nonlocal struck
        if now.acknowledged >= BEFORE_THE_FAULT and not struck:
            struck = True
            thief = apsw.Connection(str(database))
            thief.set_busy_timeout(10_000)
            thief.execute("DELETE FROM sync_logs WHERE sequence = 7")
            thief.close()

    report = await no_skip.run(plan, on_progress)

    assert not report.ok
    assert any("never came" in violation for violation in report.violations)
    assert any("holes" in violation for violation in report.violations)


@pytest.mark.parametrize(
    ("logs", "complaint"),
    [
        ([("a", 1), ("b", 2), ("b", 3)], "came twice"),
        ([("a", 2), ("b", 1)], "the order went back"),
        ([("a", 1)], "never came"),
        ([("a", 1), ("b", 3)], "holes or twins"),
        ([("a", 1), ("b", 2), ("x", 3)], "no push had acknowledged"),
        ([("b", 1), ("a", 2)], "was acknowledged as"),
    ],
)
def test_every_kind_of_broken_promise_has_a_complaint_of_its_own(logs: list[tuple[str, int]], complaint: str) -> None:
    found = no_skip.judge({"a": 1, "b": 2}, logs)

    assert any(complaint in violation for violation in found), found


def test_what_is_as_it_should_be_draws_no_complaint() -> None:
    assert no_skip.judge({"a": 1, "b": 2}, [("a", 1), ("b", 2)]) == []
