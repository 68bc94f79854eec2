"""Recovery in bad company: squatted addresses, links that went elsewhere, a server that is too busy, and oracles in sign-up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.identity.errors import BadLink
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.models import Cause
from hapta.kit.errors import TooMany
from hapta.testing.clock import FakeClock
from tests.identity.message_house import ORIGIN, PASSWORD, PHONE, MessageHouse, code_in, message_house
from tests.identity.page_house import EMAIL, page_house

OLD, NEW, NEW_PASSWORD = "ada@example.com", "thief@example.net", "another horse, another battery"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MessageHouse]:
    async with message_house(database_url, tmp_path, clock) as house:
        yield house


async def undo_link(house: MessageHouse) -> str:
    """The link in the mail to the old address, after the address was changed."""
    person = await house.person(OLD)
    await house.recovery.change_email(house.caller(person), NEW, ORIGIN)
    await house.recovery.confirm_email(await house.mailed_token(), ORIGIN)
    return await house.mailed_token()


async def test_an_undo_gets_the_address_back_from_whoever_only_claims_it(house: MessageHouse) -> None:
    undo = await undo_link(house)
    squatter = await house.person(OLD, verified=False)
    back = await house.recovery.undo_email(undo, ORIGIN)
    assert (back.email, back.email_verified) == (OLD, True)
    left = await house.people.find(squatter.user_id)
    assert left is not None
    assert left.email is None
    assert await house.people.check_password(OLD, PASSWORD) is not None


async def test_a_link_for_a_new_password_dies_with_the_address_that_it_went_to(house: MessageHouse) -> None:
    person = await house.person(OLD)
    await house.recovery.forgot(OLD, ORIGIN)
    token = await house.mailed_token()
    # As in the race between a change of the address and a link that is being mailed: nobody has ended the link.
    await house.people.set_email(person.user_id, NEW, verified=True, cause=Cause(ORIGIN))
    with pytest.raises(BadLink):
        await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)
    assert await house.people.check_password(NEW, NEW_PASSWORD) is None


async def test_a_link_is_not_used_up_by_a_server_that_is_too_busy_to_hash(house: MessageHouse) -> None:
    await house.person(OLD)
    await house.recovery.forgot(OLD, ORIGIN)
    token = await house.mailed_token()
    passwords = house.people._passwords  # pyright: ignore[reportPrivateUsage] - its queue is filled by hand
    passwords._busy, busy = passwords._limit, passwords._busy  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(TooMany):
        await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)
    passwords._busy = busy  # pyright: ignore[reportPrivateUsage]
    await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)
    assert await house.people.check_password(OLD, NEW_PASSWORD) is not None


async def test_sign_up_says_the_same_of_taken_and_free_addresses_when_codes_are_used_up(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with page_house(database_url, tmp_path, clock) as house:
        await house.person()
        for number in range(20):  # the codes that one client address gets in an hour
            await house.otp.start_login(f"nobody{number}@example.com", ORIGIN)
        visitor = house.visitor()
        bodies = [{"email": email, "password": PASSWORD} for email in (EMAIL, "free@example.com")]
        answers = [await visitor.http.post("/identity/v1/register", json=body) for body in bodies]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json() | {"timestamp": ""} == answers[1].json() | {"timestamp": ""}


async def test_a_first_number_is_a_new_way_in_so_it_needs_a_fresh_proof(house: MessageHouse) -> None:
    person = await house.person(OLD)
    with pytest.raises(StepUpRequired):
        await house.otp.start_verify_phone(house.caller(person, proved_seconds_ago=400), PHONE, ORIGIN)
    assert await house.texted() == []
    await house.otp.start_verify_phone(house.caller(person, proved_seconds_ago=10), PHONE, ORIGIN)
    (text,) = await house.texted()
    # The proof was fresh when it began; typing the code may take its time.
    later = house.caller(person, proved_seconds_ago=400)
    changed = await house.otp.confirm_verify_phone(later, PHONE, code_in(text.partition("\n\n")[2]), ORIGIN)
    assert (changed.phone, changed.phone_verified) == (PHONE, True)
