"""`POST /oauth/introspect`: who may ask, what is told, and that a revocation shows (contract identity, section 12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.oauth.jose import decode_object
from tests.oauth.grants_house import API, ISSUER, DpopKey, GrantsHouse, grants_house

JWT = "application/token-introspection+jwt"


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


def inactive(answer: Any) -> None:
    assert (answer.status_code, answer.content) == (200, b'{"active":false}')
    assert answer.headers["cache-control"] == "no-store"


async def test_a_client_is_told_of_its_own_token(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    answer = await house.introspect(app, tokens["access_token"])
    assert answer.headers["cache-control"] == "no-store"
    claims = decode_object(tokens["access_token"].split(".")[1])
    names = ("scope", "client_id", "exp", "iat", "nbf", "sub", "aud", "iss", "jti", "auth_time", "amr")
    told = {name: claims[name] for name in names}
    assert answer.json() == {"active": True, "token_type": "Bearer", **told}


async def test_a_resource_server_is_told_of_tokens_that_are_for_it_and_of_no_others(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    ours, theirs = await house.app("machine", resources=[API]), await house.app("machine")
    token = (await house.tokens(app, visitor, resources=(API,)))["access_token"]
    answer = (await house.introspect(ours, token)).json()
    assert (answer["active"], answer["aud"], answer["sid"]) == (True, API, visitor.session_id)
    elsewhere = await house.app("machine", resources=[ISSUER])
    inactive(await house.introspect(elsewhere, token))
    assert await house.is_active(theirs, token)  # it registered none, so it stands for all that this server knows


async def test_another_app_is_told_nothing(house: GrantsHouse) -> None:
    app, other, visitor = await house.app(), await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    inactive(await house.introspect(other, tokens["access_token"]))
    inactive(await house.introspect(other, tokens["refresh_token"]))


@pytest.mark.parametrize("kind", ["nobody", "public", "wrong secret"])
async def test_whoever_asks_must_prove_who_they_are(house: GrantsHouse, kind: str) -> None:
    app, public, visitor = await house.app(), await house.app("public"), await house.visitor()
    token = (await house.tokens(app, visitor))["access_token"]
    if kind == "public":
        answer = await house.introspect(public, token)
    elif kind == "nobody":
        answer = await house.post("/oauth/introspect", None, {"token": token})
    else:
        wrong = {"authorization": "Basic eDp5"}
        answer = await house.post("/oauth/introspect", None, {"token": token}, wrong)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_without_a_token_there_is_nothing_to_tell(house: GrantsHouse) -> None:
    answer = await house.post("/oauth/introspect", await house.app(), {})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("token", ["x", "a.b.c", "x" * 9000, "e30.e30.e30"])
async def test_garbage_is_inactive(house: GrantsHouse, token: str) -> None:
    inactive(await house.introspect(await house.app(), token))


async def test_tokens_of_other_kinds_and_changed_ones_are_inactive(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor, scopes=("openid", "offline_access"))
    inactive(await house.introspect(app, tokens["id_token"]))
    head, body, signature = tokens["access_token"].split(".")
    swapped = "A" if signature[0] != "A" else "B"
    inactive(await house.introspect(app, f"{head}.{body}.{swapped}{signature[1:]}"))
    _, other_body, _ = tokens["id_token"].split(".")
    inactive(await house.introspect(app, f"{head}.{other_body}.{signature}"))


async def test_an_access_token_ends_when_it_says(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    token = (await house.tokens(app, visitor))["access_token"]
    await house.pass_time(seconds=599)
    assert await house.is_active(app, token)
    await house.pass_time(seconds=1)
    assert not await house.is_active(app, token)


async def test_a_refresh_token_is_active_only_as_the_head(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    answer = (await house.introspect(app, first["refresh_token"])).json()
    assert (answer["active"], answer["scope"], answer["client_id"]) == (True, "posts:read posts:write", app.id)
    assert answer["exp"] == int(house.clock.now()) + 90 * 86_400
    second = (await house.refresh(app, first["refresh_token"])).json()
    inactive(await house.introspect(app, first["refresh_token"]))
    assert await house.is_active(app, second["refresh_token"])
    await house.sessions.revoke(visitor.person.user_id, visitor.session_id)
    inactive(await house.introspect(app, second["refresh_token"]))


async def test_a_bound_token_is_told_with_its_key(house: GrantsHouse) -> None:
    app, visitor, key = await house.app(), await house.visitor(), DpopKey(house.clock)
    tokens = await house.tokens(app, visitor, key.proof())
    answer = (await house.introspect(app, tokens["access_token"])).json()
    assert (answer["token_type"], answer["cnf"]) == ("DPoP", {"jkt": key.jkt})


async def test_a_machine_may_ask_about_its_own_token(house: GrantsHouse) -> None:
    machine = await house.app("machine")
    token = (await house.token(machine, grant_type="client_credentials")).json()["access_token"]
    answer = (await house.introspect(machine, token)).json()
    assert (answer["active"], answer["sub"]) == (True, machine.id)
    await house.clients.delete(machine.id)
    other = await house.app("machine")
    inactive(await house.introspect(other, token))


async def test_a_warm_answer_asks_no_database(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    token = (await house.tokens(app, visitor))["access_token"]
    assert await house.is_active(app, token)
    before = house.db.stats.reads, house.db.stats.writes
    for _ in range(5):
        assert await house.is_active(app, token)
    assert (house.db.stats.reads, house.db.stats.writes) == before


async def test_what_is_remembered_is_not_believed_while_revocations_cannot_be_heard(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    token = (await house.tokens(app, visitor))["access_token"]
    assert await house.is_active(app, token)
    house.clock.advance(seconds=3)  # the watch has not looked since
    before = house.db.stats.reads
    assert await house.is_active(app, token)
    assert house.db.stats.reads > before


async def test_an_emergency_revocation_of_the_key_ends_its_tokens(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    token = (await house.tokens(app, visitor))["access_token"]
    assert await house.is_active(app, token)
    await house.keys.revoke(decode_object(token.split(".")[0])["kid"])
    inactive(await house.introspect(app, token))


async def test_the_answer_can_be_a_signed_token_for_the_asker(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    token = (await house.tokens(app, visitor))["access_token"]
    for asked, active in ((token, True), ("x", False)):
        answer = await house.introspect(app, asked, {"accept": JWT})
        assert answer.headers["content-type"] == JWT
        header, claims = (decode_object(part) for part in answer.text.split(".")[:2])
        assert (header["typ"], header["alg"]) == ("token-introspection+jwt", "RS256")
        assert (claims["iss"], claims["aud"], claims["iat"]) == (ISSUER, app.id, int(house.clock.now()))
        assert claims["token_introspection"]["active"] is active
        assert not {"sub", "exp"} & {*claims}
        published = {key["kid"] for key in (await house.keys.jwks())["keys"]}
        assert header["kid"] in published


async def test_no_foreign_page_may_read_it(house: GrantsHouse) -> None:
    answer = await house.introspect(await house.app(), "x", {"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers
