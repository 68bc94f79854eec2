"""Rules about what is shown: whatever way a record takes out, the same hooks see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hapta.gateway.errors import RecordMissing, RuleDenied
from hapta.gateway.models import NOBODY, Action
from tests.gateway.rules_house import ALICE, BOB, COMMENTS, POSTS, USERS, RulesHouse, operation, ruled

HIDE = """
@after("view", "users")
def hide(ctx):
    if not ctx.is_own:
        ctx.result.pop("email", None)
    return allow()
"""


def person(name: str) -> dict[str, Any]:
    return {"id": name, "collectionId": "pbc_users", "email": f"{name}@example.com"}


def post(author: str = "bob") -> dict[str, Any]:
    return {
        "id": "p1",
        "collectionId": "pbc_posts",
        "author": author,
        "expand": {
            "author": {**person(author), "expand": {"friends": [person("alice"), person("bob")]}},
            "comments_via_post": [
                {"id": "c1", "collectionId": "pbc_comments", "expand": {"author": person("bob")}},
            ],
        },
    }


def emails(value: Any) -> list[str]:
    """All addresses anywhere within an answer."""
    if isinstance(value, dict):
        return [found for name, one in value.items() for found in ([one] if name == "email" else emails(one))]
    return [found for one in value for found in emails(one)] if isinstance(value, list) else []


@pytest.mark.parametrize("action", ["view", "create", "update"])
async def test_a_field_is_hidden_in_the_record_itself(tmp_path: Path, action: Action) -> None:
    async with ruled(tmp_path, HIDE) as house:
        assert emails(await house.rules.after(operation(action, USERS, ALICE, "bob"), person("bob"))) == []
        own = await house.rules.after(operation(action, USERS, ALICE, "alice"), person("alice"))
        assert emails(own) == ["alice@example.com"]


async def test_it_is_hidden_in_lists(tmp_path: Path) -> None:
    async with ruled(tmp_path, HIDE) as house:
        page = {"page": 1, "totalItems": 2, "items": [person("alice"), person("bob")]}
        shown = await house.rules.after(operation("list", USERS, ALICE), page)
        assert [item.get("email") for item in shown["items"]] == ["alice@example.com", None]
        assert shown["totalItems"] == 2


@pytest.mark.parametrize("action", ["list", "view", "create", "update"])
async def test_it_is_hidden_in_whatever_is_expanded_at_any_depth(tmp_path: Path, action: Action) -> None:
    async with ruled(tmp_path, HIDE) as house:
        answer: dict[str, Any] = {"items": [post()]} if action == "list" else post()
        asked = operation(action, POSTS, ALICE, query={"expand": "author.friends,comments_via_post.author"})
        assert emails(await house.rules.after(asked, answer)) == ["alice@example.com"]
        asked = operation(action, POSTS, NOBODY)
        answer = {"items": [post()]} if action == "list" else post()
        assert emails(await house.rules.after(asked, answer)) == []


async def test_it_is_hidden_where_the_records_do_not_tell_their_collection(tmp_path: Path) -> None:
    """The visitor may ask for other fields than `collectionId`; the schema tells then."""
    async with ruled(tmp_path, HIDE) as house:
        answer = {
            "expand": {
                "author": {"email": "bob@example.com"},
                "comments_via_post": [{"expand": {"author": {"email": "bob@example.com"}}}],
            }
        }
        assert emails(await house.rules.after(operation("view", POSTS, ALICE, "p1"), answer)) == []


async def test_an_answer_with_records_of_who_knows_where_is_refused(tmp_path: Path) -> None:
    async with ruled(tmp_path, HIDE) as house:
        for inner in ({"somewhere": {"email": "x"}}, {"author": {"email": "x", "collectionId": "pbc_gone"}}):
            with pytest.raises(RuleDenied):
                await house.rules.after(operation("view", POSTS, ALICE, "p1"), {"id": "p1", "expand": inner})


async def test_it_is_hidden_in_realtime_events(tmp_path: Path) -> None:
    async with ruled(tmp_path, HIDE) as house:
        assert await house.rules.event(USERS, ALICE, "update", person("bob")) == {
            "id": "bob",
            "collectionId": "pbc_users",
        }
        shown = await house.rules.event(POSTS, BOB, "create", post("alice"))
        assert emails(shown) == ["bob@example.com", "bob@example.com"]


async def test_it_is_hidden_in_the_record_of_a_login_but_the_token_passes(tmp_path: Path) -> None:
    async with ruled(tmp_path, HIDE) as house:
        answer = {"token": "t", "record": person("bob"), "meta": {"isNew": True}}
        shown = await house.rules.after(operation("auth", USERS, NOBODY), answer)
        assert shown == {"token": "t", "record": {"id": "bob", "collectionId": "pbc_users"}, "meta": {"isNew": True}}


SECRET = """
@after("view", "posts")
def secret(ctx):
    return deny(ErrorCodes.READ_FAILED) if ctx.result.get("secret") else allow()

