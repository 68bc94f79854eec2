"""One writer at a time for each record, in order, bounded, and without a trace afterwards."""

from __future__ import annotations

import asyncio

import pytest

from hapta.gateway.errors import UpstreamAway
from hapta.gateway.operations.locks import RecordLocks

KEY = ("c1", "r1")


async def test_writers_of_one_record_come_in_their_order_and_never_overlap() -> None:
    locks = RecordLocks()
    order: list[int] = []
    inside = 0

    async def write(number: int) -> None:
        nonlocal inside
        async with locks.hold(KEY):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(write(number) for number in range(50)))
    assert order == list(range(50))
    assert len(locks) == 0


async def test_other_records_do_not_wait() -> None:
    locks = RecordLocks()
    async with locks.hold(KEY), locks.hold(("c1", "r2")), locks.hold(("c2", "r1")):
        assert len(locks) == 3


async def test_a_writer_that_leaves_while_it_waits_leaves_its_place_to_the_next() -> None:
    locks = RecordLocks()
    got = asyncio.Event()

    async def write() -> None:
        async with locks.hold(KEY):
            got.set()

    async with locks.hold(KEY):
        leaving, staying = asyncio.create_task(write()), asyncio.create_task(write())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait((leaving,))
        assert not got.is_set()
    await staying
    assert got.is_set()
    assert len(locks) == 0


async def test_a_writer_that_is_cancelled_just_as_its_turn_comes_passes_it_on() -> None:
    locks = RecordLocks()

    async def write() -> str:
        async with locks.hold(KEY):
            return "written"

    async with locks.hold(KEY):
        first, second = asyncio.create_task(write()), asyncio.create_task(write())
        await asyncio.sleep(0)
    first.cancel()
    assert await second == "written"
    assert first.cancelled()
    assert len(locks) == 0


async def test_the_queue_and_the_wait_are_bounded() -> None:
    locks = RecordLocks(max_waiting=1, wait_seconds=0.01)
    async with locks.hold(KEY):
        waiting = asyncio.create_task(locks.hold(KEY).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(UpstreamAway, match="Too many"):
            await locks.hold(KEY).__aenter__()
        with pytest.raises(UpstreamAway, match="too long"):
            await waiting
    assert len(locks) == 0


async def test_records_taken_together_are_taken_in_one_order() -> None:
    locks = RecordLocks()
    other = ("c1", "r2")

    async def write(keys: list[tuple[str, str]]) -> None:
        async with locks.hold_all(keys):
            await asyncio.sleep(0)

    async with asyncio.timeout(120):
        await asyncio.gather(*(write([KEY, other, KEY] if number % 2 else [other, KEY]) for number in range(20)))
    assert len(locks) == 0
