"""The queue in front of group commits, with a database that the test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hapta.db.group_commit import GroupCommit, Limits, default_lanes
from hapta.kit.errors import Unavailable

PLENTY = Limits(1000, 1_000_000, 1000, 1_000_000)


class Transactions:
    """Groups as they arrive. Each stands until `let_go`; work that begins with `!` cannot be written."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.told: list[list[str]] = []
        self.away = False
        self._gates: list[asyncio.Event] = []
        self._arrived = asyncio.Condition()

    async def write(self, works: Sequence[str]) -> tuple[list[str | Exception], list[str]]:
        gate = asyncio.Event()
        async with self._arrived:
            self.groups.append(list(works))
            self._gates.append(gate)
            self._arrived.notify_all()
        await gate.wait()
        if self.away:
            raise Unavailable("The database is away")
        if any(work.startswith("!") for work in works):
            raise ValueError("cannot be written")
        return [KeyError(work) if work.startswith("?") else work.upper() for work in works], list(works)

    async def announce(self, news: Sequence[str]) -> None:
        self.told.append(list(news))

    async def arrived(self, count: int) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.groups) >= count)

    def let_go(self, number: int) -> None:
        self._gates[number].set()


def group_commit(transactions: Transactions, limits: Limits = PLENTY, lanes: int = 1) -> GroupCommit[str, str, str]:
    return GroupCommit(transactions.write, transactions.announce, limits, plural="letters", lanes=lanes)


async def test_what_waits_is_written_together_and_in_the_order_of_its_owner() -> None:
    transactions = Transactions()
    queue = group_commit(transactions)
    results = [queue.submit("a1", "a", 1, 1)]
    await transactions.arrived(1)
    results += [queue.submit(work, work[0], 1, 1) for work in ("a2", "b1", "a3", "b2")]
    assert queue.waiting == 4
    transactions.let_go(0)
    await transactions.arrived(2)
    transactions.let_go(1)
    assert await asyncio.gather(*results) == ["A1", "A2", "B1", "A3", "B2"]
    await queue.close()
    assert [sorted(group) for group in transactions.groups] == [["a1"], ["a2", "a3", "b1", "b2"]]
    assert [work for work in transactions.groups[1] if work[0] == "a"] == ["a2", "a3"]
    assert [work for work in transactions.groups[1] if work[0] == "b"] == ["b1", "b2"]
    assert transactions.told == transactions.groups


async def test_an_owner_is_in_one_transaction_at_a_time_while_others_use_the_second_lane() -> None:
    transactions = Transactions()
    queue = group_commit(transactions, lanes=2)
    first = queue.submit("a1", "a", 1, 1)
    await transactions.arrived(1)
    second, other = queue.submit("a2", "a", 1, 1), queue.submit("b1", "b", 1, 1)
    await transactions.arrived(2)
    assert transactions.groups == [["a1"], ["b1"]]
    transactions.let_go(1)
    assert await other == "B1"
    assert not second.done()
    assert len(transactions.groups) == 2
    transactions.let_go(0)
    await transactions.arrived(3)
    transactions.let_go(2)
    assert [await first, await second] == ["A1", "A2"]
    assert transactions.groups[2] == ["a2"]
    await queue.close()


async def test_a_group_ends_at_its_bounds_and_a_piece_above_them_goes_alone() -> None:
    transactions = Transactions()
    queue = group_commit(transactions, Limits(100, 1000, max_batch=4, max_batch_bytes=100))
    results = [
        queue.submit("a1", "a", 3, 1),
        queue.submit("b1", "b", 2, 1),  # five rows would be too many
        queue.submit("c1", "c", 1, 60),
        queue.submit("d1", "d", 1, 60),  # 121 bytes as well
        queue.submit("e1", "e", 9, 500),
    ]
    for number in range(4):
        await transactions.arrived(number + 1)
        transactions.let_go(number)
    assert await asyncio.gather(*results) == ["A1", "B1", "C1", "D1", "E1"]
    assert transactions.groups == [["a1"], ["b1", "c1"], ["d1"], ["e1"]]
    await queue.close()


async def test_only_the_work_at_fault_hears_of_it() -> None:
    transactions = Transactions()
    queue = group_commit(transactions)
    good, bad, odd, fine = (queue.submit(work, work[-1], 1, 1) for work in ("good", "!bad", "?odd", "fine"))
    for number in range(5):  # all together, then each apart
        await transactions.arrived(number + 1)
        transactions.let_go(number)
    assert [await good, await fine] == ["GOOD", "FINE"]
    with pytest.raises(ValueError, match="cannot be written"):
        await bad
    with pytest.raises(KeyError):
        await odd
    await queue.close()
    assert sorted(transactions.told[0]) == ["?odd", "fine", "good"]


async def test_a_database_that_is_away_is_asked_once_for_all() -> None:
    transactions = Transactions()
    transactions.away = True
    queue = group_commit(transactions)
    results = [queue.submit(work, work, 1, 1) for work in "abc"]
    await transactions.arrived(1)
    transactions.let_go(0)
    for result in results:
        with pytest.raises(Unavailable, match="away"):
            await result
    await queue.close()
    assert len(transactions.groups) == 1
    assert transactions.told == []


async def test_the_queue_is_bounded_in_number_and_bytes_and_fair_to_owners() -> None:
    transactions = Transactions()
    queue = group_commit(transactions, Limits(8, 1000, 1, 1_000_000))
    queue.submit("first", "x", 1, 1)
    await transactions.arrived(1)
    queue.submit("a1", "a", 1, 1)
    queue.submit("a2", "a", 1, 1)
    with pytest.raises(Unavailable, match="Too many letters of this account are waiting"):
        queue.submit("a3", "a", 1, 1)  # a quarter of eight
    queue.submit("b1", "b", 1, 300)  # the first of an owner is never over the owner's share
    with pytest.raises(Unavailable, match="Too many letters of this account are waiting"):
        queue.submit("b2", "b", 1, 1)  # of 250 bytes
    with pytest.raises(Unavailable, match="Too many letters are waiting"):
        queue.submit("c1", "c", 1, 700)
    for owner in "defgh":
        queue.submit(owner, owner, 1, 1)
    with pytest.raises(Unavailable, match="Too many letters are waiting"):
        queue.submit("i1", "i", 1, 1)
    closing = asyncio.ensure_future(queue.close())
    for number in range(9):
        await transactions.arrived(number + 1)
        transactions.let_go(number)
    await closing
    assert queue.waiting == 0
    assert len(transactions.groups) == 9
    with pytest.raises(Unavailable, match="stopping"):
        queue.submit("late", "l", 1, 1)


async def test_work_whose_caller_went_away_is_written_and_told_all_the_same() -> None:
    transactions = Transactions()
    queue = group_commit(transactions)
    queue.submit("gone", "a", 1, 1).cancel()
    stays = queue.submit("stays", "b", 1, 1)
    await transactions.arrived(1)
    transactions.let_go(0)
    assert await stays == "STAYS"
    await queue.close()
    assert transactions.told == [["gone", "stays"]]


def test_sqlite_has_one_lane() -> None:
    assert default_lanes("sqlite") == 1 < default_lanes("postgres")
