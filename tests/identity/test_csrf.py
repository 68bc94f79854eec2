"""The guards against foreign pages: a matrix of requests over the real edge, and the tokens themselves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.identity.csrf import CsrfGuard, origin_of
from hapta.testing.clock import FakeClock
from tests.identity.page_house import EMAIL, PASSWORD, URL, PageHouse, Visitor, page_house

MATRIX: list[list[Any]] = json.loads((Path(__file__).parent / "csrf_matrix.json").read_text())["rows"]
LISTED = "https://app.example.com"
GUARD = CsrfGuard([b"k" * 32], URL)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PageHouse]:
    # One for all rows: what is judged here is the same on every database, and each row signs in anew.
    folder = tmp_path_factory.mktemp("csrf")
    async with page_house(f"sqlite:///{folder / 'hapta.db'}", folder, FakeClock(), allowed=[LISTED]) as house:
        await house.person()
        yield house


async def token_for(kind: str, house: PageHouse, visitor: Visitor) -> str | None:
    good = await visitor.token()
    match kind:
        case "good":
            return good
        case "forged":
            return good[:-1] + ("A" if good[-1] != "A" else "B")
        case "of_other_session":
            other = house.visitor()
            await other.sign_in()
            visitor.http.cookies.set("csrf", foreign := await other.token(), domain="id.example.com", path="/")
            return foreign
        case "of_pre_session":
            other = house.visitor()
            visitor.http.cookies.set("csrf", foreign := await other.token(), domain="id.example.com", path="/")
            visitor.http.cookies.set("__Host-pre", other.cookies["__Host-pre"], domain="id.example.com", path="/")
            return foreign
        case "not_in_cookie":
            visitor.http.cookies.delete("csrf")
            return good
        case _:
            return None


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: " ".join(str(cell) for cell in row))
async def test_only_what_our_own_page_sends_is_done(house: PageHouse, row: list[Any]) -> None:
    method, site, origin, referer, token_kind, auth, passes = row
    visitor = house.visitor()
    await visitor.sign_in()
    token = await token_for(token_kind, house, visitor)
    named = {"own": URL, "listed": LISTED}
    headers: dict[str, str] = {}
    if site is not None:
        headers["sec-fetch-site"] = site
    if origin is not None:
        headers["origin"] = str(named.get(origin, origin))
    if referer is not None:
        headers["referer"] = f"{URL}/identity/account" if referer == "own" else referer
    if token is not None:
        headers["x-csrf-token"] = token
    if auth != "cookie":
        answer = await house.visitor().http.post("/identity/v1/login", json={"identifier": EMAIL, "password": PASSWORD})
        headers["authorization"] = f"Bearer {answer.json()['data']['accessToken']}"
    if auth == "bearer":
        visitor.http.cookies.clear()
    paths = {"DELETE": "/identity/v1/sessions", "POST": "/identity/v1/logout"}
    body = {"nickname": "ada"} if method == "PATCH" else None
    answer = await visitor.http.request(method, paths.get(method, "/identity/v1/me"), json=body, headers=headers)
    assert answer.status_code == (200 if passes else 403), answer.text
    if not passes:
        refused = answer.json()
        assert refused["details"] == {"issue": "csrf_failed"}
        assert refused["code"] == 403
        assert "layer" not in answer.text


async def test_a_request_with_both_is_the_token_s_and_never_the_cookie_s(house: PageHouse) -> None:
    await house.person("eve@example.com")
    visitor = house.visitor()
    await visitor.sign_in()
    answer = await house.visitor().http.post(
        "/identity/v1/login", json={"identifier": "eve@example.com", "password": PASSWORD}
    )
    token = answer.json()["data"]["accessToken"]
    me = await visitor.http.get("/identity/v1/me", headers={"authorization": f"Bearer {token}"})
    assert me.json()["data"]["user"]["email"] == "eve@example.com"
    bad = await visitor.http.get("/identity/v1/me", headers={"authorization": "Bearer nonsense"})
    assert bad.status_code == 401


@pytest.mark.parametrize("with_token", [True, False])
async def test_a_foreign_page_cannot_sign_its_visitor_in_to_its_own_account(house: PageHouse, with_token: bool) -> None:
    attacker, victim = house.visitor(), house.visitor()
    body = {"identifier": EMAIL, "password": PASSWORD, "cookies": True}
    headers = {"x-csrf-token": await attacker.token()} if with_token else {}
    answer = await victim.http.post("/identity/v1/login", json=body, headers={"origin": URL, **headers})
    assert (answer.status_code, answer.json()["details"]["issue"]) == (403, "csrf_failed")
    assert "__Host-sid" not in victim.cookies


async def test_a_new_session_needs_a_new_token(house: PageHouse) -> None:
    visitor = house.visitor()
    before = await visitor.token()
    assert await visitor.token() == before
    await visitor.sign_in()
    after = await visitor.token()
    assert after != before
    answer = await visitor.http.post("/identity/v1/logout", headers={"origin": URL, "x-csrf-token": before})
    assert answer.status_code == 403


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_is_a_token_but_those_made_here(token: str, binding: str) -> None:
    assert not GUARD.counts(token, binding)


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_a_token_counts_for_its_own_binding_alone(binding: str, other: str) -> None:
    token = GUARD.token(binding)
    assert GUARD.counts(token, binding)
    assert GUARD.counts(token, other) == (binding == other)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://id.example.com/a/b", "https://id.example.com"),
        ("https://id.example.com:443/", "https://id.example.com"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]:3000/x", "http://[::1]:3000"),
        ("ftp://id.example.com", None),
        ("https://id.example.com:99999", None),
        ("/path", None),
        ("https://[", None),
    ],
)
def test_the_origin_of_an_address_is_written_as_browsers_write_it(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin
