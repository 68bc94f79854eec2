"""Avatars from their upload to everybody's profile, over a whole server: shown, told, loaded without a token, and gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.kit.access import UserId
from hapta.testing.server import Account, TestHapta, TestSocket
from tests.files.house import create_tus, picture, upload, uploaded

pytestmark = pytest.mark.anyio

BASE = "https://hapta.test"


@pytest.fixture
async def hapta(migrated_url: str, tmp_path: Path) -> AsyncIterator[TestHapta]:
    async with TestHapta(tmp_path, {"DATABASE_URL": migrated_url, "HAPTA_BLOBS_SYNC": "none"}) as server:
        yield server


@pytest.fixture
async def alice(hapta: TestHapta) -> Account:
    return await hapta.register("alice@example.org")


@pytest.fixture
async def bob(hapta: TestHapta) -> Account:
    return await hapta.register("bob@example.org")


async def new_avatar(account: Account, size: tuple[int, int] = (40, 40)) -> dict[str, Any]:
    answer = await upload(account, picture("PNG", size), "image/png", "me.png", "/v1/uploads/avatar")
    assert answer.status_code == 200, answer.text
    return answer.json()["avatar"]


async def profile(account: Account) -> Any:
    return (await account.get("/v1/account/profile")).json()["avatar"]


async def told(socket: TestSocket) -> Any:
    """The avatar of the next `update-account`."""
    while True:
        frame = await socket.receive()
        if frame["event"] == "update" and frame["data"]["body"]["t"] == "update-account":
            return frame["data"]["body"]["avatar"]


async def test_an_avatar_is_shown_told_and_loaded_without_a_token(hapta: TestHapta, alice: Account) -> None:
    assert await profile(alice) is None
    async with hapta.socket("/v1/websocket", {"authorization": f"Bearer {alice.token}"}) as socket:
        made = await new_avatar(alice)
        shown = {
            "path": made["path"],
            "url": f"{BASE}/files/{made['path']}",
            "width": made["width"],
            "height": made["height"],
            "thumbhash": made["thumbhash"],
        }
        assert await told(socket) == shown
    assert await profile(alice) == shown
    assert (await alice.put("/v1/account", json={"username": "alice"})).json()["profile"]["avatar"] == shown

    loaded = await hapta.http.get(shown["url"], headers={"origin": "https://app.example.org"})
    assert (loaded.status_code, len(loaded.content)) == (200, made["size"])
    assert loaded.headers["content-type"] == made["contentType"]
    assert loaded.headers["cache-control"] == "public, max-age=300"
    assert loaded.headers["x-content-type-options"] == "nosniff"
    assert loaded.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert loaded.headers["content-disposition"].startswith("inline")
    assert loaded.headers["access-control-allow-origin"] == "*"
    again = await hapta.http.get(shown["url"], headers={"if-none-match": loaded.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await hapta.http.head(shown["url"])
    assert (head.status_code, head.headers["content-length"]) == (200, str(made["size"]))


async def test_friends_and_finders_see_it_and_of_friends_only_profiles_friends_alone(
    alice: Account, bob: Account
) -> None:
    await alice.put("/v1/account", json={"username": "alice"})
    made = await new_avatar(alice)

    async def seen() -> list[Any]:
        found = (await bob.get(f"/v1/users/{alice.id}")).json().get("user", {}).get("avatar")
        (searched,) = (await bob.get("/v1/users/search", params={"query": "ali"})).json()["users"] or [{}]
        return [None if avatar is None else avatar["url"] for avatar in (found, searched.get("avatar"))]

    url = f"{BASE}/files/{made['path']}"
    assert await seen() == [url, url]
    await alice.patch("/v1/users/me/privacy", json={"profileVisibility": "friends-only"})
    assert await seen() == [None, None]
    asked = (await bob.post("/v1/friends/add", json={"uid": alice.id})).json()["user"]
    assert asked["avatar"] is None
    await alice.post("/v1/friends/add", json={"uid": bob.id})
    (friend,) = (await bob.get("/v1/friends")).json()["friends"]
    assert (friend["avatar"]["url"], friend["avatar"]["path"]) == (url, made["path"])
    assert await seen() == [url, url]
    (friend,) = (await alice.get("/v1/friends")).json()["friends"]
    assert friend["avatar"] is None


async def test_the_one_before_and_a_deleted_one_are_gone(hapta: TestHapta, alice: Account, bob: Account) -> None:
    async with hapta.socket("/v1/websocket", {"authorization": f"Bearer {alice.token}"}) as socket:
        first = (await new_avatar(alice))["path"]
        second = await new_avatar(alice, (64, 64))
        assert [(await told(socket))["path"] for _ in range(2)] == [first, second["path"]]
        assert (await hapta.http.get(f"/files/{first}")).status_code == 404
        assert (await hapta.http.get(f"/files/{second['path']}")).status_code == 200
        assert (await bob.delete(f"/v1/uploads/{second['id']}")).status_code == 404
        assert (await alice.delete(f"/v1/uploads/{second['id']}")).status_code == 200
        assert await told(socket) is None
    assert (await hapta.http.get(f"/files/{second['path']}")).status_code == 404
    assert await profile(alice) is None


async def test_an_account_that_is_deleted_takes_its_avatar_along(hapta: TestHapta, alice: Account) -> None:
    made = await new_avatar(alice)
    assert await hapta.app.services.identity.people.delete(UserId(alice.id))
    assert (await hapta.http.get(f"/files/{made['path']}")).status_code == 404


async def test_no_other_file_is_reached_and_no_other_name_leads_to_it(
    hapta: TestHapta, alice: Account, bob: Account
) -> None:
    made = await new_avatar(alice)
    name = made["path"].rpartition("/")[2]
    other = await uploaded(alice, picture(), "image/png", "a.png", category="avatars")
    private = await uploaded(alice, b"secret", "text/plain", "a.txt", category="files")
    for path in (
        other["path"],
        private["path"],
        f"avatars/{alice.id}/{private['id']}.txt",
        f"avatars/{bob.id}/{name}",
        f"avatars/{alice.id}/{name}x",
        f"avatars/{alice.id}/{made['id']}",
        f"avatars/{alice.id}/{made['id']}.svg",
        f"avatars/{alice.id}/..%2f{name}",
        f"avatars/{alice.id}/%00",
        "avatars/%00/x.png",
        f"avatars/{alice.id}/",
        "",
    ):
        assert (await hapta.http.get(f"/files/{path}")).status_code == 404, path


async def test_only_what_was_sent_as_an_avatar_becomes_one(hapta: TestHapta, alice: Account) -> None:
    key = {"category": "avatars", "reuseKey": "profile-avatar"}
    refused = await upload(alice, picture(), "image/png", "a.png", **key)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid-upload")
    metadata = "category YXZhdGFycw==,filetype aW1hZ2UvcG5n,reuseKey cHJvZmlsZS1hdmF0YXI="
    url = (await create_tus(alice, len(picture()), metadata)).headers["location"]
    piece = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream", "upload-offset": "0"}
    assert (await alice.patch(url, headers=piece, content=picture())).status_code == 400
    assert await profile(alice) is None
    made = await new_avatar(alice)
    known = await uploaded(alice, picture(), "image/png", "a.png", **key)  # a key that is known stores nothing
    assert known["id"] == made["id"]
    assert (await profile(alice))["path"] == made["path"]


async def test_a_server_without_a_public_address_tells_the_one_that_it_was_asked_by(
    migrated_url: str, tmp_path: Path
) -> None:
    environ = {"DATABASE_URL": migrated_url, "HAPTA_BLOBS_SYNC": "none", "HAPTA_SERVER_PUBLIC_URL": ""}
    async with TestHapta(tmp_path, environ) as hapta:
        alice = await hapta.register("alice@example.org")
        made = await new_avatar(alice)
        answer = await alice.get("/v1/account/profile", headers={"host": "192.168.1.7:3000"})
        assert answer.json()["avatar"]["url"] == f"http://192.168.1.7:3000/files/{made['path']}"
