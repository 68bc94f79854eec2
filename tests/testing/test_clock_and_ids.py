"""The public test helpers keep what they promise."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from hapta.kit.clock import iso_ms
from hapta.testing import FakeClock, SeededIds


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC))
    assert iso_ms(clock.now_ms()) == "2031-05-06T07:08:09.000Z"
    assert (clock.now(), clock.monotonic()) == (clock.now(), 0.0)
    clock.advance(hours=1, minutes=1, seconds=0.25)
    assert iso_ms(clock.now_ms()) == "2031-05-06T08:09:09.250Z"
    assert clock.monotonic() == 3660.25


def test_a_fake_clock_goes_back_only_as_a_corrected_wall_clock_does() -> None:
    clock = FakeClock(1000)
    with pytest.raises(ValueError, match="set_back"):
        clock.advance(seconds=-1)
    clock.advance(seconds=10)
    clock.set_back(seconds=5)
    assert (clock.now(), clock.monotonic()) == (1005, 10)


def test_many_small_steps_lose_nothing() -> None:
    clock = FakeClock(0)
    for _ in range(1000):
        clock.advance(seconds=0.001)
    assert (clock.now_ms(), clock.monotonic()) == (1000, 1.0)


def test_the_same_seed_gives_the_same_values_and_another_seed_others() -> None:
    def some(seed: int) -> list[str]:
        ids = SeededIds(seed)
        return [ids.uuid(), ids.secret(), ids.uuid(), ids.secret(16)]

    assert some(1) == some(1)
    assert not set(some(1)) & set(some(2))


def test_seeded_uuids_are_of_version_7_and_sort_in_the_order_they_were_made() -> None:
    clock = FakeClock()
    ids = SeededIds(7, clock)
    made: list[str] = []
    for _ in range(500):
        made += [ids.uuid(), ids.uuid()]
        clock.advance(seconds=0.001)
    assert made == sorted(set(made))
    assert {(UUID(text).version, str(UUID(text)) == text) for text in made} == {(7, True)}


def test_a_seeded_secret_has_the_size_that_was_asked_for() -> None:
    assert len(SeededIds().secret(32)) == 43
    assert len(SeededIds().secret(16)) == 22
