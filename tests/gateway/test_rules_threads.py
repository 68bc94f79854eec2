"""Rules that hang, raise or answer many at once: closed, in time, never mixed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hapta.gateway.errors import RuleDenied
from hapta.gateway.models import Visitor
from hapta.gateway.rules import pool as pools
from hapta.gateway.rules.engine import RulesBusy
from hapta.gateway.rules.pool import REPLACED_FOR_EACH_THREAD, Pool, TooSlow
from tests.gateway.rules_house import ALICE, POSTS, RulesHouse, operation, ruled

BLOCKED = """
import builtins

@before("update", "posts")
def hang(ctx):
    if ctx.data.get("hang"):
        builtins.gate_of_rules.wait()
    return allow()
"""


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What hanging rules wait for."""
    gate = threading.Event()
    monkeypatch.setattr("builtins.gate_of_rules", gate, raising=False)
    return gate


async def until(true: Callable[[], bool]) -> None:
    """Lets the loop run until something is so; a test that waits in vain is ended by the limit."""
    async with asyncio.timeout(120):
        while not true():  # noqa: ASYNC110 - threads end when they end, and tell nobody
            await asyncio.sleep(0.001)


async def goes_through(house: RulesHouse) -> None:
    """Returns once a request that no rule hangs in has been let through: where the machine is busy, it may be late a few times."""
    async with asyncio.timeout(120):
        while True:
            with suppress(RuleDenied, RulesBusy):
                await house.rules.before(operation("update", POSTS, ALICE, "p", {}))
                return
            await asyncio.sleep(0.001)


async def test_each_of_many_requests_at_once_gets_its_own_verdict(tmp_path: Path) -> None:
    rules = """
    @before("update", "posts")
    def even(ctx):
        assert ctx.auth.id == ctx.data["by"]
        if ctx.data["n"] % 3 == 0:
            return deny(ErrorCodes.VALIDATION_FAILED, str(ctx.data["n"]))
        return replace({"n": ctx.data["n"], "by": ctx.auth.id, "title": ctx.existing["title"]})
    """
    async with ruled(tmp_path, rules, threads=4) as house:
        house.world.records["posts", "p"] = {"id": "p", "title": "x"}

        async def one(n: int) -> object:
            visitor = Visitor(f"u:pbc_users/v{n}", "pbc_users", f"v{n}", f"s{n}")
            asked = operation("update", POSTS, visitor, "p", {"n": n, "by": f"v{n}"})
            await house.rules.before(asked)
            return asked.data

        answers = await asyncio.gather(*[one(n) for n in range(300)], return_exceptions=True)
        for n, answer in enumerate(answers):
            if n % 3 == 0:
                assert str(answer) == str(n)
            else:
                assert answer == {"n": n, "by": f"v{n}", "title": "x"}


async def test_a_hanging_rule_refuses_and_others_go_on(tmp_path: Path, gate: threading.Event) -> None:
    async with ruled(tmp_path, BLOCKED, threads=1, timeout_ms=100) as house:
        house.world.records["posts", "p"] = {"id": "p"}
        for _ in range(3):
            asked = operation("update", POSTS, ALICE, "p", {"hang": True})
            with pytest.raises(RuleDenied) as refused:
                await house.rules.before(asked)
            assert refused.value.details == {"hapta": {"code": 900}}
            await goes_through(house)
        await until(lambda: house.rules.status()["threads"]["hanging"] == 3)
        assert house.counted.outcomes[0][-1] == "timeout"
        gate.set()
        await until(lambda: house.rules.status()["threads"]["hanging"] == 0)


async def test_when_all_threads_hang_requests_are_refused_at_once_until_one_is_back(
    tmp_path: Path, gate: threading.Event
) -> None:
    async with ruled(tmp_path, BLOCKED, threads=1, timeout_ms=30) as house:
        house.world.records["posts", "p"] = {"id": "p"}
        for _ in range(1 + REPLACED_FOR_EACH_THREAD):
            with pytest.raises(RuleDenied):
                await house.rules.before(operation("update", POSTS, ALICE, "p", {"hang": True}))
        assert house.rules.status()["threads"]["working"] == 0
        with pytest.raises(RulesBusy):
            await house.rules.before(operation("update", POSTS, ALICE, "p", {}))
        gate.set()
        await until(lambda: house.rules.status()["threads"]["working"] == 1)
        await goes_through(house)


async def test_a_rule_that_turns_in_circles_is_ended(tmp_path: Path) -> None:
    """It would take the interpreter from everybody else for as long as the server runs."""
    rules = """
    @before("update", "posts")
    def circle(ctx):
        while True:
            try:
                sum(range(100))
            except Exception:
                pass
    """
    async with ruled(tmp_path, rules, threads=1, timeout_ms=50) as house:
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("update", POSTS, ALICE, "", {}))
        assert house.counted.outcomes == [("before", "update", "posts", "timeout")]
        await until(lambda: house.rules.status()["threads"]["hanging"] == 0)


async def test_what_a_rule_asks_for_in_vain_ends_with_its_time(tmp_path: Path) -> None:
    rules = """
    @before("create", "posts")
    def look(ctx):
        try:
            ctx.existing
        except Exception:
            pass
        return allow()
    """
    async with ruled(tmp_path, rules, threads=1, timeout_ms=50) as house:
        house.world.silent = True
        asked = operation("create", POSTS, ALICE, "p", {})
        with pytest.raises(RuleDenied):
            await house.rules.before(asked)
        assert house.counted.outcomes == [("before", "create", "posts", "timeout")]


async def test_a_queue_that_is_full_refuses_at_once(gate: threading.Event) -> None:
    pool = Pool(1, 30.0)
    pool.start()
    try:
        waiting = [asyncio.create_task(pool.run(gate.wait))]
        await until(lambda: pool.threads.busy == 1)
        waiting += [asyncio.create_task(pool.run(lambda: True)) for _ in range(255)]
        await until(lambda: pool.threads.queued == 255)
        with pytest.raises(Exception, match="no thread left"):
            await pool.run(lambda: True)
        gate.set()
        assert all(await asyncio.gather(*waiting))
        assert await pool.run(lambda: 7) == 7
    finally:
        pool.stop()


async def test_a_visitor_who_leaves_costs_no_thread(gate: threading.Event) -> None:
    pool = Pool(1, 30.0)
    pool.start()
    ran: list[int] = []
    try:
        first = asyncio.create_task(pool.run(gate.wait))
        await until(lambda: pool.threads.busy == 1)
        second = asyncio.create_task(pool.run(lambda: ran.append(1)))
        await until(lambda: pool.threads.queued == 1)
        second.cancel()
        await asyncio.wait([second])
        gate.set()
        assert await first
        assert await pool.run(lambda: "next") == "next"
        assert ran == []
        assert pool.threads.queued == 0
    finally:
        pool.stop()


async def test_a_job_that_waited_too_long_never_runs(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "REPLACED_FOR_EACH_THREAD", 0)  # so that nobody takes it the moment before
    pool = Pool(1, 0.05)
    pool.start()
    ran: list[int] = []
    try:
        jobs = [pool.run(gate.wait), *[pool.run(lambda: bool(ran.append(1))) for _ in range(3)]]
        ends = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(end) for end in ends] == [TooSlow] * 4
        gate.set()
        await until(lambda: pool.threads.working == 1)
        answer = None
        while answer is None:
            with suppress(TooSlow):  # on a busy machine
                answer = await pool.run(lambda: "next")
        assert answer == "next"
        assert pool.threads.queued == 0
        assert ran == []
    finally:
        pool.stop()
