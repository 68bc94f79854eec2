"""What one account does stays its own affair: pushes that share a commit, queues that are full, accounts that are gone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from hapta.kit.errors import HaptaError, Unavailable
from hapta.kit.ids import RandomIds
from hapta.sync.errors import AccountGone
from hapta.sync.models import Pushed
from hapta.sync.push import Committer
from hapta.sync.upkeep import Upkeep
from hapta.sync.verify import verify
from tests.sync.house import OTHER, USER, VAULT, House, Log, Open, new_logs

pytestmark = pytest.mark.anyio


async def test_a_push_that_the_database_refuses_fails_alone(house: House) -> None:
    # PostgreSQL cannot hold NUL; the edge refuses it, and whatever it ever lets through must not harm the others.
    outcomes = await asyncio.gather(
        house.push([Log("bad \0 text")]),
        house.push(new_logs(3), user=OTHER),
        house.push(new_logs(2)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], HaptaError) == (house.db.engine == "postgres")
    assert all(isinstance(outcome, Pushed) for outcome in outcomes[1:])
    assert len(await house.pull_all(user=OTHER)) == 3
    assert not (await verify(house.db)).problems


async def nobody(_: Sequence[Pushed]) -> None:
    return None


async def test_one_account_cannot_fill_the_queue_of_all(house: House) -> None:
    committer = Committer(house.db, house.clock, RandomIds(), nobody, max_waiting=40, max_waiting_bytes=40_000)
    prepare = house.sync.service.prepare
    accepted: list[asyncio.Future[Pushed]] = []

    def fill(log: Log) -> None:
        for number in range(100):
            push = prepare(USER, USER, [Log(f"{log.encrypted_data}{number}")], None)
            try:
                accepted.append(committer.submit(push))
            except Unavailable:
                return
        pytest.fail("nothing was refused")

    fill(Log("small "))
    accepted.append(committer.submit(prepare(OTHER, USER, new_logs(1), None)))
    await asyncio.gather(*accepted)
    accepted.clear()
    fill(Log("x" * 4000))
    accepted.append(committer.submit(prepare(OTHER, USER, new_logs(1), None)))
    assert len(accepted) > 1
    await asyncio.gather(*accepted)
    await committer.close()


async def test_an_account_that_was_deleted_before_it_ever_synced_takes_nothing(house: House) -> None:
    await house.db.write(lambda tx: house.sync.service.purge(tx, USER))
    with pytest.raises(AccountGone):
        await house.push(new_logs(1))
    assert (await verify(house.db)).logs == 0


async def test_a_long_request_of_a_deleted_account_does_not_bring_it_back(house: House) -> None:
    await house.push(new_logs(3))
    await house.db.write(lambda tx: house.sync.service.purge(tx, USER))
    await house.sync.upkeep.run()
    with pytest.raises(AccountGone):
        await house.push(new_logs(1))
    house.clock.advance(seconds=2 * 24 * 3600)
    await house.sync.upkeep.run()
    assert (await verify(house.db)).streams == 0


async def test_a_part_of_upkeep_that_fails_stops_neither_the_others_nor_the_next_round(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapta.sync.upkeep.EVERY_SECONDS", 0.0)
    house = await open_house()
    thrice = asyncio.Event()
    turns = {"damaged": 0, "whole": 0}

    class Stumbling(Upkeep):
        def _parts(self) -> dict[str, Callable[[], Awaitable[int]]]:
            return {"damaged": self._damaged, "whole": self._whole}

        async def _damaged(self) -> int:
            turns["damaged"] += 1
            raise RuntimeError("a damaged page, say")

        async def _whole(self) -> int:
            turns["whole"] += 1
            if turns["whole"] == 3:
                thrice.set()
            return 0

    upkeep = Stumbling(house.db, house.clock, house.sync.upkeep._settings)  # pyright: ignore[reportPrivateUsage]
    upkeep.start()
    async with asyncio.timeout(120):
        await thrice.wait()
    await upkeep.close()
    assert turns["damaged"] >= 3


async def test_what_a_revoked_device_still_does_for_a_moment_does_not_bring_it_back(house: House) -> None:
    # Another worker may believe its token for two seconds more.
    await house.push(new_logs(1), device="A")
    await house.sync.devices.revoke(USER, "A")
    house.clock.advance(seconds=2)
    await house.push(new_logs(1), device="A")
    assert await house.sync.devices.list_devices(USER) == []
    house.clock.advance(minutes=2)
    await house.push(new_logs(1), device="A")  # it signed in again
    assert [one.device_id for one in await house.sync.devices.list_devices(USER)] == ["A"]


async def test_a_large_push_is_prepared_beside_the_event_loop(house: House) -> None:
    threads: set[int] = set()

    class Watched(Log):
        def __getattribute__(self, name: str) -> Any:
            if name == "nonce":
                threads.add(threading.get_ident())
            return super().__getattribute__(name)

    await house.push([Watched("small")])
    assert threads == {threading.get_ident()}
    threads.clear()
    await house.push([Watched(f"{number}{'x' * 600_000}") for number in range(4)])
    assert threading.get_ident() not in threads
    threads.clear()
    await house.push([Watched(f"many {number}") for number in range(3000)])
    assert threading.get_ident() not in threads
    assert len(await house.pull_all()) == 3005


async def test_a_deleted_vaults_remembered_keys_go_in_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.upkeep.CHUNK", 3)
    await house.push(new_logs(10), device="A")
    for upto in (8, 9):
        await house.sync.snapshots.put(USER, VAULT, RandomIds().uuid(), upto, [("state", "n")])
    await house.sync.devices.acknowledge(USER, VAULT, "A", 10)
    assert (await house.sync.upkeep.run()).dropped_vaults == 1
    house.clock.advance(days=8)
    assert (await house.sync.upkeep.run()).removed_logs == 8
    await house.sync.service.delete_vault(USER, VAULT)
    left = [8]
    purge = house.sync.upkeep._purge_chunk  # pyright: ignore[reportPrivateUsage]
    while left[-1]:
        await house.db.write(lambda tx: purge(tx, USER, 1))
        left.append(await house.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM sync_dropped_keys")))
    assert all(before - after <= 3 for before, after in itertools.pairwise(left))
    await house.sync.upkeep.run()
    assert not (await verify(house.db)).problems
