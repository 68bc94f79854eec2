"""Whatever ends an authorization wins against whatever is being made of it at the same moment, in either order.

Each round lets the two run at once on connections of their own; afterwards nothing of the authorization may be alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from hapta.identity.models import Cause, Origin
from tests.oauth.grants_house import ISSUER, App, GrantsHouse, Visitor, grants_house

ROUNDS = 4
SCOPES = ("posts:read", "posts:write")
End = Callable[[GrantsHouse, App, Visitor], Awaitable[object]]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


async def consented(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.db.write(
        lambda tx: house.consents.allow(
            tx,
            visitor.person.user_id,
            app.client,
            scopes=SCOPES,
            refused=(),
            resources=(ISSUER,),
            origin=Origin(),
        )
    )


async def withdraw(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.consents.withdraw(visitor.person.user_id, app.id, Origin())


async def sign_out(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.sessions.revoke(visitor.person.user_id, visitor.session_id)


async def change_password(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    person = await house.people.find(visitor.person.user_id)
    assert person is not None
    await house.people.set_password(
        person.user_id, "quite another long password", if_version=person.version, cause=Cause()
    )


async def ban(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.people.set_disabled(visitor.person.user_id, True)


async def delete(house: GrantsHouse, app: App, visitor: Visitor) -> None:
    await house.people.delete(visitor.person.user_id)


ENDS = [withdraw, sign_out, change_password, ban, delete]


async def is_dead(house: GrantsHouse, app: App, answer: httpx.Response) -> None:
    """Nothing that an answer of the token endpoint holds counts, and nothing in the database does."""
    if answer.status_code == 200:
        tokens = answer.json()
        assert not await house.is_active(app, tokens["access_token"])
        assert not await house.is_active(app, tokens["refresh_token"])
        assert (await house.refresh(app, tokens["refresh_token"])).json()["error"] == "invalid_grant"
    else:
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("end", ENDS)
async def test_a_code_that_is_redeemed_while_its_authorization_ends_gives_nothing_that_lives(
    house: GrantsHouse, end: End
) -> None:
    app = await house.app()
    for number in range(ROUNDS):
        visitor = await house.visitor(f"ada{number}@example.org")
        await consented(house, app, visitor)
        code = await house.code(app, visitor)
        answer, _ = await asyncio.gather(house.redeem(app, code), end(house, app, visitor))
        await is_dead(house, app, answer)
        assert (await house.redeem(app, code)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("end", ENDS)
async def test_a_refresh_while_the_authorization_ends_gives_nothing_that_lives(house: GrantsHouse, end: End) -> None:
    app = await house.app()
    for number in range(ROUNDS):
        visitor = await house.visitor(f"ada{number}@example.org")
        await consented(house, app, visitor)
        tokens = await house.tokens(app, visitor)
        answers = await asyncio.gather(
            house.refresh(app, tokens["refresh_token"]),
            house.refresh(app, tokens["refresh_token"]),
            end(house, app, visitor),
        )
        for answer in answers[:2]:
            assert isinstance(answer, httpx.Response)
            await is_dead(house, app, answer)


async def test_a_code_is_worth_one_family_at_most_and_none_once_it_came_twice(house: GrantsHouse) -> None:
    app = await house.app()
    for number in range(ROUNDS):
        visitor = await house.visitor(f"ada{number}@example.org")
        code = await house.code(app, visitor)
        answers = await asyncio.gather(*[house.redeem(app, code) for _ in range(8)])
        won = [answer for answer in answers if answer.status_code == 200]
        assert len(won) == 1
        await is_dead(house, app, won[0])
