"""Redirect URIs against a corpus of attacks that can grow: tests/oauth/redirect_uri_corpus.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hapta.oauth.errors import InvalidRedirectUri
from hapta.oauth.redirect_uris import check_registration, find, host_of, matches

CORPUS: dict[str, Any] = json.loads((Path(__file__).parent / "redirect_uri_corpus.json").read_text(encoding="utf-8"))


def test_the_corpus_has_at_least_sixty_strings() -> None:
    strings = {uri for uri, _ in CORPUS["refused"]} | {given for _, given, _, _ in CORPUS["compare"]}
    assert len(strings) >= 60


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("uri", "why"), CORPUS["refused"])
def test_nobody_registers_a_redirect_uri_that_could_be_turned_against_him(uri: str, why: str, native: bool) -> None:
    with pytest.raises(InvalidRedirectUri):
        check_registration(uri, native=native)


@pytest.mark.parametrize("uri", CORPUS["native_only"])
def test_private_schemes_are_for_apps_on_a_device(uri: str) -> None:
    check_registration(uri, native=True)
    with pytest.raises(InvalidRedirectUri):
        check_registration(uri, native=False)


@pytest.mark.parametrize("uri", CORPUS["accepted"])
def test_a_sound_redirect_uri_is_registered_and_matches_itself(uri: str) -> None:
    check_registration(uri)
    assert matches(uri, uri, False)
    assert find(("https://other.example/", uri), uri, native=False) == uri


@pytest.mark.parametrize(("registered", "given", "native", "expected"), CORPUS["compare"])
def test_a_redirect_uri_matches_as_an_exact_string_but_for_the_port_of_a_native_apps_loopback(
    registered: str, given: str, native: bool, expected: bool
) -> None:
    assert matches(registered, given, native) is expected
    assert (find((registered,), given, native=native) is not None) is expected


@pytest.mark.parametrize(("uri", "native", "expected"), [(u, n, False) for u, _ in CORPUS["refused"] for n in (0, 1)])
def test_no_attack_matches_a_registered_callback(uri: str, native: bool, expected: bool) -> None:
    for registered in ("https://app.example/cb", "http://127.0.0.1/cb", "http://localhost/cb", "com.example.app:/cb"):
        assert matches(registered, uri, bool(native)) is expected


def test_people_are_shown_the_host_or_the_private_scheme() -> None:
    assert host_of("https://app.example:8443/cb") == "app.example"
    assert host_of("com.example.app:/cb") == "com.example.app"


def test_a_redirect_uri_is_not_endless() -> None:
    with pytest.raises(InvalidRedirectUri):
        check_registration("https://app.example/" + "a" * 2048)
