"""Files: what PocketBase answers, streamed; protected ones for their viewers alone, and public small ones from memory."""

from __future__ import annotations

from typing import Any

import pytest

from hapta.gateway.errors import UpstreamAway
from hapta.gateway.files.service import FileWanted
from hapta.gateway.models import NOBODY, Client, Visitor
from tests.gateway.files_house import files_of, told
from tests.gateway.pocketbase_house import Person, PocketBaseHouse

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
SAME = (
    "content-type",
    "content-disposition",
    "content-security-policy",
    "last-modified",
    "accept-ranges",
    "content-range",
)
CLIENT = Client("192.0.2.1")


def post_with_cover(pocketbase: PocketBaseHouse, owner: Person, content: bytes = PNG) -> dict[str, Any]:
    """A record of a collection in which no file is protected."""
    return pocketbase.create("posts", files={"cover": ("a.png", content, "image/png")}, owner=owner.id, title="x")


def mixed(pocketbase: PocketBaseHouse, owner: Person) -> dict[str, Any]:
    """A record with public and protected files."""
    return pocketbase.create(
        "files",
        files={
            "image": ("a.png", PNG, "image/png"),
            "documents": ("c.svg", SVG, "image/svg+xml"),
            "protected": ("b.txt", b"secret text", "text/plain"),
        },
        owner=owner.id,
    )


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else value[0]


def file_token(pocketbase: PocketBaseHouse, person: Person) -> str:
    answer = pocketbase.http.post("/api/files/token", headers={"authorization": person.token})
    return answer.json()["token"]


@pytest.fixture
def alice(pocketbase: PocketBaseHouse) -> Person:
    return pocketbase.person("alice")


# --- as PocketBase answers ---


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 200),
        ("?download=1", {}, 200),
        ("?download=0", {}, 200),
        ("?thumb=100x100", {}, 200),
        ("?thumb=7x7", {}, 200),
        ("?token=garbage", {}, 200),
        ("", {"range": "bytes=2-5"}, 206),
        ("", {"range": "bytes=-4"}, 206),
        ("", {"range": "bytes=900000-"}, 416),
        ("", {"range": "bytes=0-1", "if-range": "Sat, 01 Jan 2000 00:00:00 GMT"}, 200),
    ],
)
@pytest.mark.parametrize("kind", ["public", "mixed"])
async def test_a_file_is_answered_as_pocketbase_does(
    pocketbase: PocketBaseHouse, alice: Person, kind: str, query: str, headers: dict[str, str], status: int
) -> None:
    if kind == "public":
        record = post_with_cover(pocketbase, alice)
        path = f"/api/files/posts/{record['id']}/{record['cover']}{query}"
    else:
        record = mixed(pocketbase, alice)
        path = f"/api/files/files/{record['id']}/{name_of(record['documents'])}{query}"
    direct = pocketbase.http.get(path, headers=headers)
    async with files_of(pocketbase) as house:
        for prefix in ("", "/pb"):
            for _ in range(2):  # from PocketBase, and where it is kept from memory
                answer = await house.http.get(prefix + path, headers=headers)
                assert (answer.status_code, answer.content) == (status, direct.content)
                assert direct.status_code == status
                for name in SAME:
                    assert answer.headers.get(name) == direct.headers.get(name), name
                assert answer.headers["content-length"] == direct.headers["content-length"]
                assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
                assert answer.headers["ratelimit"].startswith('"file";r=')


