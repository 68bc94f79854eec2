"""`POST /oauth/revoke`: a client gives up its own tokens and nobody else's (contract identity, section 11)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.oauth.grants_house import App, GrantsHouse, grants_house


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


async def revoke(house: GrantsHouse, app: App | None, token: str | None, **form: str) -> Any:
    return await house.post("/oauth/revoke", app, {"token": token, **form})


def done(answer: Any) -> None:
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["cache-control"] == "no-store"


def refused(answer: Any, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text


@pytest.mark.parametrize("hint", ["refresh_token", "access_token", "nonsense", None])
async def test_a_refresh_token_ends_with_all_that_came_of_it(house: GrantsHouse, hint: str | None) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    second = (await house.refresh(app, first["refresh_token"])).json()
    other = await house.tokens(app, visitor)
    assert await house.is_active(app, second["access_token"])
    done(await revoke(house, app, second["refresh_token"], **({} if hint is None else {"token_type_hint": hint})))
    for tokens in (first, second):
        refused(await house.refresh(app, tokens["refresh_token"]), "invalid_grant")
        assert not await house.is_active(app, tokens["access_token"])
    assert await house.is_active(app, other["access_token"])
    assert await house.events("auth.refresh.reuse_detected") == []


async def test_an_older_refresh_token_of_the_family_ends_it_as_well(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    second = (await house.refresh(app, first["refresh_token"])).json()
    done(await revoke(house, app, first["refresh_token"]))
    refused(await house.refresh(app, second["refresh_token"]), "invalid_grant")


async def test_an_access_token_takes_its_grant_with_it(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    assert await house.is_active(app, tokens["access_token"])
    done(await revoke(house, app, tokens["access_token"]))
    assert not await house.is_active(app, tokens["access_token"])
    refused(await house.refresh(app, tokens["refresh_token"]), "invalid_grant")


async def test_an_access_token_ends_alone_if_it_is_set_so(database_url: str, tmp_path: Path) -> None:
    async with grants_house(database_url, tmp_path, revocation_ends_grant=False) as house:
        app, visitor = await house.app(), await house.visitor()
        tokens = await house.tokens(app, visitor)
        assert await house.is_active(app, tokens["access_token"])
        done(await revoke(house, app, tokens["access_token"]))
        assert not await house.is_active(app, tokens["access_token"])
        after = (await house.refresh(app, tokens["refresh_token"])).json()
        assert await house.is_active(app, after["access_token"])


async def test_a_machine_gives_up_its_own_token(house: GrantsHouse) -> None:
    machine = await house.app("machine")
    one = (await house.token(machine, grant_type="client_credentials")).json()["access_token"]
    two = (await house.token(machine, grant_type="client_credentials")).json()["access_token"]
    assert await house.is_active(machine, one)
    done(await revoke(house, machine, one))
    assert not await house.is_active(machine, one)
    assert await house.is_active(machine, two)


async def test_a_public_client_names_itself(house: GrantsHouse) -> None:
    app, visitor = await house.app("public"), await house.visitor()
    tokens = await house.tokens(app, visitor)
    done(await revoke(house, app, tokens["refresh_token"]))
    refused(await house.refresh(app, tokens["refresh_token"]), "invalid_grant")


@pytest.mark.parametrize("token", ["x", "a.b.c", "x" * 9000, "e30.e30.e30"])
async def test_unknown_tokens_are_answered_like_known_ones(house: GrantsHouse, token: str) -> None:
    done(await revoke(house, await house.app(), token))


async def test_tokens_that_are_over_are_answered_like_living_ones(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    for _ in range(2):
        done(await revoke(house, app, tokens["refresh_token"]))
        done(await revoke(house, app, tokens["access_token"]))
    await house.pass_time(days=91)
    done(await revoke(house, app, tokens["refresh_token"]))
    done(await revoke(house, app, tokens["access_token"]))


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_a_token_of_another_client_is_refused_and_recorded_and_stays(house: GrantsHouse, kind: str) -> None:
    app, other, visitor = await house.app(), await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    refused(await revoke(house, other, tokens[kind]), "invalid_grant")
    assert await house.events("auth.token.misused") == [("revoked_by_another_client", app.id)]
    assert await house.is_active(app, tokens["access_token"])
    assert (await house.refresh(app, tokens["refresh_token"])).status_code == 200


async def test_an_id_token_cannot_be_revoked(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor, scopes=("openid",))
    refused(await revoke(house, app, tokens["id_token"]), "unsupported_token_type")


async def test_whoever_gives_up_a_token_must_prove_who_they_are(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    refused(await revoke(house, None, tokens["refresh_token"]), "invalid_client", 401)
    refused(await revoke(house, App(app.client, "wrong"), tokens["refresh_token"]), "invalid_client", 401)
    assert (await house.refresh(app, tokens["refresh_token"])).status_code == 200


async def test_the_form_is_checked(house: GrantsHouse) -> None:
    app = await house.app()
    refused(await revoke(house, app, None), "invalid_request")
    refused(await house.post("/oauth/revoke", app, [("token", "a"), ("token", "b")]), "invalid_request")
    answer = await house.http.post("/oauth/revoke", json={"token": "x"}, headers=app.auth())
    refused(answer, "invalid_request", 415)
    refused(await house.http.get("/oauth/revoke"), "invalid_request", 405)
