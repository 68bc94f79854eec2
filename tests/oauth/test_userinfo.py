"""UserInfo (OpenID Connect Core, section 5.3; contract identity, section 15)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.oauth.models import Client
from tests.oauth.authorize_house import FORM, ISSUER, House, answer_of, authorize_house


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


async def token_of(house: House, client: Client, scope: str = "openid", **mint: Any) -> str:
    browser = await house.visitor()
    answer = answer_of(await browser.get(house.url(client, scope=scope)))
    allowed = await house.redeem(client, answer["code"])
    subject = house.subjects.of(client, allowed.user_id)
    started = await house.db.write(lambda tx: house.families.start(tx, allowed, client, subject))
    assert started is not None
    given = {"scopes": allowed.scopes, "audience": [ISSUER], **mint}
    return house.access_tokens.mint(client, family=started.family, **given).token


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_scopes_open_claims_and_nothing_else(house: House) -> None:
    client, http, ada = await house.client(first_party=True), house.browser().http, await house.person()
    answer = await http.get("/oauth/userinfo", headers=bearer(await token_of(house, client)))
    assert answer.json() == {"sub": ada.user_id}
    assert answer.headers["cache-control"] == "no-store"
    token = await token_of(house, client, "openid profile email phone")
    answer = await http.get("/oauth/userinfo", headers=bearer(token))
    assert answer.json() == {
        "sub": ada.user_id,
        "name": "Ada",
        "updated_at": ada.updated_at // 1000,
        "email": "ada@example.org",
        "email_verified": True,
    }
    assert answer.text.startswith('{"sub":')


async def test_the_token_may_come_in_the_form_of_a_post(house: House) -> None:
    client, http, ada = await house.client(first_party=True), house.browser().http, await house.person()
    token = await token_of(house, client)
    posted = await http.post("/oauth/userinfo", data={"access_token": token})
    assert posted.json() == {"sub": ada.user_id}
    empty = await http.post("/oauth/userinfo", headers={"content-type": FORM, **bearer(token)})
    assert empty.json() == {"sub": ada.user_id}


async def test_a_token_in_the_address_or_two_tokens_are_refused(house: House) -> None:
    client, http = await house.client(first_party=True), house.browser().http
    token = await token_of(house, client)
    for refused in (
        await http.get("/oauth/userinfo", params={"access_token": token}),
        await http.post("/oauth/userinfo", data={"access_token": token}, headers=bearer(token)),
        await http.get("/oauth/userinfo", headers=[("authorization", f"Bearer {token}")] * 2),
    ):
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")


async def test_without_a_token_the_challenge_names_no_error(house: House) -> None:
    for headers in ({}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer "}):
        refused = await house.browser().http.get("/oauth/userinfo", headers=headers)
        assert refused.status_code == 401
        assert "error" not in refused.headers["www-authenticate"]


async def test_a_token_that_does_not_count_is_refused(house: House) -> None:
    client, http = await house.client(first_party=True), house.browser().http
    elsewhere = await token_of(house, client, audience=["https://api.example/v1"])
    bound = await token_of(house, client, dpop_jkt="k" * 43)
    over = await token_of(house, client)
    for token in ("junk", elsewhere, bound):
        refused = await http.get("/oauth/userinfo", headers=bearer(token))
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    unbound = await http.get("/oauth/userinfo", headers={"authorization": f"DPoP {over}"})
    assert unbound.headers["www-authenticate"].startswith("DPoP ")
    house.clock.advance(minutes=11)
    assert (await http.get("/oauth/userinfo", headers=bearer(over))).status_code == 401


async def test_a_token_without_openid_is_too_little(house: House) -> None:
    client = await house.client(first_party=True)
    token = await token_of(house, client, "posts:read")
    refused = await house.browser().http.get("/oauth/userinfo", headers=bearer(token))
    assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
    assert 'scope="openid"' in refused.headers["www-authenticate"]


async def test_a_pairwise_client_gets_a_subject_of_its_own(house: House) -> None:
    ada, http = await house.person(), house.browser().http
    subs: set[str] = set()
    for sector in ("one.example", "two.example"):
        client = await house.client(first_party=True, subject_type="pairwise", sector=sector)
        answer = await http.get("/oauth/userinfo", headers=bearer(await token_of(house, client)))
        assert answer.json() == {"sub": house.subjects.of(client, ada.user_id)}
        subs.add(answer.json()["sub"])
    assert (len(subs), ada.user_id in subs) == (2, False)


async def test_somebody_who_is_disabled_is_told_of_no_more(house: House) -> None:
    client, ada = await house.client(first_party=True), await house.person()
    token = await token_of(house, client)
    await house.core.people.set_disabled(ada.user_id, True)
    house.access_tokens.forget()
    assert (await house.browser().http.get("/oauth/userinfo", headers=bearer(token))).status_code == 401


async def test_any_page_may_read_it_but_never_with_cookies(house: House) -> None:
    client = await house.client(first_party=True)
    headers = {**bearer(await token_of(house, client)), "origin": "https://somebody.example"}
    answer = await house.browser().http.get("/oauth/userinfo", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
