"""What answers depend on: a table of rules, filters, sorts and expands with the tags they must have.

Tags are written short: `posts` is any change in the collection, `posts/1` one record, `posts~` what cannot be told by record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hapta.gateway.cache.dependencies import Analyst
from hapta.gateway.cache.language import read
from hapta.gateway.models import NOBODY, Collection, Field
from tests.gateway.cache_house import HOUSE, Schema, new_cache, operation, visitor

ALICE = visitor("alice")
NAMES = {collection.id: collection.name for collection in HOUSE.values()}
NEVER = "never"
OWN = {"users/alice", "users~"}
"""In every answer for alice: her own record."""


def tags_of(action: Any, name: str, who: Any, **query: str) -> Any:
    """The tags of a read of the house, in short, without the one that is in all; and `never` for no plan."""
    return tags_in(HOUSE, action, name, who, query)


def tags_in(house: dict[str, Collection], action: Any, name: str, who: Any, query: dict[str, str]) -> Any:
    record_id = "1" if action == "view" else ""
    plan = new_cache(Schema(house.values())).plan(operation(action, house[name], record_id, who, query))
    if plan is None:
        return NEVER
    found = set[str]()
    for tag in plan.tags:
        kind, _, rest = tag.partition(":")
        collection, _, record = rest.partition("/")
        short = NAMES.get(collection, collection)
        found.add({"c": short, "r": f"{short}/{record}", "w": f"{short}~", "any": "ANY", "all": ""}[kind])
    return found - {""}


# rule of posts for lists, who asks, what the answer depends on beside posts and alice's own record
RULES: list[tuple[str, str, Any]] = [
    ("", "guest", set()),
    ('title = "x"', "guest", set()),
    ("title = 'x' && published = true || score > 3", "guest", set()),
    ("owner = @request.auth.id", "guest", set()),
    ("owner = @request.auth.id", "alice", set()),
    ("owner.name = 'bob'", "guest", {"users"}),
    ("owner.following.name ?= 'bob'", "guest", {"users"}),
    ("related.title ?~ 'x'", "guest", set()),
    ("comments_via_post.text ?= 'x'", "guest", {"comments"}),
    ("comments_via_post.author.name ?= 'x'", "guest", {"comments", "users"}),
    ("comments_via_post.author ?= @request.auth.id", "alice", {"comments"}),
    ("comments_via_post.text:length > 3", "guest", {"comments"}),
    ("owner.memberships_via_user.room.name ?= 'x'", "guest", {"users", "memberships", "rooms"}),
    ("@collection.secret.text ?= title", "guest", {"secret"}),
    ("@collection.SECRET.text ?= title", "guest", {"secret"}),
    ("@collection.pbc_secret.text ?= title", "guest", {"secret"}),
    ("@collection.memberships:mine.user ?= @request.auth.id", "alice", {"memberships"}),
    ("@collection.memberships:a.room = @collection.memberships:b.room", "guest", {"memberships"}),
    ("@collection.memberships.room.name ?= title", "guest", {"memberships", "rooms"}),
    ("@collection.comments.author.name ?= title && owner.name != ''", "guest", {"comments", "users"}),
    ("@collection.missing.text ?= title", "guest", {"ANY"}),
    ("@collection.post_stats.title ?= title", "guest", {"post_stats", "comments"}),
    ("@request.auth.verified = true", "alice", set()),
    ("@request.auth.following.name ?= 'x'", "alice", {"users"}),
    ("@request.auth.following.name ?= 'x'", "guest", set()),
    ("@request.auth.memberships_via_user.room.name ?= 'x'", "alice", {"memberships", "rooms"}),
    ("@request.auth.level > 3", "alice", set()),
    ("@request.auth.collectionName = 'users'", "alice", set()),
    ("@request.auth.id:isset = true", "alice", set()),
    ("@request.method = 'GET' && @request.context = 'default'", "guest", set()),
    ("@request.body.title:isset = false && @request.body.owner.name = ''", "guest", set()),
    ("@request.query.page > 1", "guest", set()),
    ("@request.headers.x_token = 'x'", "guest", set()),
    ("@request.headers.authorization != ''", "guest", NEVER),
    ("@request.headers.x_forwarded_for = '1.1.1.1'", "guest", NEVER),
    ("@request.future.thing = 1", "guest", NEVER),
    ("due > @now", "guest", NEVER),
    ("due > @yesterday", "guest", NEVER),
    ("due < @tomorrow", "guest", NEVER),
    ("@hour > 8 && @hour < 18", "guest", NEVER),
    ("@minute = 0 || @second = 0", "guest", NEVER),
    ("@lastWeek < due", "guest", NEVER),
    ("due > @todayStart && due < @todayEnd", "guest", set()),
    ("@day = 1 && @month = 1 && @year = 2030", "guest", set()),
    ("due > @monthStart && due < @yearEnd && @weekday != 0", "guest", set()),
    ("strftime('%Y', due) = '2030'", "guest", NEVER),
    ("strftime('%Y', 'now') = '2030'", "guest", NEVER),
    ("geoDistance(place.lon, place.lat, 10, 20) < 5", "guest", set()),
    ("geoDistance(owner.home.lon, 1, 10, 20) < 5", "guest", {"users", "ANY"}),
    ("newFunction(title) = 1", "guest", NEVER),
    ("title:lower = 'x' && tags:each ?= 'red' && tags:length > 1", "guest", set()),
    ("title = null || published = TRUE || published = False", "guest", set()),
    ("meta.deep.path = 1 && place.lat > 3", "guest", set()),
    ("title = 'owner.name' && slug = \"@now\"", "guest", set()),
    ("title = 'it\\'s @now' && owner.name = 'x'", "guest", {"users"}),
    ("// owner.name\ntitle = 'x'", "guest", set()),
    ("title = 'x' // and @now", "guest", set()),
    ("title = 'x' // it's\n&& due > @now", "guest", NEVER),
    ("(title = 'a' && (owner.name = 'b' || title = 'c'))", "guest", {"users"}),
    ("(title = 'a\"b')", "guest", {"ANY", NEVER}),
    ("title = 'a\\\\' && owner.name = 'x'", "guest", {"users", "ANY"}),
    ("missing.path = 1", "guest", {"ANY"}),
    ("missing = 1", "guest", {"ANY"}),
    ("owner.missing.deep = 1", "guest", {"users", "ANY"}),
    ("title.deep = 1", "guest", {"ANY"}),
    ("nothing_via_owner.x = 1", "guest", {"ANY"}),
    ("comments_via_missing.x = 1", "guest", {"ANY"}),
    ("title = 1 ; owner.name = 2", "guest", {"ANY"}),
    ("title = `x`", "guest", {"ANY"}),
    ("owner.name=1&&title!=2||score>=3", "guest", {"users"}),
    ("score = -3.5 && title ?!~ 'x'", "guest", set()),
]


@pytest.mark.parametrize(("rule", "who", "expected"), RULES, ids=[f"{rule} {who}" for rule, who, _ in RULES])
def test_a_list_depends_on_what_its_rule_names(rule: str, who: str, expected: Any) -> None:
    house = {**HOUSE, "posts": replace(HOUSE["posts"], list_rule=rule)}
    found = tags_in(house, "list", "posts", ALICE if who == "alice" else NOBODY, {})
    if expected == NEVER or NEVER in expected:
        assert found == NEVER
    else:
        assert found == expected | {"posts"} | (OWN if who == "alice" else set())


# action, collection, query, who, all tags
READS: list[tuple[Any, str, dict[str, str], Any, Any]] = [
    ("view", "notes", {}, NOBODY, {"notes/1", "notes~"}),
    ("view", "private", {}, ALICE, {"private/1", "private~"} | OWN),
    ("view", "users", {}, ALICE, {"users/1", "users~"} | OWN),
    ("view", "rooms", {}, ALICE, {"rooms/1", "rooms~", "memberships"} | OWN),
    ("view", "messages", {}, ALICE, {"messages/1", "messages~", "rooms", "memberships"} | OWN),
    ("view", "post_stats", {}, NOBODY, {"post_stats/1", "post_stats~", "post_stats", "posts", "comments"}),
    ("view", "comments", {"expand": "post"}, ALICE, {"comments/1", "comments~", "posts"} | OWN),
    ("view", "comments", {"expand": "post.owner,author"}, ALICE, {"comments/1", "comments~", "posts", "users"} | OWN),
    ("view", "timed", {}, NOBODY, NEVER),
    ("view", "secret", {}, ALICE, NEVER),
    ("view", "notes", {"filter": "@now > 1", "sort": "@random"}, NOBODY, {"notes/1", "notes~"}),
    ("list", "notes", {}, NOBODY, {"notes"}),
    ("list", "notes", {"sort": "@random"}, NOBODY, NEVER),
    ("list", "notes", {"sort": "-@random,title"}, NOBODY, NEVER),
    ("list", "notes", {"sort": "-rank,+title,@rowid"}, NOBODY, {"notes"}),
    ("list", "notes", {"filter": "created > @now"}, NOBODY, NEVER),
    ("list", "notes", {"filter": "title ~ 'x' || rank > 3"}, NOBODY, {"notes"}),
    ("list", "notes", {"filter": "a = 1"}, NOBODY, {"notes", "ANY"}),
    ("list", "posts", {"sort": "owner.name"}, ALICE, {"posts", "users"} | OWN),
    ("list", "posts", {"sort": "-comments_via_post.created"}, ALICE, {"posts", "comments"} | OWN),
    ("list", "posts", {"filter": "owner.name = 'x'"}, ALICE, {"posts", "users"} | OWN),
    ("list", "comments", {"filter": "post.owner.name = 'x'"}, ALICE, {"comments", "posts", "users"} | OWN),
    ("list", "memberships", {"filter": "room.name = 'x'"}, ALICE, {"memberships", "rooms"} | OWN),
    ("list", "posts", {"expand": "owner"}, ALICE, {"posts", "users"} | OWN),
    ("list", "posts", {"expand": "related,related.owner"}, ALICE, {"posts", "users"} | OWN),
    ("list", "posts", {"expand": "comments_via_post.author"}, ALICE, {"posts", "comments", "users"} | OWN),
    ("list", "posts", {"expand": "comments(post)"}, ALICE, {"posts", "comments"} | OWN),
    ("list", "memberships", {"expand": "room"}, ALICE, {"memberships", "rooms"} | OWN),
    ("list", "rooms", {"expand": "messages_via_room"}, ALICE, {"rooms", "memberships", "messages"} | OWN),
    ("list", "posts", {"expand": "nothing"}, ALICE, {"posts", "ANY"} | OWN),
    ("list", "post_stats", {"expand": "owner"}, NOBODY, {"post_stats", "posts", "comments", "users"}),
    ("list", "secret", {}, NOBODY, NEVER),
    ("list", "guarded", {"key": "open"}, NOBODY, {"guarded"}),
    ("list", "notes", {}, visitor("root", "pbc_3142635823"), NEVER),
    ("create", "notes", {}, NOBODY, NEVER),
]


@pytest.mark.parametrize(("action", "name", "query", "who", "expected"), READS)
def test_a_read_depends_on_its_records_its_expands_and_what_it_sorts_and_filters_by(
    action: Any, name: str, query: dict[str, str], who: Any, expected: Any
) -> None:
    assert tags_of(action, name, who, **query) == expected


def test_rules_that_lead_in_a_ring_are_looked_at_once() -> None:
    ring = 'related.title != "" && comments_via_post.text != ""'
    house = {
        **HOUSE,
        "posts": replace(HOUSE["posts"], list_rule=ring, view_rule=ring),
        "comments": replace(HOUSE["comments"], list_rule='post.title != ""', view_rule='post.title != ""'),
    }
    query = {"expand": "related.related.comments_via_post.post", "filter": "comments_via_post.post.related.title = 1"}
    assert tags_in(house, "list", "posts", NOBODY, query) == {"posts", "comments"}


def test_who_may_manage_an_auth_collection_is_a_dependency_of_its_records_and_their_expands() -> None:
    managed = {**HOUSE["users"].raw, "manageRule": "@collection.memberships.user ?= id"}
    house = {**HOUSE, "users": replace(HOUSE["users"], raw=managed)}
    assert tags_in(house, "view", "users", ALICE, {}) == {"users/1", "users~", "memberships"} | OWN
    assert "memberships" in tags_in(house, "list", "comments", ALICE, {"expand": "author"})


def _view(sql: str, name: str = "seen") -> Collection:
    raw = {"id": f"pbc_{name}", "name": name, "type": "view", "viewQuery": sql}
    fields = {"id": Field(id="i", name="id", type="text")}
    return Collection(f"pbc_{name}", name, "view", False, fields, "", "", None, None, None, raw)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT id FROM posts", {"posts"}),
        ("select p.id from POSTS p, [comments] c", {"posts", "comments"}),
        ('SELECT id, (SELECT count(*) FROM "users") n FROM `notes`', {"notes", "users"}),
        ("WITH x AS (SELECT * FROM private) SELECT id FROM x", {"private"}),
        ("SELECT id FROM post_stats", {"post_stats", "posts", "comments"}),
        ("SELECT id, random() r FROM posts", NEVER),
        ("SELECT id FROM posts WHERE due > datetime('now')", NEVER),
        ("SELECT id, CURRENT_TIMESTAMP t FROM posts", NEVER),
        ("SELECT id, date() t FROM posts", NEVER),
        ("SELECT id, date(created) t FROM posts", {"posts"}),
    ],
)
def test_a_view_depends_on_every_collection_that_its_query_could_read(sql: str, expected: Any) -> None:
    house = {**HOUSE, "seen": _view(sql)}
    NAMES["pbc_seen"] = "seen"
    found = tags_in(house, "list", "seen", NOBODY, {})
    assert found == (expected if expected == NEVER else expected | {"seen"})


@pytest.mark.parametrize("sql", ["SELECT id FROM _params", "SELECT 1 AS id", "SELECT id FROM posts, sqlite_master", ""])
def test_a_view_over_what_is_no_collection_is_kept_for_a_moment_only(sql: str) -> None:
    house = {**HOUSE, "seen": _view(sql)}
    plan = new_cache(Schema(house.values())).plan(operation("list", house["seen"]))
    assert plan is not None
    assert plan.brief


def test_deleting_a_record_sweeps_along_relations_that_cascade_and_stops_behind_one_that_does_not() -> None:
    analyst = Analyst(HOUSE.values())
    # Posts go with their owner and take their comments along; nothing refers to comments.
    assert {NAMES[one] for one in analyst.swept("pbc_posts")} == {"posts", "comments"}
    assert {NAMES[one] for one in analyst.swept("pbc_rooms")} == {"memberships", "messages"}
    assert {NAMES[one] for one in analyst.swept("_pb_users_auth_")} >= {"posts", "comments", "private", "files"}
    assert analyst.swept("pbc_notes") == frozenset()
    assert analyst.swept("pbc_comments") == frozenset()


# --- who shares an answer ---


@pytest.mark.parametrize(
    ("name", "query", "public", "expected"),
    [
        ("notes", {}, ("notes",), "*"),
        ("notes", {}, ("pbc_notes",), "*"),
        ("notes", {"filter": "title != ''", "sort": "-rank"}, ("notes",), "*"),
        ("notes", {}, (), "guest"),
        ("notes", {"filter": "title = 'x\\\\'"}, ("notes",), "guest"),
        ("post_stats", {}, ("post_stats", "posts", "comments"), "*"),
        ("post_stats", {"expand": "owner"}, ("post_stats", "users"), "guest"),
        ("posts", {}, ("posts",), "guest"),
        ("users", {}, ("users",), "guest"),
    ],
)
def test_all_share_an_answer_only_where_the_schema_and_the_owner_prove_it(
    name: str, query: dict[str, str], public: tuple[str, ...], expected: str
) -> None:
    plan = new_cache(public_collections=public).plan(operation("list", HOUSE[name], query=query))
    assert plan is not None
    assert plan.scope == expected


def test_an_auth_collection_that_everybody_may_list_is_still_kept_for_each_identity() -> None:
    house = {**HOUSE, "users": replace(HOUSE["users"], list_rule="")}
    cache = new_cache(Schema(house.values()), public_collections=("users",))
    plan = cache.plan(operation("list", house["users"], who=ALICE))
    assert plan is not None
    assert plan.scope == ALICE.scope


def test_an_expand_or_a_filter_that_reaches_a_guarded_collection_ends_sharing() -> None:
    link = Field(id="l", name="link", type="relation", options={"collectionId": "pbc_private"})
    notes = replace(HOUSE["notes"], fields={**HOUSE["notes"].fields, "link": link})
    cache = new_cache(Schema({**HOUSE, "notes": notes}.values()), public_collections=("notes", "private"))
    scopes = [
        plan.scope
        for query in ({}, {"expand": "link"}, {"filter": "link.text = 'x'"}, {"sort": "link.text"})
        if (plan := cache.plan(operation("list", notes, who=ALICE, query=query))) is not None
    ]
    assert scopes == ["*", ALICE.scope, ALICE.scope, ALICE.scope]


# --- what else makes one read differ from another ---


def test_a_rule_that_reads_the_query_makes_every_parameter_count() -> None:
    cache = new_cache()
    keys = set[str]()
    for query in ("key=open", "key=shut", "key=open&$cancelKey=1", "key=open&page=1", "key=open&page=01"):
        plan = cache.plan(operation("list", HOUSE["guarded"], query=query))
        assert plan is not None
        keys.add(plan.key)
    assert len(keys) == 5


def test_a_rule_that_reads_a_header_makes_its_value_count_and_no_other() -> None:
    cache = new_cache()
    keys = set[str]()
    for headers in ({}, {"x-team": ""}, {"x-team": "blue"}, {"x-team": "blue", "x-else": "1"}, {"x-team": "red"}):
        op = operation("view", HOUSE["guarded"], "1", headers=headers)
        plan = cache.plan(op)
        assert plan is not None
        assert cache.plan(op) is plan
        keys.add(plan.key)
    assert len(keys) == 4


def test_the_agent_of_the_client_counts_where_a_rule_reads_it() -> None:
    house = {**HOUSE, "notes": replace(HOUSE["notes"], view_rule="@request.headers.user_agent ~ 'x'")}
    cache = new_cache(Schema(house.values()))
    one, other = (
        cache.plan(operation("view", house["notes"], "1", raw=((b"user-agent", agent),))) for agent in (b"a", b"b")
    )
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_reading_the_language_never_fails_and_never_misses_a_name_outside_of_texts() -> None:
    reading = read("a.b_via_c:each ?= @request.auth.x && fn(d, -1.5) >= 'e.f' || \"g\" !~ h // i\n|| j = 1")
    assert reading.names == ("a.b_via_c:each", "@request.auth.x", "d", "h", "j")
    assert reading.functions == ("fn",)
    assert not reading.doubtful
    for broken in ("'", '"abc', "a = {x}", "a = $b", "é = 1", "/ a"):
        assert read(broken).doubtful
