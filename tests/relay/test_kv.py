"""The key-value store: versions, batches that are written as a whole or not at all, prefixes, bounds, and a model of it all."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.relay.kv.models import Entry, next_version
from tests.relay.house import Guest, House, OpenHouse

pytestmark = pytest.mark.anyio


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def put(key: str, value: str | None, version: int) -> dict[str, Any]:
    return {"key": key, "value": None if value is None else b64(value), "version": version}


async def write(guest: Guest, *mutations: dict[str, Any]) -> Any:
    answer = await guest.post("/v1/kv", json={"mutations": list(mutations)})
    assert answer.status_code in (200, 409), answer.text
    assert answer.json()["success"] is (answer.status_code == 200)
    return answer.json()


async def get(guest: Guest, key: str) -> Any:
    answer = await guest.get(f"/v1/kv/{quote(key, safe='')}")
    if answer.status_code == 404:
        assert answer.json() == {"error": "Key not found"}
        return None
    assert answer.status_code == 200, answer.text
    assert answer.json()["key"] == key
    return answer.json()["value"], answer.json()["version"]


async def keys(guest: Guest, **params: Any) -> list[str]:
    answer = await guest.get("/v1/kv", params=params)
    assert answer.status_code == 200, answer.text
    return [item["key"] for item in answer.json()["items"]]


async def test_a_key_is_written_changed_deleted_and_written_again(a: Guest, b: Guest) -> None:
    assert await get(a, "k") is None
    assert await write(a, put("k", "one", -1)) == {"success": True, "results": [{"key": "k", "version": 1}]}
    assert await get(a, "k") == (b64("one"), 1)
    assert await get(b, "k") is None
    assert (await write(a, put("k", "two", 1)))["results"] == [{"key": "k", "version": 2}]
    stale = await write(a, put("k", "three", 1))
    assert stale["errors"] == [{"key": "k", "error": "version-mismatch", "version": 2, "value": b64("two")}]
    assert (await write(a, put("k", None, 2)))["results"] == [{"key": "k", "version": 3}]
    assert await get(a, "k") is None
    assert await keys(a) == []
    conflict = await write(a, put("k", "x", 2))
    assert conflict["errors"] == [{"key": "k", "error": "version-mismatch", "version": 3, "value": None}]
    assert (await write(a, put("k", "again", -1)))["results"] == [{"key": "k", "version": 4}]
    assert (await write(a, put("k", None, 4)))["success"]
    assert (await write(a, put("k", "by version", 5)))["results"] == [{"key": "k", "version": 6}]


async def test_what_was_never_there_is_new_at_minus_one_and_at_zero(a: Guest) -> None:
    assert (await write(a, put("x", "", -1), put("y", "", 0)))["success"]
    assert await get(a, "x") == ("", 1)
    refused = await write(a, put("z", "v", 3))
    assert refused["errors"] == [{"key": "z", "error": "version-mismatch", "version": -1, "value": None}]
    assert (await write(a, put("x", "v", -1)))["success"] is False
    assert (await write(a, put("x", "v", 0)))["success"] is False


async def test_one_conflict_undoes_a_whole_batch(a: Guest) -> None:
    await write(a, put("there", "v", -1))
    async with a.socket() as watcher:
        refused = await write(a, put("new", "n", -1), put("there", "w", 7), put("other", "o", 4))
        assert [(one["key"], one["version"]) for one in refused["errors"]] == [("there", 1), ("other", -1)]
        assert await watcher.seen() == []
    assert await keys(a) == ["there"]
    assert await get(a, "there") == (b64("v"), 1)


async def test_of_two_writes_of_one_key_in_a_batch_not_both_win(a: Guest) -> None:
    refused = await write(a, put("k", "one", -1), put("k", "two", -1))
    assert refused["errors"] == [{"key": "k", "error": "version-mismatch", "version": -1, "value": None}]
    assert await get(a, "k") is None
    await write(a, put("k", "one", -1))
    assert (await write(a, put("k", "two", 1), put("k", "three", 2)))["success"] is False
    assert await get(a, "k") == (b64("one"), 1)


async def test_a_batch_is_told_once_to_the_accounts_own_sockets(a: Guest, b: Guest) -> None:
    await write(a, put("gone", "x", -1))
    async with a.socket() as watcher, b.socket() as stranger:
        await write(a, put("k", "v", -1), put("gone", None, 1))
        assert (await watcher.update())["body"] == {
            "t": "kv-batch-update",
            "changes": [
                {"key": "k", "value": b64("v"), "version": 1},
                {"key": "gone", "value": None, "version": 2},
            ],
        }
        assert await watcher.seen() == []
        assert await stranger.seen() == []


KEYS = ("todo.index", "a:b/c", "/", "bulk", "%2F", "ä€🎈", " ", "x" * 256)


async def test_keys_of_any_form_are_found_by_their_paths(a: Guest) -> None:
    for key in KEYS:
        assert (await write(a, put(key, "v", -1)))["success"]
        assert await get(a, key) == (b64("v"), 1), key
        answer = await a.post("/v1/kv/bulk", json={"keys": [key, "missing", key]})
        assert answer.json() == {"values": [{"key": key, "value": b64("v"), "version": 1}]}, key


async def test_keys_are_listed_by_prefix_in_order_and_without_what_was_deleted(a: Guest, b: Guest) -> None:
    names = ["a%b", "a_b", "aXb", "A_b", "a", "ab", "a\U0010ffff", "é", "b"]
    await write(a, *[put(name, name, -1) for name in names], put("a0", "x", -1))
    await write(a, put("a0", None, 1))
    await write(b, put("a-of-b", "x", -1))
    assert await keys(a) == sorted(names)
    assert await keys(a, prefix="a") == ["a", "a%b", "aXb", "a_b", "ab", "a\U0010ffff"]
    assert await keys(a, prefix="a_") == ["a_b"]
    assert await keys(a, prefix="a%") == ["a%b"]
    assert await keys(a, prefix="a\U0010ffff") == ["a\U0010ffff"]
    assert await keys(a, prefix="\\") == []
    # The limit counts what is there: the deleted key stands among the first two.
    assert await keys(a, prefix="a", limit=2) == ["a", "a%b"]
    item = (await a.get("/v1/kv", params={"prefix": "é"})).json()["items"]
    assert item == [{"key": "é", "value": b64("é"), "version": 1}]


async def test_requests_for_keys_outside_the_bounds_are_refused(a: Guest) -> None:
    for params in ({"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"prefix": "x" * 257}):
        assert (await a.get("/v1/kv", params=params)).status_code == 400, params
    for body in ({}, {"keys": []}, {"keys": ["k"] * 101}, {"keys": [""]}, {"keys": "k"}):
        assert (await a.post("/v1/kv/bulk", json=body)).status_code == 400, body


GOOD = {"key": "k", "value": "dg==", "version": -1}


BAD_BATCHES: list[Any] = [
    [],
    [GOOD] * 101,
    [{**GOOD, "key": ""}],
    [{**GOOD, "key": "x" * 257}],
    [{**GOOD, "key": "a\0b"}],
    [{**GOOD, "value": "not base64!"}],
    [{**GOOD, "value": "x"}],
    [{**GOOD, "value": "é"}],
    [{**GOOD, "value": 1}],
    [{**GOOD, "value": "A" * 350_004}],
    [{**GOOD, "version": -2}],
    [{**GOOD, "version": 1.5}],
    [{**GOOD, "version": 2**53}],
    [{"key": "k", "value": "dg=="}],
    [{"key": "k", "version": -1}],
]


async def test_a_batch_outside_the_bounds_is_refused(a: Guest) -> None:
    for number, mutations in enumerate(BAD_BATCHES):
        answer = await a.post("/v1/kv", json={"mutations": mutations})
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_FAILED"), number
    assert await keys(a) == []


async def test_values_come_in_either_alphabet_and_go_out_in_one(a: Guest) -> None:
    await a.post("/v1/kv", json={"mutations": [{"key": "k", "value": "-_-_", "version": -1}]})
    assert await get(a, "k") == ("+/+/", 1)


async def test_a_batch_of_too_many_bytes_is_refused(a: Guest) -> None:
    large = "A" * 350_000
    mutations = [{"key": str(number), "value": large, "version": -1} for number in range(8)]
    answer = await a.post("/v1/kv", json={"mutations": mutations})
    assert (answer.status_code, answer.json()["error"]) == (413, "The batch is too large")
    assert (await write(a, *mutations[:7]))["success"]


async def test_an_account_has_so_many_keys_deleted_ones_included(new_house: OpenHouse) -> None:
    house = await new_house(max_keys_per_account=3)
    a, b = house.guest("a"), house.guest("b")
    await write(a, put("1", "v", -1), put("2", "v", -1))
    await write(a, put("1", None, 1))
    answer = await a.post("/v1/kv", json={"mutations": [put("3", "v", -1), put("4", "v", -1)]})
    assert (answer.status_code, answer.json()["error"]) == (413, "Too many keys")
    assert (await write(a, put("3", "v", -1)))["success"]
    assert (await write(a, put("1", "again", 2)))["success"]
    assert (await write(b, put("1", "v", -1)))["success"]


async def test_of_fifty_writers_exactly_one_wins_each_version(a: Guest) -> None:
    for version in (-1, 1):
        outcomes = await asyncio.gather(*[write(a, put("k", str(number), version)) for number in range(50)])
        won = [number for number, outcome in enumerate(outcomes) if outcome["success"]]
        assert len(won) == 1
        assert (await get(a, "k"))[0] == b64(str(won[0]))


async def test_batches_with_crossing_keys_are_written_as_a_whole_or_not_at_all(
    house: House, a: Guest, new_house: OpenHouse
) -> None:
    writers = [a, (await new_house()).guest("a")]  # over two workers
    names = ["p", "q", "r"]
    version = -1
    for step in range(4):
        batches = [names, names[::-1], names[1:] + names[:1], ["q"], ["r", "p"]] * 4
        outcomes = await asyncio.gather(
            *[
                write(writers[number % 2], *[put(key, f"{step} of {number}", version) for key in batch])
                for number, batch in enumerate(batches)
            ]
        )
        values = {key: await get(a, key) for key in names}
        winners = {number for number, outcome in enumerate(outcomes) if outcome["success"]}
        written: list[str] = []
        for number in winners:
            for key in batches[number]:
                assert values[key] == (b64(f"{step} of {number}"), 1 if version == -1 else version + 1)
                written.append(key)
        assert len(written) == len(set(written))
        missing = [key for key in names if key not in written]
        if missing:  # brings all keys to the same version again
            assert (await write(a, *[put(key, "level", version) for key in missing]))["success"]
        version = 1 if version == -1 else version + 1


STEPS = st.lists(st.tuples(st.sampled_from(["put", "delete"]), st.integers(-1, 6)), max_size=20)


@given(STEPS)
def test_versions_of_a_key_only_grow_and_only_those_who_know_it_write(steps: Sequence[tuple[str, int]]) -> None:
    entry: Entry | None = None
    for action, known in steps:
        version = next_version(entry, known)
        current = 0 if entry is None else entry.version
        is_there = entry is not None and entry.value is not None
        if version is None:
            assert known != current or entry is None
            assert known != -1 or is_there
            continue
        assert version == current + 1
        assert known == current or (known == -1 and not is_there)
        entry = Entry("k", b"v" if action == "put" else None, version)
