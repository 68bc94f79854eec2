"""Strict JSON: what is refused, how it is named, and that no body can bring forth any other error."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.http.json import DuplicateKey, InvalidJson, reader
from hapta.http.validate import Uuid, Wire
from hapta.kit.errors import Issue, ValidationFailed

VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"


class Log(Wire, frozen=True):
    encrypted_data: Annotated[str, msgspec.Meta(max_length=100)]
    nonce: str
    id: Uuid | None = None


class Push(Wire, frozen=True):
    vault_id: Uuid
    logs: list[Log]
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    after_sequence: int | None = None
    labels: dict[str, int] = msgspec.field(default_factory=dict)


class Node(Wire, frozen=True):
    name: str = ""
    count: int = 0
    children: list[Node] = msgspec.field(default_factory=list)


read = reader(Push)


def body(**changes: object) -> bytes:
    return json.dumps({"vaultId": VAULT, "logs": [], **changes}).encode()


def issues_of(raw: bytes) -> list[Issue]:
    with pytest.raises(ValidationFailed) as refusal:
        read(raw)
    return refusal.value.issues


def test_a_good_body_becomes_the_struct() -> None:
    push = read(body(logs=[{"encryptedData": "a", "nonce": "b", "sequence": 1, "vaultId": "ignored"}], limit=7))
    assert push.logs == [Log(encrypted_data="a", nonce="b")]
    assert push.limit == 7


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{} {}",
        b"nul",
        b"{'vaultId': 1}",
        b'{"a":NaN}',
        b'{"a":01}',
        b'{"a":1e999}',
        b'{"vaultId":1e999}',
        b'{"a":"\xff"}',
        b'{"a\xff":1}',
        b'{"vaultId":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":"\x00"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"limit":' + b"[" * 990 + b"]" * 990 + b"}",
        b"\xef\xbb\xbf{}",
        b"1" * 10_000,
    ],
)
def test_what_is_no_strict_json_is_refused(raw: bytes) -> None:
    with pytest.raises((InvalidJson, ValidationFailed)):
        read(raw)


def test_bytes_that_are_not_utf_8_are_refused_also_in_members_that_are_ignored() -> None:
    with pytest.raises(InvalidJson):
        read(body()[:-1] + b', "other": "\xff"}')


@pytest.mark.parametrize(
    "extra",
    [
        ', "vaultId": "x"}',
        ', "limit": 5, "limit": 6}',
        ', "limit" : 5, "limi\\u0074": 6}',
        ', "other": {"a": 1, "a": 1}}',
        ', "other": [[{"a": {"b": 1, "c": 2, "b": 3}}]]}',
        ', "labels": {"a": 1, "a": 2}}',
        ', "note": "a: b", "other": {"a" :1, "a"\n:2}}',
    ],
)
def test_a_key_that_appears_twice_is_refused_at_any_depth(extra: str) -> None:
    with pytest.raises(DuplicateKey):
        read(body()[:-1] + extra.encode())


@pytest.mark.parametrize(
    "extra",
    [', "note": "a: \\": b"}', ', "a:b" : {"c\\":": " :", "d" :1}}', ', "limit" : 5, "labels": {"a": 1, "b": 1}}'],
)
def test_colons_inside_strings_are_no_duplicate_keys(extra: str) -> None:
    assert read(body()[:-1] + extra.encode()).vault_id == VAULT


def test_every_bad_field_is_named_by_its_wire_name() -> None:
    raw = body(vaultId="nope", logs=[{"encryptedData": 5}, "x"], limit=0, afterSequence="5")
    assert issues_of(raw) == [
        Issue(("vaultId",), "Invalid UUID"),
        Issue(("logs", 0, "encryptedData"), "Expected string, got number"),
        Issue(("logs", 0, "nonce"), "Required"),
        Issue(("logs", 1), "Expected object, got string"),
        Issue(("limit",), "Must be at least 1"),
        Issue(("afterSequence",), "Expected integer, got string"),
    ]


def test_missing_fields_are_all_named() -> None:
    assert [issue.path for issue in issues_of(b"{}")] == [("vaultId",), ("logs",)]


@pytest.mark.parametrize(("value", "limit"), [("5.0", 5), ("5e0", 5), ("0.5e1", 5), ("1000.0", 1000)])
def test_a_whole_number_may_be_written_as_a_float(value: str, limit: int) -> None:
    push = read(body()[:-1] + f', "limit": {value}}}'.encode())
    assert push.limit == limit
    assert type(push.limit) is int


@pytest.mark.parametrize("value", ["5.5", '"5"', "true", "null", "[5]", "1001", "1001.0", "1e30"])
def test_what_is_no_whole_number_in_bounds_is_refused(value: str) -> None:
    assert [issue.path for issue in issues_of(body()[:-1] + f', "limit": {value}}}'.encode())] == [("limit",)]


@pytest.mark.parametrize("value", ["9007199254740992", "-9007199254740992", "1e16", "9" * 400])
def test_integers_that_a_double_cannot_hold_are_refused_where_the_field_sets_no_bound(value: str) -> None:
    assert [issue.path for issue in issues_of(body()[:-1] + f', "afterSequence": {value}}}'.encode())] == [
        ("afterSequence",)
    ]


def test_the_largest_safe_integer_is_taken() -> None:
    assert read(body(afterSequence=2**53 - 1)).after_sequence == 2**53 - 1
    assert read(body(afterSequence=-(2**53 - 1))).after_sequence == -(2**53 - 1)


def test_nul_in_a_string_is_an_issue_that_names_its_place() -> None:
    raw = body(logs=[{"encryptedData": "a\0b", "nonce": "n"}], other={"x": ["\0"]})
    assert issues_of(raw) == [
        Issue(("logs", 0, "encryptedData"), "Must not contain NUL"),
        Issue(("other", "x", 0), "Must not contain NUL"),
    ]


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert read(body(logs=[{"encryptedData": "\\u0000", "nonce": "n"}])).logs[0].encrypted_data == "\\u0000"


def test_a_type_that_holds_itself_is_checked_all_the_way_down() -> None:
    read_node = reader(Node)
    assert read_node(b'{"children":[{"children":[{"name":"x"}]}]}').children[0].children[0].name == "x"
    with pytest.raises(ValidationFailed):
        read_node(b'{"children":[{"children":[{"count":9007199254740993}]}]}')
    with pytest.raises(DuplicateKey):
        read_node(b'{"children":[{"children":[{"name":"x","name":"y"}]}]}')


class Range(Wire, frozen=True):
    low: int
    high: int

    def issues(self) -> list[Issue]:
        return [] if self.low <= self.high else [Issue(("high",), "Must not be below low")]


class Ranges(Wire, frozen=True):
    ranges: list[Range]


def test_rules_of_a_struct_run_where_it_stands() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        reader(Ranges)(b'{"ranges":[{"low":1,"high":2},{"low":3,"high":2}]}')
    assert refusal.value.issues == [Issue(("ranges", 1, "high"), "Must not be below low")]


# -- properties --------------------------------------------------------------------------------------------------------

plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
near_bodies = st.fixed_dictionaries(
    {},
    optional={
        "vaultId": st.just(VAULT) | plain_json,
        "logs": st.lists(
            st.fixed_dictionaries({}, optional={"encryptedData": st.text() | plain_json, "nonce": st.just("n")})
        ),
        "limit": st.integers(-1, 1002) | st.floats(0, 3) | plain_json,
        "afterSequence": st.integers() | plain_json,
        "labels": st.dictionaries(st.text(max_size=3), st.integers() | plain_json),
        "other": plain_json,
    },
)


@given(
    st.binary(max_size=200)
    | plain_json.map(lambda value: json.dumps(value).encode())
    | near_bodies.map(lambda v: json.dumps(v).encode())
)
def test_no_body_brings_forth_another_error(raw: bytes) -> None:
    try:
        value = read(raw)
    except (InvalidJson, ValidationFailed):
        return
    assert msgspec.json.decode(msgspec.json.encode(value), type=Push) == value


def relaxed(value: Any) -> Any:
    """Whole floats as integers, so that msgspec judges as our integers do."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [relaxed(item) for item in value]
    return {key: relaxed(item) for key, item in value.items()} if isinstance(value, dict) else value


