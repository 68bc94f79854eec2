"""Snapshots, acknowledgements, devices, and what may be dropped when."""

from __future__ import annotations

import asyncio

import pytest

from hapta.sync.errors import (
    BadSnapshot,
    DeviceNotFound,
    QuotaExceeded,
    SnapshotExists,
    SnapshotNotFound,
    SnapshotRequired,
    VaultNotFound,
)
from hapta.sync.verify import verify
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Log, Open, new_logs

pytestmark = pytest.mark.anyio

ONE = "01900000-0000-7000-8000-0000000000f1"
TWO = "01900000-0000-7000-8000-0000000000f2"
PARTS = [("part one", "n1"), ("part two", "n2")]


async def snapshots_upto(house: House, *uptos: int) -> None:
    for number, upto in enumerate(uptos):
        await house.sync.snapshots.put(USER, VAULT, f"01900000-0000-7000-8000-00000000f{number:03}", upto, PARTS)
        house.clock.advance(seconds=1)


async def acknowledge(house: House, device: str, sequence: int) -> int:
    return await house.sync.devices.acknowledge(USER, VAULT, device, sequence)


async def test_the_newest_snapshot_comes_with_its_parts_and_the_chain_at_its_place(house: House) -> None:
    pushed = await house.push(new_logs(4))
    await house.push(new_logs(3))
    await snapshots_upto(house, 2)
    await house.sync.snapshots.put(USER, VAULT, ONE.upper(), 4, PARTS)
    snapshot, parts, vault_id, epoch = await house.sync.snapshots.newest(USER, VAULT.upper())
    assert (snapshot.snapshot_id, snapshot.upto_sequence, snapshot.chain) == (ONE, 4, pushed.chain)
    assert (parts, vault_id, epoch) == (PARTS, VAULT, pushed.epoch)
    assert not (await verify(house.db)).problems


async def test_a_snapshot_is_stored_once_and_its_id_means_one_state(house: House) -> None:
    await house.push(new_logs(4))
    first = await house.sync.snapshots.put(USER, VAULT, ONE, 4, PARTS)
    house.clock.advance(seconds=5)
    assert await house.sync.snapshots.put(USER, VAULT, ONE, 4, PARTS) == first
    with pytest.raises(SnapshotExists):
        await house.sync.snapshots.put(USER, VAULT, ONE, 3, PARTS)


async def test_a_snapshot_of_what_is_not_there_is_refused(house: House) -> None:
    with pytest.raises(VaultNotFound):
        await house.sync.snapshots.put(USER, VAULT, ONE, 1, PARTS)
    await house.push(new_logs(2))
    with pytest.raises(BadSnapshot):
        await house.sync.snapshots.put(USER, VAULT, ONE, 3, PARTS)
    with pytest.raises(VaultNotFound):
        await house.sync.snapshots.put(OTHER, VAULT, ONE, 1, PARTS)
    for user in (USER, OTHER):
        with pytest.raises(SnapshotNotFound):
            await house.sync.snapshots.newest(user, VAULT)


async def test_snapshots_count_in_the_quota_and_old_ones_make_room(open_house: Open) -> None:
    house = await open_house(quota_bytes_default=1_600)
    await house.push([Log("x" * 100, nonce=str(number)) for number in range(4)])
    used = (await house.sync.service.quota(USER))[1]
    await snapshots_upto(house, 1, 2, 3)
    each = ((await house.sync.service.quota(USER))[1] - used) // 3
    await snapshots_upto(house, 1, 2, 3)
    house.clock.advance(seconds=1)
    await house.sync.snapshots.put(USER, VAULT, ONE, 4, PARTS)
    assert (await house.sync.service.quota(USER))[1] == used + 3 * each
    with pytest.raises(QuotaExceeded):
        await house.sync.snapshots.put(USER, VAULT, TWO, 4, [("y" * 900, "n")])
    assert not (await verify(house.db)).problems


