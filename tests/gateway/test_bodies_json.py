"""JSON bodies: what passes is what PocketBase reads, to the last digit; the rest is a 400."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hapta.gateway.bodies.json import MAX_DEPTH, dumps, loads
from hapta.gateway.errors import BadBody
from tests.gateway.pocketbase_house import PocketBaseHouse

POCKETBASE_REFUSES = [
    b'{"title":"a","title":"b"}',
    b'{"title":"a","\\u0074itle":"b"}',
    b'{"meta":{"a":1,"a":2}}',
    b'{"meta":[{"x":{"a":1,"b":[],"a":2}}]}',
    b'{"meta":1e400}',
    b'{"meta":-1e400}',
    b'{"meta":1' + b"0" * 400 + b"}",
    b'{"meta":' + b"9" * 309 + b"}",
    b'{"meta":"\\ud800"}',
    b'{"meta":"\\udc00\\ud800"}',
    b'{"\\ud800":1}',
    b'{"title":"\xff"}',
    b"\xef\xbb\xbf{}",
    b'{"meta":NaN}',
    b'{"meta":Infinity}',
    b'{"meta":01}',
    b'{"meta":+1}',
    b'{"meta":.5}',
    b'{"meta":"\t"}',
    b"{'title':1}",
    b'{"meta":1,}',
    b"{",
    b" ",
]


@pytest.mark.parametrize("raw", POCKETBASE_REFUSES, ids=lambda raw: repr(raw[:40]))
def test_what_pocketbase_refuses_is_refused(pocketbase: PocketBaseHouse, raw: bytes) -> None:
    upstream = pocketbase.http.post(
        "/api/collections/counters/records", content=raw, headers={"content-type": "application/json"}
    )
    assert upstream.status_code == 400
    with pytest.raises(BadBody):
        loads(raw)


@pytest.mark.parametrize("raw", [b'{"a":1}x', b"{}{}", b"{} null"])
def test_trailing_garbage_which_pocketbase_overlooks_is_refused(pocketbase: PocketBaseHouse, raw: bytes) -> None:
    upstream = pocketbase.http.post(
        "/api/collections/counters/records", content=raw, headers={"content-type": "application/json"}
    )
    assert upstream.status_code == 200
    with pytest.raises(BadBody):
        loads(raw)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 5_000, 200_000])
def test_deep_nesting_is_a_clear_refusal(opening: bytes, depth: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    with pytest.raises(BadBody):
        loads(b'{"meta":' + opening * depth + b"0" + closing * depth + b"}")
    with pytest.raises(BadBody):
        loads(opening * depth)


def test_nesting_up_to_the_bound_is_read_and_written() -> None:
    raw = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert dumps(loads(raw)) == raw


def test_millions_of_values_are_refused_before_they_are_made() -> None:
    with pytest.raises(BadBody):
        loads(b"[" + b"[]," * 2_000_001 + b"0]")


@pytest.mark.parametrize(
    "raw",
    [b"9007199254740993", b"12345678901234567890123", b"-1", b"0.1", b"1e-7", b"5e-324", b"1.7976931348623157e+308"],
)
def test_numbers_keep_their_value(raw: bytes) -> None:
    again = dumps(loads(raw))
    assert float(again) == float(raw)
    if raw.lstrip(b"-").isdigit():
        assert again == raw


def test_minus_zero_keeps_its_sign() -> None:
    assert struct.pack(">d", float(dumps(loads(b"-0")))) == struct.pack(">d", -0.0)


@pytest.mark.parametrize("value", [math.inf, math.nan, {"a": object()}, "\ud800"])
def test_what_json_cannot_hold_is_never_written(value: object) -> None:
    with pytest.raises(BadBody):
        dumps(value)


_LITERALS = st.from_regex(rb"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)
_REAL = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def _stored(pocketbase: PocketBaseHouse, raw: bytes) -> tuple[int, bytes]:
    """What PocketBase makes of a value in a JSON field: told as text, so that no reader of ours comes between."""
    answer = pocketbase.http.post(
        "/api/collections/notes/records?fields=meta",
        content=b'{"title":"x","meta":' + raw + b"}",
        headers={"content-type": "application/json"},
    )
    return answer.status_code, answer.content


@_REAL
@given(value=_VALUES)
def test_every_value_is_stored_as_if_it_had_been_sent_directly(pocketbase: PocketBaseHouse, value: object) -> None:
    raw = json.dumps({"v": value}).encode()
    again = dumps(loads(raw))
    direct, passed = _stored(pocketbase, raw), _stored(pocketbase, again)
    assert direct[0] == passed[0]
    if direct[0] == 200:
        assert json.loads(direct[1]) == json.loads(passed[1])


@_REAL
@given(literal=_LITERALS)
def test_every_number_is_stored_as_if_it_had_been_sent_directly(pocketbase: PocketBaseHouse, literal: bytes) -> None:
    direct = _stored(pocketbase, b"[" + literal + b"]")
    try:
        again = dumps(loads(b"[" + literal + b"]"))
    except BadBody:
        assert direct[0] == 400
    else:
        assert _stored(pocketbase, again) == direct


@_REAL
@given(raw=st.text('{}[]",:0e-.\\ud8tn ', max_size=14).map(str.encode))
def test_nothing_passes_that_pocketbase_refuses(pocketbase: PocketBaseHouse, raw: bytes) -> None:
    try:
        loads(b'{"meta":[' + raw + b"]}")
    except BadBody:
        return
    assert _stored(pocketbase, b"[" + raw + b"]")[0] == 200
