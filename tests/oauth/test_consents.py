"""What people allowed: the list, and taking it back (contract identity, sections 25 and 4.6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.identity.models import Origin
from hapta.oauth.consents.errors import GrantNotFound
from tests.oauth.authorize_house import ISSUER, House, Visitor, answer_of, authorize_house


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


async def csrf_headers(house: House, browser: Visitor) -> dict[str, str]:
    return {"origin": ISSUER, "sec-fetch-site": "same-origin", "x-csrf-token": browser.http.cookies["csrf"]}


async def test_a_person_sees_what_apps_may_do_and_takes_it_back(house: House) -> None:
    client, browser = await house.client(name="Notes"), await house.visitor()
    answer = answer_of(await browser.submit(await browser.get(house.url(client)), decision="allow"))
    listed = await browser.http.get("/identity/v1/grants")
    assert listed.status_code == 200, listed.text
    (grant,) = listed.json()["data"]["grants"]
    assert (grant["clientId"], grant["name"], grant["scopes"]) == (
        client.client_id,
        "Notes",
        ["openid", "email", "posts:read"],
    )
    assert "see your e-mail address" in grant["texts"]
    path = f"/identity/v1/grants/{client.client_id}"
    assert (await browser.http.delete(path)).status_code == 403
    ended = await browser.http.delete(path, headers=await csrf_headers(house, browser))
    assert (ended.status_code, ended.json()["status"]) == (200, "success")
    assert (await browser.http.get("/identity/v1/grants")).json()["data"]["grants"] == []
    again = await browser.http.delete(path, headers=await csrf_headers(house, browser))
    assert again.status_code == 404
    assert await house.events("auth.consent.revoked") == [(None, client.client_id)]
    with pytest.raises(AssertionError):  # the code that was waiting is gone as well
        await house.redeem(client, answer["code"])
    assert (await browser.get(house.url(client))).status_code == 200


async def test_withdrawing_ends_the_tokens_of_this_app_alone(house: House) -> None:
    ada, browser = await house.person(), await house.visitor()
    tokens: list[str] = []
    clients = [await house.client(), await house.client()]
    for client in clients:
        answer = answer_of(await browser.submit(await browser.get(house.url(client)), decision="allow"))
        allowed = await house.redeem(client, answer["code"])
        started = await house.db.write(
            lambda tx, allowed=allowed, client=client: house.families.start(tx, allowed, client, ada.user_id)
        )
        assert started is not None
        minted = house.access_tokens.mint(client, scopes=["openid"], audience=[ISSUER], family=started.family)
        tokens.append(minted.token)
        assert await house.access_tokens.judge(minted.token) is not None
    await house.consents.withdraw(ada.user_id, clients[0].client_id, Origin())
    assert await house.access_tokens.judge(tokens[0]) is None
    assert await house.access_tokens.judge(tokens[1]) is not None


async def test_unticking_what_was_allowed_before_ends_what_came_of_it(house: House) -> None:
    client, ada, browser = await house.client(), await house.person(), await house.visitor()
    answer = answer_of(await browser.submit(await browser.get(house.url(client)), decision="allow"))
    allowed = await house.redeem(client, answer["code"])
    started = await house.db.write(lambda tx: house.families.start(tx, allowed, client, ada.user_id))
    assert started is not None
    token = house.access_tokens.mint(client, scopes=["openid", "email"], audience=[ISSUER], family=started.family).token
    page = await browser.get(house.url(client, prompt="consent"))
    answer = answer_of(await browser.submit(page, change={"scope": "posts:read"}, decision="allow"))
    assert await house.access_tokens.judge(token) is None
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "posts:read")
    consent = await house.consents.find(ada.user_id, client.client_id)
    assert consent is not None
    assert (consent.scopes, consent.refused_scopes) == (("openid", "posts:read"), ("email",))


async def test_scopes_that_were_allowed_one_after_the_other_add_up(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    for scope in ("openid email", "openid posts:read"):
        await browser.submit(await browser.get(house.url(client, scope=scope)), decision="allow")
    answer = answer_of(await browser.get(house.url(client, scope="openid email posts:read")))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "email", "posts:read")


async def test_one_persons_grants_are_no_other_persons(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    await browser.submit(await browser.get(house.url(client)), decision="allow")
    bob = await house.visitor("bob@example.org")
    assert (await bob.http.get("/identity/v1/grants")).json()["data"]["grants"] == []
    with pytest.raises(GrantNotFound):
        await house.consents.withdraw((await house.person("bob@example.org")).user_id, client.client_id, Origin())
    assert (await house.browser().http.get("/identity/v1/grants")).status_code == 401


async def test_first_party_apps_are_listed_like_all_others(house: House) -> None:
    client, browser = await house.client(first_party=True), await house.visitor()
    await browser.get(house.url(client))
    apps = await house.consents.connected((await house.person()).user_id)
    assert [app.client_id for app in apps] == [client.client_id]
    assert await house.events("auth.consent.granted") == []


async def test_a_person_or_a_client_that_is_deleted_leaves_no_consent(house: House) -> None:
    client, other, ada = await house.client(), await house.client(), await house.person()
    browser = await house.visitor()
    for one in (client, other):
        await browser.submit(await browser.get(house.url(one)), decision="allow")
    await house.db.write(lambda tx: house.consents.forget_client(tx, other.client_id))
    assert [consent.client_id for consent in await house.consents.list(ada.user_id)] == [client.client_id]
    await house.db.write(lambda tx: house.consents.forget_user(tx, ada.user_id))
    assert await house.consents.list(ada.user_id) == []
