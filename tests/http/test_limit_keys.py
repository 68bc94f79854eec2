"""Whose budget an address draws on: one line, one budget, however many addresses or ports it has."""

from __future__ import annotations

import pytest

from hapta.http.limits import LimitClass, Limits
from hapta.kit.ratelimit import Decision, MemoryLimiter, Rate


def drawn(limits: Limits, who: str) -> bool:
    decision = limits.hit(limits.of("auth"), who)
    assert isinstance(decision, Decision)
    return decision.allowed


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::99", True),  # one customer's network has 2^64 addresses
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("2001:DB8:1:2::1", "2001:db8:1:2::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1:4711", "192.0.2.1:4712", True),  # some proxies write the port as well
        ("[2001:db8::1]:80", "[2001:db8::2]:81", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("no:address at all", "no:address either", False),
        ("01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002", False),
    ],
)
def test_addresses_of_one_line_share_a_budget(first: str, second: str, same: bool) -> None:
    auth = LimitClass("auth", Rate.parse("1/60"), "address")
    limits = Limits(MemoryLimiter(lambda: 0.0), {"auth": auth})
    assert drawn(limits, first)
    assert drawn(limits, second) is not same
