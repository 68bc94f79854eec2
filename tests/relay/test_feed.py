"""The feed: both spellings of cursors, pages in both directions, and items that are posted again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.db.database import WriteTx
from hapta.kit.ids import RandomIds
from hapta.relay.feed.models import FeedItem
from hapta.relay.feed.service import FeedService
from tests.relay.house import A, Guest, House

pytestmark = pytest.mark.anyio

APP = {"x-happy-client": "ios/1.7.0"}


async def post(house: House, text: str, *, account_id: str = A, repeat_key: str | None = None) -> FeedItem:
    feed = FeedService(house.db, house.clock, RandomIds())

    async def body(tx: WriteTx) -> Any:
        head = await house.relay.heads.locked(tx, account_id)
        item = await feed.post(tx, head, {"kind": "text", "text": text}, repeat_key=repeat_key)
        await head.save(tx)
        return item, head.updates

    item, updates = await house.db.write(body)
    await house.relay.updates.announce(updates)
    return item


async def texts(guest: Guest, **params: Any) -> tuple[list[str], bool]:
    answer = await guest.get("/v1/feed", params=params)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    return [item["body"]["text"] for item in page["items"]], page["hasMore"]


async def test_pages_go_both_ways_from_a_cursor(house: House, a: Guest, b: Guest) -> None:
    for number in range(1, 8):
        await post(house, str(number))
    assert await texts(a) == (["7", "6", "5", "4", "3", "2", "1"], False)
    assert await texts(a, limit=3) == (["7", "6", "5"], True)
    assert await texts(a, limit=3, before="0-5") == (["4", "3", "2"], True)
    assert await texts(a, limit=4, before="cursor_5") == (["4", "3", "2", "1"], False)
    # What is nearest to the cursor, newest first: nothing between two pages is lost.
    assert await texts(a, limit=3, after="0-2") == (["5", "4", "3"], True)
    assert await texts(a, limit=3, after="cursor_5") == (["7", "6"], False)
    assert await texts(a, after="0-3", before="0-3") == (["7", "6", "5", "4"], False)
    assert await texts(a, after="0-7") == ([], False)
    assert await texts(b) == ([], False)


async def test_each_caller_gets_cursors_that_it_can_read(house: House, a: Guest) -> None:
    await post(house, "one")

    async def cursor(**options: Any) -> str:
        return (await a.get("/v1/feed", **options)).json()["items"][0]["cursor"]

    assert await cursor() == "cursor_1"
    assert await cursor(headers=APP) == "0-1"
    assert await cursor(headers={"x-correlation-id": "1"}) == "0-1"
    assert await cursor(params={"after": "0-0"}) == "0-1"
    assert await cursor(params={"after": "cursor_0"}) == "cursor_1"


BAD_CURSORS = ("", "5", "0-", "1-5", "cursor_", "cursor_-1", "0-5x", "0-\u0663", f"cursor_{'9' * 20}", "0-5\n")


async def test_what_is_outside_the_bounds_is_refused(a: Guest) -> None:
    for cursor in BAD_CURSORS:
        for name in ("before", "after"):
            answer = await a.get("/v1/feed", params={name: cursor})
            assert (answer.status_code, answer.json()) == (400, {"error": "Invalid cursor format"}), cursor
    for limit in ("0", "201", "-1", "x", "1.5", ""):
        assert (await a.get("/v1/feed", params={"limit": limit})).status_code == 400, limit


async def test_what_is_posted_again_moves_to_the_top(house: House, a: Guest) -> None:
    async with a.socket() as watcher:
        await post(house, "old", repeat_key="k")
        await post(house, "between")
        item = await post(house, "new", repeat_key="k")
        told = [(await watcher.update("new-feed-post"))["body"] for _ in range(3)]
    assert [(one["counter"], one["cursor"], one["repeatKey"]) for one in told] == [
        (1, "0-1", "k"),
        (2, "0-2", None),
        (3, "0-3", "k"),
    ]
    assert told[2]["id"] == item.id
    assert await texts(a) == (["new", "between"], False)
    assert await texts(a, after="0-1") == (["new", "between"], False)


async def test_items_that_are_posted_at_once_have_places_of_their_own(house: House, a: Guest) -> None:
    items = await asyncio.gather(*[post(house, str(number)) for number in range(20)])
    assert sorted(item.counter for item in items) == list(range(1, 21))
    assert len((await texts(a))[0]) == 20
