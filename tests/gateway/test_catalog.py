"""The catalog of collections, against a real PocketBase whose schema changes under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from hapta.gateway.catalog.service import Catalog, Reference
from hapta.gateway.errors import CollectionMissing, UpstreamAway
from hapta.gateway.pocketbase.superuser import RequestRefused, Superuser, SuperuserRefused
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.clock import SystemClock
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.pocketbase_house import PocketBaseHouse

SUPERUSERS_ID = "pbc_3142635823"


@asynccontextmanager
async def catalog_of(house: PocketBaseHouse, seconds: float = 3600.0) -> AsyncIterator[Catalog]:
    pb = PocketBase(house.url)
    clock = SystemClock()
    catalog = Catalog(Superuser(pb, house.email, house.password, clock), clock, GatewaySettings(schema_seconds=seconds))
    try:
        await catalog.open()
        yield catalog
    finally:
        await catalog.close()
        await pb.close()


@pytest.fixture
async def catalog(pocketbase: PocketBaseHouse) -> AsyncIterator[Catalog]:
    async with catalog_of(pocketbase) as opened:
        yield opened


def changed(catalog: Catalog) -> asyncio.Event:
    event = asyncio.Event()
    catalog.on_change(event.set)
    return event


# --- resolving ---


@pytest.mark.parametrize("segment", ["posts", "POSTS", "Posts", "pbc_posts", "po\u017fts"])
async def test_a_collection_has_one_identity_under_all_its_names(catalog: Catalog, segment: str) -> None:
    assert catalog.resolve(segment).id == "pbc_posts"


@pytest.mark.parametrize("segment", ["_superusers", "_SUPERUSERS", "_\u017fuperusers", SUPERUSERS_ID])
async def test_the_superusers_are_closed_in_every_spelling(catalog: Catalog, segment: str) -> None:
    with pytest.raises(CollectionMissing):
        catalog.resolve(segment)
    known = catalog.by_id(SUPERUSERS_ID)
    assert known is not None
    assert known.name == "_superusers"


@pytest.mark.parametrize("segment", ["", "missing", "PBC_POSTS", "posts ", "%70osts"])
async def test_what_is_no_collection_is_missing(catalog: Catalog, segment: str) -> None:
    with pytest.raises(CollectionMissing):
        catalog.resolve(segment)
    assert catalog.by_id(segment) is None


async def test_pocketbase_finds_the_same_collections(catalog: Catalog, pocketbase: PocketBaseHouse) -> None:
    for segment in ("notes", "NOTES", "pbc_notes", "PBC_NOTES", "missing", "note\u017f"):
        answer = pocketbase.http.get(f"/api/collections/{segment}/records")
        try:
            catalog.resolve(segment)
        except CollectionMissing:
            assert answer.status_code == 404, segment
        else:
            assert answer.status_code == 200, segment


async def test_fields_and_rules_are_pocketbases(catalog: Catalog) -> None:
    posts = catalog.resolve("posts")
    assert (posts.type, posts.system, posts.list_rule == posts.view_rule) == ("base", False, True)
    title = posts.fields["title"]
    assert (title.type, title.required, title.hidden, title.options["max"]) == ("text", True, False, 100)
    assert posts.fields["internal"].hidden
    assert posts.fields["kind"].options["values"] == ["news", "story", "poll"]
    assert posts.raw["indexes"]
    assert catalog.resolve("users").type == "auth"
    assert catalog.resolve("post_stats").type == "view"
    assert catalog.resolve("secret").list_rule is None
    assert catalog.resolve("notes").list_rule == ""
    assert catalog.resolve("_otps").system


async def test_relations_are_known_from_the_other_end(catalog: Catalog) -> None:
    assert catalog.referencing("pbc_posts") == (
        Reference("pbc_comments", "post", True),
        Reference("pbc_posts", "related", False),
    )
    assert Reference("pbc_comments", "author", False) in catalog.referencing("_pb_users_auth_")
    assert catalog.referencing("pbc_notes") == ()


# --- changes ---


async def test_a_changed_rule_is_seen_by_the_next_look(new_pocketbase: Callable[[], PocketBaseHouse]) -> None:
    house = new_pocketbase()
    async with catalog_of(house) as catalog:
        event = changed(catalog)
        before = catalog.generation
        await catalog.poll()
        assert (catalog.generation, event.is_set()) == (before, False)
        house.request("PATCH", "/api/collections/notes", {"listRule": None})
        assert catalog.resolve("notes").list_rule == ""
        await catalog.poll()
        assert (catalog.generation, event.is_set()) == (before + 1, True)
        assert catalog.resolve("notes").list_rule is None


async def test_new_renamed_and_deleted_collections_are_seen_without_being_asked_for(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    async with catalog_of(house, seconds=0.05) as catalog:

        async def after(method: str, path: str, json: dict[str, str] | None = None) -> set[str]:
            event = changed(catalog)
            house.request(method, path, json)
            await asyncio.wait_for(event.wait(), 120)
            return {one.name for one in catalog.all()} & {"fresh", "renamed"}

        assert await after("POST", "/api/collections", {"name": "fresh", "type": "base"}) == {"fresh"}
        assert await after("PATCH", "/api/collections/fresh", {"name": "renamed"}) == {"renamed"}
        assert await after("DELETE", "/api/collections/renamed") == set()
        with pytest.raises(CollectionMissing):
            catalog.resolve("renamed")


async def test_a_refresh_without_a_change_tells_nobody(catalog: Catalog) -> None:
    event = changed(catalog)
    before = catalog.generation
    await catalog.refresh()
    assert (catalog.generation, event.is_set()) == (before, False)


async def test_more_collections_than_one_page(
    new_pocketbase: Callable[[], PocketBaseHouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapta.gateway.catalog.service.PAGE", 3)
    house = new_pocketbase()
    async with catalog_of(house) as catalog:
        assert len(catalog.all()) == house.request("GET", "/api/collections")["totalItems"]


async def test_without_pocketbase_nothing_is_resolved_until_it_is_there(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    house.server.kill()
    async with catalog_of(house, seconds=0.05) as catalog:
        with pytest.raises(UpstreamAway):
            catalog.resolve("notes")
        event = changed(catalog)
        house.server.start()
        await asyncio.wait_for(event.wait(), 120)
        assert catalog.resolve("notes").id == "pbc_notes"


async def test_while_pocketbase_is_away_the_last_schema_stays(new_pocketbase: Callable[[], PocketBaseHouse]) -> None:
    house = new_pocketbase()
    async with catalog_of(house) as catalog:
        house.server.kill()
        with pytest.raises(UpstreamAway):
            await catalog.poll()
        assert catalog.resolve("notes").id == "pbc_notes"


# --- the superuser ---


async def test_the_superuser_logs_in_once_and_again_when_its_token_was_ended(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    pb = PocketBase(house.url)
    superuser = Superuser(pb, house.email, house.password, SystemClock())
    try:
        first, second = await asyncio.gather(superuser.token(), superuser.token())
        assert first == second
        record = (await superuser.request("GET", "/api/collections/_superusers/records"))["items"][0]
        await superuser.request(
            "PATCH", f"/api/collections/_superusers/records/{record['id']}", {"tokenKey:autogenerate": ""}
        )
        assert (await superuser.request("GET", "/api/collections/secret/records"))["items"] == []
        assert await superuser.token() != first
    finally:
        await pb.close()


async def test_the_superusers_token_is_renewed_before_it_ends(pocketbase: PocketBaseHouse) -> None:
    clock = FakeClock(SystemClock().now())
    pb = PocketBase(pocketbase.url)
    superuser = Superuser(pb, pocketbase.email, pocketbase.password, clock)
    token = await superuser.token()
    await pb.close()
    clock.advance(hours=23, minutes=49)
    assert await superuser.token() == token
    clock.advance(minutes=2)
    with pytest.raises(UpstreamAway):
        await superuser.token()


async def test_what_pocketbase_refuses_the_superuser_is_told(pocketbase: PocketBaseHouse) -> None:
    pb = PocketBase(pocketbase.url)
    superuser = Superuser(pb, pocketbase.email, pocketbase.password, SystemClock())
    try:
        with pytest.raises(RequestRefused) as refused:
            await superuser.request("POST", "/api/collections/notes/records", {"title": ""})
        assert refused.value.status == 400
        assert refused.value.answer["data"].keys() == {"title"}
    finally:
        await pb.close()


async def test_wrong_credentials_are_not_tried_over_and_over(pocketbase: PocketBaseHouse) -> None:
    clock = FakeClock()
    pb = PocketBase(pocketbase.url)
    superuser = Superuser(pb, "nobody@example.com", pocketbase.password, clock)
    with pytest.raises(SuperuserRefused):
        await superuser.token()
    await pb.close()
    with pytest.raises(SuperuserRefused):  # without asking
        await superuser.token()
    clock.advance(seconds=5)
    with pytest.raises(UpstreamAway) as away:  # asked again
        await superuser.token()
    assert not isinstance(away.value, SuperuserRefused)
