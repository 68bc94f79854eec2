"""What foreign pages and former registrations can do at the authorization server's pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.oauth.authorize_house import FORM, REDIRECT_URI, House, authorize_house
from tests.oauth.test_par import push, url_of


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


async def test_a_foreign_page_cannot_take_the_session_cookie_away(house: House) -> None:
    # Anybody gets a sealed flow; their page posts it, and browsers send no cookies of ours along (SameSite).
    to = (await house.browser().http.post("/oauth/logout", headers={"content-type": FORM})).headers["location"]
    flow = parse_qs(urlsplit(to).query)["flow"][0]
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "content-type": FORM}
    answer = await house.browser().http.post(
        "/oauth/logout/decision", content=urlencode({"flow": flow, "decision": "logout"}), headers=foreign
    )
    assert "set-cookie" not in answer.headers


async def test_a_pushed_request_that_is_over_sends_nobody_to_an_address_that_was_taken_back(house: House) -> None:
    client, secret = await house.client_and_secret()
    request_uri = (await push(house, client, secret)).json()["request_uri"]
    await house.change(client, redirect_uris=("https://elsewhere.example/cb",))
    house.clock.advance(seconds=61)
    browser = await house.visitor()
    answer = await browser.get(url_of(client, request_uri))
    assert (answer.status_code, answer.headers.get("location")) == (400, None), REDIRECT_URI
