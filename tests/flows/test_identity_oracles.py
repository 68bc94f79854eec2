"""Nobody learns from the server who has an account: not by what it does, not by how long it takes, not by locking people out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import httpx
import pytest

from hapta.testing.clock import FakeClock
from hapta.testing.server import TestHapta
from tests.flows.identity_story import visitor_of

EMAIL, PASSWORD = "ada@example.org", "words and more words"
TRIES = 500
FREE_AGAIN_MINUTES = 16
"""After so long the throttle counts anew, so that it answers none of the attempts in place of the door."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def attempt(hapta: TestHapta, email: str, password: str) -> httpx.Response:
    return await hapta.http.post("/identity/v1/login", json={"identifier": email, "password": password})


def superiority(first: list[float], second: list[float]) -> float:
    """How often a time of the first kind is longer than one of the second: 0.5 where they are alike, whatever their spread
    (Mann and Whitney's statistic). A few attempts that a busy machine held up change it by next to nothing."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, kind) in enumerate(ranked, 1) if kind == 0)
    return (ranks - len(first) * (len(first) + 1) / 2) / (len(first) * len(second))


def work_of(hapta: TestHapta) -> tuple[int, int, int]:
    """Passwords hashed, and transactions that read and that wrote."""
    services = hapta.app.services
    return services.passwords.computed, services.db.stats.reads, services.db.stats.writes


async def test_a_failed_login_costs_the_same_whether_or_not_there_is_an_account(
    tmp_path: Path, clock: FakeClock
) -> None:
    environ = {"HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "2048"}
    async with TestHapta(tmp_path, environ, clock=clock) as hapta:
        assert (
            await hapta.http.post("/identity/v1/register", json={"email": EMAIL, "password": PASSWORD})
        ).status_code == 202
        kinds: dict[str, Callable[[int], Awaitable[httpx.Response]]] = {
            "wrong": lambda _: attempt(hapta, EMAIL, "not the right words"),
            "unknown": lambda turn: attempt(hapta, f"nobody{turn // 50}@example.org", "not the right words"),
            "unhashed": lambda _: hapta.http.post("/identity/v1/login", json={"identifier": EMAIL}),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        work: dict[str, Counter[tuple[int, ...]]] = {kind: Counter() for kind in kinds}
        shuffle = random.Random(8)
        for turn in range(TRIES):
            if turn % 50 == 0:  # or the hard stop after a hundred failures in a row would come
                assert (await attempt(hapta, EMAIL, PASSWORD)).status_code == 200
            clock.advance(minutes=FREE_AGAIN_MINUTES)
            for kind in shuffle.sample([*kinds], len(kinds)):
                before, started = work_of(hapta), perf_counter()
                answer = await kinds[kind](turn)
                times[kind].append(perf_counter() - started)
                assert answer.status_code == (400 if kind == "unhashed" else 401)
                if turn % 50 not in (0, 1, 4, 5, 9, 10, 19, 20, 49):  # failures that an event is recorded of
                    work[kind][tuple(after - of for after, of in zip(work_of(hapta), before, strict=True))] += 1
        # Jobs of the server read and write beside it, so what an attempt takes is what most of them took.
        usual = {kind: counted.most_common(1)[0][0] for kind, counted in work.items()}
        assert usual["wrong"] == usual["unknown"]
        assert usual["unhashed"] != usual["wrong"]
        assert {hashes for kind in ("wrong", "unknown") for hashes, _, _ in work[kind]} == {1}
        assert 0.35 < superiority(times["wrong"], times["unknown"]) < 0.65
        assert (
            superiority(times["wrong"], times["unhashed"]) > 0.8
        )  # what is not alike, this would show, far out of that band


async def test_nobody_locks_the_owner_out_of_a_browser_that_was_here_before(tmp_path: Path, clock: FakeClock) -> None:
    async with TestHapta(tmp_path, clock=clock) as hapta:
        body = {"email": EMAIL, "password": PASSWORD}
        assert (await hapta.http.post("/identity/v1/register", json=body)).status_code == 202
        owner = visitor_of(hapta)
        assert (await owner.sign_in(EMAIL, PASSWORD)).status_code == 303
        await owner.open("/identity/logout")
        assert (await owner.submit("/identity/logout")).status_code == 303
        last = 0
        for _ in range(130):  # beyond the hard stop
            answer = await attempt(hapta, EMAIL, "a guess of somebody else")
            last = answer.status_code
            clock.advance(minutes=FREE_AGAIN_MINUTES)
        assert last == 429
        assert (await attempt(hapta, EMAIL, PASSWORD)).status_code == 429
        assert (await owner.sign_in(EMAIL, PASSWORD)).status_code == 303
