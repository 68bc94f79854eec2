"""The account itself: profile, names, settings under many writers, privacy, and the GitHub account behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from hapta.db.database import ReadTx
from hapta.relay.account.service import AccountService
from tests.relay.house import A, B, Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

OCTOCAT = {
    "id": 583231,
    "login": "octocat",
    "name": "The Octocat Himself",
    "avatar_url": "https://example.org/octocat.png",
    "email": None,
    "bio": "A cat",
    "company": "@github",
}


def accounts(house: House, **more: Any) -> AccountService:
    """The service over the house's database; what it tells goes to the house's sockets."""
    return AccountService(house.db, house.relay.heads, house.relay.updates, house.clock, **more)


@pytest.mark.parametrize("path", ["/v1/account", "/v1/account/profile"])
async def test_a_new_account_has_a_whole_profile(house: House, a: Guest, path: str) -> None:
    answer = await a.get(path)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": A,
        "timestamp": house.clock.now_ms(),
        "firstName": None,
        "lastName": None,
        "username": None,
        "avatar": None,
        "bio": None,
        "github": None,
        "connectedServices": [],
    }


async def test_a_profile_that_has_not_changed_is_not_sent_again(house: House, a: Guest, b: Guest) -> None:
    first = await a.get("/v1/account/profile")
    etag = first.headers["etag"]
    house.clock.advance(hours=1)
    for given in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await a.get("/v1/account/profile", headers={"if-none-match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (await b.get("/v1/account/profile", headers={"if-none-match": etag})).status_code == 200
    await a.put("/v1/account", json={"firstName": "Ada"})
    changed = await a.get("/v1/account/profile", headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_names_are_changed_one_by_one_and_told(a: Guest, b: Guest) -> None:
    async with a.socket() as watcher, b.socket() as stranger:
        answer = await a.put("/v1/account", json={"firstName": "Ada", "lastName": "Lovelace", "username": "Ada_L-1"})
        assert answer.status_code == 200
        assert answer.json()["success"] is True
        assert answer.json()["profile"]["username"] == "Ada_L-1"
        told = (await watcher.update("update-account"))["body"]
        assert told == {
            "t": "update-account",
            "id": A,
            "firstName": "Ada",
            "lastName": "Lovelace",
            "username": "Ada_L-1",
        }
        cleared = await a.put("/v1/account", json={"lastName": None, "firstName": None, "bio": "Numbers"})
        profile = cleared.json()["profile"]
        assert (profile["firstName"], profile["lastName"], profile["bio"]) == ("Ada", None, "Numbers")
        await watcher.update("update-account")
        assert (await a.put("/v1/account", json={})).status_code == 200
        assert await watcher.seen() == []
        assert await stranger.seen() == []


BAD_NAMES: list[Any] = [
    {"firstName": ""},
    {"firstName": "x" * 101},
    {"lastName": "x" * 101},
    {"username": "ab"},
    {"username": "x" * 51},
    {"username": "no spaces"},
    {"username": "line\n"},
    {"username": "ünïcode"},
    {"firstName": 1},
    {"bio": "x" * 501},
    {"firstName": "a\0b"},
    [],
]


async def test_names_outside_the_bounds_are_refused(a: Guest) -> None:
    for body in BAD_NAMES:
        answer = await a.put("/v1/account", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_FAILED"), body


async def test_a_username_is_taken_in_any_case(a: Guest, b: Guest) -> None:
    assert (await a.put("/v1/account", json={"username": "Grace"})).status_code == 200
    answer = await b.put("/v1/account", json={"username": "gRACE", "firstName": "Not"})
    assert (answer.status_code, answer.json()) == (409, {"success": False, "error": "username-taken"})
    assert (await b.get("/v1/account")).json()["firstName"] is None
    assert (await a.put("/v1/account", json={"username": "GRACE"})).status_code == 200
    assert (await a.put("/v1/account", json={"username": "Hopper"})).status_code == 200
    assert (await b.put("/v1/account", json={"username": "grace"})).status_code == 200


async def test_of_many_who_want_one_name_one_gets_it(house: House) -> None:
    guests: list[Guest] = []
    for number in range(10):
        house.tokens.add(f"guest{number}", f"01900000-0000-7000-8000-0000000001{number:02d}")
        guests.append(house.guest(f"guest{number}"))
    answers = await asyncio.gather(*[guest.put("/v1/account", json={"username": "wanted"}) for guest in guests])
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 9]


@pytest.mark.parametrize("read", ["/v1/account/settings", "/v1/account/preferences"])
@pytest.mark.parametrize("write", ["POST /v1/account/settings", "PUT /v1/account/preferences"])
async def test_settings_are_compared_and_set(a: Guest, b: Guest, read: str, write: str) -> None:
    method, path = write.split()
    assert (await a.get(read)).json() == {"settings": None, "settingsVersion": 0}
    async with a.socket() as watcher, b.socket() as stranger:
        first = await a.request(method, path, json={"settings": "sealed", "expectedVersion": 0})
        assert (first.status_code, first.json()) == (200, {"success": True, "version": 1})
        told = (await watcher.update())["body"]
        assert told == {"t": "update-account", "id": A, "settings": {"value": "sealed", "version": 1}}
        late = await a.request(method, path, json={"settings": "other", "expectedVersion": 0})
        assert (late.status_code, late.json()) == (
            200,
            {"success": False, "error": "version-mismatch", "currentVersion": 1, "currentSettings": "sealed"},
        )
        early = await a.request(method, path, json={"settings": "other", "expectedVersion": 2})
        assert early.json()["success"] is False
        assert await watcher.seen() == []
        assert await stranger.seen() == []
    cleared = await a.request(method, path, json={"settings": None, "expectedVersion": 1})
    assert cleared.json() == {"success": True, "version": 2}
    assert (await a.get(read)).json() == {"settings": None, "settingsVersion": 2}
    mismatch = await a.request(method, path, json={"settings": "x", "expectedVersion": 0})
    assert mismatch.json()["currentSettings"] is None
    assert (await b.get(read)).json() == {"settings": None, "settingsVersion": 0}


BAD_SETTINGS: list[Any] = [
    {"settings": "x"},
    {"expectedVersion": 0},
    {"settings": "x", "expectedVersion": -1},
    {"settings": "x", "expectedVersion": 1.5},
    {"settings": "x", "expectedVersion": "0"},
    {"settings": 1, "expectedVersion": 0},
    {"settings": "x" * 1_000_001, "expectedVersion": 0},
]


async def test_settings_outside_the_bounds_are_refused(a: Guest) -> None:
    for number, body in enumerate(BAD_SETTINGS):
        assert (await a.post("/v1/account/settings", json=body)).status_code == 400, number


async def test_of_fifty_writers_exactly_one_wins_each_version(house: House, a: Guest, new_house: OpenHouse) -> None:
    guests = [a, (await new_house()).guest("a")]  # over two workers
    for version in range(2):
        answers = await asyncio.gather(
            *[
                guests[writer % 2].post(
                    "/v1/account/settings", json={"settings": f"of {writer}", "expectedVersion": version}
                )
                for writer in range(50)
            ]
        )
        won = [number for number, answer in enumerate(answers) if answer.json()["success"]]
        assert len(won) == 1
        now = (await a.get("/v1/account/settings")).json()
        assert now == {"settings": f"of {won[0]}", "settingsVersion": version + 1}
        lost = [answer.json() for number, answer in enumerate(answers) if number != won[0]]
        assert {answer["currentVersion"] for answer in lost} == {version + 1}


async def test_privacy_is_changed_in_parts(a: Guest, b: Guest) -> None:
    path = "/v1/users/me/privacy"
    usual = {"showOnlineStatus": True, "profileVisibility": "public", "friendRequestPermission": "anyone"}
    assert (await a.get(path)).json() == usual
    answer = await a.patch(path, json={"showOnlineStatus": False})
    assert (answer.status_code, answer.json()) == (200, {**usual, "showOnlineStatus": False})
    answer = await a.patch(path, json={"profileVisibility": "friends-only", "friendRequestPermission": "none"})
    changed = {"showOnlineStatus": False, "profileVisibility": "friends-only", "friendRequestPermission": "none"}
    assert answer.json() == changed
    assert (await a.get(path)).json() == changed
    assert (await a.patch(path, json={})).json() == changed
    assert (await b.get(path)).json() == usual
    for body in ({"profileVisibility": "nobody"}, {"friendRequestPermission": 1}, {"showOnlineStatus": "yes"}):
        assert (await a.patch(path, json=body)).status_code == 400


async def test_a_github_account_shows_in_the_profile_and_is_told(house: House, a: Guest, b: Guest) -> None:
    service = accounts(house)
    async with a.socket() as watcher, b.socket() as stranger:
        assert await service.change_github(A, OCTOCAT, b"sealed")
        told = (await watcher.update("update-account"))["body"]
        assert told["github"] == {
            "id": 583231,
            "login": "octocat",
            "name": "The Octocat Himself",
            "avatar_url": "https://example.org/octocat.png",
            "email": None,
            "bio": "A cat",
        }
        assert (told["firstName"], told["lastName"], told["username"]) == ("The", "Octocat Himself", "octocat")
        profile = (await a.get("/v1/account/profile")).json()
        assert profile["github"] == OCTOCAT
        assert (profile["firstName"], profile["username"]) == ("The", "octocat")
        assert await house.db.read(lambda tx: service.github_token(tx, A)) == b"sealed"
        assert await service.change_github(A, None)
        assert (await watcher.update())["body"] == {"t": "update-account", "id": A, "github": None}
        assert not await service.change_github(A, None)
        assert await watcher.seen() == []
        assert await stranger.seen() == []
    profile = (await a.get("/v1/account/profile")).json()
    assert (profile["github"], profile["username"]) == (None, "octocat")


async def test_a_github_account_leaves_the_account_that_had_it(house: House, a: Guest, b: Guest) -> None:
    service = accounts(house)
    await service.change_github(A, OCTOCAT)
    async with a.socket() as first, b.socket() as second:
        await service.change_github(B, {**OCTOCAT, "name": None})
        assert (await first.update())["body"] == {"t": "update-account", "id": A, "github": None}
        told = (await second.update())["body"]
        assert told["github"]["name"] == "octocat"
    assert (await a.get("/v1/account")).json()["github"] is None
    theirs = (await b.get("/v1/account")).json()
    assert theirs["github"]["name"] == "octocat"
    # The name stays with whoever had it first, and the connection is made all the same.
    assert theirs["username"] is None
    assert (await a.get("/v1/account")).json()["username"] == "octocat"


async def test_two_accounts_that_connect_one_github_account_at_once_both_come_through(house: House) -> None:
    service = accounts(house)
    await asyncio.gather(*[service.change_github(one, OCTOCAT) for one in (A, B, A, B)])
    owners = [one for one in (A, B) if (await service.profile(one)).github is not None]
    assert len(owners) == 1


async def test_odd_names_of_github_fit(house: House) -> None:
    service = accounts(house)
    await service.change_github(A, {"id": "7", "login": "x" * 60, "name": " \0" + "y" * 300})
    account = (await service.profile(A)).account
    assert (account.first_name, account.last_name, account.username) == ("y" * 100, None, None)
    with pytest.raises(msgspec.ValidationError):
        await service.change_github(A, {"login": "nobody"})


async def test_vendors_and_pictures_come_from_their_owners(new_house: OpenHouse) -> None:
    async def avatars(ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        return {one: {"path": "p", "url": "https://example.org/p"} for one in ids if one == A}

    async def connected(tx: ReadTx, account_id: str) -> Sequence[str]:
        return ["openai"] if account_id == A else []

    house = await new_house()
    service = accounts(house, avatars=avatars, connected=connected)
    mine, theirs = await service.profile(A), await service.profile(B)
    assert (mine.avatar, list(mine.connected)) == ({"path": "p", "url": "https://example.org/p"}, ["openai"])
    assert (theirs.avatar, list(theirs.connected)) == (None, [])


async def test_a_new_picture_is_told(house: House, a: Guest, b: Guest) -> None:
    async with a.socket() as watcher, b.socket() as stranger:
        for avatar in ({"path": "p", "url": "https://example.org/p"}, None):
            await accounts(house).tell_avatar(A, avatar)
            assert (await watcher.update())["body"] == {"t": "update-account", "id": A, "avatar": avatar}
        assert await stranger.seen() == []


async def test_a_purge_leaves_nothing_of_an_account_and_all_of_the_others(house: House, a: Guest, b: Guest) -> None:
    for guest in (a, b):
        await guest.post("/v1/account/settings", json={"settings": "kept", "expectedVersion": 0})
        await guest.post("/v1/kv", json={"mutations": [{"key": "k", "value": "dg==", "version": -1}]})
        await guest.post("/v1/push-tokens", json={"token": "t"})
    await a.post("/v1/friends/add", json={"uid": B})
    await accounts(house).change_github(A, OCTOCAT)

    await house.db.write(lambda tx: house.removal.purge(tx, A))

    async def left(tx: ReadTx) -> dict[str, set[str]]:
        tables = ("accounts", "github", "kv", "push_tokens", "feed", "relationships", "voice")
        found: dict[str, set[str]] = {}
        for table in tables:
            rows = await tx.fetch_all(f"SELECT account_id FROM res_relay_{table}")
            found[table] = {row[0] for row in rows}
        return found

    found = await house.db.read(left)
    assert not any(A in owners for owners in found.values())
    assert found["accounts"] == found["kv"] == found["push_tokens"] == {B}
    assert found["relationships"] == set()