def holds(value: Any, test: Any) -> bool:
    if isinstance(value, dict):
        return any(holds(one, test) for one in (*value.keys(), *value.values()))
    return any(holds(one, test) for one in value) if isinstance(value, list) else bool(test(value))


@given(near_bodies)
def test_a_body_is_refused_exactly_when_msgspec_refuses_it(plain: dict[str, Any]) -> None:
    if holds(
        plain,
        lambda one: (isinstance(one, str) and "\0" in one) or (isinstance(one, int | float) and abs(one) >= 2**53),
    ):
        return  # the two rules that are ours alone
    try:
        expected = msgspec.convert(relaxed(plain), Push, str_keys=True)
    except msgspec.ValidationError:
        with pytest.raises(ValidationFailed) as refusal:
            read(json.dumps(plain).encode())
        assert refusal.value.issues
    else:
        assert read(json.dumps(plain).encode()) == expected


class Written:
    """JSON text in which one object, somewhere, may have a key twice."""

    def __init__(self, text: str, has_twice: bool) -> None:
        self.text = text
        self.has_twice = has_twice


def written_object(members: list[tuple[str, Written]], twice: bool, space: str) -> Written:
    unique = list(dict(members).items())
    pairs = unique + unique[:1] if twice else unique
    text = ",".join(f"{json.dumps(key)}{space}:{space}{value.text}" for key, value in pairs)
    return Written("{" + text + "}", (twice and bool(unique)) or any(value.has_twice for _, value in unique))


keys = st.sampled_from(["name", "count", "children", "a:", '":', " :", "ä", ""])
written = st.recursive(
    st.sampled_from(["1", "null", '"x"', '" :"', '"\\": "', '":"']).map(lambda text: Written(text, False)),
    lambda inner: (
        st.lists(inner, max_size=3).map(
            lambda items: Written("[" + ",".join(i.text for i in items) + "]", any(i.has_twice for i in items))
        )
        | st.builds(
            written_object,
            st.lists(st.tuples(keys, inner), max_size=4),
            st.sampled_from([False, False, False, True]),
            st.sampled_from(["", " ", "\n", "\t"]),
        )
    ),
    max_leaves=10,
)


@given(written, st.sampled_from([Any, dict[str, Any], list[Any]]))
def test_duplicate_keys_are_found_exactly_where_they_are(document: Written, kind: Any) -> None:
    raw = document.text.encode()
    try:
        reader(kind)(raw)
        refused = False
    except DuplicateKey:
        refused = True
    except ValidationFailed:
        return  # the whole is of another type
    assert refused == document.has_twice


@given(written)
def test_duplicate_keys_are_found_in_a_typed_body_too(document: Written) -> None:
    raw = b'{"name":"x","children":[],"other":' + document.text.encode() + b"}"
    if document.has_twice:
        with pytest.raises(DuplicateKey):
            reader(Node)(raw)
    else:
        assert reader(Node)(raw) == Node(name="x")
