"""Pushes that build on remembered heads: whoever came in between is noticed, and nothing is lost, doubled or let through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hapta.db.database import ReadTx
from hapta.kit.ids import RandomIds
from hapta.sync import store
from hapta.sync.errors import AccountGone, QuotaExceeded
from hapta.sync.heads import MAX_VAULTS, SHARED_COMMITS, Heads
from hapta.sync.models import Pushed, Stream
from hapta.sync.push import Committer
from hapta.sync.verify import verify
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, new_logs


async def _nobody(pushed: Sequence[Pushed]) -> None:
    """Announces to nobody."""


def _another_worker(house: House) -> Committer:
    """Remembers heads of its own, over the same database."""
    return Committer(house.db, house.clock, RandomIds(), _nobody)


def _sequences(pushed: Pushed) -> list[int]:
    return [entry.sequence for entry in pushed.entries]


async def _push_by(worker: Committer, house: House, count: int, user: str = USER) -> Pushed:
    return await worker.push(house.sync.service.prepare(user, VAULT, new_logs(count), None))


async def test_two_workers_in_turn_give_each_number_once(house: House) -> None:
    other = _another_worker(house)
    numbers: list[int] = []
    for _ in range(2 * SHARED_COMMITS + 3):
        numbers += _sequences(await house.push(new_logs(2)))
        numbers += _sequences(await house.push(new_logs(1)))
        numbers += _sequences(await _push_by(other, house, 1))
        numbers += _sequences(await _push_by(other, house, 3))
    assert numbers == list(range(1, len(numbers) + 1))
    assert not (await verify(house.db)).problems


async def test_one_moved_stream_in_a_group_leaves_nothing_half_written(house: House) -> None:
    other = _another_worker(house)
    for user in (USER, OTHER):
        await house.push(new_logs(1), user=user)
    await _push_by(other, house, 1, OTHER)
    mine, moved = await asyncio.gather(house.push(new_logs(2)), house.push(new_logs(2), user=OTHER))
    assert (_sequences(mine), _sequences(moved)) == ([2, 3], [3, 4])
    assert not (await verify(house.db)).problems


async def test_two_vaults_of_one_account_grow_from_remembered_heads(house: House) -> None:
    for vault in (VAULT, SECOND_VAULT):
        await house.push(new_logs(1), vault=vault)
    first, second = await asyncio.gather(house.push(new_logs(2)), house.push(new_logs(2), vault=SECOND_VAULT))
    assert sorted(_sequences(first) + _sequences(second)) == [3, 4, 5, 6]
    third = await house.push(new_logs(1))
    assert (_sequences(third), third.previous_head) == ([7], first.head)
    assert not (await verify(house.db)).problems


async def test_vaults_of_one_account_that_take_turns_are_all_remembered(house: House) -> None:
    heads = Heads()
    for vault in (VAULT, SECOND_VAULT):
        await house.push(new_logs(1), vault=vault)
    streams = await house.db.read(lambda tx: store.find_stream(tx, USER))
    vaults = await house.db.read(lambda tx: store.list_vaults(tx, USER))
    assert streams is not None
    heads.learn([(streams, vault) for vault in vaults])
    heads.forget([USER])
    assert not heads.knows(USER, VAULT)
    heads.learn([(streams, vaults[0])])
    assert heads.knows(USER, VAULT)
    assert heads.knows(USER, SECOND_VAULT)


async def test_duplicates_within_a_remembered_vault_are_answered_as_the_first_time(house: House) -> None:
    await house.push(new_logs(1))
    logs = new_logs(3)
    first = await house.push(logs)
    again = await house.push([*new_logs(1), *logs])
    assert _sequences(again) == [5, *_sequences(first)]
    assert [entry.duplicate for entry in again.entries] == [False, True, True, True]
    assert not (await verify(house.db)).problems


async def test_a_vault_deleted_elsewhere_begins_afresh(house: House) -> None:
    other = _another_worker(house)
    await _push_by(other, house, 2)
    await house.sync.service.delete_vault(USER, VAULT)
    fresh = await _push_by(other, house, 1)
    assert (_sequences(fresh), fresh.previous_head) == ([3], 0)
    assert [sequence for sequence, _ in await house.pull_all()] == [3]
    assert not (await verify(house.db)).problems


async def test_a_quota_set_elsewhere_counts_for_the_next_push(house: House) -> None:
    await house.push(new_logs(1))
    await house.db.write(lambda tx: store.set_quota(tx, USER, 200))
    with pytest.raises(QuotaExceeded):
        await house.push(new_logs(2))
    await house.db.write(lambda tx: store.set_quota(tx, USER, 0))
    assert _sequences(await house.push(new_logs(1))) == [2]


async def test_an_epoch_made_anew_is_told_by_the_next_push(house: House) -> None:
    await house.push(new_logs(1))
    await house.db.write(lambda tx: store.set_epochs(tx, [(USER, "made anew")]))
    assert (await house.push(new_logs(1))).epoch == "made anew"


async def test_a_deleted_account_takes_nothing_though_its_heads_are_remembered(house: House) -> None:
    await house.push(new_logs(1))
    await house.db.write(lambda tx: house.sync.service.purge(tx, USER))
    with pytest.raises(AccountGone):
        await house.push(new_logs(1))


async def test_removed_logs_are_looked_up_before_anything_is_stored(house: House) -> None:
    logs = new_logs(1)
    await house.push(logs)
    await house.push(new_logs(2))

    async def remove_first(tx: ReadTx) -> None:
        await tx.fetch_all(
            "INSERT INTO sync_dropped_keys (stream_id, vault_no, dedupe_key, sequence, created_at, removed_at)"
            " SELECT stream_id, vault_no, dedupe_key, sequence, created_at, 1 FROM sync_logs WHERE sequence = 1"
        )
        await tx.fetch_all("DELETE FROM sync_logs WHERE sequence = 1")
        await tx.fetch_all("UPDATE sync_vaults SET dropped_upto = 1, removed_upto = 1")

    await house.db.write(remove_first)
    late = await house.push([*logs, *new_logs(1)])
    assert _sequences(late) == [1, 4]
    assert [entry.duplicate for entry in late.entries] == [True, False]


def test_a_stream_with_many_vaults_stays_small_in_memory(heads_of_one_stream: Heads) -> None:
    heads = heads_of_one_stream
    for number in range(3 * MAX_VAULTS):
        heads.learn([(_STREAM, store.new_vault(USER, number, f"vault {number}", 0))])
    assert sum(heads.knows(USER, f"vault {number}") for number in range(3 * MAX_VAULTS)) <= MAX_VAULTS


def test_a_stream_found_moved_is_read_for_a_while(heads_of_one_stream: Heads) -> None:
    heads, vault = heads_of_one_stream, store.new_vault(USER, 1, VAULT, 0)
    heads.learn([(_STREAM, vault)])
    heads.forget([USER])
    heads.found_moved([USER])
    for _ in range(SHARED_COMMITS):
        heads.learn([(_STREAM, vault)])
        assert not heads.knows(USER, VAULT)
    heads.learn([(_STREAM, vault)])
    assert heads.knows(USER, VAULT)


_STREAM = Stream(USER, "user", 0, 0, 0, 0, "epoch", None, 1)


@pytest.fixture
def heads_of_one_stream() -> Heads:
    return Heads()
