"""The forgotten password and the change of an address: what a link opens, for whom, how often, and what nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.identity.errors import BadLink, EmailTaken, WrongCode
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.models import Person
from hapta.identity.people import NewPerson
from hapta.kit.errors import TooMany, ValidationFailed
from hapta.testing.clock import FakeClock
from tests.identity.message_house import ORIGIN, PASSWORD, MessageHouse, message_house, text_of, token_in

MAIL = "ada@example.com"
NEW_PASSWORD = "another horse, another battery"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MessageHouse]:
    async with message_house(database_url, tmp_path, clock) as house:
        yield house


async def forgot(house: MessageHouse, identifier: str = MAIL) -> str:
    await house.recovery.forgot(identifier, ORIGIN)
    return await house.mailed_token()


async def signs_in(house: MessageHouse, password: str, identifier: str = MAIL) -> bool:
    return await house.people.check_password(identifier, password) is not None


async def changed_address(house: MessageHouse, person: Person, address: str) -> str:
    """Changes the address as its owner would; the token of the undo link."""
    await house.recovery.change_email(house.caller(person), address, ORIGIN)
    await house.recovery.confirm_email(await house.mailed_token(), ORIGIN)
    return await house.mailed_token()


# --- the forgotten password ---


async def test_a_link_sets_a_new_password_and_ends_everything_and_signs_nobody_in(house: MessageHouse) -> None:
    person = await house.person()
    token = await forgot(house, "Ada@Example.com")
    assert await house.recovery.is_live("reset", token)
    await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)
    assert not await signs_in(house, PASSWORD)
    assert await signs_in(house, NEW_PASSWORD)
    last = house.changes[-1]
    assert (last.kind, last.ends, last.cause.keep_session) == ("password_reset", True, None)
    assert last.version == person.version + 1
    assert house.door.opened == []
    (mail,) = await house.delivered()
    assert "was replaced" in str(mail["subject"])
    assert await house.events() == ["auth.password.reset_requested"]


async def test_a_link_counts_once_also_when_two_use_it_at_once(house: MessageHouse) -> None:
    await house.person()
    token = await forgot(house)
    passwords = [f"{NEW_PASSWORD} {number}" for number in range(5)]
    found = await asyncio.gather(
        *[house.recovery.reset(token, password, ORIGIN) for password in passwords], return_exceptions=True
    )
    assert sorted(type(one) is BadLink for one in found) == [False, True, True, True, True]
    won = passwords[found.index(None)]
    assert await signs_in(house, won)
    with pytest.raises(BadLink):
        await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)


async def test_opening_a_link_uses_nothing_up(house: MessageHouse) -> None:
    await house.person()
    token = await forgot(house)
    for _ in range(3):
        assert await house.recovery.is_live("reset", token)
    await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)
    assert not await house.recovery.is_live("reset", token)


async def test_a_password_that_is_refused_leaves_the_link_alive(house: MessageHouse) -> None:
    await house.person()
    token = await forgot(house)
    with pytest.raises(ValidationFailed):
        await house.recovery.reset(token, "short", ORIGIN)
    await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)


async def test_a_link_ends_with_its_time(house: MessageHouse, clock: FakeClock) -> None:
    await house.person()
    token = await forgot(house)
    clock.set_back(seconds=31)
    assert not await house.recovery.is_live("reset", token)  # made in the future: a clock was wrong
    clock.advance(seconds=31 + 1799.999)
    assert await house.recovery.is_live("reset", token)
    clock.advance(seconds=0.001)
    with pytest.raises(BadLink):
        await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)


async def test_a_link_dies_when_the_password_changes_meanwhile(house: MessageHouse) -> None:
    person = await house.person()
    token = await forgot(house)
    await house.people.set_password(person.user_id, "my own new password", if_version=person.version)
    with pytest.raises(BadLink):
        await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)


async def test_a_reset_ends_the_other_links_and_codes_of_the_person(house: MessageHouse, clock: FakeClock) -> None:
    await house.person()
    first = await forgot(house)
    second = await forgot(house)
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    await house.recovery.reset(second, NEW_PASSWORD, ORIGIN)
    with pytest.raises(BadLink):
        await house.recovery.reset(first, PASSWORD, ORIGIN)
    with pytest.raises(WrongCode):
        await house.otp.confirm_login(MAIL, code, ORIGIN, house.door)


async def test_links_serve_their_own_purpose_alone(house: MessageHouse) -> None:
    person = await house.person()
    reset = await forgot(house)
    await house.recovery.change_email(house.caller(person), "new@example.com", ORIGIN)
    change = await house.mailed_token()
    for wrong_use in (
        house.recovery.confirm_email(reset, ORIGIN),
        house.recovery.undo_email(reset, ORIGIN),
        house.recovery.undo_email(change, ORIGIN),
        house.recovery.reset(change, NEW_PASSWORD, ORIGIN),
        house.recovery.reset("", NEW_PASSWORD, ORIGIN),
    ):
        with pytest.raises(BadLink):
            await wrong_use
    await house.recovery.confirm_email(change, ORIGIN)


async def test_whoever_opens_the_link_reads_the_address_so_it_is_verified(house: MessageHouse) -> None:
    """An account that somebody else made with the owner's address becomes the owner's."""
    await house.person(verified=False)
    await house.recovery.reset(await forgot(house), NEW_PASSWORD, ORIGIN)
    person = await house.people.find_by_login(MAIL)
    assert person is not None
    assert person.email_verified


async def test_nobody_and_the_banned_get_no_mail(house: MessageHouse) -> None:
    banned = await house.person("banned@example.com")
    await house.people.set_disabled(banned.user_id, True)
    for address in ("nobody@example.com", "banned@example.com"):
        await house.recovery.forgot(address, ORIGIN)
        assert await house.delivered() == []
    assert await house.events() == []


async def test_a_ban_between_mail_and_click_counts(house: MessageHouse) -> None:
    person = await house.person()
    token = await forgot(house)
    await house.people.set_disabled(person.user_id, True)
    with pytest.raises(BadLink):
        await house.recovery.reset(token, NEW_PASSWORD, ORIGIN)


async def test_three_links_a_minute_for_an_identifier_known_or_not(house: MessageHouse, clock: FakeClock) -> None:
    await house.person()
    for address in (MAIL, "nobody@example.com"):
        for _ in range(3):
            await house.recovery.forgot(address, ORIGIN)
        with pytest.raises(TooMany) as told:
            await house.recovery.forgot(address.upper(), ORIGIN)
        assert told.value.retry_after_seconds == 60
    clock.advance(minutes=1)
    await house.recovery.forgot(MAIL, ORIGIN)


async def test_tokens_stand_nowhere_as_they_are(house: MessageHouse) -> None:
    await house.person()
    token = await forgot(house)

    async def body(tx: Any) -> list[Any]:
        tables = ("auth_links_mailed", "auth_outbox", "auth_events")
        return [row for table in tables for row in await tx.fetch_all(f"SELECT * FROM {table}")]

    kept = repr(await house.db.read(body))
    assert token not in kept
    assert MAIL not in kept


# --- another address ---


async def test_an_address_changes_once_the_new_one_confirms(house: MessageHouse) -> None:
    person = await house.person()
    await house.recovery.change_email(house.caller(person), "New@Example.org", ORIGIN)
    (mail,) = await house.delivered()
    assert mail["to"] == "New@example.org"
    assert (await house.people.find(person.user_id)) == person
    changed = await house.recovery.confirm_email(token_in(text_of(mail)), ORIGIN)
    assert (changed.email, changed.email_verified) == ("New@example.org", True)
    (notice,) = await house.delivered()
    assert notice["to"] == MAIL


async def test_the_old_address_can_undo_it_for_three_days(house: MessageHouse, clock: FakeClock) -> None:
    person = await house.person()
    undo = await changed_address(house, person, "thief@example.org")
    clock.advance(hours=71)
    back = await house.recovery.undo_email(undo, ORIGIN)
    assert (back.email, back.email_verified) == (MAIL, True)
    assert house.changes[-1].ends
    reset = await house.mailed_token()
    await house.recovery.reset(reset, NEW_PASSWORD, ORIGIN)
    with pytest.raises(BadLink):
        await house.recovery.undo_email(undo, ORIGIN)


async def test_an_undo_that_another_owner_bars_counts_once_they_let_go(house: MessageHouse) -> None:
    person = await house.person()
    undo = await changed_address(house, person, "thief@example.org")
    other = await house.people.create(NewPerson(email=MAIL, email_verified=True, password=None))
    with pytest.raises(EmailTaken):
        await house.recovery.undo_email(undo, ORIGIN)
    await house.people.set_email(other.user_id, None, verified=False)
    assert (await house.recovery.undo_email(undo, ORIGIN)).email == MAIL


async def test_an_undo_comes_too_late_after_three_days(house: MessageHouse, clock: FakeClock) -> None:
    undo = await changed_address(house, await house.person(), "new@example.org")
    clock.advance(hours=72)
    with pytest.raises(BadLink):
        await house.recovery.undo_email(undo, ORIGIN)


async def test_an_undo_outlives_what_a_thief_does_next(house: MessageHouse, clock: FakeClock) -> None:
    """He changes the password and the address once more, and undoes his own change: the owner still gets it all back."""
    person = await house.person()
    owners = await changed_address(house, person, "thief@example.org")
    person = await house.people.set_password(person.user_id, "the thief's password", if_version=person.version)
    clock.advance(seconds=1)
    thiefs = await changed_address(house, person, "thief2@example.org")
    await house.recovery.undo_email(thiefs, ORIGIN)
    await house.delivered()
    back = await house.recovery.undo_email(owners, ORIGIN)
    assert back.email == MAIL


async def test_an_owners_undo_ends_the_undo_of_a_thief(house: MessageHouse, clock: FakeClock) -> None:
    person = await house.person()
    owners = await changed_address(house, person, "thief@example.org")
    clock.advance(seconds=1)
    thiefs = await changed_address(house, person, "thief2@example.org")
    await house.recovery.undo_email(owners, ORIGIN)
    with pytest.raises(BadLink):
        await house.recovery.undo_email(thiefs, ORIGIN)


async def test_links_sent_to_the_old_address_die_with_it(house: MessageHouse) -> None:
    person = await house.person()
    reset = await forgot(house)
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    await changed_address(house, person, "new@example.org")
    with pytest.raises(BadLink):
        await house.recovery.reset(reset, NEW_PASSWORD, ORIGIN)
    for identifier in (MAIL, "new@example.org"):
        with pytest.raises(WrongCode):
            await house.otp.confirm_login(identifier, code, ORIGIN, house.door)


async def test_an_address_of_somebody_else_is_told_to_its_owner_alone(house: MessageHouse) -> None:
    person = await house.person()
    await house.person("bob@example.com")
    await house.recovery.change_email(house.caller(person), "BOB@example.com", ORIGIN)
    (mail,) = await house.delivered()
    assert "already have an account" in str(mail["subject"])
    assert "token=" not in text_of(mail)


async def test_an_address_that_is_taken_meanwhile_is_not_given_twice(house: MessageHouse) -> None:
    person = await house.person()
    await house.recovery.change_email(house.caller(person), "new@example.org", ORIGIN)
    token = await house.mailed_token()
    await house.person("new@example.org")
    with pytest.raises(EmailTaken):
        await house.recovery.confirm_email(token, ORIGIN)


async def test_changing_the_address_needs_a_fresh_proof(house: MessageHouse) -> None:
    person = await house.person()
    with pytest.raises(StepUpRequired):
        await house.recovery.change_email(house.caller(person, proved_seconds_ago=331), "new@example.org", ORIGIN)


async def test_the_sweep_keeps_links_for_a_week_after_their_end(house: MessageHouse, clock: FakeClock) -> None:
    await house.person()
    await forgot(house)
    clock.advance(days=7)
    assert await house.recovery.sweep() == 0
    clock.advance(hours=1)
    assert await house.recovery.sweep() == 1
