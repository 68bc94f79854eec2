"""The wire contract row by row, with its exact words, over HTTP: section 2.6: push."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hapta.testing.server import Account, TestHapta
from tests.flows.contract.rows import (
    KEY,
    SECOND_VAULT,
    VAULT,
    issues,
    logs,
    pulled,
    push_of,
    pushed,
)

pytestmark = pytest.mark.anyio


# --- 2.6 push ---


async def test_a_push_answers_as_the_contract_says(alice: Account) -> None:
    sent = logs(3)
    body = await pushed(alice, {"vaultId": VAULT, "logs": sent})
    assert (body["message"], body["count"]) == ("Logs pushed successfully", 3)
    assert (body["inserted"], body["duplicates"], body["head"]) == (3, 0, 3)
    assert [entry["haexTimestamp"] for entry in body["logs"]] == [log["haexTimestamp"] for log in sent]
    assert [entry["sequence"] for entry in body["logs"]] == [1, 2, 3]
    assert all({"id", "sequence", "haexTimestamp", "createdAt"} <= entry.keys() for entry in body["logs"])
    assert len({entry["id"] for entry in body["logs"]}) == 3
    assert len({entry["createdAt"] for entry in body["logs"]}) == 1


async def test_a_push_needs_no_vault_key(alice: Account) -> None:
    assert (await alice.get(f"/sync/vault-key/{VAULT}")).status_code == 404
    assert (await pushed(alice, push_of(1)))["count"] == 1


async def test_a_push_of_nothing_is_fine_and_changes_nothing(alice: Account) -> None:
    body = await pushed(alice, push_of(0))
    assert (body["count"], body["logs"], body["head"]) == (0, [], 0)


async def test_a_push_with_one_bad_log_stores_none(alice: Account) -> None:
    bad = {"vaultId": VAULT, "logs": [*logs(5), {"encryptedData": "x", "nonce": "x"}]}
    assert issues(await alice.post("/sync/push", json=bad)) == {("logs", 5, "haexTimestamp")}
    assert (await pulled(alice))["logs"] == []
    assert (await pushed(alice, push_of(1)))["logs"][0]["sequence"] == 1


async def test_nul_in_a_string_is_a_400(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    for name in ("encryptedData", "nonce", "haexTimestamp"):
        body = {"vaultId": VAULT, "logs": [*logs(1), {**logs(1)[0], name: "a\0b"}]}
        assert issues(await account.post("/sync/push", json=body)) == {("logs", 1, name)}
    for name in ("encryptedVaultKey", "salt", "nonce"):
        assert issues(await account.post("/sync/vault-key", json={**KEY, name: "\0"})) == {(name,)}
    assert (await pulled(account))["head"] == 0


@pytest.mark.parametrize(
    ("further", "path"),
    [({"id": "x"}, ("logs", 0, "id")), ({"id": 5}, ("logs", 0, "id")), ({"keyEpoch": -1}, ("logs", 0, "keyEpoch"))],
)
async def test_the_additions_of_a_log_are_checked(alice: Account, further: dict[str, Any], path: tuple[Any]) -> None:
    assert issues(await alice.post("/sync/push", json={"vaultId": VAULT, "logs": logs(1, **further)})) == {path}


@pytest.mark.parametrize(("device", "status"), [("x", 200), ("x" * 64, 200), ("", 400), ("x" * 65, 400), (5, 400)])
async def test_a_device_id_has_1_to_64_characters(alice: Account, device: Any, status: int) -> None:
    assert (await alice.post("/sync/push", json=push_of(1, deviceId=device))).status_code == status
    assert (await alice.post("/sync/pull", json={"vaultId": VAULT, "excludeDeviceId": device})).status_code == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"logs": logs(10_000)}, 200),
        ({"logs": logs(10_001)}, 413),
        ({"logs": logs(1, encryptedData="x" * 2**20)}, 200),
        ({"logs": logs(1, encryptedData="x" * (2**20 + 1))}, 413),
        ({"logs": logs(1, nonce="x" * 256, haexTimestamp="y" * 256)}, 200),
        ({"logs": logs(1, nonce="x" * 257)}, 413),
        ({"logs": logs(1, haexTimestamp="x" * 257)}, 413),
    ],
    ids=["10000 logs", "10001 logs", "1 MiB", "over 1 MiB", "256 characters", "nonce of 257", "timestamp of 257"],
)
async def test_a_push_over_a_limit_is_a_413_that_names_the_limits_and_writes_nothing(
    alice: Account, body: dict[str, Any], status: int
) -> None:
    answer = await alice.post("/sync/push", json={"vaultId": VAULT, **body})
    assert answer.status_code == status
    if status == 413:
        assert answer.json()["code"] == "too_large"
        assert answer.json()["limits"]["maxLogsPerPush"] == 10_000
        assert (await pulled(alice))["head"] == 0


@pytest.mark.parametrize("encoding", [None, "gzip"])
async def test_a_body_over_its_limit_is_a_413_however_it_was_packed(tmp_path: Path, encoding: str | None) -> None:
    body = json.dumps(push_of(1, "x" * 5000)).encode()
    headers = {"content-type": "application/json"}
    if encoding:
        body = gzip.compress(body)
        headers["content-encoding"] = encoding
    async with TestHapta(tmp_path, {"HAPTA_SERVER_MAX_BODY_BYTES": "4096"}) as hapta:
        account = await hapta.register("carol@example.org")
        answer = await account.post("/sync/push", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert answer.json()["limits"]["maxBodyBytes"] == 4096
        assert (await pulled(account))["head"] == 0


async def test_over_its_quota_an_account_cannot_push_and_still_pulls_and_deletes(tmp_path: Path) -> None:
    async with TestHapta(tmp_path, {"QUOTA_BYTES_DEFAULT": "1000"}) as hapta:
        account = await hapta.register("carol@example.org")
        await pushed(account, push_of(1))
        answer = await account.post("/sync/push", json=push_of(1, "x" * 2000))
        assert (answer.status_code, answer.json()["code"]) == (413, "quota_exceeded")
        quota = answer.json()["quota"]
        assert (quota["maxBytes"], quota["usedBytes"]) == (1000, 100 + len("log 0") + len("0"))
        assert quota["neededBytes"] > 1000
        assert len((await pulled(account))["logs"]) == 1
        assert (await account.delete(f"/sync/vault/{VAULT}")).status_code == 200


async def test_twelve_thousand_logs_are_stored_where_the_limit_allows(tmp_path: Path, database_url: str) -> None:
    environ = {"DATABASE_URL": database_url, "HAPTA_SYNC_MAX_LOGS_PER_PUSH": "12000"}
    async with TestHapta(tmp_path, environ) as hapta:
        account = await hapta.register("carol@example.org")
        body = await pushed(account, push_of(12_000))
        assert [entry["sequence"] for entry in body["logs"]] == list(range(1, 12_001))
        assert (await account.post("/sync/push", json=push_of(12_001, "more"))).status_code == 413


async def test_one_timestamp_serves_many_logs_and_many_vaults(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    same = [{**log, "haexTimestamp": "7558151829870018560/b1a2"} for log in logs(5)]
    for vault in (VAULT, SECOND_VAULT):
        body = await pushed(account, {"vaultId": vault, "logs": same})
        assert (body["inserted"], body["duplicates"]) == (5, 0)
        assert len((await pulled(account, vault))["logs"]) == 5


async def test_a_push_sent_again_is_answered_as_the_first_time(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    first = await pushed(account, push_of(3))
    again = await pushed(account, push_of(3))
    assert (again["count"], again["inserted"], again["duplicates"], again["head"]) == (3, 0, 3, 3)
    assert [entry.pop("duplicate") for entry in again["logs"]] == [True] * 3
    assert again["logs"] == first["logs"]
