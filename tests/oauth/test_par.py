"""Pushed authorization requests (RFC 9126; contract identity, section 9)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from hapta.oauth.models import Client
from tests.oauth.authorize_house import FORM, ISSUER, STATE, House, answer_of, authorize_house, login_of
from tests.oauth.grants_house import DpopKey


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


async def push(
    house: House, client: Client, secret: str | None, headers: dict[str, str] | None = None, **given: Any
) -> httpx.Response:
    sent = {"content-type": FORM, **(headers or {})}
    if secret is not None:
        sent["authorization"] = "Basic " + b64encode(f"{client.client_id}:{secret}".encode()).decode()
    async with house.browser().http as http:
        return await http.post("/oauth/par", content=urlencode(house.parameters(client, **given)), headers=sent)


def url_of(client: Client, request_uri: str) -> str:
    return f"/oauth/authorize?{urlencode({'client_id': client.client_id, 'request_uri': request_uri})}"


async def test_a_pushed_request_leads_to_one_code(house: House) -> None:
    client, secret = await house.client_and_secret(require_par=True)
    pushed = await push(house, client, secret)
    assert (pushed.status_code, pushed.json()["expires_in"]) == (201, 60)
    assert pushed.headers["cache-control"] == "no-store"
    request_uri = pushed.json()["request_uri"]
    assert request_uri.startswith("urn:ietf:params:oauth:request_uri:")
    browser = await house.visitor()
    page = await browser.get(url_of(client, request_uri))
    answer = answer_of(await browser.submit(page, decision="allow"))
    assert answer["state"] == STATE
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "email", "posts:read")
    again = answer_of(await browser.submit(page, decision="allow"))
    assert (again["error"], again["state"], again["iss"]) == ("invalid_request_uri", STATE, ISSUER)
    assert answer_of(await browser.get(url_of(client, request_uri)))["error"] == "invalid_request_uri"


async def test_a_reload_during_the_login_does_not_burn_the_request(house: House) -> None:
    client, secret = await house.client_and_secret(first_party=True)
    request_uri = (await push(house, client, secret)).json()["request_uri"]
    browser = house.browser()
    for _ in range(2):
        login_of(await browser.get(url_of(client, request_uri)))
    back, _ = login_of(await browser.get(url_of(client, request_uri)))
    house.clock.advance(minutes=10)  # the minute is for beginning; a login may take longer
    await browser.sign_in(await house.person())
    assert "code" in answer_of(await browser.get(back))


async def test_of_two_flows_of_one_request_only_one_gets_a_code(house: House) -> None:
    client, secret = await house.client_and_secret(first_party=True)
    request_uri = (await push(house, client, secret)).json()["request_uri"]
    first, second = await house.visitor(), await house.visitor("bob@example.org")
    assert "code" in answer_of(await first.get(url_of(client, request_uri)))
    assert answer_of(await second.get(url_of(client, request_uri)))["error"] == "invalid_request_uri"


async def test_a_request_that_is_old_goes_back_to_the_client_and_one_of_another_nowhere(house: House) -> None:
    client, secret = await house.client_and_secret()
    other = await house.client()
    request_uri = (await push(house, client, secret)).json()["request_uri"]
    browser = await house.visitor()
    foreign = await browser.get(url_of(other, request_uri))
    assert (foreign.status_code, "location" in foreign.headers) == (400, False)
    house.clock.advance(seconds=61)
    assert answer_of(await browser.get(url_of(client, request_uri)))["error"] == "invalid_request_uri"
    house.clock.advance(minutes=20)
    assert await house.pushed.sweep() == 1


async def test_only_client_id_and_request_uri_are_read_beside_a_pushed_request(house: House) -> None:
    client, secret = await house.client_and_secret(first_party=True)
    request_uri = (await push(house, client, secret, scope="openid")).json()["request_uri"]
    extra = urlencode({"scope": "openid files:write", "state": "other", "redirect_uri": "https://evil.example/"})
    answer = answer_of(await (await house.visitor()).get(f"{url_of(client, request_uri)}&{extra}"))
    assert answer["state"] == STATE
    assert (await house.redeem(client, answer["code"])).scopes == ("openid",)


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, 400, "invalid_request"),
        ({"redirect_uri": "https://evil.example/"}, 400, "invalid_request"),
        ({"scope": "nonsense"}, 400, "invalid_scope"),
        ({"response_type": "token"}, 400, "unsupported_response_type"),
        ({"resource": "https://unknown.example"}, 400, "invalid_target"),
        ({"code_challenge": None}, 400, "invalid_request"),
        ({"request": "x.y.z"}, 400, "request_not_supported"),
        ({"nonce": ["a", "b"]}, 400, "invalid_request"),
        ({"client_id": "another"}, 400, "invalid_request"),
    ],
)
async def test_a_bad_request_is_refused_when_it_is_pushed(
    house: House, changes: dict[str, Any], status: int, error: str
) -> None:
    client, secret = await house.client_and_secret()
    refused = await push(house, client, secret, **changes)
    assert (refused.status_code, refused.json()["error"]) == (status, error), refused.text
    assert refused.headers["cache-control"] == "no-store"


async def test_only_the_client_itself_may_push(house: House) -> None:
    client, _ = await house.client_and_secret()
    for secret in ("wrong", None):
        refused = await push(house, client, secret)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    public = await house.client("public")
    assert (await push(house, public, None)).status_code == 201


async def test_other_methods_and_large_bodies_are_refused(house: House) -> None:
    client, secret = await house.client_and_secret()
    http = house.browser().http
    assert (await http.get("/oauth/par")).status_code == 405
    assert (await push(house, client, secret, ignored="x" * 17_000)).status_code == 413


async def test_a_proof_binds_the_code_to_its_key(house: House) -> None:
    client, secret = await house.client_and_secret(first_party=True)
    key = DpopKey(house.clock)
    request_uri = (await push(house, client, secret, key.proof("/oauth/par"))).json()["request_uri"]
    answer = answer_of(await (await house.visitor()).get(url_of(client, request_uri)))
    assert (await house.redeem(client, answer["code"], key.jkt)).dpop_jkt == key.jkt
    refused = await push(house, client, secret, key.proof("/oauth/par"), dpop_jkt="a" * 43)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")
