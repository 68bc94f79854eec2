"""Every row of the error table of contract identity, section 6: who is sent back to the client, and who is sent nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.db.database import WriteTx
from hapta.kit.errors import Unavailable
from hapta.oauth.models import Authorization
from tests.oauth.authorize_house import API, ISSUER, REDIRECT_URI, STATE, House, answer_of, authorize_house

FRAGMENT = f"{API}#part"
REDIRECTED: list[tuple[dict[str, Any], str]] = [
    ({"response_type": None}, "invalid_request"),
    ({"response_type": ""}, "invalid_request"),
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_type": "id_token"}, "unsupported_response_type"),
    ({"response_type": "code id_token"}, "unsupported_response_type"),
    ({"response_type": ["code", "code"]}, "invalid_request"),
    ({"response_mode": "fragment"}, "invalid_request"),
    ({"response_mode": ["query", "query"]}, "invalid_request"),
    ({"scope": "openid nonsense"}, "invalid_scope"),
    ({"scope": "files:read"}, "invalid_scope"),
    ({"scope": "admin:all"}, "invalid_scope"),
    ({"scope": 'openid "quoted"'}, "invalid_scope"),
    ({"scope": ["openid", "email"]}, "invalid_request"),
    ({"resource": "https://unknown.example"}, "invalid_target"),
    ({"resource": [API, "https://unknown.example"]}, "invalid_target"),
    ({"resource": FRAGMENT}, "invalid_target"),
    ({"resource": "not absolute"}, "invalid_target"),
    ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
    ({"request_uri": "https://app.example/request.jwt"}, "request_uri_not_supported"),
    ({"registration": "{}"}, "registration_not_supported"),
    ({"code_challenge": None}, "invalid_request"),
    ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": "s256"}, "invalid_request"),
    ({"code_challenge": "a" * 42}, "invalid_request"),
    ({"code_challenge": "a" * 44}, "invalid_request"),
    ({"code_challenge": "a" * 42 + "="}, "invalid_request"),
    ({"code_challenge": ["a" * 43, "a" * 43]}, "invalid_request"),
    ({"nonce": ["a", "b"]}, "invalid_request"),
    ({"nonce": "n" * 1025}, "invalid_request"),
    ({"prompt": "nonsense"}, "invalid_request"),
    ({"prompt": "none login"}, "invalid_request"),
    ({"max_age": "-1"}, "invalid_request"),
    ({"max_age": "soon"}, "invalid_request"),
    ({"dpop_jkt": "short"}, "invalid_request"),
    ({"id_token_hint": "not.a.token"}, "invalid_request"),
    ({"login_hint": "l" * 257}, "invalid_request"),
    ({"state": "s" * 4097}, "invalid_request"),
    ({"prompt": "none"}, "login_required"),
]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


def check_error(answer: dict[str, str], error: str, state: str | None = STATE) -> None:
    assert answer["error"] == error, answer
    assert answer["iss"] == ISSUER
    assert answer.get("state") == state
    assert "code" not in answer
    assert '"' not in answer["error_description"]
    assert answer["error_description"].isascii()


async def test_every_fault_behind_a_good_redirect_uri_is_told_to_the_client(house: House) -> None:
    client, browser = await house.client(), house.browser()
    for changes, error in REDIRECTED:
        answer = answer_of(await browser.get(house.url(client, **changes)))
        check_error(answer, error, changes.get("state", STATE))


async def test_a_fault_in_a_posted_request_is_told_to_the_client_as_well(house: House) -> None:
    client, browser = await house.client(), house.browser()
    response = await browser.http.post("/oauth/authorize", data=dict(house.parameters(client, scope="nonsense")))
    check_error(answer_of(response), "invalid_scope")


async def test_a_state_that_stands_twice_is_not_guessed_at(house: House) -> None:
    client = await house.client()
    answer = answer_of(await house.browser().get(house.url(client, state=["one", "two"])))
    check_error(answer, "invalid_request", state=None)


async def test_an_unknown_parameter_may_stand_as_often_as_it_likes(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client, foreign=["1", "2"], ui_locales="de"))
    assert page.status_code == 200


async def test_without_a_client_or_redirect_uri_that_is_known_nobody_is_sent_anywhere(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    two = await house.client(redirect_uris=[REDIRECT_URI, "https://app.example/other"])
    rows: list[dict[str, Any]] = [
        {"client_id": None},
        {"client_id": ""},
        {"client_id": "unknown"},
        {"client_id": [client.client_id, client.client_id]},
        {"redirect_uri": None},
        {"redirect_uri": "https://app.example/callback"},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": [REDIRECT_URI, REDIRECT_URI]},
        {"client_id": two.client_id, "redirect_uri": None, "scope": "posts:read"},
        {"request_uri": "urn:ietf:params:oauth:request_uri:unknown"},
        {"request_uri": ["urn:ietf:params:oauth:request_uri:a", "urn:ietf:params:oauth:request_uri:b"]},
    ]
    for mode in (None, "form_post"):
        for further in ({}, {"response_type": "token"}, {"scope": "openid nonsense"}, {"prompt": "none"}):
            for row in rows:
                response = await browser.get(house.url(client, response_mode=mode, **{**further, **row}))
                assert response.status_code == 400, (row, response.status_code)
                assert "location" not in response.headers
                assert response.headers["content-type"].startswith("text/html")
                assert "<form" not in response.text


async def test_parameters_that_cannot_be_read_end_on_a_page(house: House) -> None:
    client, browser = await house.client(), house.browser()
    for junk in ("&state=%ff", "&state=%zz", "&state=%00"):
        response = await browser.get(house.url(client, state=None) + junk)
        assert (response.status_code, "location" in response.headers) == (400, False), junk


async def test_a_client_without_this_grant_is_told_so(house: House) -> None:
    client = await house.client()
    changed = await house.change(client, grant_types=("client_credentials",), redirect_uris=(REDIRECT_URI,))
    check_error(answer_of(await house.browser().get(house.url(changed))), "unauthorized_client")


async def test_a_denial_is_told_to_the_client(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client))
    check_error(answer_of(await browser.submit(page, decision="deny")), "access_denied")
    assert await house.consents.find((await house.person()).user_id, client.client_id) is None


async def test_leaving_nothing_ticked_is_a_denial(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client, scope="posts:read email"))
    check_error(answer_of(await browser.submit(page, change={"scope": None}, decision="allow")), "access_denied")


async def test_prompt_none_never_shows_a_page(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    check_error(answer_of(await browser.get(house.url(client, prompt="none"))), "consent_required")
    ada = await house.person()
    await browser.submit(await browser.get(house.url(client)), decision="allow")
    assert "code" in answer_of(await browser.get(house.url(client, prompt="none")))
    check_error(answer_of(await browser.get(house.url(client, prompt="none", acr_values="2"))), "interaction_required")
    house.clock.advance(minutes=10)
    check_error(answer_of(await browser.get(house.url(client, prompt="none", max_age="60"))), "login_required")
    bob = await house.id_token(client, await house.person("bob@example.org"))
    check_error(answer_of(await browser.get(house.url(client, prompt="none", id_token_hint=bob))), "login_required")
    hint = await house.id_token(client, ada)
    assert "code" in answer_of(await browser.get(house.url(client, prompt="none", id_token_hint=hint)))


async def test_a_hint_of_another_client_or_another_kind_does_not_count(house: House) -> None:
    client, other, browser = await house.client(), await house.client(), await house.visitor()
    person = await house.person()
    for hint in (
        await house.id_token(other, person),
        await house.id_token(client, person, type="access"),
        await house.id_token(client, person, iss="https://elsewhere.example"),
    ):
        check_error(answer_of(await browser.get(house.url(client, id_token_hint=hint))), "invalid_request")
    expired = await house.id_token(client, person, exp=int(house.clock.now()) - 1)
    assert (await browser.get(house.url(client, id_token_hint=expired))).status_code == 200


class BrokenCodes:
    """Codes on a bad day."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def issue(self, tx: WriteTx, authorization: Authorization) -> str:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable(), "temporarily_unavailable"), (RuntimeError("a bug"), "server_error")]
)
async def test_a_fault_of_ours_is_told_to_the_client_without_its_cause(
    database_url: str, tmp_path: Path, error: Exception, code: str
) -> None:
    async with authorize_house(database_url, tmp_path, wrap_codes=lambda codes: BrokenCodes(error)) as house:
        client, browser = await house.client(), await house.visitor()
        page = await browser.get(house.url(client))
        answer = answer_of(await browser.submit(page, decision="allow"))
        check_error(answer, code)
        assert "bug" not in answer["error_description"]
        assert await house.consents.list((await house.person()).user_id) == []


async def test_where_requests_must_be_pushed_others_are_refused(database_url: str, tmp_path: Path) -> None:
    async with authorize_house(database_url, tmp_path) as house:
        client = await house.client(require_par=True)
        check_error(answer_of(await house.browser().get(house.url(client))), "invalid_request")
    async with authorize_house(database_url, tmp_path, require_par=True) as house:
        client = await house.client()
        check_error(answer_of(await house.browser().get(house.url(client))), "invalid_request")
