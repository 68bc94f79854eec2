"""What a review of all of oauth found: apps that nobody can tell apart, machines that ask too much, proofs without a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.oauth.jose import SigningKey, encode
from hapta.oauth.models import Client
from tests.oauth.authorize_house import ISSUER as HOUSE
from tests.oauth.authorize_house import House, answer_of, authorize_house
from tests.oauth.grants_house import API, ISSUER, GrantsHouse, challenge_of, grants_house

USERINFO = "/oauth/userinfo"


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


@pytest.fixture
async def grants(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


# --- consent for apps of our own ---


async def native(house: House, redirect_uri: str) -> Client:
    return await house.client(
        "public", redirect_uris=[redirect_uri], application_type="native", first_party=True, verified=True
    )


@pytest.mark.parametrize("redirect_uri", ["http://127.0.0.1/cb", "http://[::1]/cb", "com.example.app:/cb"])
async def test_a_native_app_of_our_own_asks_each_time_since_any_app_can_pass_for_it(
    house: House, redirect_uri: str
) -> None:
    client, browser = await native(house, redirect_uri), await house.visitor()
    for _ in range(2):
        page = await browser.get(house.url(client, redirect_uri=redirect_uri))
        assert (page.status_code, "location" in page.headers) == (200, False)
        allowed = await browser.submit(page, decision="allow")
        assert allowed.status_code == 303
        assert allowed.headers["location"].startswith(redirect_uri)
        assert "code=" in allowed.headers["location"]
    silent = await browser.get(house.url(client, redirect_uri=redirect_uri, prompt="none"))
    assert "error=consent_required" in silent.headers["location"]


async def test_other_apps_of_our_own_are_not_asked_about(house: House) -> None:
    browser = await house.visitor()
    uri = "https://app.example/callback?keep=1"
    for client in (
        await native(house, uri),
        await house.client(first_party=True),
        await house.client("public", first_party=True),
    ):
        assert "code" in answer_of(await browser.get(house.url(client, redirect_uri=uri)))


# --- machines that ask about tokens ---


@pytest.mark.parametrize("source", ["dynamic", "document"])
async def test_only_the_operator_makes_a_machine_that_may_ask_about_every_token(
    grants: GrantsHouse, source: str
) -> None:
    app, visitor = await grants.app(), await grants.visitor()
    for resource in (API, ISSUER):
        token = (await grants.tokens(app, visitor, resources=(resource,)))["access_token"]
        assert await grants.is_active(await grants.app("machine"), token)
        stranger = await grants.app("machine", source=source)
        assert not await grants.is_active(stranger, token)


# --- proofs at UserInfo ---


class Key:
    """A client's key, and its proofs for UserInfo."""

    def __init__(self, house: House) -> None:
        self._key, self._house, self._count = SigningKey.generate("ES256"), house, 0

    @property
    def jkt(self) -> str:
        return self._key.kid

    def headers(self, token: str) -> dict[str, str]:
        self._count += 1
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self._key.jwk}
        claims = {
            "jti": f"proof-{self._count}",
            "htm": "GET",
            "htu": HOUSE + USERINFO,
            "iat": int(self._house.clock.now()),
            "ath": challenge_of(token),
        }
        signed = f"{encode(msgspec.json.encode(header))}.{encode(msgspec.json.encode(claims))}"
        proof = f"{signed}.{encode(self._key.sign_bytes(signed.encode()))}"
        return {"authorization": f"DPoP {token}", "dpop": proof}


async def token_of(house: House, **mint: Any) -> str:
    client, browser = await house.client(first_party=True), await house.visitor()
    answer = answer_of(await browser.get(house.url(client, scope="openid")))
    allowed = await house.redeem(client, answer["code"])
    started = await house.db.write(lambda tx: house.families.start(tx, allowed, client, allowed.user_id))
    assert started is not None
    given = {"scopes": allowed.scopes, "audience": [HOUSE], **mint}
    return house.access_tokens.mint(client, family=started.family, **given).token


async def proofs(house: House) -> int:
    return await house.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM auth_dpop_proofs"))


async def test_a_proof_without_a_token_that_counts_is_not_remembered(house: House) -> None:
    key, http = Key(house), house.browser().http
    elsewhere = await token_of(house, dpop_jkt=key.jkt, audience=["https://api.example/v1"])
    unbound = await token_of(house)
    for token in ("junk", elsewhere, unbound):
        refused = await http.get(USERINFO, headers=key.headers(token))
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")
        assert refused.headers["www-authenticate"].startswith("DPoP ")
    assert await proofs(house) == 0


async def test_a_token_counts_with_a_fresh_proof_of_its_own_key_and_once(house: House) -> None:
    key, other, http = Key(house), Key(house), house.browser().http
    token = await token_of(house, dpop_jkt=key.jkt)
    headers = key.headers(token)
    assert (await http.get(USERINFO, headers=headers)).status_code == 200
    assert (await http.get(USERINFO, headers=headers)).status_code == 401
    assert (await http.get(USERINFO, headers=other.headers(token))).status_code == 401
    assert (await http.get(USERINFO, headers={"authorization": f"DPoP {token}"})).status_code == 401
    assert (await http.get(USERINFO, headers={"authorization": f"Bearer {token}"})).status_code == 401
