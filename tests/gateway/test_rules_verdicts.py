"""What hooks are told, what they may say, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hapta.gateway.errors import (
    LimitReached,
    RecordMissing,
    RuleDenied,
    RuleRejected,
    TokenRefused,
    UpstreamAway,
    UpstreamBroken,
)
from hapta.gateway.models import NOBODY
from hapta.gateway.rules.codes import TEXTS, ErrorCodes
from hapta.gateway.rules.context import field_of
from hapta.kit.errors import HaptaError, Unavailable
from tests.gateway.rules_house import ALICE, BOB, COMMENTS, POSTS, USERS, operation, ruled

OWN_ONLY = """
@before("update", "users")
def own(ctx):
    return allow() if ctx.is_own else deny(ErrorCodes.OWNERSHIP_REQUIRED)
"""


async def test_a_rule_lets_through_and_refuses(tmp_path: Path) -> None:
    async with ruled(tmp_path, OWN_ONLY) as house:
        house.world.records["users", "bob"] = {"id": "bob"}
        await house.rules.before(operation("update", USERS, ALICE, "alice", {"name": "x"}))
        with pytest.raises(RuleDenied) as refused:
            await house.rules.before(operation("update", USERS, ALICE, "bob", {"name": "x"}))
        assert refused.value.details == {"hapta": {"code": 104}}
        assert str(refused.value) == "Only the owner may do this."
        assert [outcome for *_, outcome in house.counted.outcomes] == ["allowed", "denied"]


async def test_a_refusal_does_not_tell_of_a_record_that_the_visitor_cannot_see(tmp_path: Path) -> None:
    async with ruled(tmp_path, OWN_ONLY) as house:
        house.world.records["users", "hidden"] = {"id": "hidden", "owner": "hidden"}
        told: list[tuple[type, str, object]] = []
        for record_id in ("hidden", "nowhere"):
            with pytest.raises(HaptaError) as refused:
                await house.rules.before(operation("update", USERS, ALICE, record_id, {}))
            told.append((type(refused.value), str(refused.value), refused.value.details))
        assert told[0] == told[1]
        assert told[0][0] is RecordMissing


async def test_the_record_is_fetched_once_for_all_hooks_and_for_the_refusal(tmp_path: Path) -> None:
    rules = """
    @before("update", "posts")
    def first(ctx):
        return allow() if ctx.existing["title"] == "x" else deny(ErrorCodes.GENERAL)

    @before("update", "*")
    def second(ctx):
        return deny(ErrorCodes.GENERAL, ctx.existing["title"])
    """
    async with ruled(tmp_path, rules) as house:
        house.world.records["posts", "p1"] = {"id": "p1", "title": "x"}
        with pytest.raises(RuleDenied, match="x"):
            await house.rules.before(operation("update", POSTS, ALICE, "p1", {}))
        assert house.world.asked == [("posts", "p1")]


async def test_what_could_not_be_fetched_is_told_as_such(tmp_path: Path) -> None:
    rules = """
    @before("delete", "posts")
    def look(ctx):
        return allow() if ctx.existing else deny(ErrorCodes.GENERAL)
    """
    async with ruled(tmp_path, rules) as house:
        house.world.broken = UpstreamAway()
        with pytest.raises(UpstreamAway):
            await house.rules.before(operation("delete", POSTS, ALICE, "p1"))


async def test_a_rule_knows_who_asks_from_where_and_for_what(tmp_path: Path) -> None:
    rules = """
    @before("*", "*")
    def tell(ctx):
        raise_if = [
            ctx.type == "update", ctx.phase == "before", ctx.collection == ("pbc_posts", "posts", "base"),
            ctx.record_id == "p1", ctx.data == {"tags+": "a"}, ctx.auth.id == "bob", ctx.auth.collection.name == "users",
            ctx.auth.record["role"] == "editor", ctx.session.sid == "session-of-bob", ctx.ip == "192.0.2.7",
            ctx.headers["x-team"] == "blue", ctx.query == {"expand": "author"}, bool(ctx.auth), not ctx.is_own,
            ctx.files == (File("papers", "a.pdf", "application/pdf"),), ctx.fields == {"tags", "papers"},
        ]
        return allow() if all(raise_if) else deny(ErrorCodes.GENERAL, str(raise_if))
    """
    async with ruled(tmp_path, rules) as house:
        house.world.records["users", "bob"] = {"id": "bob", "role": "editor"}
        files = (("papers+", "a.pdf", "application/pdf"),)
        await house.rules.before(operation("update", POSTS, BOB, "p1", {"tags+": "a"}, {"expand": "author"}, files))


async def test_a_guest_equals_no_empty_relation(tmp_path: Path) -> None:
    rules = """
    @before("update", "posts")
    def owner(ctx):
        assert not ctx.auth and ctx.auth.record == {} and ctx.session.sid is None
        return allow() if ctx.existing["author"] == ctx.auth.id else deny(ErrorCodes.OWNERSHIP_REQUIRED)
    """
    async with ruled(tmp_path, rules) as house:
        house.world.records["posts", "p1"] = {"id": "p1", "author": ""}
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("update", POSTS, NOBODY, "p1", {}))


async def test_a_record_of_another_collection_with_ones_own_id_is_not_ones_own(tmp_path: Path) -> None:
    rules = """
    @before("view", "*")
    def own(ctx):
        return allow() if ctx.is_own else deny(ErrorCodes.OWNERSHIP_REQUIRED)
    """
    async with ruled(tmp_path, rules) as house:
        house.world.records["posts", "alice"] = {"id": "alice"}
        await house.rules.before(operation("view", USERS, ALICE, "alice"))
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("view", POSTS, ALICE, "alice"))


@pytest.mark.parametrize(
    "name", ["followers", "followers+", "+followers", "followers-", "followers:autogenerate", "followers+:x"]
)
async def test_no_modifier_takes_a_field_past_its_rule(tmp_path: Path, name: str) -> None:
    rules = """
    @before("update", "users")
    def protect(ctx):
        return deny(ErrorCodes.AUTHORIZATION_FAILED, field="followers") if ctx.touches("followers") else allow()
    """
    assert field_of(name) == "followers"
    async with ruled(tmp_path, rules) as house:
        house.world.records["users", "alice"] = {"id": "alice"}
        with pytest.raises(RuleDenied) as refused:
            await house.rules.before(operation("update", USERS, ALICE, "alice", {name: 1}))
        assert refused.value.details["followers"] == {
            "code": "authorization_failed",
            "message": TEXTS[ErrorCodes.AUTHORIZATION_FAILED],
        }


async def test_a_body_is_replaced_and_the_next_hook_sees_the_new_one(tmp_path: Path) -> None:
    rules = """
    @before("create", "comments")
    def sign(ctx):
        return replace({**ctx.without("author"), "author": ctx.auth.id})

    @before("create", "*")
    def check(ctx):
        return allow() if ctx.data["author"] == "alice" and "author+" not in ctx.data else deny(ErrorCodes.GENERAL)

    @before("create", "comments")
    def in_place(ctx):
        ctx.data["seen"] = True
        return allow()
    """
    async with ruled(tmp_path, rules) as house:
        asked = operation("create", COMMENTS, ALICE, data={"text": "hi", "author+": "bob", "author": "bob"})
        await house.rules.before(asked)
        assert asked.data == {"text": "hi", "author": "alice", "seen": True}


@pytest.mark.parametrize(
    "body",
    [
        "return None",
        "return True",
        "return {}",
        "return replace({'x': object()})",
        "return replace({'x': float('nan')})",
        "return replace({1: 2})",
        "return replace(None)",
        "return deny(12345)",
        "return deny(ErrorCodes.GENERAL, field='hapta')",
        "return replace(ctx.without('cover'))",
        "ctx.data = {'x': object()}; return allow()",
        "return 1 / 0",
        "raise KeyError('x')",
        "import sys; sys.exit(0)",
    ],
)
async def test_whatever_is_no_verdict_refuses(tmp_path: Path, body: str) -> None:
    rules = f"""
    @before("create", "posts")
    def odd(ctx):
        {body}
    """
    async with ruled(tmp_path, rules) as house:
        asked = operation("create", data={"x": 1}, filenames=(("cover", "a.png", "image/png"),))
        with pytest.raises(RuleDenied) as refused:
            await house.rules.before(asked)
        assert refused.value.details == {"hapta": {"code": ErrorCodes.INTERNAL_ERROR}}
        assert asked.data == {"x": 1}
        assert house.counted.outcomes == [("before", "create", "posts", "failed")]


async def test_there_is_nothing_to_replace_without_a_body(tmp_path: Path) -> None:
    rules = """
    @before("list", "posts")
    def narrow(ctx):
        return replace({"filter": "x"})
    """
    async with ruled(tmp_path, rules) as house:
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("list"))


MAPPED: dict[ErrorCodes, type[HaptaError]] = {
    ErrorCodes.GENERAL: RuleDenied,
    ErrorCodes.INVALID_TOKEN: TokenRefused,
    ErrorCodes.NO_SESSION_GIVEN: TokenRefused,
    ErrorCodes.OWNERSHIP_REQUIRED: RuleDenied,
    ErrorCodes.USER_NOT_FOUND: RecordMissing,
    ErrorCodes.READ_FAILED: RecordMissing,
    ErrorCodes.VALIDATION_FAILED: RuleRejected,
    ErrorCodes.INVALID_REQUEST: RuleRejected,
    ErrorCodes.FIELD_MISSING: RuleRejected,
    ErrorCodes.INVALID_FILE_TYPE: RuleRejected,
    ErrorCodes.RATE_LIMITED: LimitReached,
    ErrorCodes.DATABASE_ERROR: UpstreamBroken,
    ErrorCodes.MISSING_AUTH_STATE_RECORDS: Unavailable,
}


@pytest.mark.parametrize("code", list(ErrorCodes), ids=lambda code: code.name)
async def test_each_code_has_a_text_and_an_honest_status(tmp_path: Path, code: ErrorCodes) -> None:
    rules = f"""
    @before("create", "posts")
    def refuse(ctx):
        return deny(ErrorCodes.{code.name}, retry_after_seconds=7)
    """
    async with ruled(tmp_path, rules) as house:
        with pytest.raises(MAPPED.get(code, HaptaError)) as refused:
            await house.rules.before(operation("create", data={}))
        error = refused.value
        if code is ErrorCodes.READ_FAILED:
            assert (str(error), error.details) == (RecordMissing.message, {})
        else:
            assert error.details == {"hapta": {"code": int(code)}}
            assert str(error) == TEXTS[code]
        if isinstance(error, LimitReached):
            assert error.retry_after_seconds == 7


async def test_tokens_are_read_verified_or_not_at_all(tmp_path: Path) -> None:
    rules = """
    @before("create", "posts")
    def by_token(ctx):
        claims = TokenManager.decode(ctx.data["token"])
        return allow() if claims.id == "alice" and claims.sid == "session-of-alice" else deny(ErrorCodes.GENERAL)
    """
    async with ruled(tmp_path, rules) as house:
        await house.rules.before(operation("create", data={"token": "of alice"}))
        for token in ("forged", ""):
            with pytest.raises(TokenRefused):
                await house.rules.before(operation("create", data={"token": token}))


@pytest.mark.parametrize("what", ["ip", "headers", "session", "auth.record"])
async def test_a_stable_hook_may_not_ask_for_what_its_verdict_must_not_rest_on(tmp_path: Path, what: str) -> None:
    rules = f"""
    @before("view", "posts", stable=True)
    def look(ctx):
        ctx.{what}
        return allow()
    """
    async with ruled(tmp_path, rules) as house:
        house.world.records["posts", "p1"] = {"id": "p1"}
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("view", record_id="p1"))


async def test_what_has_a_say_and_is_stable_is_known_without_asking(tmp_path: Path) -> None:
    rules = """
    @before("view", "POSTS", stable=True)
    def one(ctx):
        return allow()

    @before(("view", "list"), "pbc_comments")
    def two(ctx):
        return allow()

    @after("view", "users", stable=True)
    def three(ctx):
        return allow()
    """
    async with ruled(tmp_path, rules) as house:
        rules_ = house.rules
        assert rules_.has("before", "view", POSTS)
        assert rules_.stable("before", "view", POSTS)
        assert not rules_.has("before", "list", POSTS)
        assert rules_.has("before", "list", COMMENTS)
        assert not rules_.stable("before", "list", COMMENTS)
        for action in ("list", "view", "create", "update", "auth", "subscribe"):
            assert rules_.has("after", action, USERS, expand="")
        assert not rules_.has("after", "delete", USERS)
        assert not rules_.has("after", "list", POSTS, expand="")
        assert rules_.has("after", "list", POSTS, expand="author")
        assert rules_.has("after", "list", POSTS)


async def test_an_operation_without_rules_costs_no_thread(tmp_path: Path) -> None:
    async with ruled(tmp_path, OWN_ONLY) as house:
        await house.rules.before(operation("create", data={}))
        record: dict[str, Any] = {"id": "x"}
        assert await house.rules.after(operation("view", record_id="x"), record) is record
        assert house.counted.outcomes == []
