"""One-time passwords against the published vectors, and the window in which they count."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from hapta.identity.factors.totp import STEP_SECONDS, as_base32, as_uri, code_at, matching_step, new_seed

RFC_SEED = b"12345678901234567890"
RFC_VECTORS = [  # RFC 6238, appendix B, SHA-1; its eight digits end in our six
    (59, "94287082"),
    (1111111109, "07081804"),
    (1111111111, "14050471"),
    (1234567890, "89005924"),
    (2000000000, "69279037"),
    (20000000000, "65353130"),
]


@pytest.mark.parametrize(("now", "eight_digits"), RFC_VECTORS)
def test_codes_are_those_of_the_standard(now: int, eight_digits: str) -> None:
    assert code_at(RFC_SEED, now // STEP_SECONDS) == eight_digits[-6:]
    assert matching_step(RFC_SEED, eight_digits[-6:], now) == now // STEP_SECONDS


def test_a_code_counts_one_step_early_or_late_and_no_more() -> None:
    now, step = 1_700_000_010.0, 1_700_000_010 // STEP_SECONDS
    counted = [shift for shift in range(-3, 4) if matching_step(RFC_SEED, code_at(RFC_SEED, step + shift), now)]
    assert counted == [-1, 0, 1]


def test_what_is_no_code_matches_nothing() -> None:
    assert [matching_step(RFC_SEED, code, 59.0) for code in ("", "28708", "9428708", "abcdef", "94287 ")] == [None] * 5


def test_an_app_can_read_the_uri() -> None:
    seed = new_seed()
    uri = urlsplit(as_uri(seed, "alice@example.org", "Hapta: home"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert unquote(uri.path) == "/Hapta: home:alice@example.org"
    query = parse_qs(uri.query)
    assert query == {"secret": [as_base32(seed)], "issuer": ["Hapta: home"], "digits": ["6"], "period": ["30"]}
    assert len(seed) == 20
    assert new_seed() != seed
