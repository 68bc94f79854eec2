"""What no quota counts is bounded by number: vaults, devices, key epochs, replaced keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hapta.sync.errors import TooManyDevices, TooManyKeyEpochs, TooManyVaults, VaultKeyExists, VaultKeyNotFound
from hapta.sync.keys import KeyMaterial
from hapta.sync.models import Pushed
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Open, new_logs

pytestmark = pytest.mark.anyio

THIRD_VAULT = "01900000-0000-7000-8000-00000000000c"
KEY = KeyMaterial("key", "salt", "nonce")


async def device_ids(house: House, user: str = USER) -> list[str]:
    return sorted([device.device_id for device in await house.sync.devices.list_devices(user)])


async def touch(house: House, *devices: str, user: str = USER) -> None:
    for device in devices:
        house.sync.devices.touch(user, device)
        await house.sync.devices.flush()


async def test_a_push_makes_no_vault_beyond_the_cap_and_those_that_are_there_go_on(open_house: Open) -> None:
    house = await open_house(max_vaults_per_account=2)
    for vault in (VAULT, SECOND_VAULT):
        await house.push(new_logs(1), vault=vault)
    with pytest.raises(TooManyVaults) as refused:
        await house.push(new_logs(1), vault=THIRD_VAULT)
    assert refused.value.details == {"limits": {"maxVaults": 2}}
    assert (await house.push([], vault=THIRD_VAULT)).head == 0
    assert (await house.push(new_logs(1))).inserted == 1
    assert (await house.push(new_logs(1), user=OTHER, vault=THIRD_VAULT)).inserted == 1
    await house.sync.service.delete_vault(USER, SECOND_VAULT)
    assert (await house.push(new_logs(1), vault=THIRD_VAULT)).inserted == 1


async def test_of_pushes_that_race_for_the_last_vault_one_wins(open_house: Open) -> None:
    house = await open_house(max_vaults_per_account=2)
    await house.push(new_logs(1))
    outcomes = await asyncio.gather(
        *(house.push(new_logs(1), vault=vault) for vault in (SECOND_VAULT, THIRD_VAULT, SECOND_VAULT)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Pushed, TooManyVaults, Pushed]
    assert len((await house.sync.service.list_vaults(USER))[1]) == 2


async def test_neither_a_key_nor_an_import_makes_a_vault_beyond_the_cap(open_house: Open, house: House) -> None:
    full = await open_house(max_vaults_per_account=1)
    await full.sync.keys.store(USER, VAULT, 0, KEY, None)
    await full.sync.keys.store(USER, VAULT, 1, KEY, None)
    with pytest.raises(TooManyVaults):
        await full.sync.keys.store(USER, SECOND_VAULT, 0, KEY, None)
    with pytest.raises(VaultKeyNotFound):
        await full.sync.keys.get(USER, SECOND_VAULT)

    await house.push(new_logs(3), user=OTHER)
    await house.push(new_logs(3), user=OTHER, vault=SECOND_VAULT)
    lines = b"".join([chunk async for chunk in house.sync.exporter.lines(OTHER)])

    async def export() -> AsyncIterator[bytes]:
        yield lines

    with pytest.raises(TooManyVaults):
        await full.sync.importer.take(USER, export())
    assert len(await full.pull_all()) == 3  # the vault that was there took its part
    assert [vault.vault_id for vault, _ in (await full.sync.service.list_vaults(USER))[1]] == [VAULT]


async def test_a_device_beyond_the_cap_syncs_and_is_not_recorded(open_house: Open) -> None:
    house = await open_house(max_devices_per_account=2)
    for device in ("A", "B", "C"):
        assert (await house.push(new_logs(1), device=device)).inserted == 1
        await house.sync.devices.flush()
    assert await device_ids(house) == ["A", "B"]
    with pytest.raises(TooManyDevices) as refused:
        await house.sync.devices.acknowledge(USER, VAULT, "C", 1)
    assert refused.value.details == {"limits": {"maxDevices": 2}}
    assert await house.sync.devices.acknowledge(USER, VAULT, "B", 3) == 3
    await touch(house, "C", user=OTHER)
    assert await device_ids(house, OTHER) == ["C"]


async def test_of_devices_that_come_together_as_many_are_recorded_as_there_is_room(open_house: Open) -> None:
    house = await open_house(max_devices_per_account=3)
    await touch(house, "known")
    for device in ("C", "A", "B", "known"):
        house.sync.devices.touch(USER, device)
        house.sync.devices.touch(OTHER, device)
    await house.sync.devices.flush()
    assert len(await device_ids(house)) == len(await device_ids(house, OTHER)) == 3
    assert "known" in await device_ids(house)


async def test_revoked_devices_make_room_with_all_that_was_noted_of_them(open_house: Open) -> None:
    house = await open_house(max_devices_per_account=2)
    await house.push(new_logs(1))
    for device in ("A", "B"):
        await house.sync.devices.acknowledge(USER, VAULT, device, 1)
    await house.sync.devices.revoke(USER, "A")
    await touch(house, "C")
    assert await device_ids(house) == ["B"]  # a late contact of A must still find that it was revoked
    house.clock.advance(minutes=2)
    await touch(house, "C")
    assert await device_ids(house) == ["B", "C"]
    rows = await house.db.read(lambda tx: tx.fetch_all("SELECT device_id FROM sync_acks"))
    assert [row[0] for row in rows] == ["B"]
    await touch(house, "A")
    assert await device_ids(house) == ["B", "C"]


async def test_a_vault_has_a_bounded_number_of_key_epochs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.keys.MAX_KEY_EPOCHS", 2)
    keys = house.sync.keys
    await keys.store(USER, VAULT, 0, KEY, None)
    await keys.store(USER, VAULT, 7, KEY, None)
    with pytest.raises(TooManyKeyEpochs):
        await keys.store(USER, VAULT, 8, KEY, None)
    with pytest.raises(VaultKeyExists):
        await keys.store(USER, VAULT, 7, KEY, None)
    assert [key.key_epoch for key in (await keys.get(USER, VAULT))[1]] == [0, 7]
    await keys.store(USER, SECOND_VAULT, 8, KEY, None)


async def test_of_a_replaced_key_the_ten_newest_versions_stay(house: House) -> None:
    keys = house.sync.keys
    await keys.store(USER, VAULT, 0, KEY, None)
    await keys.store(USER, VAULT, 1, KEY, None)
    await keys.replace(USER, VAULT, 1, 1, KEY)
    for version in range(1, 13):
        await keys.replace(USER, VAULT, 0, version, KeyMaterial(f"key {version + 1}", "s", "n"))
    for version in (1, 2):
        with pytest.raises(VaultKeyNotFound):
            await keys.get_version(USER, VAULT, 0, version)
    for version in range(3, 14):
        assert (await keys.get_version(USER, VAULT, 0, version))[1].encrypted_vault_key == f"key {version}"
    assert (await keys.get_version(USER, VAULT, 1, 1))[1].encrypted_vault_key == "key"


async def test_replaced_keys_expire_in_bounded_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.cleanup.EXPIRE_AT_ONCE", 2)
    await house.sync.keys.store(USER, VAULT, 0, KEY, None)
    for version in range(1, 6):
        await house.sync.keys.replace(USER, VAULT, 0, version, KEY)
        house.clock.advance(seconds=1)
    house.clock.advance(hours=25)
    await house.sync.keys.replace(USER, VAULT, 0, 6, KEY)
    writes = house.db.stats.writes
    assert (await house.sync.upkeep.run()).expired_keys == 5
    assert house.db.stats.writes - writes >= 3
    assert (await house.sync.keys.get_version(USER, VAULT, 0, 6))[1].version == 6