async def test_nothing_is_dropped_before_every_device_has_it_and_two_snapshots_exist(house: House) -> None:
    await house.push(new_logs(6), device="A")
    await house.push(new_logs(1), device="B", vault=SECOND_VAULT)
    await snapshots_upto(house, 3)
    await acknowledge(house, "A", 6)
    await acknowledge(house, "B", 6)
    assert (await house.sync.upkeep.run()).dropped_vaults == 0, "one snapshot is one client's word"
    await snapshots_upto(house, 3, 5)
    await acknowledge(house, "C", 2)
    await house.sync.devices.flush()
    assert (await house.sync.upkeep.run()).dropped_vaults == 0, "C lacks logs that the snapshot covers"
    await acknowledge(house, "C", 3)
    assert (await house.sync.upkeep.run()).dropped_vaults == 1
    with pytest.raises(SnapshotRequired) as required:
        await house.pull(after=2)
    assert required.value.details == {"uptoSequence": 3}
    assert [row[0] for row in (await house.pull(after=3)).rows] == [4, 5, 6]


async def test_a_device_that_never_acknowledges_holds_compaction_up_until_it_is_revoked_or_time_is_up(
    house: House,
) -> None:
    await house.push(new_logs(6), device="A")
    await acknowledge(house, "A", 6)
    await house.push(new_logs(1), device="lost")
    await snapshots_upto(house, 3, 5)
    await house.sync.devices.flush()
    assert (await house.sync.upkeep.run()).dropped_vaults == 0
    await house.sync.devices.revoke(USER, "lost")
    assert house.revoked == [(USER, "lost")]
    assert (await house.sync.upkeep.run()).dropped_vaults == 1

    await house.push(new_logs(6), user=OTHER, device="silent")
    for snapshot_id, upto in ((ONE, 3), (TWO, 5)):
        await house.sync.snapshots.put(OTHER, VAULT, snapshot_id, upto, PARTS)
    house.clock.advance(days=89)
    assert (await house.sync.upkeep.run()).dropped_vaults == 0
    house.clock.advance(days=1)
    assert (await house.sync.upkeep.run()).dropped_vaults == 1


async def test_dropped_rows_stay_a_week_and_their_keys_a_month(house: House) -> None:
    logs = new_logs(6)
    first = await house.push(logs, device="A")
    await acknowledge(house, "A", 6)
    await snapshots_upto(house, 3, 5)
    assert (await house.sync.upkeep.run())[:2] == (1, 0)
    house.clock.advance(days=6)
    assert (await house.sync.upkeep.run()).removed_logs == 0
    assert (await house.push(logs[:1])).entries[0].duplicate
    house.clock.advance(days=1)
    assert (await house.sync.upkeep.run()).removed_logs == 3
    report = await verify(house.db)
    assert (report.problems, report.logs) == ([], 3)

    late = await house.push([logs[0], *new_logs(1), logs[5]])
    assert [entry.sequence for entry in late.entries] == [1, 7, 6]
    assert [entry.duplicate for entry in late.entries] == [True, False, True]
    assert late.entries[0].created_at == first.entries[0].created_at
    assert [row[0] for row in (await house.pull(after=3)).rows] == [4, 5, 6, 7]
    assert not (await verify(house.db)).problems

    house.clock.advance(days=30)
    assert (await house.sync.upkeep.run()).expired_keys == 3
    with pytest.raises(SnapshotRequired):
        await house.pull()


async def test_a_vault_whose_every_log_was_removed_goes_on(house: House) -> None:
    await house.push(new_logs(3), device="A")
    await acknowledge(house, "A", 3)
    await snapshots_upto(house, 3, 3)
    await house.sync.upkeep.run()
    house.clock.advance(days=8)
    assert (await house.sync.upkeep.run()).removed_logs == 3
    pushed = await house.push(new_logs(2))
    assert [entry.sequence for entry in pushed.entries] == [4, 5]
    assert (await house.sync.snapshots.newest(USER, VAULT))[0].upto_sequence == 3
    assert not (await verify(house.db)).problems


