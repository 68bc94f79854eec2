"""Push tokens: registered once, refreshed, forgotten, each account its own."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from hapta.relay.push_tokens.service import MAX_TOKENS
from tests.relay.house import Guest, House

pytestmark = pytest.mark.anyio

TOKEN = "ExponentPushToken[a/b+c]"


async def tokens(guest: Guest) -> list[dict[str, Any]]:
    answer = await guest.get("/v1/push-tokens")
    assert answer.status_code == 200
    return answer.json()["tokens"]


async def test_a_token_is_registered_once_and_refreshed(house: House, a: Guest, b: Guest) -> None:
    registered = house.clock.now_ms()
    answer = await a.post("/v1/push-tokens", json={"token": TOKEN})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    house.clock.advance(hours=1)
    await a.post("/v1/push-tokens", json={"token": TOKEN})
    await a.post("/v1/push-tokens", json={"token": "second"})
    second, first = await tokens(a)
    assert second["token"] == "second"
    assert (first["token"], first["createdAt"], first["updatedAt"]) == (TOKEN, registered, house.clock.now_ms())
    assert first["id"] != second["id"]
    assert await tokens(b) == []


async def test_a_token_is_forgotten_by_its_encoded_path(a: Guest, b: Guest) -> None:
    for guest in (a, b):
        await guest.post("/v1/push-tokens", json={"token": TOKEN})
    path = f"/v1/push-tokens/{quote(TOKEN, safe='')}"
    for _ in range(2):
        answer = await a.delete(path)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert await tokens(a) == []
    assert [one["token"] for one in await tokens(b)] == [TOKEN]


async def test_a_token_outside_the_bounds_is_refused(a: Guest) -> None:
    bad: list[Any] = [{}, {"token": ""}, {"token": 1}, {"token": "x" * 513}, {"token": "a\0"}]
    for body in bad:
        assert (await a.post("/v1/push-tokens", json=body)).status_code == 400, body


async def test_the_token_that_was_refreshed_longest_ago_makes_room(house: House, a: Guest) -> None:
    for number in range(MAX_TOKENS):
        await a.post("/v1/push-tokens", json={"token": str(number)})
        house.clock.advance(seconds=1)
    await a.post("/v1/push-tokens", json={"token": "0"})
    house.clock.advance(seconds=1)
    await a.post("/v1/push-tokens", json={"token": "newest"})
    kept = {one["token"] for one in await tokens(a)}
    assert len(kept) == MAX_TOKENS
    assert "1" not in kept
    assert {"0", "newest"} <= kept


async def test_one_token_that_is_registered_many_times_at_once_is_one(a: Guest) -> None:
    answers = await asyncio.gather(*[a.post("/v1/push-tokens", json={"token": TOKEN}) for _ in range(20)])
    assert {answer.status_code for answer in answers} == {200}
    assert len(await tokens(a)) == 1
