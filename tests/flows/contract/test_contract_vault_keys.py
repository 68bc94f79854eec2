"""The wire contract row by row, with its exact words, over HTTP: sections 2.4 and 2.5: vault keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.testing.server import Account, TestHapta
from tests.flows.contract.rows import (
    INSTANT,
    KEY,
    UUID,
    VAULT,
    issues,
    pulled,
    push_of,
    pushed,
)

pytestmark = pytest.mark.anyio


# --- 2.4, 2.5 vault keys ---


async def test_storing_a_key_answers_as_the_contract_says(alice: Account) -> None:
    answer = await alice.post("/sync/vault-key", json=KEY)
    body = answer.json()
    assert answer.status_code == 201
    assert body["message"] == "Vault key stored successfully"
    assert {"id", "vaultId", "createdAt"} <= body["vaultKey"].keys()
    assert UUID.fullmatch(body["vaultKey"]["id"])
    assert body["vaultKey"]["vaultId"] == VAULT


@pytest.mark.parametrize("missing", sorted(KEY))
async def test_every_field_of_a_key_is_required(alice: Account, missing: str) -> None:
    body = {name: value for name, value in KEY.items() if name != missing}
    assert issues(await alice.post("/sync/vault-key", json=body)) == {(missing,)}
    assert issues(await alice.post("/sync/vault-key", json={**KEY, missing: None})) == {(missing,)}
    assert issues(await alice.post("/sync/vault-key", json={**KEY, missing: 5})) == {(missing,)}


@pytest.mark.parametrize("second", [KEY, {**KEY, "encryptedVaultKey": "other"}, {**KEY, "vaultId": VAULT.upper()}])
async def test_a_vault_has_one_key_and_the_second_is_a_conflict(alice: Account, second: dict[str, str]) -> None:
    assert (await alice.post("/sync/vault-key", json=KEY)).status_code == 201
    answer = await alice.post("/sync/vault-key", json=second)
    assert (answer.status_code, answer.json()["error"]) == (409, "Vault key already exists for this vault")
    assert (await alice.get(f"/sync/vault-key/{VAULT}")).json()["encryptedVaultKey"] == KEY["encryptedVaultKey"]


async def test_of_devices_that_store_a_key_at_once_one_wins_and_nobody_sees_a_500(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    answers = await asyncio.gather(
        *(account.post("/sync/vault-key", json={**KEY, "encryptedVaultKey": str(number)}) for number in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]


async def test_two_users_use_one_vault_id_without_seeing_each_other(alice: Account, bob: Account) -> None:
    assert (await alice.post("/sync/vault-key", json=KEY)).status_code == 201
    other = await bob.get(f"/sync/vault-key/{VAULT}")
    assert (other.status_code, other.json()["error"]) == (404, "Vault key not found")
    assert (await bob.post("/sync/vault-key", json={**KEY, "encryptedVaultKey": "bobs"})).status_code == 201
    assert (await alice.get(f"/sync/vault-key/{VAULT}")).json()["encryptedVaultKey"] == KEY["encryptedVaultKey"]
    assert (await bob.get(f"/sync/vault-key/{VAULT}")).json()["encryptedVaultKey"] == "bobs"


@pytest.mark.parametrize(
    "vault",
    [*(f"018f2f6e-5d3c-{version}b1a-{variant}c4d-2e6f8a0b1c3d" for version, variant in zip("12345678", "89abAB89", strict=True)),
     "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
     VAULT.upper()],
)  # fmt: skip
async def test_a_vault_id_is_a_uuid_of_the_rfc_or_all_zeros_or_all_ones(alice: Account, vault: str) -> None:
    stored = await alice.post("/sync/vault-key", json={**KEY, "vaultId": vault})
    assert stored.status_code == 201
    assert stored.json()["vaultKey"]["vaultId"] == vault.lower()
    assert (await pushed(alice, push_of(1, vault=vault)))["count"] == 1
    for spelling in (vault, vault.upper(), vault.lower()):
        assert (await alice.get(f"/sync/vault-key/{spelling}")).json()["vaultId"] == vault.lower()
        assert len((await pulled(alice, spelling))["logs"]) == 1


@pytest.mark.parametrize(
    "vault",
    ["", "x", VAULT[:-1], VAULT + "0", VAULT.replace("-", ""), "{" + VAULT + "}", "urn:uuid:" + VAULT, VAULT + "\n", " " + VAULT,
     "018f2f6e-5d3c-0b1a-9c4d-2e6f8a0b1c3d", "018f2f6e-5d3c-9b1a-9c4d-2e6f8a0b1c3d", "018f2f6e-5d3c-7b1a-7c4d-2e6f8a0b1c3d",
     "018f2f6e-5d3c-7b1a-cc4d-2e6f8a0b1c3d", "０18f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d", 5, None, [VAULT], {"a": VAULT}, True],
)  # fmt: skip
async def test_what_is_no_such_uuid_is_a_validation_error(alice: Account, vault: Any) -> None:
    for path, body in (("/sync/vault-key", KEY), ("/sync/push", push_of(1)), ("/sync/pull", {})):
        assert issues(await alice.post(path, json={**body, "vaultId": vault})) == {("vaultId",)}


async def test_a_key_is_read_nested_and_at_top_level(alice: Account) -> None:
    await alice.post("/sync/vault-key", json=KEY)
    answer = await alice.get(f"/sync/vault-key/{VAULT}")
    body = answer.json()
    assert answer.status_code == 200
    for place in (body, body["vaultKey"]):
        assert {name: place[name] for name in KEY} == KEY
        assert INSTANT.fullmatch(place["createdAt"])


@pytest.mark.parametrize(
    "vault", [VAULT, "not-a-uuid", "00000000-0000-0000-0000-000000000000", "%2e%2e", "a" * 500, "ü"]
)
async def test_a_key_that_is_not_there_is_a_404_also_when_its_id_is_no_uuid(alice: Account, vault: str) -> None:
    answer = await alice.get(f"/sync/vault-key/{vault}")
    assert (answer.status_code, answer.json()["error"]) == (404, "Vault key not found")
