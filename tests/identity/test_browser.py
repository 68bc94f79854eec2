"""Session cookies: their names, when they are refused, and what a request with them stands for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.identity.browser import BrowserSessions, CookiesRefused
from hapta.kit.access import Caller
from hapta.testing.clock import FakeClock
from tests.identity.page_house import EMAIL, PASSWORD, SECRET, PageHouse, page_house


class NoKeys:
    async def verify_key(self, key: str) -> Caller:
        raise AssertionError("nobody asks")


@pytest.mark.parametrize(
    ("url", "production"),
    [
        ("http://127.0.0.1:3000", True),
        ("http://id.example.com", False),
        ("https://192.0.2.7", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("localhost:3000", False),
    ],
)
def test_plain_cookies_are_refused_in_production_and_beyond_this_machine(url: str, production: bool) -> None:
    with pytest.raises(CookiesRefused):
        BrowserSessions(NoKeys(), FakeClock(), SECRET, url, insecure=True, production=production)


@pytest.mark.parametrize("url", ["http://127.0.0.1:3000", "http://localhost:3000", "http://[::1]:3000"])
def test_on_this_machine_cookies_work_over_plain_http_when_asked_for(url: str) -> None:
    names = BrowserSessions(NoKeys(), FakeClock(), SECRET, url, insecure=True).names
    assert (names.session, names.refresh) == ("sid", "rt")


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[PageHouse]:
    async with page_house(database_url, tmp_path, clock, url="http://127.0.0.1:3000", insecure=True) as house:
        yield house


async def test_plain_cookies_carry_a_session_all_the_same(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    answer = await visitor.sign_in()
    assert all("Secure" not in line for line in answer.headers.get_list("set-cookie"))
    assert (await visitor.open("/identity/account")).status_code == 200


@pytest.mark.parametrize("value", ["", "x", "a.1", "é.1", "." * 3000, "a.2", "%00.1"])
async def test_a_made_up_cookie_is_nobody_s(house: PageHouse, value: str) -> None:
    visitor = house.visitor()
    headers = {b"cookie": f"sid={value}; rt={value}; flow={value}; csrf={value}; pre={value}".encode()}
    page = await visitor.http.get("/identity/account", headers=headers)
    assert (page.status_code, page.headers["location"]) == (303, "/identity/login?continue=/identity/account")
    assert (await visitor.http.get("/identity/v1/me", headers=headers)).status_code == 401
    assert (await visitor.http.get("/identity/login/second", headers=headers)).status_code == 303
    assert (await visitor.http.get("/identity/login", headers=headers)).status_code == 200


async def test_a_key_that_was_rolled_away_long_ago_ends_the_session(house: PageHouse, clock: FakeClock) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.sign_in()
    old = visitor.cookies["sid"]
    for _ in range(2):
        await visitor.open("/identity/login?again=1")
        await visitor.submit("/identity/login", password=PASSWORD)
    clock.advance(seconds=11)
    thief = house.visitor()
    thief.http.cookies.set("sid", old, domain="127.0.0.1")
    assert (await thief.open("/identity/account")).status_code == 303
    assert (await visitor.open("/identity/account")).status_code == 303
    assert "auth.session.replay" in await house.events()


async def test_two_tabs_do_not_spoil_each_other_s_forms(house: PageHouse) -> None:
    await house.person()
    first = house.visitor()
    await first.open("/identity/login")
    page = first.page
    await first.open("/identity/register")
    first.page = page
    answer = await first.submit("/identity/login", identifier=EMAIL, password=PASSWORD)
    assert answer.status_code == 303
