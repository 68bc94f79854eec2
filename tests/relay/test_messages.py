"""Messages: three versions of HTTP and a socket over one counter, pages, second tries, races, and what the log makes again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.kit.errors import Unavailable
from hapta.kit.ids import RandomIds
from hapta.relay.errors import SessionNotFound
from hapta.relay.messages import service as messages_service
from hapta.relay.messages.committer import Committer
from hapta.relay.messages.models import Item, Post
from hapta.relay.models import Update
from tests.relay.house import Guest, House, OpenHouse

pytestmark = pytest.mark.anyio


async def create(guest: Guest, tag: str = "one") -> str:
    return (await guest.post("/v1/sessions", json={"tag": tag, "metadata": "m"})).json()["session"]["id"]


async def post(guest: Guest, session_id: str, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    """Version 3: pairs of content and local id."""
    messages = [{"content": content, "localId": local_id} for content, local_id in pairs]
    answer = await guest.post(f"/v3/sessions/{session_id}/messages", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    return answer.json()["messages"]


async def read(guest: Guest, session_id: str, query: str = "") -> dict[str, Any]:
    answer = await guest.get(f"/v3/sessions/{session_id}/messages{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def seqs(guest: Guest, session_id: str, query: str = "?limit=500") -> list[int]:
    return [message["seq"] for message in (await read(guest, session_id, query))["messages"]]


async def test_messages_are_numbered_from_one_and_told_to_whoever_listens(a: Guest, house: House) -> None:
    session_id = await create(a)
    now = house.clock.now_ms()
    async with a.socket() as watcher, a.socket(session=session_id) as agent, a.socket(session="other") as stranger:
        stored = await post(a, session_id, ("first", "1"), ("second", "2"))

        assert [set(message) for message in stored] == [{"id", "seq", "localId", "createdAt", "updatedAt"}] * 2
        assert [(message["seq"], message["localId"], message["createdAt"]) for message in stored] == [
            (1, "1", now),
            (2, "2", now),
        ]
        for socket in (watcher, agent):
            frames = [frame["data"] for frame in await socket.seen()]
            assert [frame["seq"] for frame in frames] == [2, 3]
            assert frames[0]["createdAt"] == now
            assert [frame["body"] for frame in frames] == [
                {
                    "t": "new-message",
                    "sid": session_id,
                    "message": {**message, "content": {"t": "encrypted", "c": content}},
                }
                for message, content in zip(stored, ("first", "second"), strict=True)
            ]
        assert await stranger.seen() == []
    page = await read(a, session_id)
    assert page["hasMore"] is False
    assert page["messages"] == [
        {**message, "content": {"t": "encrypted", "c": content}}
        for message, content in zip(stored, ("first", "second"), strict=True)
    ]


async def test_one_name_is_one_message_in_a_batch_and_in_a_second_try(a: Guest) -> None:
    session_id = await create(a)
    async with a.socket() as watcher:
        first = await post(a, session_id, ("a", "1"), ("b", "1"))
        assert len(first) == 1
        assert len(await watcher.seen()) == 1

        assert await post(a, session_id, ("a", "1"), ("b", "1")) == first
        assert await watcher.seen() == []

        mixed = await post(a, session_id, ("c", "2"), ("again", "1"), ("d", "3"), ("again", "2"))
        assert [(message["seq"], message["localId"]) for message in mixed] == [(1, "1"), (2, "2"), (3, "3")]
        assert [frame["data"]["body"]["message"]["seq"] for frame in await watcher.seen()] == [2, 3]
    contents = [message["content"]["c"] for message in (await read(a, session_id))["messages"]]
    assert contents == ["a", "c", "d"]


async def test_the_first_version_keeps_any_json_and_is_idempotent(a: Guest) -> None:
    session_id = await create(a)
    path = f"/v1/sessions/{session_id}/messages"
    content = {"a": [1, 2.5, None, "ü"], "t": "encrypted"}
    first = (await a.post(path, json={"localId": "x", "content": content})).json()["message"]
    again = (await a.post(path, json={"localId": "x", "content": "other"})).json()["message"]
    nameless = [(await a.post(path, json={"content": "plain"})).json()["message"] for _ in range(2)]

    assert first == again
    assert first == {
        "id": first["id"],
        "sessionId": session_id,
        "localId": "x",
        "seq": 1,
        "content": content,
        "createdAt": first["createdAt"],
        "updatedAt": first["createdAt"],
    }
    assert [(message["seq"], message["localId"]) for message in nameless] == [(2, None), (3, None)]
    assert (await a.post(path, json={"localId": None, "content": None})).json()["message"]["content"] is None
    assert (await a.get(path)).json()["messages"][-1] == first


async def test_the_first_list_holds_the_last_150_and_follows_since_seq(a: Guest) -> None:
    session_id = await create(a)
    for start in (1, 101):
        await post(a, session_id, *[("c", f"{number}") for number in range(start, start + 100)])
    path = f"/v1/sessions/{session_id}/messages"

    recent = (await a.get(path)).json()["messages"]
    assert [message["seq"] for message in recent] == list(range(200, 50, -1))
    since = (await a.get(path, params={"sinceSeq": 190})).json()["messages"]
    assert [message["seq"] for message in since] == list(range(191, 201))
    assert len((await a.get(path, params={"sinceSeq": 0})).json()["messages"]) == 150
    assert (await a.get(path, params={"sinceSeq": 200})).json() == {"messages": []}
    for wrong in ("-1", "x", "1.5"):
        assert (await a.get(path, params={"sinceSeq": wrong})).status_code == 400


async def test_pages_of_the_second_version_follow_the_cursor(a: Guest) -> None:
    session_id = await create(a)
    await post(a, session_id, *[("c", f"{number}") for number in range(7)])
    path = f"/v2/sessions/{session_id}/messages"
    seen: list[int] = []
    cursor = None
    for size in (3, 3, 1):
        query: dict[str, Any] = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await a.get(path, params=query)).json()
        assert len(page["messages"]) == size
        seen += [message["seq"] for message in page["messages"]]
        cursor = page["nextCursor"]
        if cursor:
            assert cursor == f"cursor_v1_{page['messages'][-1]['id']}"
    assert (seen, cursor) == ([7, 6, 5, 4, 3, 2, 1], None)
    assert (await a.get(path, params={"limit": 7})).json()["nextCursor"] is None

    for wrong in ("abc", "cursor_v1_", "cursor_v1_abc", "cursor_v1_" + "z" * 32, "cursor_v2_" + "0" * 32):
        answer = await a.get(path, params={"cursor": wrong})
        assert (answer.status_code, answer.json()["error"]) == (400, "Invalid cursor format")
    for wrong in ("0", "201", "x"):
        assert (await a.get(path, params={"limit": wrong})).status_code == 400


async def test_ranges_of_the_third_version(a: Guest) -> None:
    session_id = await create(a)
    assert await read(a, session_id) == {"messages": [], "hasMore": False}
    await post(a, session_id, *[("c", f"{number}") for number in range(10)])

    async def page(query: str) -> tuple[list[int], bool]:
        found = await read(a, session_id, query)
        return [message["seq"] for message in found["messages"]], found["hasMore"]

    assert await page("") == ([*range(1, 11)], False)
    assert await page("?after_seq=0&limit=4") == ([1, 2, 3, 4], True)
    assert await page("?after_seq=6&limit=4") == ([7, 8, 9, 10], False)
    assert await page("?after_seq=10") == ([], False)
    assert await page("?before_seq=2147483647&limit=3") == ([10, 9, 8], True)
    assert await page("?before_seq=4&limit=3") == ([3, 2, 1], False)
    assert await page("?before_seq=1") == ([], False)


@pytest.mark.parametrize(
    "query",
    ["after_seq=-1", "before_seq=0", "after_seq=1&before_seq=2", "limit=0", "limit=501", "after_seq=x", "limit=1.5"],
)
async def test_bad_ranges_are_refused(a: Guest, query: str) -> None:
    session_id = await create(a)
    assert (await a.get(f"/v3/sessions/{session_id}/messages?{query}")).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": [{"content": "c", "localId": f"{number}"} for number in range(101)]},
        {"messages": [{"content": "c"}]},
        {"messages": [{"content": "c", "localId": ""}]},
        {"messages": [{"content": "c", "localId": "x" * 513}]},
        {"messages": [{"content": None, "localId": "1"}]},
        {"messages": [{"content": {"t": "encrypted"}, "localId": "1"}]},
        {"messages": [{"content": "c", "localId": "a\0"}]},
    ],
)
async def test_posts_that_do_not_fit_are_refused_as_a_whole(a: Guest, body: Any) -> None:
    session_id = await create(a)
    assert (await a.post(f"/v3/sessions/{session_id}/messages", json=body)).status_code == 400
    assert await seqs(a, session_id) == []


async def test_a_message_may_be_large_but_not_larger(a: Guest) -> None:
    session_id = await create(a)
    path = f"/v3/sessions/{session_id}/messages"
    large = "x" * 1_000_000
    await post(a, session_id, (large, "1"))
    too_large = {"messages": [{"content": "ok", "localId": "2"}, {"content": "x" * 4_200_000, "localId": "3"}]}
    assert (await a.post(path, json=too_large)).status_code == 413
    async with a.socket() as socket:
        ack = await socket.emit("message", {"sid": session_id, "message": "x" * 4_200_000}, ack=True)
        assert ack["result"] == "error"
    assert await seqs(a, session_id) == [1]
    assert (await read(a, session_id))["messages"][0]["content"]["c"] == large


async def test_a_page_of_large_messages_ends_early_and_says_so(a: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = await create(a)
    await post(a, session_id, *[("x" * 1000, f"{number}") for number in range(6)])
    monkeypatch.setattr(messages_service, "MAX_PAGE_BYTES", 2500)

    assert await seqs(a, session_id, "?after_seq=0") == [1, 2, 3]
    assert (await read(a, session_id, "?after_seq=0"))["hasMore"] is True
    assert await seqs(a, session_id, "?after_seq=3") == [4, 5, 6]
    assert await seqs(a, session_id, "?before_seq=7") == [6, 5, 4]
    monkeypatch.setattr(messages_service, "MAX_PAGE_BYTES", 1)
    assert await seqs(a, session_id, "?after_seq=2") == [3]


async def test_a_message_by_socket_is_stored_once_and_acknowledged_when_asked(a: Guest) -> None:
    session_id = await create(a)
    async with a.socket() as watcher, a.socket(session=session_id) as agent:
        ack = await agent.emit("message", {"sid": session_id, "message": "c2VhbGVk", "localId": "x"}, ack=True)
        await agent.emit("message", {"sid": session_id, "message": "again", "localId": "x"})
        nameless = await agent.emit("message", {"sid": session_id, "message": "more", "localId": None}, ack=True)
        unknown = await agent.emit("message", {"sid": "nobody", "message": "lost"}, ack=True)

        assert (ack["result"], ack["seq"], ack["localId"]) == ("success", 1, "x")
        assert (nameless["seq"], nameless["localId"]) == (2, None)
        assert unknown == {"result": "error", "message": "Session not found"}
        told = [frame["data"]["body"]["message"] for frame in await watcher.seen()]
        assert [(message["seq"], message["content"], message["localId"]) for message in told] == [
            (1, {"t": "encrypted", "c": "c2VhbGVk"}, "x"),
            (2, {"t": "encrypted", "c": "more"}, None),
        ]
    assert await seqs(a, session_id) == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        None,
        "x",
        {},
        {"sid": "s"},
        {"sid": 1, "message": "m"},
        {"sid": "s", "message": {}},
        {"sid": "s", "message": "m", "localId": 5},
    ],
)
async def test_messages_by_socket_that_do_not_fit_are_answered_so(a: Guest, data: Any) -> None:
    async with a.socket() as socket:
        assert (await socket.emit("message", data, ack=True)) == {"result": "error", "message": "Invalid parameters"}


async def test_a_message_moves_its_session_to_the_top(a: Guest, house: House) -> None:
    old = await create(a, "old")
    house.clock.advance(seconds=1)
    await create(a, "new")
    house.clock.advance(seconds=1)
    await post(a, old, ("c", "1"))

    first = (await a.get("/v1/sessions")).json()["sessions"][0]
    assert (first["id"], first["seq"], first["updatedAt"]) == (old, 1, house.clock.now_ms())


async def test_fifty_parallel_posts_are_numbered_without_gap_or_duplicate(a: Guest) -> None:
    session_id = await create(a)
    async with a.socket() as watcher:
        stored = await asyncio.gather(*[post(a, session_id, (f"{number}", f"{number}")) for number in range(50)])

        assert sorted(message["seq"] for messages in stored for message in messages) == [*range(1, 51)]
        frames = [frame["data"] for frame in await watcher.seen()]
        assert [frame["body"]["message"]["seq"] for frame in frames] == [*range(1, 51)]
        assert [frame["seq"] for frame in frames] == [*range(2, 52)]
    assert await seqs(a, session_id) == [*range(1, 51)]


async def test_all_ways_in_share_one_counter_and_one_memory_of_names(a: Guest) -> None:
    session_id = await create(a)
    names = [f"name {number}" for number in range(8)]
    async with a.socket() as watcher, a.socket(session=session_id) as agent:

        async def by_socket(name: str) -> int:
            return (await agent.emit("message", {"sid": session_id, "message": "c", "localId": name}, ack=True))["seq"]

        async def by_v1(name: str) -> int:
            answer = await a.post(f"/v1/sessions/{session_id}/messages", json={"localId": name, "content": "c"})
            return answer.json()["message"]["seq"]

        async def by_v3(name: str) -> int:
            return (await post(a, session_id, ("c", name)))[0]["seq"]

        async def sockets() -> list[int]:
            return [await by_socket(name) for name in names]

        found, others = await asyncio.gather(
            sockets(), asyncio.gather(*[way(name) for name in names for way in (by_v1, by_v3)])
        )
        assert sorted(found) == [*range(1, 9)]
        assert [*others] == [seq for seq in found for _ in range(2)]
        assert [frame["data"]["body"]["message"]["seq"] for frame in await watcher.seen()] == [*range(1, 9)]
    assert await seqs(a, session_id) == [*range(1, 9)]


async def test_two_workers_share_the_counter(two_workers: tuple[House, House]) -> None:
    first, second = (house.guest("a") for house in two_workers)
    session_id = await create(first)
    async with first.socket() as here, second.socket() as there:
        await asyncio.gather(
            *[post(guest, session_id, ("c", f"{number}")) for number in range(20) for guest in (first, second)]
        )
        for socket in (here, there):
            told = [(await socket.update("new-message"))["body"]["message"]["seq"] for _ in range(20)]
            assert told == [*range(1, 21)]
    assert await seqs(first, session_id) == [*range(1, 21)]


async def test_posts_of_many_sessions_and_accounts_go_in_few_transactions(a: Guest, b: Guest, house: House) -> None:
    sessions = [(guest, await create(guest, f"{number}")) for guest in (a, b) for number in range(10)]
    before = house.db.stats.writes
    messages = house.relay.messages
    posted = await asyncio.gather(
        *[
            messages.post(guest.id, session_id, [Item(f"{number}", b"1"), Item(None, b"2")])
            for number in range(5)
            for guest, session_id in sessions
        ]
    )
    assert house.db.stats.writes - before <= 4
    assert all(outcome.new == 2 for outcome in posted)
    for guest, session_id in sessions:
        assert await seqs(guest, session_id) == [*range(1, 11)]


async def test_a_post_that_fails_spoils_none_of_its_neighbours(a: Guest, b: Guest, house: House) -> None:
    session_id, other = await create(a), await create(b)
    messages = house.relay.messages
    await messages.post(a.id, session_id, [Item("known", b"1")])
    outcomes = await asyncio.gather(
        messages.post(a.id, session_id, [Item("new", b"1")]),
        messages.post(a.id, other, [Item("foreign", b"1")]),
        messages.post(a.id, session_id, [Item("known", b"2")]),
        messages.post(b.id, "nobody", [Item("lost", b"1")]),
        messages.post(b.id, other, [Item("new", b"1")]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [SessionNotFound] * 2
    assert isinstance(outcomes[1], SessionNotFound)
    assert isinstance(outcomes[3], SessionNotFound)
    assert await seqs(a, session_id) == [1, 2]
    assert await seqs(b, other) == [1]


class _Nobody:
    """Hears and forgets, as another worker does that missed it."""

    is_alone = False

    async def announce(self, updates: Any, /) -> None:
        return

    async def tell(self, *events: Any) -> None:
        return


async def test_a_full_queue_refuses_and_a_closed_one_too(a: Guest, b: Guest, house: House) -> None:
    session_id, other = await create(a), await create(b)
    committer = Committer(
        house.db, house.clock, RandomIds(), house.relay.heads, _Nobody(), house.relay.sessions, max_waiting=8
    )

    def post_of(guest: Guest, session: str, number: int) -> Post:
        return Post(guest.id, session, [Item(f"{number}", b"1")], 1, "")

    accepted = [committer.submit(post_of(a, session_id, number)) for number in range(2)]
    with pytest.raises(Unavailable):  # its share is used up
        committer.submit(post_of(a, session_id, 2))
    accepted.append(committer.submit(post_of(b, other, 0)))
    assert [outcome.new for outcome in await asyncio.gather(*accepted)] == [1, 1, 1]
    await committer.close()
    with pytest.raises(Unavailable):
        committer.submit(post_of(a, session_id, 3))


async def test_a_caller_that_goes_away_does_not_undo_its_message(a: Guest, house: House) -> None:
    session_id = await create(a)
    posting = asyncio.create_task(house.relay.messages.post(a.id, session_id, [Item("1", b"1")]))
    await asyncio.sleep(0)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    await house.relay.messages.close()
    assert await seqs(a, session_id) == [1]


async def test_a_message_whose_announcement_got_lost_is_told_from_what_is_stored(
    a: Guest, new_house: OpenHouse
) -> None:
    house = await new_house()
    session_id = await create(a)
    committer = Committer(house.db, house.clock, RandomIds(), house.relay.heads, _Nobody(), house.relay.sessions)
    async with a.socket() as watcher:
        posts = [
            Post(a.id, session_id, [Item(f"{number}", b'{"t":"encrypted","c":"x"}')], 1, "") for number in range(3)
        ]
        stored = [(await committer.submit(post)).messages[0] for post in posts]
        announced = await post(a, session_id, ("y", "last"))
        told = [await watcher.update("new-message") for _ in range(4)]

    assert [update["seq"] for update in told] == [2, 3, 4, 5]
    assert [update["body"]["message"]["id"] for update in told] == [*[one.id for one in stored], announced[0]["id"]]
    assert [update["body"]["message"]["content"]["c"] for update in told] == ["x", "x", "x", "y"]


async def test_the_log_keeps_no_copy_of_a_message_and_says_nothing_of_deleted_ones(a: Guest, house: House) -> None:
    session_id = await create(a)
    updates: list[Update] = []

    class Listener(_Nobody):
        async def announce(self, updates_: Any, /) -> None:
            updates.extend(updates_)

    committer = Committer(house.db, house.clock, RandomIds(), house.relay.heads, Listener(), house.relay.sessions)
    await committer.submit(Post(a.id, session_id, [Item("1", b'"c"'), Item(None, b'"d"')], 6, "sender"))
    await committer.close()
    kept = await house.db.read(
        lambda tx: tx.fetch_all("SELECT ref, body, sender FROM res_relay_updates WHERE ref <> '' ORDER BY seq")
    )
    refs = [f"new-message/{session_id}/1", f"new-message/{session_id}/2"]
    assert kept == [(ref, None, "sender") for ref in refs]
    rebuilt = await house.db.read(lambda tx: house.relay.messages.rebuild(tx, a.id, refs))
    assert [bytes(update.body) for update in updates] == [rebuilt[ref] for ref in refs]

    await a.delete(f"/v1/sessions/{session_id}")
    assert await house.db.read(lambda tx: house.relay.messages.rebuild(tx, a.id, refs)) == {}


async def _logged(house: House) -> int:
    return await house.db.read(
        lambda tx: tx.fetch_value("SELECT count(*) FROM res_relay_updates WHERE ref LIKE 'new-message/%'")
    )


async def test_messages_are_logged_as_soon_as_another_worker_may_miss_their_announcement(
    house: House, a: Guest, new_house: OpenHouse
) -> None:
    session_id = await create(a)
    await post(a, session_id, ("c", "alone"))
    assert await _logged(house) == (0 if house.db.engine == "sqlite" else 1)
    before = await _logged(house)

    await new_house()
    await post(a, session_id, ("c", "beside another"))
    assert await _logged(house) == before + 1


async def test_changes_that_nobody_announced_and_messages_that_nobody_logged_are_told_in_their_order(
    house: House, a: Guest
) -> None:
    session_id = await create(a)
    async with a.socket() as watcher:
        first, third = {"t": "test", "n": 1}, {"t": "test", "n": 3}
        await house.commit(a.id, first)
        await post(a, session_id, ("c", "second"))
        await house.commit(a.id, third)
        await post(a, session_id, ("c", "fourth"))
        told = [await watcher.update() for _ in range(4)]

    assert [update["seq"] for update in told] == [2, 3, 4, 5]
    assert [update["body"]["t"] for update in told] == ["test", "new-message", "test", "new-message"]
    assert house.relay.hub.counts.lost == 0


async def test_messages_of_a_very_long_session_are_removed_bit_by_bit(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages_service, "REMOVE_CHUNK", 3)
    long, other = await create(a, "long"), await create(a, "other")
    for session_id in (long, other):
        await post(a, session_id, *[("c", f"{number}") for number in range(8)])
    assert (await a.delete(f"/v1/sessions/{long}")).status_code == 200

    async def left(tx: Any) -> int:
        return await tx.fetch_value("SELECT count(*) FROM res_relay_messages WHERE session_id = :id", id=long)

    assert await house.db.read(left) == 5
    assert await house.relay.messages.remove() == 5
    assert await house.relay.messages.remove() == 0
    assert await house.db.read(left) == 0
    assert await seqs(a, other) == [*range(1, 9)]