@after("view", "comments")
def told(ctx):
    return replace({"id": ctx.result["id"], "event": ctx.event, "type": ctx.type, "expanded": ctx.expanded})
"""


async def test_a_refused_record_is_left_out_of_lists_expands_and_events(tmp_path: Path) -> None:
    async with ruled(tmp_path, SECRET) as house:
        page = {"items": [{"id": "a"}, {"id": "b", "secret": True}, {"id": "c"}]}
        shown = await house.rules.after(operation("list", POSTS), page)
        assert [item["id"] for item in shown["items"]] == ["a", "c"]
        hidden = {"id": "c1", "collectionId": "pbc_posts", "secret": True}
        one = await house.rules.after(operation("view", USERS), {"id": "u", "expand": {"posts_via_author": [hidden]}})
        assert one == {"id": "u", "expand": {"posts_via_author": []}}
        one = await house.rules.after(operation("view", USERS), {"id": "u", "expand": {"post": dict(hidden)}})
        assert one == {"id": "u", "expand": {}}
        assert await house.rules.event(POSTS, ALICE, "update", {"id": "b", "secret": True}) is None
        with pytest.raises(RecordMissing):
            await house.rules.after(operation("view", POSTS, ALICE, "b"), {"id": "b", "secret": True})


async def test_a_hook_knows_the_way_a_record_takes(tmp_path: Path) -> None:
    async with ruled(tmp_path, SECRET) as house:
        event = await house.rules.event(COMMENTS, ALICE, "delete", {"id": "c"})
        assert event == {"id": "c", "event": "delete", "type": "subscribe", "expanded": False}
        answer = {"id": "p", "expand": {"comments_via_post": [{"id": "c"}]}}
        shown = await house.rules.after(operation("create", POSTS), answer)
        inner = {"id": "c", "event": "", "type": "view", "expanded": True}
        assert shown["expand"]["comments_via_post"] == [inner]


async def test_one_failing_record_refuses_the_whole_list(tmp_path: Path) -> None:
    rules = """
    @after("list", "posts")
    def odd(ctx):
        return allow() if ctx.result["id"] != "b" else None
    """
    async with ruled(tmp_path, rules) as house:
        with pytest.raises(RuleDenied):
            await house.rules.after(operation("list", POSTS), {"items": [{"id": "a"}, {"id": "b"}]})


async def test_an_event_whose_rule_fails_is_not_delivered(tmp_path: Path) -> None:
    rules = """
    @after("subscribe", "*")
    def odd(ctx):
        return 1 / 0
    """
    async with ruled(tmp_path, rules) as house:
        assert await house.rules.event(POSTS, ALICE, "create", {"id": "a"}) is None


async def test_hooks_are_told_of_a_finished_delete(tmp_path: Path) -> None:
    rules = """
    @after("delete", "posts")
    def told(ctx):
        return deny(ErrorCodes.GENERAL, ctx.record_id)
    """
    async with ruled(tmp_path, rules) as house:
        with pytest.raises(RuleDenied, match="p7"):
            await house.rules.after(operation("delete", POSTS, ALICE, "p7"), None)


async def test_a_topic_for_all_records_is_about_none(tmp_path: Path) -> None:
    rules = """
    @before("subscribe", "posts")
    def no(ctx):
        return deny(ErrorCodes.AUTHORIZATION_FAILED) if ctx.record_id == "" else allow()
    """

    async def refused(house: RulesHouse) -> None:
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("subscribe", POSTS, NOBODY, "*"))

    async with ruled(tmp_path, rules) as house:
        await refused(house)
        await house.rules.before(operation("subscribe", POSTS, NOBODY, "p1"))


async def test_after_pocketbase_there_is_only_what_is_shown(tmp_path: Path) -> None:
    """The record of the request is not the one that an expand shows; a rule that takes one for the other must not decide."""
    rules = """
    @after("view", "users")
    def odd(ctx):
        return allow() if ctx.existing or True else allow()
    """
    async with ruled(tmp_path, rules) as house:
        with pytest.raises(RuleDenied):
            await house.rules.after(operation("view", POSTS, ALICE, "p1"), post())
