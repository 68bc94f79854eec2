"""People as others see them, and friends: search, visibility, permissions, both sides of every change, and a model of the statuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.relay.people.models import Status, added, removed
from hapta.relay.prefixes import end_of
from tests.relay.house import A, B, Guest, House

pytestmark = pytest.mark.anyio

DAY_HOURS = 24


def more_guests(house: House, count: int) -> list[Guest]:
    guests: list[Guest] = []
    for number in range(count):
        house.tokens.add(f"guest{number}", f"01900000-0000-7000-8000-0000000002{number:02d}")
        guests.append(house.guest(f"guest{number}"))
    return guests


async def named(guest: Guest, username: str, **more: Any) -> None:
    answer = await guest.put("/v1/account", json={"username": username, **more})
    assert answer.status_code == 200


async def usernames(guest: Guest, query: str, path: str = "/v1/users/search", **more: Any) -> list[str]:
    answer = await guest.get(path, params={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return [user["username"] for user in answer.json()["users"]]


@pytest.mark.parametrize("path", ["/v1/users/search", "/v1/user/search"])
async def test_people_are_found_by_the_beginning_of_their_names(house: House, a: Guest, path: str) -> None:
    people = more_guests(house, 5)
    names = ["Al_bert", "al-bert", "alXbert", "ALBERT", "Bert"]
    for guest, name in zip(people, names, strict=True):
        await named(guest, name, firstName="F")
    await named(a, "albrecht")
    assert await usernames(a, "AL", path) == ["al-bert", "Al_bert", "ALBERT", "alXbert"]
    assert await usernames(a, "al_", path) == ["Al_bert"]
    assert await usernames(a, "al", path, limit=2) == ["al-bert", "Al_bert"]
    for pattern in ("%", "_", "al%", "\\", "*", "b_rt", "é", "\U0010ffff", "'"):
        assert await usernames(a, pattern, path) == []
    (found,) = (await a.get(path, params={"query": "bert"})).json()["users"]
    assert found == {
        "id": people[4].id,
        "firstName": "F",
        "lastName": None,
        "username": "Bert",
        "avatar": None,
        "bio": None,
        "status": "none",
    }


async def test_a_search_outside_the_bounds_is_refused(a: Guest) -> None:
    bad: list[dict[str, Any]] = [{}, {"query": ""}, {"query": "x" * 101}]
    bad += [{"query": "x", "limit": limit} for limit in (0, 51, "many")]
    for params in bad:
        assert (await a.get("/v1/users/search", params=params)).status_code == 400, params


@pytest.mark.parametrize("path", ["/v1/users", "/v1/user"])
async def test_a_person_has_every_text_that_apps_demand(a: Guest, path: str) -> None:
    answer = await a.get(f"{path}/{B}")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "user": {
                "id": B,
                "firstName": "",
                "lastName": None,
                "username": "",
                "avatar": None,
                "bio": None,
                "status": "none",
            }
        },
    )
    for nobody in ("01900000-0000-7000-8000-0000000000ff", "me", "%25", "x" * 200):
        missing = await a.get(f"{path}/{nobody}")
        assert (missing.status_code, missing.json()) == (404, {"error": "User not found"})


async def test_a_profile_for_friends_is_for_friends(a: Guest, b: Guest) -> None:
    await named(b, "hidden", firstName="Secret", bio="private")
    await b.patch("/v1/users/me/privacy", json={"profileVisibility": "friends-only"})
    assert await usernames(a, "hidden") == []
    assert (await a.get(f"/v1/users/{B}")).status_code == 404
    assert (await b.get(f"/v1/users/{B}")).json()["user"]["firstName"] == "Secret"

    asked = (await a.post("/v1/friends/add", json={"uid": B})).json()["user"]
    assert asked == {
        "id": B,
        "firstName": "",
        "lastName": None,
        "username": "hidden",
        "avatar": None,
        "bio": None,
        "status": "requested",
    }
    assert (await a.get("/v1/friends")).json()["friends"] == [asked]
    assert (await a.get(f"/v1/users/{B}")).status_code == 404
    await b.post("/v1/friends/add", json={"uid": A})
    assert await usernames(a, "hidden") == ["hidden"]
    friend = (await a.get(f"/v1/users/{B}")).json()["user"]
    assert (friend["firstName"], friend["bio"], friend["status"]) == ("Secret", "private", "friend")


async def test_a_request_and_its_acceptance_are_told_to_both(house: House, a: Guest, b: Guest) -> None:
    async with a.socket() as first, b.socket() as second:
        answer = await a.post("/v1/friends/add", json={"uid": B})
        assert answer.json()["user"]["status"] == "requested"
        now = house.clock.now_ms()
        assert (await first.update())["body"] == {
            "t": "relationship-updated",
            "uid": B,
            "fromUserId": A,
            "toUserId": B,
            "status": "requested",
            "action": "created",
            "timestamp": now,
        }
        theirs = (await second.update())["body"]
        assert (theirs["uid"], theirs["status"], theirs["action"]) == (A, "pending", "created")
        post = (await second.update())["body"]
        feed = (await b.get("/v1/feed", headers={"x-happy-client": "cli/1"})).json()["items"]
        assert feed == [
            {
                "id": post["id"],
                "body": {"kind": "friend_request", "uid": A},
                "repeatKey": f"friend_request_{A}",
                "cursor": "0-1",
                "createdAt": now,
            }
        ]
        assert post == {"t": "new-feed-post", "counter": 1, **feed[0]}
        assert await first.seen() == []

        assert (await b.post("/v1/friends/add", json={"uid": A})).json()["user"]["status"] == "friend"
        for socket, other in ((first, B), (second, A)):
            told = [(await socket.update())["body"] for _ in range(2)]
            assert [one["t"] for one in told] == ["relationship-updated", "new-feed-post"]
            assert (told[0]["status"], told[0]["action"]) == ("friend", "updated")
            assert told[1]["body"] == {"kind": "friend_accepted", "uid": other}
            assert told[1]["repeatKey"] == f"friend_accepted_{other}"
        again = await a.post("/v1/friends/add", json={"uid": B})
        assert again.json()["user"]["status"] == "friend"
        for socket, other in ((first, B), (second, A)):  # both are there, which friends may know
            assert (await socket.ephemeral("friend-status"))["userId"] == other
        assert [
            frame for socket in (first, second) for frame in await socket.seen() if frame["event"] == "update"
        ] == []


async def test_requests_are_told_in_the_feed_once_in_a_day(house: House, a: Guest, b: Guest) -> None:
    async def count() -> list[str]:
        return [item["cursor"] for item in (await b.get("/v1/feed")).json()["items"]]

    async def ask_and_take_back() -> None:
        await a.post("/v1/friends/add", json={"uid": B})
        taken = await a.post("/v1/friends/remove", json={"uid": B})
        assert taken.json()["user"]["status"] == "rejected"

    await ask_and_take_back()
    assert await count() == ["cursor_1"]
    house.clock.advance(hours=23)
    await ask_and_take_back()
    assert await count() == ["cursor_1"]
    house.clock.advance(hours=1)
    await ask_and_take_back()
    assert await count() == ["cursor_2"]  # the same repeat key: it left its old place


async def test_whoever_takes_no_requests_gets_none(house: House, a: Guest, b: Guest) -> None:
    await b.patch("/v1/users/me/privacy", json={"friendRequestPermission": "none"})
    async with b.socket() as watcher:
        answer = await a.post("/v1/friends/add", json={"uid": B})
        assert (answer.status_code, answer.json()) == (403, {"error": "User is not accepting friend requests"})
        assert await watcher.seen() == []
    assert (await a.get("/v1/friends")).json() == {"friends": []}
    # Whoever asks others may be agreed to all the same.
    await b.post("/v1/friends/add", json={"uid": A})
    assert (await a.post("/v1/friends/add", json={"uid": B})).json()["user"]["status"] == "friend"


async def test_friends_of_friends_need_a_friend_in_common(house: House, a: Guest, b: Guest) -> None:
    common, other = more_guests(house, 2)
    await b.patch("/v1/users/me/privacy", json={"friendRequestPermission": "friends-of-friends"})

    async def befriend(one: Guest, two: Guest) -> None:
        await one.post("/v1/friends/add", json={"uid": two.id})
        assert (await two.post("/v1/friends/add", json={"uid": one.id})).json()["user"]["status"] == "friend"

    await befriend(a, other)
    await befriend(b, common)
    refused = await a.post("/v1/friends/add", json={"uid": B})
    assert (refused.status_code, refused.json()) == (
        403,
        {"error": "User only accepts friend requests from friends of friends"},
    )
    await a.post("/v1/friends/add", json={"uid": common.id})
    assert (await a.post("/v1/friends/add", json={"uid": B})).status_code == 403
    await common.post("/v1/friends/add", json={"uid": A})
    assert (await a.post("/v1/friends/add", json={"uid": B})).json()["user"]["status"] == "requested"


@pytest.mark.parametrize("path", ["/v1/friends/add", "/v1/friends/remove"])
async def test_oneself_and_nobody_are_no_friends(a: Guest, path: str) -> None:
    for uid in (A, "nobody"):
        answer = await a.post(path, json={"uid": uid})
        assert (answer.status_code, answer.json()) == (200, {"user": None})
    for body in ({}, {"uid": ""}, {"uid": 1}, {"uid": "x" * 129}):
        assert (await a.post(path, json=body)).status_code == 400


async def test_a_list_of_friends_has_friends_first(house: House, a: Guest) -> None:
    friend, asked, asks, turned_down = more_guests(house, 4)
    for guest in (asks, turned_down, friend):
        await guest.post("/v1/friends/add", json={"uid": A})
        house.clock.advance(seconds=1)
    await a.post("/v1/friends/add", json={"uid": asked.id})
    await a.post("/v1/friends/add", json={"uid": friend.id})
    await a.post("/v1/friends/remove", json={"uid": turned_down.id})
    friends = (await a.get("/v1/friends")).json()["friends"]
    assert [(one["id"], one["status"]) for one in friends] == [
        (friend.id, "friend"),
        (asked.id, "requested"),
        (asks.id, "pending"),
    ]


async def test_two_who_ask_each_other_at_once_become_friends(a: Guest, b: Guest) -> None:
    for _ in range(3):
        answers = await asyncio.gather(
            *[guest.post("/v1/friends/add", json={"uid": uid}) for guest, uid in ((a, B), (b, A))]
        )
        assert {answer.status_code for answer in answers} == {200}
        for guest in (a, b):
            (friend,) = (await guest.get("/v1/friends")).json()["friends"]
            assert friend["status"] == "friend"
        await a.post("/v1/friends/remove", json={"uid": B})
        await b.post("/v1/friends/remove", json={"uid": A})
        await a.post("/v1/friends/remove", json={"uid": B})


async def test_a_friend_who_is_removed_is_one_who_asks(a: Guest, b: Guest) -> None:
    await a.post("/v1/friends/add", json={"uid": B})
    await b.post("/v1/friends/add", json={"uid": A})
    async with a.socket() as first, b.socket() as second:
        assert (await a.post("/v1/friends/remove", json={"uid": B})).json()["user"]["status"] == "pending"
        assert (await first.update())["body"]["status"] == "pending"
        assert (await second.update())["body"]["status"] == "requested"
        assert (await a.post("/v1/friends/remove", json={"uid": B})).json()["user"]["status"] == "none"
        told = (await first.update())["body"]
        assert (told["status"], told["action"]) == ("none", "deleted")
        assert (await second.update())["body"]["action"] == "deleted"
        assert (await a.post("/v1/friends/remove", json={"uid": B})).json()["user"]["status"] == "none"
        assert [
            frame for socket in (first, second) for frame in await socket.seen() if frame["event"] == "update"
        ] == []


async def test_a_friend_who_was_switched_off_can_be_removed(house: House, a: Guest, b: Guest) -> None:
    await a.post("/v1/friends/add", json={"uid": B})
    await b.post("/v1/friends/add", json={"uid": A})
    del house.tokens.callers["b"]
    assert (await a.get(f"/v1/users/{B}")).status_code == 404
    assert (await a.post("/v1/friends/add", json={"uid": B})).json() == {"user": None}
    for status in ("pending", "none"):
        assert (await a.post("/v1/friends/remove", json={"uid": B})).json()["user"]["status"] == status
    assert (await a.post("/v1/friends/remove", json={"uid": B})).json() == {"user": None}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_statuses_of_two_people_always_fit_each_other(steps: list[tuple[bool, bool]]) -> None:
    sides: list[Status] = ["none", "none"]
    for who, adds in steps:
        mine, theirs = sides[who], sides[not who]
        change = (added if adds else removed)(mine, theirs)
        if adds and theirs == "requested":
            assert change == ("friend", "friend")
        if adds and mine in ("none", "rejected"):
            assert change.mine in ("requested", "friend")
        if not adds:
            assert change.mine not in ("requested", "friend")
        sides[who], sides[not who] = change
        # A friendship has two sides, and whoever is asked was asked, or had been.
        assert (sides[0] == "friend") == (sides[1] == "friend")
        for one, other in (sides, sides[::-1]):
            if one == "requested":
                assert other in ("pending", "rejected")
            if one == "pending":
                assert other in ("requested", "rejected")


@given(st.text(), st.text())
def test_a_prefix_is_a_range(prefix: str, text: str) -> None:
    end = end_of(prefix)
    for one in (text, prefix + text):
        inside = prefix <= one and (end is None or one < end)
        assert inside == one.startswith(prefix)
