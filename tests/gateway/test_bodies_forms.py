"""Forms: the object that goes on as JSON is the one that PocketBase would have made of the form."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hapta.gateway.bodies.forms import PAYLOAD, data_of, inferred, parse
from hapta.gateway.bodies.json import dumps
from hapta.gateway.errors import BadBody
from tests.gateway.bodies_house import FORM
from tests.gateway.pocketbase_house import PocketBaseHouse

NOTES = "/api/collections/notes/records"
_REAL = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
_TEXTS = st.text('0123456789.-+eE tru[]{}"a', max_size=10) | st.text(st.characters(codec="utf-8"), max_size=8)


def _told(answer: object) -> object:
    status, content = answer.status_code, answer.content  # type: ignore[attr-defined]
    return (status, json.loads(content)) if status == 200 else status


def _direct(pocketbase: PocketBaseHouse, form: str) -> object:
    return _told(
        pocketbase.http.post(NOTES + "?fields=title,body,meta,rank,done", content=form, headers={"content-type": FORM})
    )


def _passed(pocketbase: PocketBaseHouse, form: str) -> object:
    try:
        body = dumps(data_of(parse(form.encode())))
    except BadBody:
        return 400
    return _told(
        pocketbase.http.post(
            NOTES + "?fields=title,body,meta,rank,done", content=body, headers={"content-type": "application/json"}
        )
    )


@pytest.mark.parametrize(
    "value",
    ["1", "-1", "-", "--1", "007", "1.50", "1.5", ".5", "5.", "1e3", "+1", "-0", "0", "00", "1-2", "true", "TRUE", "false",
     "null", "", " 1", "12345678901234567890", "100000000000000000000000", "0.0000001", "9007199254740993", "[1]", '{"a":1}',
     "9" * 309, "1" + "0" * 308, "0." + "0" * 330 + "1", "123456789.123456789", "2147483648"],
)  # fmt: skip
def test_text_becomes_what_pocketbase_makes_of_it(pocketbase: PocketBaseHouse, value: str) -> None:
    for name in ("meta", "body", "rank", "done"):
        form = urlencode({"title": "x", name: value})
        assert _passed(pocketbase, form) == _direct(pocketbase, form), name


@_REAL
@given(value=_TEXTS)
@example(value="-0")
def test_any_text_becomes_what_pocketbase_makes_of_it(pocketbase: PocketBaseHouse, value: str) -> None:
    form = urlencode([("title", "x"), ("meta", value), ("body", value), ("meta", "1")])
    assert _passed(pocketbase, form) == _direct(pocketbase, form)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab1", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)


@_REAL
@given(
    payloads=st.lists(
        st.fixed_dictionaries({}, optional={"meta": _JSON, "body": st.text("ab", max_size=2)}), max_size=3
    ),
    fields=st.lists(st.sampled_from(["1", "a", "true"]), max_size=2),
)
def test_payloads_join_as_in_pocketbase(
    pocketbase: PocketBaseHouse, payloads: list[dict[str, object] | None], fields: list[str]
) -> None:
    pairs = [
        ("title", "x"),
        *[("meta", field) for field in fields],
        *[(PAYLOAD, json.dumps(one)) for one in payloads],
        (PAYLOAD, '{"title":"y"}'),
    ]
    form = urlencode(pairs)
    passed, direct = _passed(pocketbase, form), _direct(pocketbase, form)
    assert passed == direct


@pytest.mark.parametrize(
    "form",
    ["title=a;meta=2", "title=%zz", "title=a%", "@jsonPayload=", "@jsonPayload={}x", "@jsonPayload=[1]",
     '@jsonPayload={"meta":{"a":1,"a":2}}', 'meta=2&@jsonPayload={"meta":[1]}'],
)  # fmt: skip
def test_a_form_that_pocketbase_refuses_is_refused(pocketbase: PocketBaseHouse, form: str) -> None:
    assert _direct(pocketbase, form) == 400
    with pytest.raises(BadBody):
        data_of(parse(form.encode()))


def test_text_that_is_not_utf8_is_refused_where_pocketbase_puts_question_marks(pocketbase: PocketBaseHouse) -> None:
    assert _direct(pocketbase, "title=%ff") == (
        200,
        {"title": "\ufffd", "body": "", "meta": None, "rank": 0, "done": False},
    )
    with pytest.raises(BadBody):
        parse(b"title=%ff")


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(BadBody):
        parse(b"a=1&" * 10_001)


def test_a_number_keeps_its_digits() -> None:
    assert inferred("100000000000000000000000") == 10**23
    assert inferred("12345678901234567890") == "12345678901234567890"