async def test_an_acknowledgement_only_rises_and_never_beyond_the_head(house: House) -> None:
    await house.push(new_logs(4), device="A")
    assert await acknowledge(house, "A", 3) == 3
    assert await acknowledge(house, "A", 1) == 3
    assert await acknowledge(house, "A", 99) == 4
    with pytest.raises(VaultNotFound):
        await house.sync.devices.acknowledge(OTHER, VAULT, "A", 1)


async def test_devices_are_listed_with_what_they_have(house: House) -> None:
    await house.push(new_logs(2), device="A")
    first_seen = house.clock.now_ms()
    house.clock.advance(minutes=2)
    await house.push(new_logs(1), device="A")
    await house.push(new_logs(1), device="B")
    await acknowledge(house, "A", 3)
    devices = await house.sync.devices.list_devices(USER)
    assert [(one.device_id, one.first_seen_at, one.last_seen_at, one.acknowledged) for one in devices] == [
        ("A", first_seen, house.clock.now_ms(), [(VAULT, 3)]),
        ("B", house.clock.now_ms(), house.clock.now_ms(), []),
    ]
    assert await house.sync.devices.list_devices(OTHER) == []


async def test_a_revoked_device_is_gone_until_it_signs_in_again(house: House) -> None:
    await house.push(new_logs(1), device="A")
    with pytest.raises(DeviceNotFound):
        await house.sync.devices.revoke(OTHER, "A")
    await house.sync.devices.revoke(USER, "A")
    assert await house.sync.devices.list_devices(USER) == []
    with pytest.raises(DeviceNotFound):
        await house.sync.devices.revoke(USER, "A")
    house.clock.advance(seconds=10)
    await house.push(new_logs(1), device="A")
    assert [one.device_id for one in await house.sync.devices.list_devices(USER)] == ["A"]


async def test_a_deleted_vault_is_invisible_at_once_and_its_rows_go_in_steps(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapta.sync.upkeep.CHUNK", 3)
    await house.push(new_logs(10))
    await house.push(new_logs(2), vault=SECOND_VAULT)
    await snapshots_upto(house, 4)
    await house.sync.service.delete_vault(USER, VAULT)
    assert await house.pull_all() == []
    fresh = await house.push(new_logs(1, "fresh"))
    assert fresh.entries[0].sequence == 13
    assert not (await verify(house.db)).problems
    assert (await house.sync.upkeep.run()).purged_logs == 10
    assert (await house.sync.upkeep.run()).purged_logs == 0
    assert await house.pull_all() == [(13, "fresh 0")]
    report = await verify(house.db)
    assert (report.problems, report.logs, report.vaults) == ([], 3, 2)


async def test_pushes_go_on_while_rows_are_removed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.upkeep.CHUNK", 5)
    await house.push(new_logs(40))
    await house.sync.service.delete_vault(USER, VAULT)
    upkeep = asyncio.ensure_future(house.sync.upkeep.run())
    await asyncio.gather(*(house.push(new_logs(2)) for _ in range(10)))
    assert (await upkeep).purged_logs == 40
    assert len(await house.pull_all()) == 20
    assert not (await verify(house.db)).problems


async def test_a_purged_account_leaves_nothing(house: House) -> None:
    await house.push(new_logs(5), device="A")
    await house.push(new_logs(1), user=OTHER)
    await snapshots_upto(house, 2)
    await house.sync.devices.flush()
    await house.db.write(lambda tx: house.sync.service.purge(tx, USER))
    assert await house.sync.devices.list_devices(USER) == []
    house.clock.advance(days=1)  # until then the head row turns late requests away
    await house.sync.upkeep.run()
    for table in ("streams", "vaults", "logs", "snapshots", "snapshot_parts", "devices", "acks"):
        column = "id" if table == "streams" else "stream_id"
        rows = await house.db.read(
            lambda tx, t=table, c=column: tx.fetch_value(f"SELECT count(*) FROM sync_{t} WHERE {c} = :id", id=USER)
        )
        assert rows == 0, table
    assert len(await house.pull_all(user=OTHER)) == 1
