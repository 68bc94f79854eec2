"""Factors and passkeys on the pages, as a browser without JavaScript sees them, and their forms as the script fills them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from hapta.testing.clock import FakeClock
from tests.identity.authenticator import SoftKey
from tests.identity.factor_house import EMAIL, FactorHouse, factor_house
from tests.identity.message_house import wrong
from tests.identity.page_house import Visitor

pytestmark = pytest.mark.anyio

TOTP = "/identity/account/totp"
ADD = "/identity/account/passkeys/add"
SECOND = "/identity/login/second"
PASSKEY_LOGIN = "/identity/login/passkey"


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as opened:
        yield opened


def shown_codes(visitor: Visitor) -> list[str]:
    return re.findall(r"<li><code>([a-z0-9-]+)</code></li>", visitor.page)


def shown_secret(visitor: Visitor) -> str:
    found = re.search(r"<code>([A-Z2-7 ]+)</code>", visitor.page)
    assert found is not None
    return found[1]


def shown_options(visitor: Visitor) -> dict[str, Any]:
    found = re.search(r'data-options="([^"]+)"', visitor.page)
    assert found is not None
    return json.loads(unescape(found[1]))


async def signed_in(house: FactorHouse, *, address: str = EMAIL) -> Visitor:
    """Somebody new on their account page."""
    await house.person(address)
    visitor = house.visitor()
    await visitor.follow(await visitor.sign_in(address))
    return visitor


async def set_up(house: FactorHouse, visitor: Visitor) -> tuple[str, list[str]]:
    """Sets the app up by the pages; its secret and the recovery codes."""
    await visitor.open(TOTP)
    await visitor.follow(await visitor.submit(TOTP))
    secret = shown_secret(visitor)
    assert (await visitor.submit(f"{TOTP}/confirm", code=house.code(secret))).status_code == 200
    house.clock.advance(seconds=30)
    return secret, shown_codes(visitor)


async def test_an_app_is_set_up_by_scanning_and_a_code(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    assert "Two-step sign-in" in visitor.text
    await visitor.open(TOTP)
    await visitor.follow(await visitor.submit(TOTP))
    assert '<svg role="img" aria-label="QR code for your app"' in visitor.page
    secret = shown_secret(visitor)
    await visitor.open(TOTP)
    assert shown_secret(visitor) == secret  # opening the page again makes no other
    refused = await visitor.submit(f"{TOTP}/confirm", code=wrong(house.code(secret)))
    assert (refused.status_code, shown_secret(visitor)) == (400, secret)
    assert 'aria-invalid="true"' in visitor.page
    answer = await visitor.submit(f"{TOTP}/confirm", code=house.code(secret))
    assert answer.status_code == 200
    assert len(shown_codes(visitor)) == 10
    assert answer.headers["cache-control"] == "no-store"
    await visitor.open("/identity/account")
    assert "10 of 10 recovery codes" in visitor.text
    await visitor.open(TOTP)
    assert "<code>" not in visitor.page


async def test_pages_of_factors_are_for_people_who_are_signed_in(house: FactorHouse) -> None:
    for path in (TOTP, ADD):
        answer = await house.visitor().open(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/identity/login?continue={path}")


async def test_pages_of_factors_ask_for_a_fresh_sign_in_and_lead_back(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    house.clock.advance(minutes=6)
    for path in (TOTP, ADD):
        answer = await visitor.open(path)
        assert answer.headers["location"] == f"/identity/login?continue={path}&again=1"
    await visitor.follow(answer)
    back = await visitor.submit("/identity/login", password="correct horse battery staple")
    assert back.headers["location"] == ADD
    assert (await visitor.follow(back)).status_code == 200


async def test_a_form_that_grew_stale_leads_to_the_login_and_changes_nothing(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    await set_up(house, visitor)
    await visitor.open(TOTP)
    house.clock.advance(minutes=6)
    answer = await visitor.submit(f"{TOTP}/remove")
    assert answer.headers["location"] == f"/identity/login?continue={TOTP}&again=1"
    await visitor.open("/identity/account")
    assert "10 of 10" in visitor.text


async def test_signing_in_takes_a_code_of_the_app(house: FactorHouse) -> None:
    secret, _ = await set_up(house, await signed_in(house))
    visitor = house.visitor()
    answer = await visitor.sign_in(path="/identity/login?continue=/identity/account?x=1")
    assert answer.headers["location"].startswith(SECOND)
    assert "__Host-sid" not in visitor.cookies
    await visitor.follow(answer)
    assert "authenticator app" in visitor.text
    refused = await visitor.submit(SECOND, code=wrong(house.code(secret)))
    assert refused.status_code == 400
    done = await visitor.submit(SECOND, code=house.code(secret))
    assert done.headers["location"] == "/identity/account?x=1"
    assert "__Host-sid" in visitor.cookies


async def test_signing_in_takes_a_recovery_code_in_place_of_the_app(house: FactorHouse) -> None:
    _, codes = await set_up(house, await signed_in(house))
    visitor = house.visitor()
    await visitor.follow(await visitor.sign_in())
    await visitor.open(f"{SECOND}?method=recovery_code")
    assert 'inputmode="numeric"' not in visitor.page
    await visitor.follow(await visitor.submit(SECOND, code=codes[0]))
    assert "9 of 10 recovery codes" in visitor.text


async def test_new_recovery_codes_replace_the_old_ones_and_the_app_can_be_removed(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    _, old = await set_up(house, visitor)
    await visitor.open(TOTP)
    assert (await visitor.submit(f"{TOTP}/codes")).status_code == 200
    assert len(shown_codes(visitor)) == 10
    assert not set(shown_codes(visitor)) & set(old)
    await visitor.open(TOTP)
    await visitor.follow(await visitor.submit(f"{TOTP}/remove"))
    assert "is removed" in visitor.text
    again = house.visitor()
    assert (await again.sign_in()).headers["location"] == "/identity/account"


async def test_a_mailed_code_is_a_step_only_where_the_operator_says_so(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with factor_house(database_url, tmp_path, clock, HAPTA_IDENTITY_SECOND_FACTOR_BY_MAIL="true") as house:
        await set_up(house, await signed_in(house))
        await house.mails()
        visitor = house.visitor()
        await visitor.follow(await visitor.sign_in())
        assert "Code by mail" in visitor.text
        await visitor.open(f"{SECOND}?method=email")
        await visitor.follow(await visitor.submit(f"{SECOND}/send"))
        (mail,) = await house.mails()
        found = re.search(r"\b\d{6}\b", mail)
        assert found is not None
        done = await visitor.submit(SECOND, code=found[0])
        assert done.headers["location"] == "/identity/account"


async def test_without_that_setting_no_code_is_mailed_as_second_step(house: FactorHouse) -> None:
    await set_up(house, await signed_in(house))
    visitor = house.visitor()
    await visitor.follow(await visitor.sign_in())
    assert "Code by mail" not in visitor.text
    await visitor.open(f"{SECOND}?method=email")
    assert "authenticator app" in visitor.text


async def test_a_passkey_is_added_renamed_used_and_removed(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    await visitor.open(ADD)
    key = SoftKey()
    made = json.dumps(key.make(shown_options(visitor)))
    await visitor.follow(await visitor.submit(ADD, credential=made, name="<my> phone"))
    assert "The passkey is added." in visitor.text
    assert "&lt;my&gt; phone" in visitor.page
    await visitor.follow(await visitor.submit("/identity/account/passkeys/rename", name="old phone"))
    assert "old phone" in visitor.text

    other = house.visitor()
    await other.open("/identity/login?continue=/identity/account/password")
    assert 'autocomplete="username webauthn"' in other.page
    begun = (await other.http.post("/identity/v1/login/passkey/start")).json()["data"]
    proof = json.dumps(key.prove(begun["options"]))
    done = await other.submit(PASSKEY_LOGIN, ceremony=begun["id"], credential=proof, remember="1")
    assert done.headers["location"] == "/identity/account/password"
    (session,) = [line for line in done.headers.get_list("set-cookie") if line.startswith("__Host-sid=")]
    assert "Max-Age=" in session
    replayed = house.visitor()
    await replayed.open("/identity/login")
    over = await replayed.submit(PASSKEY_LOGIN, ceremony=begun["id"], credential=proof)
    assert over.headers["location"] == "/identity/login?over=1"

    await visitor.open("/identity/account")
    await visitor.follow(await visitor.submit("/identity/account/passkeys/remove"))
    assert "The passkey is removed here." in visitor.text


@pytest.mark.parametrize("credential", ["", "{", "[]", "7", "{}", "[" * 9_000])
async def test_what_is_no_passkey_is_told_on_the_page(house: FactorHouse, credential: str) -> None:
    visitor = await signed_in(house)
    await visitor.open(ADD)
    answer = await visitor.submit(ADD, credential=credential or None)
    assert answer.status_code == 400
    assert "could not be verified" in visitor.text
    other = house.visitor()
    await other.open("/identity/login")
    begun = (await other.http.post("/identity/v1/login/passkey/start")).json()["data"]
    answer = await other.submit(PASSKEY_LOGIN, ceremony=begun["id"], credential=credential or None)
    assert answer.status_code == 400
    assert "That passkey did not work" in other.text


async def test_a_passkey_confirms_who_is_there_and_the_session_goes_on(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    await visitor.open(ADD)
    key = SoftKey()
    await visitor.submit(ADD, credential=json.dumps(key.make(shown_options(visitor))))
    before = (await visitor.http.get("/identity/v1/me")).json()["data"]["sessionId"]
    house.clock.advance(minutes=6)
    await visitor.follow(await visitor.open(TOTP))
    begun = (await visitor.http.post("/identity/v1/login/passkey/start")).json()["data"]
    proof = json.dumps(key.prove(begun["options"]))
    back = await visitor.submit(PASSKEY_LOGIN, ceremony=begun["id"], credential=proof)
    assert back.headers["location"] == TOTP
    assert (await visitor.follow(back)).status_code == 200
    assert (await visitor.http.get("/identity/v1/me")).json()["data"]["sessionId"] == before


async def test_a_passkey_is_a_second_step(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    await set_up(house, visitor)
    await visitor.open(ADD)
    key = SoftKey()
    await visitor.submit(ADD, credential=json.dumps(key.make(shown_options(visitor))))
    other = house.visitor()
    await other.follow(await other.sign_in())
    answer = await other.open(f"{SECOND}?method=passkey")
    assert "script-src 'sha256-" in answer.headers["content-security-policy"]
    proof = json.dumps(key.prove(shown_options(other)))
    done = await other.submit(SECOND, credential=proof)
    assert done.headers["location"] == "/identity/account"


async def test_forms_of_other_pages_change_no_factor(house: FactorHouse) -> None:
    visitor = await signed_in(house)
    await set_up(house, visitor)
    await visitor.open(TOTP)
    for path in (TOTP, f"{TOTP}/confirm", f"{TOTP}/codes", f"{TOTP}/remove", ADD, PASSKEY_LOGIN):
        answer = await visitor.http.post(path, data={"code": "1"}, headers={"sec-fetch-site": "cross-site"})
        assert answer.status_code == 403, path
    for path in ("/identity/account/passkeys/rename", "/identity/account/passkeys/remove"):
        answer = await visitor.http.post(path, data={"passkey": "AAAA"}, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == 403, path
    assert (await visitor.http.get("/identity/v1/mfa")).json()["data"]["totp"] is True
