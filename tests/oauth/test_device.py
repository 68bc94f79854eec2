"""The device grant (RFC 8628; contract identity, section 10), from both ends."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from hapta.oauth.device.codes import LETTERS, new_user_code, normal, shown
from hapta.oauth.models import DEVICE_GRANT, Client
from tests.oauth.authorize_house import FORM, ISSUER, House, PageForm, Visitor, authorize_house, login_of


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


class Device:
    """A device of a client, somewhere else in the network."""

    def __init__(self, house: House, client: Client, secret: str | None = None, address: str = "198.51.100.9") -> None:
        self._http = house.browser(address).http
        self._client = client
        self._secret = secret
        self.answer: dict[str, Any] = {}

    async def post(self, path: str, **form: Any) -> httpx.Response:
        headers = {"content-type": FORM, "user-agent": "television/1"}
        if self._secret is not None:
            basic = b64encode(f"{self._client.client_id}:{self._secret}".encode()).decode()
            headers["authorization"] = f"Basic {basic}"
        else:
            form["client_id"] = self._client.client_id
        return await self._http.post(path, content=urlencode(form), headers=headers)

    async def start(self, scope: str = "openid posts:read") -> Device:
        answer = await self.post("/oauth/device_authorization", scope=scope)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        self.answer = answer.json()
        return self

    async def poll(self) -> str:
        """The error of a poll; `tokens` when there is none."""
        answer = await self.post("/oauth/token", grant_type=DEVICE_GRANT, device_code=self.answer["device_code"])
        if answer.status_code == 200:
            self.answer |= answer.json()
            return "tokens"
        assert answer.status_code == 400, answer.text
        return answer.json()["error"]


async def new_device(house: House) -> Device:
    return await Device(house, await house.client("device", grant_types=[DEVICE_GRANT, "refresh_token"])).start()


async def confirm(browser: Visitor, code: str) -> httpx.Response:
    entry = await browser.get("/oauth/device")
    return await browser.submit(entry, change={"user_code": code})


async def test_a_person_lets_a_device_in(house: House) -> None:
    device = await new_device(house)
    assert device.answer["expires_in"] == 600
    assert device.answer["interval"] == 5
    assert device.answer["verification_uri"] == f"{ISSUER}/oauth/device"
    code = device.answer["user_code"]
    assert re.fullmatch(f"[{LETTERS}]{{4}}-[{LETTERS}]{{4}}", code)
    assert device.answer["verification_uri_complete"] == f"{ISSUER}/oauth/device?user_code={code}"
    assert await device.poll() == "authorization_pending"
    browser = house.browser()
    back, _ = login_of(await browser.get(device.answer["verification_uri_complete"]))
    assert back == f"/oauth/device?user_code={code}"
    await browser.sign_in(await house.person())
    entry = await browser.get(back)
    assert PageForm(entry.text).field("user_code") == code
    page = await browser.submit(entry)
    for words in (code, "An app", "read your posts", "198.51.100.9", "television/1", "Another network", "2030-01-01"):
        assert words in page.text, words
    done = await browser.submit(page, decision="allow")
    assert "connected" in done.text
    house.clock.advance(seconds=5)
    assert await device.poll() == "tokens"
    assert device.answer["scope"] == "openid posts:read"
    assert {"access_token", "id_token"} <= device.answer.keys()
    house.clock.advance(seconds=5)
    assert await device.poll() == "invalid_grant"
    (app,) = await house.consents.connected((await house.person()).user_id)
    assert app.scopes == ("openid", "posts:read")


async def test_a_person_turns_a_device_away(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    page = await confirm(browser, device.answer["user_code"])
    assert "denied" in (await browser.submit(page, decision="deny")).text
    assert await device.poll() == "access_denied"
    assert (await browser.submit(page, decision="allow")).status_code == 404


async def test_only_what_was_left_ticked_is_granted(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    page = await confirm(browser, device.answer["user_code"])
    await browser.submit(page, change={"scope": None}, decision="allow")
    assert await device.poll() == "tokens"
    assert device.answer["scope"] == "openid"


async def test_a_device_gets_no_more_than_the_roles_of_its_user_permit(house: House) -> None:
    device = await Device(
        house,
        await house.client("device", grant_types=[DEVICE_GRANT], scopes=["openid", "email", "posts:read"]),
    ).start()
    browser, ada = house.browser(), await house.person()
    await house.core.people.set_roles(ada.user_id, ["reader"])
    await browser.sign_in(await house.core.people.find(ada.user_id) or ada)
    await browser.submit(await confirm(browser, device.answer["user_code"]), decision="allow")
    assert await device.poll() == "tokens"
    assert device.answer["scope"] == "openid posts:read"


async def test_a_device_that_asks_too_often_is_slowed_down_more_each_time(house: House) -> None:
    device = await new_device(house)
    assert await device.poll() == "authorization_pending"
    house.clock.advance(seconds=3)
    assert await device.poll() == "slow_down"
    house.clock.advance(seconds=5)
    assert await device.poll() == "slow_down"
    house.clock.advance(seconds=14)
    assert await device.poll() == "slow_down"
    house.clock.advance(seconds=20)
    assert await device.poll() == "authorization_pending"


async def test_codes_end_after_ten_minutes(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    page = await confirm(browser, device.answer["user_code"])
    house.clock.advance(minutes=10)
    assert await device.poll() == "expired_token"
    assert (await browser.submit(page, decision="allow")).status_code == 404
    assert (await confirm(browser, device.answer["user_code"])).status_code == 404
    house.clock.advance(hours=2)
    assert await house.devices.sweep() == 3


async def test_a_device_code_belongs_to_its_client_and_counts_once_in_a_race(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    other = await new_device(house)
    mine = other.answer["device_code"]
    other.answer["device_code"] = device.answer["device_code"]
    assert await other.poll() == "invalid_grant"
    other.answer["device_code"] = mine
    await browser.submit(await confirm(browser, device.answer["user_code"]), decision="allow")
    outcomes = await asyncio.gather(*[device.poll() for _ in range(8)])
    assert outcomes.count("tokens") == 1
    assert set(outcomes) <= {"tokens", "invalid_grant", "slow_down"}


async def test_five_wrong_codes_lock_the_page_for_the_session_and_the_address(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    right = device.answer["user_code"]
    for _ in range(3):  # a right one costs nothing
        assert (await confirm(browser, right)).status_code == 200
    for _ in range(5):
        assert (await confirm(browser, "BBBB-BBBB")).status_code == 404
    locked = await confirm(browser, right)
    assert locked.status_code == 429
    assert int(locked.headers["retry-after"]) == 900
    neighbour = await house.visitor("bob@example.org")
    assert (await confirm(neighbour, right)).status_code == 429
    elsewhere = house.browser("203.0.113.5")
    await elsewhere.sign_in(await house.person("bob@example.org"))
    assert (await confirm(elsewhere, right)).status_code == 200
    house.clock.advance(minutes=9, seconds=55)
    assert (await confirm(browser, right)).status_code == 429
    house.clock.advance(minutes=6)
    fresh = await new_device(house)
    assert (await confirm(browser, fresh.answer["user_code"])).status_code == 200


async def test_parallel_guesses_are_so_many_guesses(house: House) -> None:
    browser = await house.visitor()
    entry = await browser.get("/oauth/device")
    answers = await asyncio.gather(
        *[browser.submit(entry, change={"user_code": f"BBBB-BBB{letter}"}) for letter in LETTERS[:12]]
    )
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(404), statuses.count(429)) == (5, 7)


async def test_a_code_is_read_as_people_type_it() -> None:
    code = new_user_code()
    for typed in (code, code.lower(), shown(code), f" {code[:2]} {code[2:5]}.{code[5:]} ", shown(code).lower()):
        assert normal(typed) == code
    for wrong in ("", code[:-1], code + "B", "AEIOUAEI", code[:-1] + "ß", "\u2113" * 8, "B" * 1000):
        assert normal(wrong) is None


async def test_both_pages_need_a_session_and_the_token_of_our_page(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    code = device.answer["user_code"]
    entry = await browser.get("/oauth/device")
    assert (await browser.submit(entry, change={"user_code": code, "csrf": None})).status_code == 403
    page = await browser.submit(entry, change={"user_code": code})
    assert (await browser.submit(page, change={"csrf": None}, decision="allow")).status_code == 403
    assert (await browser.submit(page, headers={"sec-fetch-site": "cross-site"}, decision="allow")).status_code == 403
    login_of(await house.browser().submit(page, decision="allow"))
    stranger = await house.visitor("bob@example.org")
    token = PageForm((await stranger.get("/oauth/device")).text).field("csrf")
    assert (await stranger.submit(page, change={"csrf": token}, decision="allow")).status_code == 403
    assert await device.poll() == "authorization_pending"


async def test_withdrawing_the_consent_ends_what_a_device_has_not_fetched_yet(house: House) -> None:
    device, browser = await new_device(house), await house.visitor()
    await browser.submit(await confirm(browser, device.answer["user_code"]), decision="allow")
    ada = await house.person()
    (app,) = await house.consents.connected(ada.user_id)
    token = browser.http.cookies["csrf"]
    headers = {"origin": ISSUER, "sec-fetch-site": "same-origin", "x-csrf-token": token}
    assert (await browser.http.delete(f"/identity/v1/grants/{app.client_id}", headers=headers)).status_code == 200
    assert await device.poll() == "access_denied"


async def test_a_start_is_refused_as_the_standard_has_it(house: House) -> None:
    plain, secret = await house.client_and_secret(grant_types=["authorization_code"])
    refused = await Device(house, plain, secret).post("/oauth/device_authorization", scope="openid")
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
    refused = await Device(house, plain, "wrong").post("/oauth/device_authorization", scope="openid")
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    client = await house.client("device", grant_types=[DEVICE_GRANT])
    device = Device(house, client)
    for form, error in (
        ({"scope": "nonsense"}, "invalid_scope"),
        ({"scope": "openid", "resource": "https://unknown.example"}, "invalid_target"),
    ):
        refused = await device.post("/oauth/device_authorization", **form)
        assert (refused.status_code, refused.json()["error"]) == (400, error)
    assert (await house.browser().http.get("/oauth/device_authorization")).status_code == 405
