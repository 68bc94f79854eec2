"""Rates as text, headers as the draft wants them, and the memory limiter under a flood of keys."""

from __future__ import annotations

import pytest

from hapta.kit.ratelimit import Decision, MemoryLimiter, Rate, headers
from hapta.testing import FakeClock


def test_a_rate_is_read_from_text() -> None:
    assert Rate.parse("600/60:100") == Rate(600, 60.0, 100)
    assert Rate.parse(" 10/1 ") == Rate(10, 1.0, 10)
    assert Rate.parse("1/0.5:3").interval_seconds == 0.5


@pytest.mark.parametrize(
    "text", ["", "600", "600/", "0/60", "600/0", "600/60:0", "-1/60", "600/60:100:1", "a/b", "٣/60"]
)
def test_what_is_not_a_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        Rate.parse(text)


def test_headers_of_an_allowed_request() -> None:
    assert headers(Decision(True, 600, 599, 0.1, 0.0), "sync", Rate.parse("600/60:600")) == (
        (b"ratelimit", b'"sync";r=599;t=1'),
        (b"ratelimit-policy", b'"sync";q=600;w=60'),
    )


@pytest.mark.parametrize(("wait", "said"), [(0.01, b"1"), (1.0, b"1"), (1.2, b"2"), (59.5, b"60")])
def test_a_refusal_says_when_to_come_again_in_whole_seconds_rounded_up(wait: float, said: bytes) -> None:
    refusal = headers(Decision(False, 600, 0, 10.0, wait), "sync", Rate.parse("600/60"))
    assert (b"retry-after", said) in refusal


def test_a_flood_of_keys_neither_grows_memory_nor_washes_a_used_budget() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock.monotonic, max_keys=100)
    rate = Rate.parse("2/60:2")
    assert [limiter.hit("attacker", rate).allowed for _ in range(3)] == [True, True, False]
    for number in range(20_000):
        limiter.hit(f"flood {number}", rate)
    assert len(limiter) <= 100 + 1024
    assert not limiter.hit("attacker", rate).allowed
    refused = sum(not limiter.hit(f"newcomer {number}", rate).allowed for number in range(20_000))
    assert refused >= 20_000 - 2 * 1024  # newcomers share what the flood has left: nobody gets a fresh budget


def test_after_a_flood_new_keys_have_budgets_of_their_own_again() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock.monotonic, max_keys=100)
    rate = Rate.parse("2/60:2")
    for number in range(20_000):
        limiter.hit(f"flood {number}", rate)
    clock.advance(seconds=61)
    assert [limiter.hit("newcomer", rate).allowed for _ in range(3)] == [True, True, False]
    assert len(limiter) == 1
