"""Form parameters as the OAuth standards read them."""

from __future__ import annotations

import pytest

from hapta.http.forms import BadForm, Form, is_form


def test_values_are_decoded_and_empty_ones_are_absent() -> None:
    form = Form.parse(b"a=1+2%2B&empty=&b=%E2%9C%93&flag&&=x")
    assert form.one("a") == "1 2+"
    assert form.one("b") == "\u2713"
    assert form.one("empty") is None
    assert form.one("flag") is None
    assert "empty" not in form
    assert form.one("unknown") is None


def test_a_parameter_that_stands_twice_is_refused_where_one_is_wanted() -> None:
    form = Form.parse(b"resource=a&resource=b&state=1&state=1")
    assert form.all("resource") == ["a", "b"]
    with pytest.raises(BadForm, match="state"):
        form.one("state")
    with pytest.raises(BadForm, match="state"):
        form.refuse_repeated(but=frozenset({"resource"}))
    Form.parse(b"resource=a&resource=b").refuse_repeated(but=frozenset({"resource"}))


@pytest.mark.parametrize("raw", [b"a=%", b"a=%zz", b"a=%4", b"a=%ff", b"a=%00", b"%=1", b"&".join([b"a=1"] * 201)])
def test_what_cannot_be_read_is_refused(raw: bytes) -> None:
    with pytest.raises(BadForm):
        Form.parse(raw)


def test_an_empty_text_has_no_parameters() -> None:
    assert list(Form.parse(b"")) == []


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (b"application/x-www-form-urlencoded", True),
        (b"Application/X-WWW-Form-Urlencoded; charset=UTF-8", True),
        (b'application/x-www-form-urlencoded;charset="utf-8"', True),
        (b"application/x-www-form-urlencoded; charset=iso-8859-1", False),
        (b"application/json", False),
        (b"text/plain", False),
        (None, False),
    ],
)
def test_a_form_is_told_by_its_label(label: bytes | None, expected: bool) -> None:
    assert is_form(label) is expected
