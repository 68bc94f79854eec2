"""Sync over HTTP, as a client meets it: exact statuses and texts of docs/sync.md, one story for each route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from hapta.testing.server import Account, TestHapta

pytestmark = pytest.mark.anyio

VAULT = "01900000-0000-7000-8000-00000000000a"
KEY = {"vaultId": VAULT, "encryptedVaultKey": "a2V5", "salt": "c2FsdA==", "nonce": "bm9uY2U="}


@pytest.fixture
async def hapta(tmp_path: Path, database_url: str) -> AsyncIterator[TestHapta]:
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}) as running:
        yield running


@pytest.fixture
async def alice(hapta: TestHapta) -> Account:
    return await hapta.register("alice@example.org")


def log(data: str, **more: Any) -> dict[str, Any]:
    return {"encryptedData": data, "nonce": "bm9uY2U=", "haexTimestamp": "7558151829870018560/a1", **more}


async def push(account: Account, *logs: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await account.post("/sync/push", json={"vaultId": VAULT, "logs": logs, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pull(account: Account, **more: Any) -> dict[str, Any]:
    answer = await account.post("/sync/pull", json={"vaultId": VAULT, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_push_answers_in_request_order_and_a_retry_the_same(alice: Account) -> None:
    named = log("one", id=str(uuid4()), vaultId="ignored", sequence=99)
    first = await push(alice, named, log("two"))
    assert (first["message"], first["count"], first["inserted"], first["duplicates"]) == (
        "Logs pushed successfully",
        2,
        2,
        0,
    )
    assert [set(entry) for entry in first["logs"]] == [{"id", "sequence", "haexTimestamp", "createdAt"}] * 2
    again = await push(alice, log("two"), log("three"), named)
    assert [entry["sequence"] for entry in again["logs"]] == [2, 3, 1]
    assert again["logs"][2] == {**first["logs"][0], "duplicate": True}
    assert (again["inserted"], again["duplicates"], again["head"]) == (1, 2, 3)
    assert (await push(alice))["logs"] == []


async def test_pull_gives_what_was_pushed_byte_for_byte(alice: Account) -> None:
    odd = ["", "not base64 at all", "YQ", "ä€😀", 'quote " and \\ backslash']
    pushed = await push(alice, *(log(data) for data in odd))
    page = await pull(alice)
    assert [one["encryptedData"] for one in page["logs"]] == odd
    assert page["logs"][0] == {
        **pushed["logs"][0],
        "encryptedData": "",
        "nonce": "bm9uY2U=",
    }
    assert {name: page[name] for name in ("hasMore", "lastSequence", "head", "epoch", "chain")} == {
        "hasMore": False,
        "lastSequence": 5,
        "head": 5,
        "epoch": pushed["epoch"],
        "chain": pushed["chain"],
    }
    assert (await pull(alice, limit=5.0, afterSequence=2**53 - 1))["logs"] == []


@pytest.mark.parametrize(
    "more",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": 1.5},
        {"limit": "5"},
        {"afterSequence": None},
        {"afterSequence": 2**53},
        {"vaultId": "no uuid"},
        {"excludeDeviceId": ""},
        {"waitMs": 60_000},
    ],
)
async def test_a_bad_pull_names_its_field(alice: Account, more: dict[str, Any]) -> None:
    answer = await alice.post("/sync/pull", json={"vaultId": VAULT, **more})
    assert answer.status_code == 400
    body = answer.json()
    assert (body["success"], body["error"], body["code"]) == (False, "Validation failed", "validation_error")
    assert [issue["path"] for issue in body["issues"]] == [[*more]]


async def test_bad_logs_are_all_named(alice: Account) -> None:
    logs = [log("a", nonce=5), {"nonce": "n", "haexTimestamp": "t"}, log("c", id="x")]
    answer = await alice.post("/sync/push", json={"vaultId": VAULT, "logs": logs})
    assert answer.status_code == 400
    assert [issue["path"] for issue in answer.json()["issues"]] == [
        ["logs", 0, "nonce"],
        ["logs", 1, "encryptedData"],
        ["logs", 2, "id"],
    ]
    nul = await alice.post("/sync/push", json={"vaultId": VAULT, "logs": [log("a\0b")]})
    assert nul.status_code == 400


async def test_twelve_thousand_logs_are_too_many_and_ten_thousand_are_not(alice: Account) -> None:
    logs = [log(str(number)) for number in range(12_000)]
    refused = await alice.post("/sync/push", json={"vaultId": VAULT, "logs": logs})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert refused.json()["limits"]["maxLogsPerPush"] == 10_000
    assert (await push(alice, *logs[:10_000]))["inserted"] == 10_000


async def test_a_vault_key_is_stored_once_read_in_both_shapes_and_replaced_by_version(
    hapta: TestHapta, alice: Account
) -> None:
    stored = await alice.post("/sync/vault-key", json=KEY)
    assert (stored.status_code, stored.json()["message"]) == (201, "Vault key stored successfully")
    twice = await alice.post("/sync/vault-key", json=KEY)
    assert (twice.status_code, twice.json()["error"]) == (409, "Vault key already exists for this vault")

    body = (await alice.get(f"/sync/vault-key/{VAULT}")).json()
    for shape in (body, body["vaultKey"], body["keys"][0]):
        assert {name: shape[name] for name in KEY} == KEY
        assert shape["createdAt"] == stored.json()["vaultKey"]["createdAt"]

    bob = await hapta.register("bob@example.org")
    for missing in (await bob.get(f"/sync/vault-key/{VAULT}"), await alice.get("/sync/vault-key/none")):
        assert (missing.status_code, missing.json()["error"]) == (404, "Vault key not found")

    new = {"encryptedVaultKey": "new", "salt": "s", "nonce": "n", "version": 1}
    replaced = await alice.put(f"/sync/vault-key/{VAULT}", json=new)
    assert (replaced.status_code, replaced.json()["vaultKey"]["version"]) == (200, 2)
    conflict = await alice.put(f"/sync/vault-key/{VAULT}", json=new)
    assert (conflict.status_code, conflict.json()["version"]) == (409, 2)
    assert (await alice.get(f"/sync/vault-key/{VAULT}?version=1")).json()["encryptedVaultKey"] == "a2V5"
    assert (await alice.get(f"/sync/vault-key/{VAULT}?version=7")).status_code == 404


async def test_vaults_are_listed_renamed_and_deleted(alice: Account) -> None:
    await alice.post("/sync/vault-key", json=KEY)
    await push(alice, log("one"))
    name = {"encryptedVaultName": "TmFtZQ==", "vaultNameNonce": "n"}
    assert (await alice.patch(f"/sync/vault-key/{VAULT}", json=name)).status_code == 200
    (vault,) = (await alice.get("/sync/vaults")).json()["vaults"]
    assert (vault["vaultId"], vault["logCount"], vault["head"], vault["encryptedVaultName"]) == (
        VAULT,
        1,
        1,
        "TmFtZQ==",
    )
    deleted = await alice.delete(f"/sync/vault/{VAULT}")
    assert deleted.json() == {"message": "Vault deleted successfully", "vaultId": VAULT}
    assert (await alice.delete(f"/sync/vault/{VAULT}")).status_code == 404
    assert (await pull(alice))["logs"] == []
    assert (await push(alice, log("one")))["logs"][0]["sequence"] == 2


async def test_quota_devices_snapshot_and_acknowledgement(alice: Account) -> None:
    await push(alice, log("x" * 100), log("y" * 100), deviceId="laptop")
    quota = (await alice.get("/sync/quota")).json()
    assert quota == {"maxBytes": 0, "usedBytes": 416, "vaults": [{"vaultId": VAULT, "bytes": 416, "logCount": 2}]}

    ack = await alice.post("/sync/ack", json={"vaultId": VAULT, "deviceId": "laptop", "sequence": 2})
    assert ack.json() == {"vaultId": VAULT, "deviceId": "laptop", "sequence": 2}
    (device,) = (await alice.get("/devices")).json()["devices"]
    assert (device["deviceId"], device["acknowledged"]) == ("laptop", [{"vaultId": VAULT, "sequence": 2}])
    assert (await alice.delete("/devices/laptop")).status_code == 200
    assert (await alice.delete("/devices/laptop")).status_code == 404

    parts = [{"encryptedData": "c3RhdGU=", "nonce": "n"}]
    snapshot = {"snapshotId": str(uuid4()), "uptoSequence": 2, "parts": parts}
    assert (await alice.get(f"/sync/snapshot/{VAULT}")).status_code == 404
    stored = await alice.put(f"/sync/snapshot/{VAULT}", json=snapshot)
    assert stored.status_code == 200, stored.text
    got = (await alice.get(f"/sync/snapshot/{VAULT}")).json()
    assert (got["snapshotId"], got["uptoSequence"], got["parts"]) == (snapshot["snapshotId"], 2, parts)


async def test_an_export_is_taken_by_another_account(hapta: TestHapta, alice: Account) -> None:
    await alice.post("/sync/vault-key", json=KEY)
    await push(alice, *(log(f"log {number}") for number in range(700)))
    export = await alice.get("/export")
    assert export.headers["content-type"] == "application/x-ndjson"
    lines = [msgspec.json.decode(line) for line in export.content.splitlines()]
    assert (lines[0]["type"], lines[-1]) == ("export", {"type": "end", "vaults": 1, "logs": 700})

    bob = await hapta.register("bob@example.org")
    headers = {"content-type": "application/x-ndjson"}
    taken = await bob.post("/import", content=export.content, headers=headers)
    assert taken.status_code == 200, taken.text
    assert {name: taken.json()[name] for name in ("logs", "inserted", "duplicates", "vaultKeys")} == {
        "logs": 700,
        "inserted": 700,
        "duplicates": 0,
        "vaultKeys": 1,
    }
    assert (await bob.post("/import", content=export.content, headers=headers)).json()["inserted"] == 0
    broken = await bob.post("/import", content=export.content[:-60], headers=headers)
    assert (broken.status_code, broken.json()["code"]) == (400, "bad_import")


async def test_a_socket_hears_of_pushes_over_http(hapta: TestHapta, alice: Account) -> None:
    async with hapta.socket("/sync/ws") as socket:
        await socket.send({"type": "auth", "token": alice.token})
        await socket.send({"type": "subscribe", "vaultId": VAULT})
        assert (await socket.receive())["type"] == "subscribed"
        await push(alice, log("one"), deviceId="phone")
        assert await socket.receive() == {"type": "logs", "vaultId": VAULT, "head": 1, "deviceId": "phone"}


async def test_a_socket_that_subscribes_while_the_database_is_away_is_told_to_come_back(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        async with hapta.socket("/sync/ws") as socket:
            await socket.send({"type": "auth", "token": alice.token})
            await socket.send({"type": "ping"})
            assert await socket.receive() == {"type": "pong"}
            await hapta.app.services.db.close()
            await socket.send({"type": "subscribe", "vaultId": VAULT})
            assert await socket.closed() == 1013
