"""Refresh tokens: rotated at every use, one head for each family, reuse ends it all (contract identity, section 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.identity.models import Cause
from hapta.kit.access import SessionId
from hapta.kit.tokens import Hs256Key, sign
from tests.oauth.grants_house import API, ISSUER, SECRET, App, DpopKey, GrantsHouse, Visitor, grants_house

DAY = 86_400


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


def refused(answer: Any, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text


async def rotated(house: GrantsHouse, app: App, token: str, **form: Any) -> dict[str, Any]:
    answer = await house.refresh(app, token, **form)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_use_gives_another_refresh_token(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    second = await rotated(house, app, first["refresh_token"])
    third = await rotated(house, app, second["refresh_token"])
    assert len({first["refresh_token"], second["refresh_token"], third["refresh_token"]}) == 3
    assert third["scope"] == "posts:read posts:write"
    for tokens in (first, second, third):
        assert await house.is_active(app, tokens["access_token"])
    assert [row[1] for row in await house.heads()] == [3]


async def test_inside_the_grace_window_the_parent_gets_the_same_successor(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    second = await rotated(house, app, first["refresh_token"])
    await house.pass_time(seconds=14.9)
    again = await rotated(house, app, first["refresh_token"])
    assert again["refresh_token"] == second["refresh_token"]
    assert again["access_token"] != second["access_token"]
    assert await house.is_active(app, again["access_token"])
    assert [row[1] for row in await house.heads()] == [2]
    assert (await rotated(house, app, second["refresh_token"]))["refresh_token"] != second["refresh_token"]


async def test_after_the_window_the_parent_is_reuse_and_ends_the_family(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    second = await rotated(house, app, first["refresh_token"])
    await house.pass_time(seconds=15)
    refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
    refused(await house.refresh(app, second["refresh_token"]), "invalid_grant")
    for tokens in (first, second):
        assert not await house.is_active(app, tokens["access_token"])
    assert await house.events("auth.refresh.reuse_detected") == [("refresh_token_reused", app.id)]
    refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
    assert len(await house.events("auth.refresh.reuse_detected")) == 1


async def test_a_grandparent_is_reuse_even_inside_the_window(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    second = await rotated(house, app, first["refresh_token"])
    third = await rotated(house, app, second["refresh_token"])
    refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
    refused(await house.refresh(app, third["refresh_token"]), "invalid_grant")
    assert len(await house.events("auth.refresh.reuse_detected")) == 1


async def test_without_a_window_the_parent_is_reuse_at_once(database_url: str, tmp_path: Path) -> None:
    async with grants_house(database_url, tmp_path, refresh_grace_seconds=0) as house:
        app, visitor = await house.app(), await house.visitor()
        first = await house.tokens(app, visitor)
        await rotated(house, app, first["refresh_token"])
        refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
        assert await house.heads() == []


async def test_reuse_in_one_family_leaves_the_others_alone(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    one, two = await house.tokens(app, visitor), await house.tokens(app, visitor)
    await rotated(house, app, one["refresh_token"])
    await house.pass_time(seconds=16)
    refused(await house.refresh(app, one["refresh_token"]), "invalid_grant")
    assert await house.is_active(app, two["access_token"])
    await rotated(house, app, two["refresh_token"])


async def test_fifty_parallel_calls_leave_one_head_and_fifty_usable_answers(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    answers = await asyncio.gather(*[house.refresh(app, first["refresh_token"]) for _ in range(50)])
    assert [answer.status_code for answer in answers] == [200] * 50
    bodies = [answer.json() for answer in answers]
    assert len({body["refresh_token"] for body in bodies}) == 1
    assert len({body["access_token"] for body in bodies}) == 50
    assert [row[1] for row in await house.heads()] == [2]
    for body in bodies:
        assert await house.is_active(app, body["access_token"])
    await rotated(house, app, bodies[0]["refresh_token"])


async def test_the_successor_is_erased_when_the_window_ends(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    await rotated(house, app, first["refresh_token"])

    async def sealed() -> list[Any]:
        rows = await house.db.read(lambda tx: tx.fetch_all("SELECT sealed_successor FROM auth_families"))
        return [row[0] for row in rows if row[0] is not None]

    await house.pass_time(seconds=14)
    assert (await house.families.erase_successors(), len(await sealed())) == (0, 1)
    await house.pass_time(seconds=1)
    assert (await house.families.erase_successors(), len(await sealed())) == (1, 0)


# --- what a refresh token is bound to ---


async def test_another_client_gets_nothing_and_ends_nothing(house: GrantsHouse) -> None:
    app, other, visitor = await house.app(), await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    refused(await house.refresh(other, first["refresh_token"]), "invalid_grant")
    await rotated(house, app, first["refresh_token"])
    refused(await house.refresh(other, first["refresh_token"]), "invalid_grant")
    assert len(await house.heads()) == 1


async def test_scopes_can_be_narrowed_for_one_token_and_never_widened(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor, scopes=("posts:read", "posts:write"))
    narrow = await rotated(house, app, first["refresh_token"], scope="posts:read")
    assert narrow["scope"] == "posts:read"
    assert (await house.access_tokens.verify(narrow["access_token"])).scopes == {"posts:read"}
    refused(await house.refresh(app, narrow["refresh_token"], scope="posts:read profile"), "invalid_scope")
    # The refusal used nothing up, and the grant is as wide as ever.
    assert (await rotated(house, app, narrow["refresh_token"]))["scope"] == "posts:read posts:write"


async def test_a_scope_that_the_client_lost_is_in_no_further_token(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    await house.clients.replace(msgspec.structs.replace(app.client, scopes=("posts:read",)))
    assert (await rotated(house, app, first["refresh_token"]))["scope"] == "posts:read"


async def test_the_resource_can_be_narrowed_and_is_the_audience(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor, resources=(ISSUER, API))
    found = await house.access_tokens.judge(first["access_token"])
    assert found is not None
    assert found.audience == {ISSUER}
    second = await rotated(house, app, first["refresh_token"], resource=API)
    found = await house.access_tokens.judge(second["access_token"])
    assert found is not None
    assert found.audience == {API}
    refused(await house.refresh(app, second["refresh_token"], resource="https://other.example"), "invalid_target")
    form = [("grant_type", "refresh_token"), ("refresh_token", second["refresh_token"])]
    both = [*form, ("resource", ISSUER), ("resource", API)]
    refused(await house.post("/oauth/token", app, both), "invalid_scope")
    await rotated(house, app, second["refresh_token"])


async def test_a_bound_family_is_refreshed_with_its_key_alone(house: GrantsHouse) -> None:
    app, visitor = await house.app("public"), await house.visitor()
    key, other = DpopKey(house.clock), DpopKey(house.clock)
    first = await house.tokens(app, visitor, key.proof())
    assert first["token_type"] == "DPoP"
    refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
    refused(await house.refresh(app, first["refresh_token"], other.proof()), "invalid_grant")
    answer = await house.refresh(app, first["refresh_token"], key.proof())
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP")
    # Inside the window as well.
    refused(await house.refresh(app, first["refresh_token"], other.proof()), "invalid_grant")
    refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
    again = await house.refresh(app, first["refresh_token"], key.proof())
    assert again.json()["refresh_token"] == answer.json()["refresh_token"]


# --- how long it lives ---


async def test_a_token_that_is_not_used_ends_and_use_keeps_it_alive(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    used, unused = await house.tokens(app, visitor), await house.tokens(app, visitor)
    await house.pass_time(days=29)
    used = await rotated(house, app, used["refresh_token"])
    await house.pass_time(days=1)
    refused(await house.refresh(app, unused["refresh_token"]), "invalid_grant")
    await house.pass_time(days=28)
    await rotated(house, app, used["refresh_token"])
    assert await house.events("auth.refresh.reuse_detected") == []


@pytest.mark.parametrize(("type_", "days"), [("confidential", 90), ("public", 1)])
async def test_no_use_carries_a_family_past_its_absolute_end(house: GrantsHouse, type_: str, days: int) -> None:
    app, visitor = await house.app(type_), await house.visitor()
    tokens = await house.tokens(app, visitor)
    for _ in range(9):
        await house.pass_time(days=days / 10)
        tokens = await rotated(house, app, tokens["refresh_token"])
    await house.pass_time(seconds=days * DAY / 10 - 5)
    last = await rotated(house, app, tokens["refresh_token"])
    assert last["expires_in"] <= 5
    await house.pass_time(seconds=5)
    refused(await house.refresh(app, last["refresh_token"]), "invalid_grant")


@pytest.mark.parametrize(
    ("metadata", "scopes", "due"),
    [
        ({}, ("posts:read",), True),
        ({}, ("openid", "posts:read"), False),
        ({}, ("openid", "offline_access"), True),
        ({"first_party": True}, ("openid",), True),
        ({"grant_types": ["authorization_code"]}, ("openid", "offline_access"), False),
    ],
)
async def test_a_refresh_token_is_given_where_it_is_due(
    house: GrantsHouse, metadata: dict[str, Any], scopes: tuple[str, ...], due: bool
) -> None:
    app, visitor = await house.app(**metadata), await house.visitor()
    assert ("refresh_token" in await house.tokens(app, visitor, scopes=scopes)) is due


# --- what ends it ---


async def log_out(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    assert await house.sessions.revoke(visitor.person.user_id, visitor.session_id)


async def withdraw_consent(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    user = visitor.person.user_id
    await house.sessions.announce(await house.db.write(lambda tx: house.families.revoke_grant(tx, user, app.id)))


async def change_roles(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.people.set_roles(visitor.person.user_id, ["user", "mod"])


async def ban(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.people.set_disabled(visitor.person.user_id, True)


async def delete_person(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    assert await house.people.delete(visitor.person.user_id)


async def end_all_sessions(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.sessions.revoke_all(visitor.person.user_id)


ENDINGS: list[Callable[[GrantsHouse, App, Visitor], Any]] = [
    log_out,
    withdraw_consent,
    change_roles,
    ban,
    delete_person,
    end_all_sessions,
]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_ends_a_grant_ends_its_tokens_also_those_in_grace(
    house: GrantsHouse, ending: Callable[[GrantsHouse, App, Visitor], Any]
) -> None:
    app, visitor = await house.app(), await house.visitor()
    bystander = await house.visitor("grace@example.org")
    kept = await house.tokens(app, bystander)
    first = await house.tokens(app, visitor)
    second = await rotated(house, app, first["refresh_token"])
    assert await house.is_active(app, second["access_token"])
    await ending(house, app, visitor)
    for tokens in (first, second):
        refused(await house.refresh(app, tokens["refresh_token"]), "invalid_grant")
        assert not await house.is_active(app, tokens["access_token"])
    assert await house.is_active(app, kept["access_token"])
    await rotated(house, app, kept["refresh_token"])
    assert await house.events("auth.refresh.reuse_detected") == []


async def test_a_deleted_client_leaves_no_token(house: GrantsHouse) -> None:
    app, machine, visitor = await house.app(), await house.app("machine"), await house.visitor()
    tokens = await house.tokens(app, visitor)
    assert await house.is_active(machine, tokens["access_token"])
    await house.clients.delete(app.id)
    refused(await house.refresh(app, tokens["refresh_token"]), "invalid_client", 401)
    assert not await house.is_active(machine, tokens["access_token"])
    assert await house.heads() == []


async def test_a_changed_password_ends_grants_also_of_the_session_that_stays(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    first = await house.tokens(app, visitor)
    cause = Cause(keep_session=SessionId(visitor.session_id))
    await house.people.set_password(
        visitor.person.user_id, "correct horse battery staple", if_version=visitor.person.version, cause=cause
    )
    refused(await house.refresh(app, first["refresh_token"]), "invalid_grant")
    assert not await house.is_active(app, first["access_token"])


async def test_a_session_that_merely_ran_out_does_not_end_the_grant(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor)
    await house.pass_time(days=20)  # the session's idle time is 14 days
    await house.sessions.sweep()
    tokens = await rotated(house, app, tokens["refresh_token"])
    await house.pass_time(days=20)
    await rotated(house, app, tokens["refresh_token"])


async def test_two_workers_rotate_one_family_together(database_url: str, tmp_path: Path) -> None:
    async with (
        grants_house(database_url, tmp_path) as one,
        grants_house(database_url, tmp_path, clock=one.clock) as two,
    ):
        app, visitor = await one.app(), await one.visitor()
        first = await one.tokens(app, visitor)
        calls = [worker.refresh(app, first["refresh_token"]) for worker in (one, two) for _ in range(10)]
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1
        assert len(await one.heads()) == 1
        # A logout at one of them is known to the other within two seconds, though both had the token in memory.
        access = answers[0].json()["access_token"]
        assert await one.is_active(app, access)
        assert await two.is_active(app, access)
        await one.sessions.revoke(visitor.person.user_id, visitor.session_id)
        await two.pass_time(seconds=1)
        assert not await one.is_active(app, access)
        assert not await two.is_active(app, access)


# --- garbage ---


@pytest.mark.parametrize("token", ["x", "a.b.c", "." * 20, "x" * 9000, "e30.e30.e30"])
async def test_garbage_is_refused_without_a_look_into_the_database(house: GrantsHouse, token: str) -> None:
    app = await house.app()
    await house.refresh(app, token)  # the client is known from here on
    before = house.db.stats.reads, house.db.stats.writes
    refused(await house.refresh(app, token), "invalid_grant")
    assert (house.db.stats.reads, house.db.stats.writes) == before


async def test_a_token_of_another_kind_is_no_refresh_token(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    tokens = await house.tokens(app, visitor, scopes=("openid", "offline_access"))
    refused(await house.refresh(app, tokens["access_token"]), "invalid_grant")
    refused(await house.refresh(app, tokens["id_token"]), "invalid_grant")
    forged = sign(
        {"type": "refresh", "sub": "x", "exp": 2**40, "jti": "x", "fam": "x", "n": 1, "client_id": app.id},
        Hs256Key("x", SECRET.encode()),
        typ="rt+jwt",
    )
    refused(await house.refresh(app, forged), "invalid_grant")


async def test_families_that_are_over_are_swept(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    await house.tokens(app, visitor)
    await house.pass_time(days=90)
    assert await house.families.sweep() == 0
    await house.pass_time(hours=2)
    assert await house.families.sweep() == 1
