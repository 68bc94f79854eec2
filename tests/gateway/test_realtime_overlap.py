"""Two connections bring the same events in any order, and each event counts once."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from hapta.gateway.realtime.overlap import Overlap


def event(number: int, order: random.Random) -> bytes:
    members = [("number", number), ("action", "update"), ("record", {"id": "x"})]
    order.shuffle(members)
    return json.dumps(dict(members)).encode()


@pytest.mark.parametrize("seed", range(50))
def test_each_event_passes_as_often_as_the_connection_that_heard_all_brought_it(seed: int) -> None:
    order = random.Random(seed)
    sent = [order.randrange(6) for _ in range(40)]
    # The old one hears all; the new one begins somewhere within, and both in an order of their own.
    brought = [("old", number) for number in sent] + [("new", number) for number in sent[order.randrange(40) :]]
    order.shuffle(brought)
    overlap = Overlap()
    overlap.begin()
    passed = Counter(n for who, n in brought if overlap.is_new(who, "notes/*", event(n, order), 0.0))
    assert passed == Counter(sent)


def test_one_that_takes_over_from_one_that_took_over_doubles_nothing() -> None:
    overlap, order = Overlap(), random.Random(1)
    overlap.begin()
    overlap.begin()
    assert [overlap.is_new(who, "t", event(1, order), 0.0) for who in "abc"] == [True, False, False]
    overlap.end("a")
    assert [overlap.is_new(who, "t", event(2, order), 0.0) for who in "cb"] == [True, False]


def test_topics_are_counted_apart() -> None:
    overlap, order = Overlap(), random.Random(1)
    overlap.begin()
    assert overlap.is_new("a", "one", event(1, order), 0.0)
    assert overlap.is_new("b", "two", event(1, order), 0.0)


def test_nothing_is_held_once_one_listens_alone() -> None:
    overlap, order = Overlap(), random.Random(1)
    overlap.begin()
    assert overlap.is_new("a", "t", event(1, order), 0.0)
    overlap.end("a")
    assert not overlap.active
    assert [overlap.is_new("b", "t", event(1, order), 0.0) for _ in range(3)] == [True] * 3


def test_what_goes_on_and_on_is_forgotten_after_a_while() -> None:
    overlap, order = Overlap(), random.Random(1)
    overlap.begin()
    for number in range(5000):
        assert overlap.is_new("a", "t", event(number, order), float(number))
    assert len(overlap._seen) <= 1002  # pyright: ignore[reportPrivateUsage]
