"""Addresses and numbers in one form each."""

from __future__ import annotations

import pytest

from hapta.identity.identifiers import (
    can_get_texts,
    email_key,
    normal_email,
    normal_phone,
    parse_login,
    phone_prefix,
)
from hapta.kit.errors import ValidationFailed


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (" Ada.Lovelace@Example.COM ", "Ada.Lovelace@example.com"),
        ("ada+tag@example.com", "ada+tag@example.com"),
        ("ada@exämple.de", "ada@exämple.de"),
        ("añb@example.com", "añb@example.com"),
    ],
)
def test_a_new_address_keeps_its_local_part_as_typed(typed: str, kept: str) -> None:
    assert normal_email(typed) == kept


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada@example",
        "ada@localhost",
        "ada@example.com\nbcc: eve@example.com",
        "a da@example.com",
        "ada@[127.0.0.1]",
        "аda@example.com",  # a Cyrillic first letter
        "ada@pаypal.com",  # the same in a domain
        "ada@example.invalid",
        "a" * 250 + "@example.com",
    ],
)
def test_what_is_no_address_or_looks_like_another_one_is_refused(typed: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        normal_email(typed)
    assert refused.value.issues[0].path == ("email",)


@pytest.mark.parametrize(
    ("one", "other"), [("Ada@Example.com", "aDA@example.COM"), ("ａda@example.com", "ada@example.com")]
)
def test_spellings_of_one_address_have_one_key(one: str, other: str) -> None:
    assert email_key(one) == email_key(other)


@pytest.mark.parametrize("typed", ["+49 1512 345-6789", "+4915123456789", " +49(0)1512 3456789"])
def test_spellings_of_one_number_are_one_number(typed: str) -> None:
    assert normal_phone(typed) == "+4915123456789"


@pytest.mark.parametrize("typed", ["015123456789", "+49", "+999123456789", "+4915123456789;ext=5", "x", "+1" * 40])
def test_what_is_no_number_is_refused(typed: str) -> None:
    with pytest.raises(ValidationFailed):
        normal_phone(typed)


def test_a_login_is_told_apart_by_its_at_sign() -> None:
    assert parse_login("Ada@Example.com") == ("email", "Ada@Example.com", "ada@example.com")
    assert parse_login("+49 1512 3456789") == ("phone", "+4915123456789", "+4915123456789")
    with pytest.raises(ValidationFailed) as refused:
        parse_login("ada")
    assert refused.value.issues[0].path == ("identifier",)


def test_texts_go_to_ordinary_numbers_of_listed_countries() -> None:
    assert can_get_texts("+4915123456789", ("DE",))
    assert can_get_texts("+4915123456789", ("*",))
    assert not can_get_texts("+4915123456789", ("US",))
    assert not can_get_texts("+499001234567", ("*",))  # premium rate


def test_a_block_of_numbers_is_its_first_digits() -> None:
    assert phone_prefix("+4915123456789") == phone_prefix("+4915129999999") != phone_prefix("+4917612345678")
