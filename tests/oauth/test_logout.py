"""Logout that apps ask for, and telling apps of the end of a session (OpenID Connect RP-Initiated and Back-Channel Logout)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

from tests.oauth.authorize_house import ISSUER, House, Visitor, answer_of, authorize_house, login_of

AFTER = "https://app.example/bye"


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


def url(**given: str) -> str:
    return f"/oauth/logout?{urlencode(given)}"


async def is_signed_in(browser: Visitor) -> bool:
    return (await browser.http.get("/identity/v1/grants")).status_code == 200


async def test_a_person_confirms_and_goes_back_to_the_app(house: House) -> None:
    client = await house.client(post_logout_redirect_uris=(AFTER,), name="Notes")
    browser, ada = await house.visitor(), await house.person()
    hint = await house.id_token(client, ada, exp=int(house.clock.now()) - 60)
    page = await browser.get(url(id_token_hint=hint, post_logout_redirect_uri=AFTER, state="s & t"))
    assert "Notes" in page.text
    assert await is_signed_in(browser)
    gone = await browser.submit(page, decision="logout")
    assert (gone.status_code, gone.headers["location"]) == (303, f"{AFTER}?state=s%20%26%20t")
    assert not await is_signed_in(browser)
    assert await house.events("auth.logout") == [("logout", None)]
    await browser.sign_in(ada)
    login_of(await house.browser().get(house.url(client)))


async def test_a_get_never_ends_a_session_and_a_person_may_stay(house: House) -> None:
    browser = await house.visitor()
    page = await browser.get("/oauth/logout")
    assert "still signed in" in (await browser.submit(page, decision="stay")).text
    assert await is_signed_in(browser)
    assert "are signed out" in (await browser.submit(page, decision="logout")).text
    assert not await is_signed_in(browser)


async def test_a_logout_needs_the_token_of_our_page(house: House) -> None:
    browser = await house.visitor()
    page = await browser.get("/oauth/logout")
    assert (await browser.submit(page, change={"csrf": None}, decision="logout")).status_code == 403
    assert (await browser.submit(page, headers={"sec-fetch-site": "cross-site"}, decision="logout")).status_code == 403
    assert await is_signed_in(browser)


async def test_nobody_is_sent_to_an_address_that_is_not_the_clients(house: House) -> None:
    client = await house.client(post_logout_redirect_uris=(AFTER,))
    other = await house.client(post_logout_redirect_uris=("https://other.example/bye",))
    browser, ada = await house.visitor(), await house.person()
    hint = await house.id_token(client, ada)
    attacks = (
        AFTER + "/",
        AFTER + "?x",
        AFTER.upper(),
        "https://evil.example",
        "//evil.example",
        "https://other.example/bye",
    )
    rows: list[dict[str, Any]] = [{"id_token_hint": hint, "post_logout_redirect_uri": uri} for uri in attacks]
    rows += [
        {"post_logout_redirect_uri": AFTER},
        {"client_id": "unknown", "post_logout_redirect_uri": AFTER},
        {"client_id": other.client_id, "post_logout_redirect_uri": AFTER},
        {"client_id": other.client_id, "id_token_hint": hint, "post_logout_redirect_uri": AFTER},
        {"id_token_hint": "junk", "post_logout_redirect_uri": AFTER},
    ]
    for row in rows:
        for visitor in (browser, house.browser()):
            refused = await visitor.get(url(**row))
            assert (refused.status_code, "location" in refused.headers) == (400, False), row
    assert await is_signed_in(browser)


async def test_whoever_is_signed_out_already_goes_straight_back(house: House) -> None:
    client = await house.client(post_logout_redirect_uris=(AFTER,))
    answer = await house.browser().get(url(client_id=client.client_id, post_logout_redirect_uri=AFTER))
    assert (answer.status_code, answer.headers["location"]) == (303, AFTER)


async def test_a_request_may_come_by_post(house: House) -> None:
    client, browser = await house.client(post_logout_redirect_uris=(AFTER,)), await house.visitor()
    form = {"client_id": client.client_id, "post_logout_redirect_uri": AFTER}
    moved = await browser.http.post("/oauth/logout", data=form)
    page = await browser.get(moved.headers["location"])
    assert (await browser.submit(page, decision="logout")).headers["location"] == AFTER


class Receiver:
    """A client's server, on a real port, that answers with the next of its statuses."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = [*statuses]
        self.tokens: list[str] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/logout"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("post /logout ")
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        form = parse_qs((await reader.readexactly(length)).decode())
        self.tokens += form["logout_token"]
        status = self.statuses.pop(0)
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


async def test_an_app_is_told_when_the_session_ends_in_whatever_way(house: House) -> None:
    async with Receiver(500, 200) as receiver:
        client = await house.client(first_party=True, backchannel_logout_uri=receiver.url)
        browser, ada = await house.visitor(), await house.person()
        assert "code" in answer_of(await browser.get(house.url(client)))
        assert await house.backchannel.deliver_due() == 0
        await house.core.sessions.revoke_all(ada.user_id)
        assert await house.backchannel.deliver_due() == 1  # the receiver was not well
        assert await house.backchannel.deliver_due() == 0
        house.clock.advance(seconds=6)
        assert await house.backchannel.deliver_due() == 1
        house.clock.advance(days=1)
        assert await house.backchannel.deliver_due() == 0
        assert len(receiver.tokens) == 2
    house.clock.set_back(seconds=86_400)
    claims = await house.keys.verify(receiver.tokens[-1], typ="logout+jwt", audience=[client.client_id])
    assert (claims["iss"], claims["sub"]) == (ISSUER, ada.user_id)
    assert claims["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert "nonce" not in claims


async def test_an_app_that_never_answers_is_given_up(house: House) -> None:
    async with Receiver(*[503] * 6) as receiver:
        client = await house.client(first_party=True, backchannel_logout_uri=receiver.url)
        browser, ada = await house.visitor(), await house.person()
        await browser.get(house.url(client))
        await house.core.sessions.revoke_all(ada.user_id)
        for _ in range(8):
            await house.backchannel.deliver_due()
            house.clock.advance(hours=3)
        assert len(receiver.tokens) == 6