@pytest.mark.parametrize("kept", [True, False])
async def test_head_tells_the_length_and_sends_nothing(pocketbase: PocketBaseHouse, alice: Person, kept: bool) -> None:
    record = post_with_cover(pocketbase, alice)
    path = f"/api/files/posts/{record['id']}/{record['cover']}"
    async with files_of(pocketbase, keep_bytes=64 * 1024 if kept else 0) as house:
        for _ in range(2):
            answer = await house.http.head(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-length"] == str(len(PNG))
            assert answer.headers["content-type"] == "image/png"
        assert (await house.http.head(path + "x")).status_code == 404


@pytest.mark.parametrize("kept", [True, False])
async def test_what_the_client_has_is_not_sent_again(pocketbase: PocketBaseHouse, alice: Person, kept: bool) -> None:
    record = post_with_cover(pocketbase, alice)
    path = f"/api/files/posts/{record['id']}/{record['cover']}"
    async with files_of(pocketbase, keep_bytes=64 * 1024 if kept else 0) as house:
        first = await house.http.get(path)
        validators = [{"if-modified-since": first.headers["last-modified"]}]
        if kept:
            validators += [
                {"if-none-match": first.headers["etag"]},
                {"if-none-match": f'"other", {first.headers["etag"]}'},
            ]
        for validator in validators:
            answer = await house.http.get(path, headers=validator)
            assert (answer.status_code, answer.content) == (304, b"")
        again = await house.http.get(path, headers={"if-none-match": '"other"'})
        assert (again.status_code, again.content) == (200, PNG)


@pytest.mark.parametrize(
    "path",
    [
        "/api/files/nowhere/{id}/{name}",
        "/api/files/posts/none00000000000/{name}",
        "/api/files/posts/{id}/other.png",
        "/api/files/posts/{id}/..%2f..%2fdata.db",
        "/api/files/posts/..%2f{id}/{name}",
        "/api/files/posts/{id}/%2e%2e",
        "/api/files/posts/{id}/a%00b",
        "/api/files/posts/{id}/a%5cb",
        "/api/files/posts/{id}/%252e%252e%252fdata.db",
        "/api/files/_superusers/{id}/{name}",
        "/api/files/%5FSUPERUSERS/{id}/{name}",
        "/api/files/pbc_3142635823/{id}/{name}",
        "/api/files/posts/{id}/{name}/",
        "/api/files/posts/{id}",
    ],
)
async def test_what_is_no_file_is_a_404_in_pocketbases_shape(
    pocketbase: PocketBaseHouse, alice: Person, path: str
) -> None:
    record = post_with_cover(pocketbase, alice)
    async with files_of(pocketbase) as house:
        answer = await house.http.get(path.format(id=record["id"], name=record["cover"]))
    assert answer.status_code == 404
    assert told(answer).keys() == {"data", "message", "status"}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("written", ["posts", "POSTS", "%70osts", "pbc_posts"])
async def test_every_spelling_of_a_collection_is_one_file_in_memory(
    pocketbase: PocketBaseHouse, alice: Person, written: str
) -> None:
    record = post_with_cover(pocketbase, alice)
    async with files_of(pocketbase) as house:
        first = await house.http.get(f"/api/files/posts/{record['id']}/{record['cover']}")
        assert first.headers["x-hapta-cache"] == "MISS"
        answer = await house.http.get(f"/api/files/{written}/{record['id']}/{record['cover']}")
    assert (answer.headers["x-hapta-cache"], answer.content) == ("HIT", PNG)


# --- protected ---


async def test_a_protected_file_is_for_its_viewer_alone_and_kept_nowhere(
    pocketbase: PocketBaseHouse, alice: Person
) -> None:
    record = mixed(pocketbase, alice)
    bob = pocketbase.person("bob")
    path = f"/api/files/files/{record['id']}/{name_of(record['protected'])}"
    async with files_of(pocketbase) as house:
        for person in (alice, bob):
            visitor = Visitor(f"u:{person.collection_id}/{person.id}", person.collection_id, person.id, "s", 1)
            house.tokens.known[person.email] = visitor, file_token(pocketbase, person)
        for _ in range(2):
            mine = await house.http.get(path, params={"token": alice.email})
            assert (mine.status_code, mine.content) == (200, b"secret text")
            assert mine.headers["cache-control"] == "private, no-store"
            assert "x-hapta-cache" not in mine.headers
            for token in (bob.email, "", "garbage", file_token(pocketbase, alice)):
                answer = await house.http.get(path, params={"token": token} if token else {})
                assert (answer.status_code, told(answer)["status"]) == (404, 404), token
                assert answer.headers["cache-control"] == "no-store"


async def test_beside_a_protected_field_public_files_are_asked_for_each_time(
    pocketbase: PocketBaseHouse, alice: Person
) -> None:
    record = mixed(pocketbase, alice)
    async with files_of(pocketbase) as house:
        answer = await house.http.get(f"/api/files/files/{record['id']}/{name_of(record['image'])}")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "x-hapta-cache" not in answer.headers


async def test_a_door_that_knows_the_visitor_opens_protected_files_with_a_token_of_its_own(
    pocketbase: PocketBaseHouse, alice: Person
) -> None:
    record = mixed(pocketbase, alice)
    bob = pocketbase.person("bob")
    async with files_of(pocketbase) as house:
        collection = house.collections.resolve("files")
        wanted = FileWanted(collection, record["id"], name_of(record["protected"]), by_visitor=True)
        for person, status in ((alice, 200), (bob, 404)):
            visitor = Visitor("u:x/y", person.collection_id, person.id, "s", 1, "", person.token)
            file = await house.files.open(wanted, visitor, CLIENT)
            assert (file.status, b"".join([chunk async for chunk in file])[:6] == b"secret") == (status, status == 200)
        assert (await house.files.open(wanted, NOBODY, CLIENT)).status == 404
        assert (await house.files.open(wanted._replace(by_visitor=False), visitor, CLIENT)).status == 404


@pytest.mark.parametrize("field", ["documents", "image"])
async def test_nothing_in_a_file_runs_with_the_rights_of_the_origin(
    pocketbase: PocketBaseHouse, alice: Person, field: str
) -> None:
    record = mixed(pocketbase, alice)
    async with files_of(pocketbase) as house:
        answer = await house.http.get(f"/api/files/files/{record['id']}/{name_of(record[field])}")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


# --- kept ---


async def test_a_small_public_file_is_fetched_once_and_not_after_its_record_changed(
    pocketbase: PocketBaseHouse, alice: Person
) -> None:
    record = post_with_cover(pocketbase, alice)
    path = f"/api/files/posts/{record['id']}/{record['cover']}"
    async with files_of(pocketbase) as house:
        states = [(await house.http.get(path)).headers["x-hapta-cache"] for _ in range(3)]
        assert states == ["MISS", "HIT", "HIT"]
        pocketbase.request("DELETE", f"/api/collections/posts/records/{record['id']}")
        house.cache.on_change("pbc_posts", record["id"], "delete")
        assert (await house.http.get(path)).status_code == 404


async def test_a_large_file_is_streamed_and_never_held(pocketbase: PocketBaseHouse, alice: Person) -> None:
    content = PNG + bytes(700_000)
    record = post_with_cover(pocketbase, alice, content)
    path = f"/api/files/posts/{record['id']}/{record['cover']}"
    async with files_of(pocketbase) as house:
        for _ in range(2):
            answer = await house.http.get(path)
            assert answer.content == content
            assert "x-hapta-cache" not in answer.headers
        assert house.cache.stats()["bytes"] == 0


async def test_whoever_leaves_in_the_middle_costs_pocketbase_no_more(
    pocketbase: PocketBaseHouse, alice: Person
) -> None:
    record = post_with_cover(pocketbase, alice, PNG + bytes(900_000))
    async with files_of(pocketbase, keep_bytes=0) as house:
        wanted = FileWanted(house.collections.resolve("posts"), record["id"], record["cover"])
        for _ in range(80):  # more than there are connections
            file = await house.files.open(wanted, NOBODY, CLIENT)
            assert file.is_streamed
            assert await anext(file)
            await file.aclose()
        async with house.http.stream("GET", f"/api/files/posts/{record['id']}/{record['cover']}") as answer:
            assert await anext(answer.aiter_bytes(1000))
        assert (await house.http.head(f"/api/files/posts/{record['id']}/{record['cover']}")).status_code == 200


# --- limits, rules, failures ---


async def test_files_have_a_limit_that_hits_count_for_too(pocketbase: PocketBaseHouse, alice: Person) -> None:
    record = post_with_cover(pocketbase, alice)
    path = f"/api/files/posts/{record['id']}/{record['cover']}"
    async with files_of(pocketbase, limits={"file": {"limit": 3, "every": 60_000}}) as house:
        answers = [await house.http.get(path) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert told(answers[-1]) == {"data": {}, "message": "Too Many Requests.", "status": 429}
    assert answers[-1].headers["retry-after"] == "20"


async def test_the_owners_rule_is_asked_for_every_file_kept_or_not(pocketbase: PocketBaseHouse, alice: Person) -> None:
    record = post_with_cover(pocketbase, alice)
    path = f"/api/files/POSTS/{record['id']}/{record['cover']}"
    async with files_of(pocketbase) as house:
        house.owner.on = True
        answer = await house.http.get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "private, no-cache")
        house.owner.denied.add(record["id"])
        refused = await house.http.get(path)
        assert (refused.status_code, told(refused)["data"]["hapta"]["code"]) == (403, 300)
        assert house.owner.asked == [("guest", record["id"], record["cover"])] * 2


async def test_while_pocketbase_is_away_a_file_is_a_503_with_retry_after(new_pocketbase: Any) -> None:
    own = new_pocketbase()
    async with files_of(own) as house:
        own.server.kill()
        answer = await house.http.get("/api/files/files/abc/a.png")
        assert answer.status_code in (502, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert told(answer).keys() == {"data", "message", "status"}
        with pytest.raises(UpstreamAway):
            await house.files.open(FileWanted(house.collections.resolve("files"), "abc", "a.png"), NOBODY, CLIENT)
