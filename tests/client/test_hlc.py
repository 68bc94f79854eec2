"""The hybrid logical clock: strictly rising, same text form as the uhlc crate, never dragged into the future."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.client.errors import ClockDrift
from hapta.client.hlc import MAX_DELTA, HybridClock, Stamp, node_of, ntp64

stamps = st.builds(Stamp, time=st.integers(0, 2**64 - 1), node=st.integers(0, 2**128 - 1))


class HandClock:
    """A wall clock moved by hand."""

    def __init__(self, seconds: float = 1_795_000_000.0) -> None:
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


def test_a_uuid_is_printed_little_endian_without_leading_zeros() -> None:
    assert f"{node_of('807f6e5d-4c3b-4a29-9807-f6e5d4c3b2a1'):x}" == "a1b2c3d4e5f60798294a3b4c5d6e7f80"
    assert str(Stamp(16, node_of("807f6e5d-4c3b-4a29-9807-f6e5d4c30000"))) == "16/c3d4e5f60798294a3b4c5d6e7f80"


@given(stamps)
def test_texts_and_keys_read_back_to_the_same_stamp(stamp: Stamp) -> None:
    assert Stamp.parse(str(stamp)) == stamp
    assert Stamp.from_key(stamp.key) == stamp


@given(stamps, stamps)
def test_keys_sort_as_stamps_do_where_texts_do_not(first: Stamp, second: Stamp) -> None:
    assert (first.key < second.key) == (first < second)
    assert (first < second) == ((first.time, first.node) < (second.time, second.node))


@pytest.mark.parametrize(
    "text", ["", "1", "1/", "/1", "1/g", "-1/1", "1/1/1", " 1/1", f"{2**64}/1", f"1/{2**128:x}", "1_0/1", "\u0661/1"]
)
def test_what_is_no_stamp_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Stamp.parse(text)


@given(st.lists(st.floats(1, 4e9), min_size=1, max_size=50))
def test_stamps_rise_strictly_however_the_wall_clock_jumps(times: list[float]) -> None:
    clock = HandClock()
    hlc, last = HybridClock(clock, 7), Stamp(0, 7)
    for seconds in times:
        clock.seconds = seconds
        stamp = hlc.new()
        assert stamp > last
        last = stamp


def test_a_new_stamp_is_the_wall_clock_with_an_empty_counter_then_counts() -> None:
    hlc = HybridClock(HandClock(1000.5), 7)
    first = hlc.new()
    assert first.time == ntp64(1000.5) == (1000 << 32) + (1 << 31)
    assert [hlc.new().time - first.time for _ in range(20)] == list(range(1, 21))


@given(st.integers(0, 2**63), st.floats(1, 2e9))
def test_receiving_outranks_the_remote_or_refuses_it_untouched(remote: int, seconds: float) -> None:
    hlc = HybridClock(HandClock(seconds), 7)
    hlc.new()
    before = hlc.last
    if remote > (ntp64(seconds) & ~0xF) + MAX_DELTA:
        with pytest.raises(ClockDrift):
            hlc.receive(Stamp(remote, 9))
        assert hlc.last == before
    else:
        hlc.receive(Stamp(remote, 9))
        assert hlc.new() > Stamp(remote, 2**128 - 1)


def test_a_restarted_clock_goes_on_after_what_it_persisted() -> None:
    clock = HandClock(2000.0)
    last = HybridClock(clock, 7).new()
    clock.seconds = 1000.0
    assert HybridClock(clock, 7, last.time).new() > last
