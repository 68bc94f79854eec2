"""Checks before PocketBase: what it would refuse, in its own words, and never what it would take."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hapta.gateway.bodies.json import dumps
from hapta.gateway.errors import FieldsInvalid
from hapta.gateway.models import Collection
from hapta.gateway.validation.query import FilterForbidden
from hapta.gateway.validation.service import Validation
from hapta.kit.errors import HaptaError
from tests.gateway.bodies_house import collection_of, operation
from tests.gateway.pocketbase_house import Person, PocketBaseHouse

POSTS = "/api/collections/posts/records"


@pytest.fixture
def posts(pocketbase: PocketBaseHouse) -> Collection:
    return collection_of(pocketbase.collection("posts"))


@pytest.fixture
def alice(pocketbase: PocketBaseHouse) -> Person:
    return pocketbase.person("alice")


def _faults(collection: Collection, data: dict[str, Any], action: str = "create", **parts: Any) -> tuple[Any, str]:
    try:
        Validation().body(operation(collection, action, data, **parts))
    except FieldsInvalid as error:
        return error.details, error.message
    return {}, ""


def _direct(pocketbase: PocketBaseHouse, who: Person, data: dict[str, Any]) -> tuple[int, Any, str]:
    answer = pocketbase.http.post(
        POSTS, content=dumps(data), headers={"content-type": "application/json", "authorization": who.token}
    )
    told = answer.json()
    return answer.status_code, told.get("data"), told.get("message", "")


WRONG: list[dict[str, Any]] = [
    {"title": ""},
    {"title": None},
    {"title": "x" * 101},
    {"title": "\U0001f600" * 100},
    {"slug": "A"},
    {"slug": "a\n"},
    {"slug": "\u0660"},
    {"slug": "x" * 61},
    {"text": "é" * 50_001},
    {"kind": "other"},
    {"kind": ["news", "story"]},
    {"tags": ["red", "green", "blue", "black"]},
    {"tags": ["red", "red", "green", "blue"]},
    {"tags": ["red", "pink"]},
    {"tags": "pink"},
    {"tags": '["red"]'},
    {"score": -1},
    {"score": 1001},
    {"score": 1.5},
    {"score": 2.0},
    {"score": "x"},
    {"score": 10**30},
    {"contact": "x"},
    {"contact": "a@b"},
    {"contact": " "},
    {"contact": "a@b.c"},
    {"related": ["x"] * 12},
    {"related": [str(n) for n in range(11)]},
    {"owner": ""},
    {"internal": "hidden"},
    {"published": "yes"},
    {"due": "never"},
    {"link": "nowhere"},
    {"unknown": 5},
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: json.dumps(change)[:50])
def test_faults_are_pocketbases_own(
    pocketbase: PocketBaseHouse, posts: Collection, alice: Person, change: dict[str, Any]
) -> None:
    data = {"owner": alice.id, "title": "x", **change}
    if "owner" in change:
        _compare_as_superuser(pocketbase, posts, data)
    else:
        _compare(pocketbase, posts, alice, data)


def _compare_as_superuser(pocketbase: PocketBaseHouse, posts: Collection, data: dict[str, Any]) -> None:
    answer = pocketbase.http.post(POSTS, json=data, headers={"authorization": pocketbase.token})
    faults, message = _faults(posts, data)
    assert (faults, message) == (answer.json()["data"], answer.json()["message"])


def _compare(pocketbase: PocketBaseHouse, posts: Collection, who: Person, data: dict[str, Any]) -> None:
    status, told, message = _direct(pocketbase, who, data)
    faults, said = _faults(posts, data)
    if faults:
        assert status == 400
        assert said == message
        for name, fault in faults.items():
            assert told[name] == fault
    elif status == 400:
        # What only PocketBase can know, or what is not plain to see.
        assert told.keys() <= {"related", "link", "meta", "place", "due", "tags", "kind"}


_ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 1005), st.floats(-2, 2), st.text("ab1 @.-\n[\"'", max_size=6),
    st.lists(st.sampled_from(["red", "green", "blue", "black", "", "pink"]), max_size=5), st.just({}), st.just({"a": 1}),
    st.sampled_from(["news", "true", "1", "a@b.cd", "2020-01-01", "red", '["red"]', "0", " news"]),
)  # fmt: skip
_NAMES = ["title", "slug", "text", "kind", "tags", "published", "score", "contact", "due", "meta", "place", "internal"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.dictionaries(st.sampled_from(_NAMES), _ANY, max_size=4))
@example(data={"tags": [""]})
@example(data={"score": True})
@example(data={"title": 0})
@example(data={"title": False})
def test_nothing_is_refused_that_pocketbase_takes(
    pocketbase: PocketBaseHouse, posts: Collection, alice: Person, data: dict[str, Any]
) -> None:
    whole = {"owner": alice.id, "title": "x", **data}
    status, told, _ = _direct(pocketbase, alice, whole)
    faults, _ = _faults(posts, whole)
    if faults:
        assert status == 400
        for name, fault in faults.items():
            assert told[name] == fault


def test_what_is_missing_is_told_on_create_and_not_on_update(
    pocketbase: PocketBaseHouse, posts: Collection, alice: Person
) -> None:
    answer = pocketbase.http.post(POSTS, json={}, headers={"authorization": pocketbase.token}).json()
    assert _faults(posts, {}) == (answer["data"], answer["message"])
    assert _faults(posts, {}, "update") == ({}, "")
    assert _faults(posts, {"title": ""}, "update")[1] == "Failed to update record."
    assert _faults(posts, {"title+": "x", "+owner": "x"}) == ({}, "")


def test_hooks_of_pocketbase_may_fill_in_what_is_missing(posts: Collection) -> None:
    Validation(checks="values").body(operation(posts, "create", {"title": ""}))
    with pytest.raises(FieldsInvalid):
        Validation(checks="values").body(operation(posts, "create", {"score": -1}))
    Validation(checks="off").body(operation(posts, "create", {"score": -1}))


def test_a_file_in_the_body_is_given(pocketbase: PocketBaseHouse) -> None:
    raw = pocketbase.collection("notes")
    fields = [{**one, "required": one["name"] == "attachment"} for one in raw["fields"]]
    notes = collection_of({**raw, "fields": fields})
    assert _faults(notes, {})[0].keys() == {"attachment"}
    assert _faults(notes, {}, filenames=(("attachment", "a.txt", "text/plain"),))[0] == {}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"email": "b@example.com", "password": "long-enough"},
        {"email": "b@example.com", "password": "long-enough", "passwordConfirm": "other-one"},
        {"email": "x", "password": "long-enough", "passwordConfirm": "other-one", "username": "&"},
        {"email": "b@example.com", "password": "long-enough", "passwordConfirm": "long-enough", "username": "no blanks!"},
    ],
)  # fmt: skip
def test_faults_of_people_come_in_pocketbases_order(pocketbase: PocketBaseHouse, data: dict[str, Any]) -> None:
    users = collection_of(pocketbase.collection("users"))
    answer = pocketbase.http.post("/api/collections/users/records", json=data).json()
    assert _faults(users, data) == (answer["data"], answer["message"])


def test_what_is_closed_to_everybody_is_left_to_pocketbase(pocketbase: PocketBaseHouse) -> None:
    secret = collection_of(pocketbase.collection("secret"))
    Validation().body(operation(secret, "create", {"text": "x" * 6000}))
    Validation().query(operation(secret, "list", query={"page": "x"}))


QUERIES: list[dict[str, str]] = [
    {"page": "x"},
    {"page": "1.5"},
    {"page": "0"},
    {"page": "-1"},
    {"page": "+2"},
    {"page": ""},
    {"page": "9" * 20},
    {"perPage": "5000"},
    {"perPage": "1e2"},
    {"skipTotal": "x"},
    {"skipTotal": "T"},
    {"skipTotal": ""},
    {"sort": ",".join(["title"] * 8)},
    {"sort": ",".join(["title"] * 9)},
    {"sort": "title,,,,,,,,,"},
    {"sort": "@request.auth.id"},
    {"filter": 'title = "' + "a" * 3489 + '"'},
    {"filter": 'title = "' + "a" * 3491 + '"'},
    {"filter": '@collection.users.id = ""'},
    {"filter": 'title = "@request.auth.id"'},
    {"filter": "@request.auth.id = @collection.users.id"},
    {"filter": "(" * 100 + "rank=1" + ")" * 100},
    {"filter": 'title = "' + "(" * 300 + '"'},
    {"expand": "a.b.c.d.e.f.g.h"},
    {"unknown": "x" * 5000},
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: json.dumps(query)[:40])
def test_bounds_of_queries_are_pocketbases_own(pocketbase: PocketBaseHouse, query: dict[str, str]) -> None:
    notes = collection_of(pocketbase.collection("notes"))
    answer = pocketbase.http.get("/api/collections/notes/records", params=query)
    error: HaptaError | None = None
    try:
        Validation().query(operation(notes, "list", query=query))
    except (FieldsInvalid, FilterForbidden) as refused:
        error = refused
    if error is None:
        assert answer.status_code == 200
    else:
        assert answer.status_code == (403 if isinstance(error, FilterForbidden) else 400)
        assert answer.json()["message"] == error.message


def test_brackets_without_end_are_refused(pocketbase: PocketBaseHouse) -> None:
    notes = collection_of(pocketbase.collection("notes"))
    with pytest.raises(FieldsInvalid):
        Validation().query(operation(notes, "list", query={"filter": "(" * 201 + "rank=1" + ")" * 201}))


class Post(msgspec.Struct, kw_only=True):
    """What an owner asks beyond PocketBase."""

    title: Annotated[str, msgspec.Meta(max_length=10)] | msgspec.UnsetType = msgspec.UNSET
    score: Annotated[float, msgspec.Meta(le=100)] | msgspec.UnsetType = msgspec.UNSET
    tags: list[Literal["red", "green"]] | msgspec.UnsetType = msgspec.UNSET


class Paging(msgspec.Struct, kw_only=True):
    """What an owner asks of queries."""

    perPage: Annotated[int, msgspec.Meta(le=50)] = 30


def _own(collection: Collection, action: Any, part: str) -> type | None:
    return {"body": Post, "query": Paging}.get(part)


@pytest.mark.parametrize(
    ("data", "bad"),
    [
        ({"title": "short"}, ""),
        ({"title": "much too long"}, "title"),
        ({"score+": 1000}, "score"),
        ({"score-": 1000}, ""),
        ({"score-": "-1000"}, "score"),
        ({"score-": -1000}, "score"),
        ({"score": 1000, "score+": 1}, "score"),
        ({"score+": 1, "score": 1000}, "score"),
        ({"score+": 1, "+score": 1}, "score"),
        ({"title:autogenerate": ""}, ""),
        ({"+tags": "blue"}, "tags"),
        ({"tags": ["red"], "tags+": ["blue"]}, "tags"),
        ({"tags+": "blue", "tags": ["red"]}, "tags"),
        ({"tags": ["red"], "tags+": "green"}, ""),
        ({"tags-": "blue"}, ""),
        ({"other": 1}, ""),
    ],
)
def test_an_owners_schema_sees_through_modifiers(posts: Collection, data: dict[str, Any], bad: str) -> None:
    validation = Validation(_own, checks="values")
    if not bad:
        validation.body(operation(posts, "update", data))
        return
    with pytest.raises(FieldsInvalid) as refused:
        validation.body(operation(posts, "update", data))
    assert refused.value.details.keys() == {bad}
    assert refused.value.message == "Failed to update record."


def test_an_owners_schema_of_the_query_is_asked(posts: Collection) -> None:
    validation = Validation(_own)
    validation.query(operation(posts, "list", query={"perPage": "50", "filter": "x=1"}))
    with pytest.raises(FieldsInvalid) as refused:
        validation.query(operation(posts, "list", query={"perPage": "51"}))
    assert refused.value.details.keys() == {"perPage"}
