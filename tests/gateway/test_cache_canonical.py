"""Spellings of one read meet in one key, different reads never do; readable tags have one spelling too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.gateway.cache.canonical import canonical_query, form
from hapta.gateway.cache.readable import matches, normalised
from tests.gateway.cache_house import HOUSE, new_cache, operation, visitor


def key(query: str, name: str = "notes") -> str:
    plan = new_cache().plan(operation("list", HOUSE[name], query=query))
    assert plan is not None
    return plan.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "page=1&perPage=30"),
        ("page=0", "page=-3"),
        ("page=01", "page=1"),
        ("perPage=0", ""),
        ("perPage=5000", "perPage=1000"),
        ("skipTotal=1", "skipTotal=true"),
        ("skipTotal=f", ""),
        ("sort=-rank,title", "sort=+-rank+,+title"),
        ("sort=%2Btitle", "sort=title"),
        ("fields=a,b", "fields=b,+a,a,"),
        ("filter=+title='x'+", "filter=title='x'"),
        ("filter=a%3D1&page=2", "page=2&filter=a=1"),
        ("page=2&page=3", "page=2"),
        ("%24cancelKey=abc&requestKey=x&unknown=1", ""),
        ("filter=", ""),
    ],
)
def test_spellings_that_pocketbase_answers_the_same_have_one_key(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("page=1", "page=2"),
        ("page=x", "page=1"),
        ("page=1_0", "page=10"),
        ("perPage=x", ""),
        ("skipTotal=yes", "skipTotal=1"),
        ("sort=a,b", "sort=b,a"),
        ("sort=-a", "sort=a"),
        ("sort=a,", "sort=a"),
        ("sort=a,,b", "sort=a,b"),
        ("sort=,", ""),
        ("sort=+", ""),
        ("filter=+", ""),
        ("filter=title='x y'", "filter=title='x  y'"),
        ("filter=title='A'", "filter=title='a'"),
        ("fields=title:excerpt(1,true)", "fields=true),title:excerpt(1"),
        ("Page=2", "page=2"),
    ],
)
def test_what_pocketbase_might_answer_differently_stays_apart(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_identity_collection_record_and_action_are_in_every_key() -> None:
    cache = new_cache()
    alice, bob = visitor("alice"), visitor("bob")
    plans = [
        cache.plan(op)
        for op in (
            operation("list", HOUSE["notes"]),
            operation("list", HOUSE["notes"], who=alice),
            operation("list", HOUSE["notes"], who=bob),
            operation("list", HOUSE["counters"]),
            operation("view", HOUSE["notes"], "1"),
            operation("view", HOUSE["notes"], "2"),
            operation("view", HOUSE["notes"], "1", who=visitor("alice", "pbc_staff")),
            operation("view", HOUSE["notes"], "1", who=alice),
        )
    ]
    keys = [plan.key for plan in plans if plan is not None]
    assert len(set(keys)) == len(plans)


@given(st.lists(st.lists(st.text(max_size=5), max_size=4), max_size=4).map(lambda parts: [tuple(p) for p in parts]))
def test_two_keys_are_equal_only_if_their_parts_are(parts: list[tuple[str, ...]]) -> None:
    flat = form([text for part in parts for text in part])
    joined = form(["".join(text for part in parts for text in part)])
    assert (flat == joined) == ([text for part in parts for text in part] == ["".join(t for p in parts for t in p)])


@given(st.dictionaries(st.sampled_from(["page", "perPage", "sort", "filter", "expand", "fields", "x"]), st.text()))
def test_the_canonical_form_is_its_own_canonical_form(query: dict[str, str]) -> None:
    once = canonical_query("list", query, whole=False)
    assert canonical_query("list", dict(once), whole=False) == once
    assert dict(canonical_query("list", query, whole=True)) == query


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("u/Alice", "u/alice"),
        ("  /u/alice ", "u/alice"),
        ("//u/alice", "u/alice"),
        ("alice_3_feed", "alice_feed"),
        ("u/alice/12/feed", "u/alice/feed"),
        ("posts_2_feed_bob_bookmarks", "posts_feed_bob_bookmarks"),
        ("3_feed", "feed"),
        ("posts_3_feeder", "posts_3_feeder"),
        ("posts_3", "posts_3"),
        ("", ""),
        ("x" * 201, ""),
    ],
)
def test_a_readable_tag_has_one_spelling(tag: str, expected: str) -> None:
    assert normalised(tag) == expected
    assert normalised(expected) == expected


def test_a_tag_is_met_by_itself_and_by_whole_segments_of_its_beginning() -> None:
    assert matches("u/alice", "u/alice")
    assert matches("u/alice/feed", "u/alice")
    assert matches("posts_1", "posts")
    assert not matches("u/alicebob", "u/alice")
    assert not matches("posts_1", "post")
    assert not matches("u/alice", "alice")
    assert not matches("u/alice", "")
