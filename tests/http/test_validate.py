"""The collector's sentences, wire types, and query strings."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import NAMESPACE_DNS, uuid3, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.http.json import reader
from hapta.http.queries import decode_query, query_reader
from hapta.http.validate import MAX_ISSUES, Uuid, Wire
from hapta.kit.errors import Issue, ValidationFailed


class Cat(Wire, frozen=True, tag="cat"):
    lives: Annotated[int, msgspec.Meta(ge=0, lt=10)]


class Dog(Wire, frozen=True, tag="dog"):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=3)]


class Strict(Wire, frozen=True, forbid_unknown_fields=True):
    x: int = 0


class Sample(Wire, frozen=True):
    pet: Cat | Dog | None = None
    colour: Literal["red", "green"] = "red"
    one: Literal[1] = 1
    ratio: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    pair: tuple[int, str] = (1, "a")
    step: Annotated[int, msgspec.Meta(multiple_of=5)] = 5
    names: Annotated[list[str], msgspec.Meta(max_length=2)] = msgspec.field(default_factory=list)
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "a"
    either: int | str | None = None
    flag: bool = False
    strict: Strict | None = None
    nothing: None = None
    table: dict[Annotated[str, msgspec.Meta(max_length=2)], bool] = msgspec.field(default_factory=dict)


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        ('{"pet":{"type":"cat","lives":10}}', ("pet", "lives"), "Must be less than 10"),
        ('{"pet":{"type":"dog","name":""}}', ("pet", "name"), "Must not be empty"),
        ('{"pet":{"type":"dog","name":"Rufus"}}', ("pet", "name"), "Must have at most 3 characters"),
        ('{"pet":{"type":"cow"}}', ("pet", "type"), 'Must be one of "cat", "dog"'),
        ('{"pet":{}}', ("pet", "type"), "Required"),
        ('{"pet":5}', ("pet",), "Expected object, got number"),
        ('{"colour":"blue"}', ("colour",), 'Must be one of "green", "red"'),
        ('{"one":true}', ("one",), "Must be 1"),
        ('{"ratio":0}', ("ratio",), "Must be greater than 0"),
        ('{"ratio":1.5}', ("ratio",), "Must be at most 1"),
        ('{"ratio":"1"}', ("ratio",), "Expected number, got string"),
        ('{"pair":[1]}', ("pair",), "Must have exactly 2 items"),
        ('{"pair":[1,2]}', ("pair", 1), "Expected string, got number"),
        ('{"step":7}', ("step",), "Must be a multiple of 5"),
        ('{"step":7.5}', ("step",), "Must be a whole number"),
        ('{"names":["a","b","c"]}', ("names",), "Must have at most 2 items"),
        ('{"names":{}}', ("names",), "Expected array, got object"),
        ('{"code":"A"}', ("code",), "Has the wrong form"),
        ('{"either":[]}', ("either",), "Expected integer or string, got array"),
        ('{"flag":0}', ("flag",), "Expected boolean, got number"),
        ('{"strict":{"y":1}}', ("strict", "y"), "Unknown field"),
        ('{"nothing":false}', ("nothing",), "Expected null, got boolean"),
        ('{"table":{"abc":true}}', ("table", "abc"), "Must have at most 2 characters"),
        ('{"table":{"a":null}}', ("table", "a"), "Expected boolean, got null"),
        ("[]", (), "Expected object, got array"),
    ],
)
def test_a_fault_is_told_in_plain_words_at_its_place(raw: str, path: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        reader(Sample)(raw.encode())
    assert refusal.value.issues == [Issue(path, message)]


def test_ten_thousand_faults_are_not_all_told() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        reader(list[str])(b"[" + b",".join([b"1"] * 10_000) + b"]")
    assert len(refusal.value.issues) == MAX_ISSUES


class WithId(Wire, frozen=True):
    id: Uuid


def is_uuid(text: str) -> bool:
    try:
        reader(WithId)(msgspec.json.encode({"id": text}))
    except ValidationFailed as refusal:
        return refusal.issues != [Issue(("id",), "Invalid UUID")]
    return True


@pytest.mark.parametrize(
    "text",
    [
        "95d9ba90-e5b2-11f1-9f88-02fc00000001",
        str(uuid3(NAMESPACE_DNS, "x")),
        "9759910C-3B56-4DAC-9F01-CF868196D780",
        str(uuid5(NAMESPACE_DNS, "x")),
        "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d",
        "018f2f6e-5d3c-8b1a-bc4d-2e6f8a0b1c3d",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    ],
)
def test_uuids_of_versions_one_to_eight_and_the_two_special_ones_are_taken(text: str) -> None:
    assert is_uuid(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "018f2f6e5d3c7b1a9c4d2e6f8a0b1c3d",
        "{018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d}",
        "018f2f6e-5d3c-9b1a-9c4d-2e6f8a0b1c3d",
        "018f2f6e-5d3c-0b1a-9c4d-2e6f8a0b1c3d",
        "018f2f6e-5d3c-7b1a-cc4d-2e6f8a0b1c3d",
        "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d\n",
        "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3g",
        "00000000-0000-0000-0000-000000000001",
    ],
)
def test_what_only_looks_like_a_uuid_is_refused(text: str) -> None:
    assert not is_uuid(text)


class Query(Wire, frozen=True):
    after_id: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=10)] = 5
    deep: bool = False
    kind: Literal["a", "b"] | None = None
    wait_ms: int | None = None


def test_a_query_string_becomes_the_struct() -> None:
    query = decode_query(b"afterId=a%20b+c&limit=7&deep=true&kind=b&waitMs=-3&unknown=%zz&unknown=2", Query)
    assert query == Query(after_id="a b c", limit=7, deep=True, kind="b", wait_ms=-3)


def test_every_bad_parameter_is_named() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        decode_query(b"limit=11&deep=yes&kind=c&waitMs=1.5", Query)
    assert refusal.value.issues == [
        Issue(("afterId",), "Required"),
        Issue(("limit",), "Must be at most 10"),
        Issue(("deep",), "Expected boolean, got string"),
        Issue(("kind",), 'Must be one of "a", "b"'),
        Issue(("waitMs",), "Expected integer, got string"),
    ]


@pytest.mark.parametrize(
    ("query_string", "message"),
    [
        (b"afterId=1&afterId=1", "Given more than once"),
        (b"afterId=%ff", "Must be UTF-8"),
        (b"afterId=a%00b", "Must not contain NUL"),
        (b"afterId=%zz", "Has a broken percent escape"),
    ],
)
def test_a_dubious_parameter_is_refused(query_string: bytes, message: str) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        decode_query(query_string, Query)
    assert Issue(("afterId",), message) in refusal.value.issues


@given(st.binary(max_size=60) | st.text("afterIdlimt&=%0123+", max_size=60).map(str.encode))
def test_no_query_string_brings_forth_another_error(query_string: bytes) -> None:
    try:
        query = query_reader(Query)(query_string)
    except ValidationFailed:
        return
    assert 1 <= query.limit <= 10
