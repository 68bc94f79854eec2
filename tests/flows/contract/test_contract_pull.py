"""The wire contract row by row, with its exact words, over HTTP: sections 2.7 and 12: pull, and the acceptance list."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from uuid import uuid4

import pytest

from hapta.testing.server import Account, TestHapta
from tests.flows.contract.rows import (
    KEY,
    SECOND_VAULT,
    UUID,
    VAULT,
    issues,
    logs,
    pulled,
    push_of,
    pushed,
)

pytestmark = pytest.mark.anyio


# --- 2.7 pull ---


async def test_a_pull_answers_as_the_contract_says(alice: Account) -> None:
    sent = logs(3)
    entries = (await pushed(alice, {"vaultId": VAULT, "logs": sent}))["logs"]
    body = await pulled(alice)
    assert body["hasMore"] is False
    assert (body["lastSequence"], body["head"]) == (3, 3)
    assert [{name: log[name] for name in sent[0]} for log in body["logs"]] == sent
    for name in ("id", "sequence", "createdAt"):
        assert [log[name] for log in body["logs"]] == [entry[name] for entry in entries]


async def test_the_callers_own_logs_are_part_of_a_pull(hapta: TestHapta) -> None:
    account = await hapta.register(f"{uuid4()}@example.org", deviceId="phone")
    await pushed(account, push_of(2, deviceId="phone"))
    assert len((await pulled(account))["logs"]) == 2


async def test_the_cursor_is_exclusive_and_any_safe_integer(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    await pushed(account, push_of(3))
    everything = [await pulled(account), *[await pulled(account, afterSequence=n) for n in (0, -1, -(2**53) + 1, -0.0)]]
    assert [[log["sequence"] for log in page["logs"]] for page in everything] == [[1, 2, 3]] * 5
    assert [log["sequence"] for log in (await pulled(account, afterSequence=1))["logs"]] == [2, 3]
    assert [log["sequence"] for log in (await pulled(account, afterSequence=2.0))["logs"]] == [3]
    for beyond in (3, 2**31 - 1, 2**31, 1_763_722_602_843, 2**53 - 1):
        page = await pulled(account, afterSequence=beyond)
        assert (page["logs"], page["hasMore"]) == ([], False)


@pytest.mark.parametrize("after", [None, "1", 1.5, True, 2**53, -(2**53), [1], {}])
async def test_what_is_no_cursor_is_a_validation_error(alice: Account, after: Any) -> None:
    answer = await alice.post("/sync/pull", json={"vaultId": VAULT, "afterSequence": after})
    assert issues(answer) == {("afterSequence",)}


@pytest.mark.parametrize("limit", [1, 1.0, 5.0, 1000, 1000.0])
async def test_a_whole_number_is_a_limit_in_either_spelling(alice: Account, limit: float) -> None:
    await pushed(alice, push_of(7))
    assert len((await pulled(alice, limit=limit))["logs"]) == min(7, int(limit))


@pytest.mark.parametrize("limit", [0, -1, 1001, 1.5, "5", None, True, [5], 1e400])
async def test_what_is_no_limit_is_a_validation_error(alice: Account, limit: Any) -> None:
    text = json.dumps({"vaultId": VAULT, "limit": limit}).replace("Infinity", "1e400")
    answer = await alice.post("/sync/pull", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    if limit != 1e400:
        assert issues(answer) == {("limit",)}


async def test_a_page_has_100_logs_unless_it_is_told_otherwise(alice: Account) -> None:
    await pushed(alice, push_of(101))
    body = await pulled(alice)
    assert (len(body["logs"]), body["hasMore"], body["lastSequence"], body["head"]) == (100, True, 100, 101)


async def test_has_more_is_false_when_exactly_the_limit_is_left(alice: Account) -> None:
    await pushed(alice, push_of(10))
    assert (await pulled(alice, limit=10))["hasMore"] is False
    assert (await pulled(alice, limit=9))["hasMore"] is True
    assert (await pulled(alice, limit=5, afterSequence=5))["hasMore"] is False


async def test_an_unknown_vault_is_an_empty_page(alice: Account) -> None:
    body = await pulled(alice, SECOND_VAULT)
    assert (body["logs"], body["hasMore"]) == ([], False)


async def test_sequences_count_through_the_vaults_of_an_account(alice: Account) -> None:
    for vault, tag in ((VAULT, "a"), (SECOND_VAULT, "b"), (VAULT, "c")):
        await pushed(alice, push_of(2, tag, vault))
    assert [log["sequence"] for log in (await pulled(alice))["logs"]] == [1, 2, 5, 6]
    assert [log["sequence"] for log in (await pulled(alice, SECOND_VAULT))["logs"]] == [3, 4]


async def test_every_answer_of_sync_carries_the_same_epoch(hapta: TestHapta, alice: Account) -> None:
    epochs = {
        (await pulled(alice))["epoch"],
        (await pushed(alice, push_of(1)))["epoch"],
        (await pulled(alice))["epoch"],
        (await alice.get("/sync/vaults")).json()["epoch"],
    }
    async with hapta.socket("/sync/ws") as socket:
        await socket.send({"type": "auth", "token": alice.token})
        await socket.send({"type": "subscribe", "vaultId": VAULT})
        answer = await socket.receive()
        while answer["type"] != "subscribed":
            answer = await socket.receive()
        epochs.add(answer["epoch"])
    assert len(epochs) == 1
    assert UUID.fullmatch(epochs.pop())


# --- 12 acceptance, items 2, 7 and 8 ---


async def test_two_users_with_one_vault_id_share_nothing(hapta: TestHapta, alice: Account, bob: Account) -> None:
    await alice.post("/sync/vault-key", json=KEY)
    await pushed(alice, push_of(5, "alices", deviceId="alices-phone"))
    assert (await pulled(bob))["logs"] == []
    assert (await bob.get("/sync/vaults")).json()["vaults"] == []
    assert (await bob.get("/devices")).json()["devices"] == []
    assert (await bob.get("/sync/quota")).json()["usedBytes"] == 0
    assert (await bob.delete(f"/sync/vault/{VAULT}")).status_code == 404
    async with hapta.socket("/sync/ws") as socket:
        await socket.send({"type": "auth", "token": bob.token})
        await socket.send({"type": "subscribe", "vaultId": VAULT})
        await pushed(alice, push_of(5, "more of alices", deviceId="alices-phone"))
        await pushed(bob, push_of(1, "bobs"))
        frames: list[dict[str, Any]] = []
        while not frames or frames[-1]["type"] != "logs":
            frames.append(await socket.receive())
        # Alice's head is 10: had her pushes reached this socket, one of these numbers would say so.
        assert {frame["head"] for frame in frames if "head" in frame} <= {0, 1}
        assert frames[-1]["head"] == 1
    assert [log["encryptedData"] for log in (await pulled(bob))["logs"]] == ["bobs 0"]
    assert len((await pulled(alice))["logs"]) == 10


async def test_a_walk_in_pages_of_any_size_gives_the_same_logs(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    for number in range(12):
        await pushed(account, push_of(99, f"a{number}"))
        await pushed(account, push_of(3, f"b{number}", SECOND_VAULT))
    walks: list[str] = []
    for limit in (7, 100, 1000):
        walk, after = hashlib.sha256(), 0
        while True:
            page = await pulled(account, afterSequence=after, limit=limit)
            for log in page["logs"]:
                walk.update(json.dumps(log, sort_keys=True).encode())
            after = page["lastSequence"]
            assert page["hasMore"] is (after < 12 * 102 - 3)  # the sequence of the last log of this vault
            if not page["hasMore"]:
                break
        walks.append(walk.hexdigest())
    assert len(set(walks)) == 1


async def test_a_walk_in_pages_of_one_ends_exactly_at_the_last_log(alice: Account) -> None:
    await pushed(alice, push_of(30))
    seen, more = list[int](), True
    while more:
        page = await pulled(alice, afterSequence=seen[-1] if seen else 0, limit=1)
        seen += [log["sequence"] for log in page["logs"]]
        more = page["hasMore"]
    assert seen == list(range(1, 31))


async def test_excluding_a_device_moves_the_cursor_past_its_logs_and_delivers_those_without_a_device(
    on_both: TestHapta,
) -> None:
    account = await on_both.register("carol@example.org")
    await pushed(account, push_of(250, "own", deviceId="phone"))
    await pushed(account, push_of(2, "nobodys"))
    await pushed(account, push_of(2, "tablets", deviceId="tablet"))
    found, after, pages = list[str](), 0, 0
    while True:
        page = await pulled(account, afterSequence=after, excludeDeviceId="phone", limit=50)
        assert page["lastSequence"] > after
        found += [log["encryptedData"] for log in page["logs"]]
        after, pages = page["lastSequence"], pages + 1
        if not page["hasMore"]:
            break
    assert found == ["nobodys 0", "nobodys 1", "tablets 0", "tablets 1"]
    assert after == 254
    assert pages <= 6
