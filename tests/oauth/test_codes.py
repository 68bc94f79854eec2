"""Authorization codes: used once, by whom they were made for, with what was promised (contract identity, sections 6.8 and 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.oauth.families.models import Family
from tests.oauth.grants_house import (
    API,
    ISSUER,
    REDIRECT_URI,
    VERIFIER,
    DpopKey,
    GrantsHouse,
    challenge_of,
    grants_house,
)


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


def refused(answer: Any, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"


async def test_a_code_with_its_verifier_becomes_tokens(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    answer = await house.redeem(app, await house.code(app, visitor))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    body = answer.json()
    assert {*body} == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 600, "posts:read posts:write")
    caller = await house.access_tokens.verify(body["access_token"])
    assert (caller.user_id, caller.session_id, caller.client_id) == (
        visitor.person.user_id,
        visitor.session_id,
        app.id,
    )
    assert caller.scopes == {"posts:read", "posts:write"}


async def test_neither_a_code_nor_a_refresh_token_is_kept_in_the_clear(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    body = (await house.redeem(app, code)).json()
    after = (await house.refresh(app, body["refresh_token"])).json()
    rows: list[Any] = []
    for table in ("auth_codes", "auth_families", "auth_events", "auth_revocations"):
        rows += await house.db.read(lambda tx, table=table: tx.fetch_all(f"SELECT * FROM {table}"))
    kept = b" ".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
    for token in (body["refresh_token"], after["refresh_token"]):
        envelope = house.families.read(token)
        assert envelope is not None
        assert envelope.jti.encode() not in kept
        assert token.encode() not in kept
    assert code.encode() not in kept
    assert after["access_token"].encode() not in kept


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        pytest.param({"code": "unknown"}, "invalid_grant", id="unknown code"),
        pytest.param({"code": None}, "invalid_request", id="no code"),
        pytest.param({"redirect_uri": None}, "invalid_grant", id="redirect URI left out"),
        pytest.param({"redirect_uri": REDIRECT_URI + "/"}, "invalid_grant", id="another redirect URI"),
        pytest.param({"code_verifier": None}, "invalid_grant", id="no verifier"),
        pytest.param({"code_verifier": "x" * 43}, "invalid_grant", id="wrong verifier"),
        pytest.param({"code_verifier": challenge_of(VERIFIER)}, "invalid_grant", id="the challenge as plain verifier"),
        pytest.param({"code_verifier": "x" * 42}, "invalid_request", id="42 characters"),
        pytest.param({"code_verifier": "x" * 129}, "invalid_request", id="129 characters"),
        pytest.param({"code_verifier": "ü" * 43}, "invalid_request", id="foreign characters"),
        pytest.param({"code_verifier": VERIFIER + "\n"}, "invalid_request", id="a line break at the end"),
        pytest.param({"resource": API}, "invalid_target", id="a resource that was not granted"),
    ],
)
async def test_what_does_not_fit_the_code_gets_no_token(house: GrantsHouse, sent: dict[str, Any], error: str) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    refused(await house.redeem(app, **{"code": code, **sent}), error)
    assert await house.heads() == []


@pytest.mark.parametrize("length", [43, 128])
async def test_a_verifier_of_the_shortest_and_of_the_longest_form_counts(house: GrantsHouse, length: int) -> None:
    app, visitor = await house.app(), await house.visitor()
    verifier = ("~.-_" + "a9Z" * 50)[:length]
    code = await house.code(app, visitor, code_challenge=challenge_of(verifier))
    assert (await house.redeem(app, code, code_verifier=verifier)).status_code == 200


async def test_a_wrong_verifier_burns_the_code(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    refused(await house.redeem(app, code, code_verifier="x" * 43), "invalid_grant")
    refused(await house.redeem(app, code), "invalid_grant")
    assert await house.heads() == []


async def test_a_verifier_without_a_challenge_is_a_downgrade(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor, code_challenge=None)
    refused(await house.redeem(app, code), "invalid_request")


async def test_a_redirect_uri_that_was_never_sent_need_not_come_now(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor, redirect_uri_sent=False)
    assert (await house.redeem(app, code, redirect_uri=None)).status_code == 200


async def test_another_client_gets_nothing_for_a_code_and_does_not_burn_it(house: GrantsHouse) -> None:
    app, other, visitor = await house.app(), await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    refused(await house.redeem(other, code), "invalid_grant")
    assert (await house.redeem(app, code)).status_code == 200


async def test_a_code_dies_after_its_minute(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    late, early = await house.code(app, visitor), await house.code(app, visitor)
    await house.pass_time(seconds=59.9)
    assert (await house.redeem(app, early)).status_code == 200
    await house.pass_time(seconds=0.1)
    refused(await house.redeem(app, late), "invalid_grant")


async def test_a_second_redemption_ends_everything_that_came_of_the_first(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    first = (await house.redeem(app, code)).json()
    refreshed = (await house.refresh(app, first["refresh_token"])).json()
    assert await house.is_active(app, first["access_token"])
    refused(await house.redeem(app, code), "invalid_grant")
    for token in (first["access_token"], refreshed["access_token"]):
        assert not await house.is_active(app, token)
    for token in (first["refresh_token"], refreshed["refresh_token"]):
        refused(await house.refresh(app, token), "invalid_grant")
    assert await house.events("auth.token.misused") == [("code_replayed", app.id)]
    # What the thief or the client does with it from now on is no news.
    refused(await house.redeem(app, code), "invalid_grant")
    assert await house.events("auth.token.misused") == [("code_replayed", app.id)]


async def test_a_replay_ends_an_access_token_that_came_without_a_refresh_token(house: GrantsHouse) -> None:
    app, visitor = await house.app(grant_types=["authorization_code"]), await house.visitor()
    code = await house.code(app, visitor)
    first = (await house.redeem(app, code)).json()
    assert "refresh_token" not in first
    assert await house.is_active(app, first["access_token"])
    refused(await house.redeem(app, code), "invalid_grant")
    assert not await house.is_active(app, first["access_token"])


async def test_of_fifty_parallel_redemptions_exactly_one_wins(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    answers = await asyncio.gather(*[house.redeem(app, code) for _ in range(50)])
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 49
    assert {answer.json()["error"] for answer in answers if answer.status_code == 400} == {"invalid_grant"}
    # The others were replays, so even the winner's tokens are gone.
    won = next(answer.json() for answer in answers if answer.status_code == 200)
    assert not await house.is_active(app, won["access_token"])
    assert await house.heads() == []


async def test_a_code_ends_with_the_session_that_consented(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    assert await house.sessions.revoke(visitor.person.user_id, visitor.session_id)
    refused(await house.redeem(app, code), "invalid_grant")


async def test_a_code_that_is_redeemed_while_its_session_ends_gives_no_living_family(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    codes = [await house.code(app, visitor) for _ in range(10)]
    answers = await asyncio.gather(
        *[house.redeem(app, code) for code in codes[:5]],
        house.sessions.revoke(visitor.person.user_id, visitor.session_id),
        *[house.redeem(app, code) for code in codes[5:]],
    )
    assert await house.heads() == []
    for answer in answers:
        if not isinstance(answer, bool) and answer.status_code == 200:
            assert not await house.is_active(app, answer.json()["access_token"])


async def test_a_code_ends_with_the_consent(house: GrantsHouse) -> None:
    app, other, visitor = await house.app(), await house.app(), await house.visitor()
    code, kept = await house.code(app, visitor), await house.code(other, visitor)
    user = visitor.person.user_id
    await house.sessions.announce(await house.db.write(lambda tx: house.families.revoke_grant(tx, user, app.id)))
    refused(await house.redeem(app, code), "invalid_grant")
    assert (await house.redeem(other, kept)).status_code == 200


async def test_a_code_ends_with_a_change_of_roles(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    await house.people.set_roles(visitor.person.user_id, ["user", "mod"])
    refused(await house.redeem(app, code), "invalid_grant")


async def test_a_code_bound_to_a_dpop_key_counts_with_that_key_alone(house: GrantsHouse) -> None:
    app, visitor = await house.app("public"), await house.visitor()
    key, other = DpopKey(house.clock), DpopKey(house.clock)
    refused(await house.redeem(app, await house.code(app, visitor, dpop_jkt=key.jkt)), "invalid_grant")
    code = await house.code(app, visitor, dpop_jkt=key.jkt)
    refused(await house.redeem(app, code, other.proof()), "invalid_grant")
    code = await house.code(app, visitor, dpop_jkt=key.jkt)
    body = (await house.redeem(app, code, key.proof())).json()
    assert body["token_type"] == "DPoP"


async def test_used_and_expired_codes_are_swept_a_day_later(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    await house.tokens(app, visitor)
    await house.code(app, visitor)
    await house.pass_time(hours=24)
    assert await house.codes.sweep() == 0
    await house.pass_time(minutes=2)
    await house.code(app, visitor)
    assert await house.codes.sweep() == 2


async def test_the_family_keeps_what_was_consented(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    body = await house.tokens(app, visitor, scopes=("posts:read",), resources=(ISSUER, API))
    family = await house.families.peek(body["refresh_token"], app.id)
    assert isinstance(family, Family)
    assert (family.scopes, family.resources) == (("posts:read",), (ISSUER, API))
    assert (family.user_id, family.session_id) == (visitor.person.user_id, visitor.session_id)
