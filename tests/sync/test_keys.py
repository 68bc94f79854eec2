"""Vault keys: who comes first, versions, epochs, names; and the list of vaults."""

from __future__ import annotations

import asyncio

import pytest

from hapta.sync.errors import VaultKeyChanged, VaultKeyExists, VaultKeyNotFound
from hapta.sync.keys import KeyMaterial, RewrappedKey
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, new_logs

pytestmark = pytest.mark.anyio

FIRST = KeyMaterial("first key", "salt", "nonce")
SECOND = KeyMaterial("second key", "salt 2", "nonce 2")


async def test_of_two_devices_that_store_a_key_at_once_one_wins(house: House) -> None:
    keys = house.sync.keys
    outcomes = await asyncio.gather(
        keys.store(USER, VAULT, 0, FIRST, None), keys.store(USER, VAULT, 0, SECOND, None), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["VaultKey", "VaultKeyExists"]
    with pytest.raises(VaultKeyExists):
        await keys.store(USER, VAULT, 0, FIRST, None)


async def test_accounts_do_not_see_each_others_keys(house: House) -> None:
    await house.sync.keys.store(USER, VAULT, 0, FIRST, None)
    with pytest.raises(VaultKeyNotFound):
        await house.sync.keys.get(OTHER, VAULT)
    await house.sync.keys.store(OTHER, VAULT, 0, SECOND, None)
    assert (await house.sync.keys.get(USER, VAULT))[1][0].encrypted_vault_key == "first key"


async def test_an_id_that_is_no_uuid_is_simply_not_found(house: House) -> None:
    with pytest.raises(VaultKeyNotFound):
        await house.sync.keys.get(USER, "not a uuid")


async def test_a_key_is_one_key_in_any_case_of_its_vaults_id(house: House) -> None:
    await house.sync.keys.store(USER, VAULT.upper(), 0, FIRST, None)
    with pytest.raises(VaultKeyExists):
        await house.sync.keys.store(USER, VAULT, 0, FIRST, None)
    assert (await house.sync.keys.get(USER, VAULT.upper()))[0].vault_id == VAULT


async def test_of_two_devices_that_replace_a_key_at_once_one_wins(house: House) -> None:
    keys = house.sync.keys
    await keys.store(USER, VAULT, 0, FIRST, None)
    outcomes = await asyncio.gather(
        keys.replace(USER, VAULT, 0, 1, SECOND),
        keys.replace(USER, VAULT, 0, 1, KeyMaterial("third", "s", "n")),
        return_exceptions=True,
    )
    changed = [outcome for outcome in outcomes if isinstance(outcome, VaultKeyChanged)]
    assert len(changed) == 1
    assert changed[0].details["version"] == 2
    assert (await keys.get(USER, VAULT))[1][0].version == 2


async def test_a_replaced_key_is_readable_for_a_day(house: House) -> None:
    keys = house.sync.keys
    await keys.store(USER, VAULT, 0, FIRST, None)
    await keys.replace(USER, VAULT, 0, 1, SECOND)
    assert (await keys.get_version(USER, VAULT, None, 1))[1].encrypted_vault_key == "first key"
    assert (await keys.get_version(USER, VAULT, None, 2))[1].encrypted_vault_key == "second key"
    house.clock.advance(hours=24)
    with pytest.raises(VaultKeyNotFound):
        await keys.get_version(USER, VAULT, None, 1)
    assert (await house.sync.upkeep.run()).expired_keys == 1


async def test_every_epoch_keeps_its_key(house: House) -> None:
    keys = house.sync.keys
    for epoch in (0, 1, 2):
        await keys.store(USER, VAULT, epoch, KeyMaterial(f"key {epoch}", "s", "n"), None)
    _, stored = await keys.get(USER, VAULT)
    assert [(key.key_epoch, key.encrypted_vault_key) for key in stored] == [(0, "key 0"), (1, "key 1"), (2, "key 2")]
    with pytest.raises(VaultKeyExists):
        await keys.store(USER, VAULT, 1, FIRST, None)


async def test_rewrapping_is_all_or_nothing(house: House) -> None:
    keys = house.sync.keys
    await keys.store(USER, VAULT, 0, FIRST, None)
    await keys.store(USER, SECOND_VAULT, 0, FIRST, None)
    wrong = [RewrappedKey(VAULT, 0, 1, SECOND), RewrappedKey(SECOND_VAULT, 0, 9, SECOND)]
    with pytest.raises(VaultKeyChanged):
        await house.db.write(lambda tx: keys.rewrap(tx, USER, wrong))
    assert (await keys.get(USER, VAULT))[1][0].version == 1
    right = [RewrappedKey(VAULT, 0, 1, SECOND), RewrappedKey(SECOND_VAULT, 0, 1, SECOND)]
    await house.db.write(lambda tx: keys.rewrap(tx, USER, right))
    assert (await keys.get(USER, SECOND_VAULT))[1][0].encrypted_vault_key == "second key"


async def test_the_list_holds_vaults_with_a_key_with_logs_or_both(house: House) -> None:
    await house.sync.keys.store(USER, VAULT, 0, FIRST, ("name", "name nonce"))
    await house.push(new_logs(2), vault=SECOND_VAULT)
    _, vaults = await house.sync.service.list_vaults(USER)
    assert [(vault.vault_id, vault.logs, vault.encrypted_name, has_key) for vault, has_key in vaults] == [
        (VAULT, 0, "name", True),
        (SECOND_VAULT, 2, None, False),
    ]
    await house.sync.keys.rename(USER, VAULT, "new name", "n")
    assert (await house.sync.keys.get(USER, VAULT))[0].encrypted_name == "new name"
    with pytest.raises(VaultKeyNotFound):
        await house.sync.keys.rename(USER, SECOND_VAULT, "name", "n")


async def test_a_deleted_vault_takes_its_keys_along(house: House) -> None:
    keys = house.sync.keys
    await keys.store(USER, VAULT, 0, FIRST, ("name", "n"))
    await keys.replace(USER, VAULT, 0, 1, SECOND)
    await house.sync.service.delete_vault(USER, VAULT)
    with pytest.raises(VaultKeyNotFound):
        await keys.get(USER, VAULT)
    assert (await keys.store(USER, VAULT, 0, FIRST, None)).version == 1
    vault, _ = await keys.get(USER, VAULT)
    assert vault.encrypted_name is None
    with pytest.raises(VaultKeyNotFound):
        await keys.get_version(USER, VAULT, 0, 2)
