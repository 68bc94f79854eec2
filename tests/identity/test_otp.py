"""One-time codes: who gets one, how often, how many guesses there are, and what a code is good for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.identity.errors import PhoneNotServed, PhoneTaken, WrongCode
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.models import Origin
from hapta.identity.otp.codes import Purpose, Target
from hapta.kit.errors import TooMany, ValidationFailed
from hapta.mail.file import FileSender
from hapta.settings import OtpSettings
from hapta.testing.clock import FakeClock
from tests.identity.message_house import (
    ORIGIN,
    PHONE,
    MessageHouse,
    code_in,
    message_house,
    text_of,
    wrong,
)

MAIL = "ada@example.com"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MessageHouse]:
    async with message_house(database_url, tmp_path, clock) as house:
        yield house


async def refused(house: MessageHouse, identifier: str, code: str) -> bool:
    try:
        await house.otp.confirm_login(identifier, code, ORIGIN, house.door)
    except WrongCode:
        return True
    return False


# --- signing in ---


async def test_a_mailed_code_signs_in_once(house: MessageHouse) -> None:
    person = await house.person()
    await house.otp.start_login("ADA@Example.com", ORIGIN)
    (mail,) = await house.delivered()
    code = code_in(text_of(mail))
    assert mail["to"] == MAIL
    assert re.fullmatch(r"\d{6}", code)
    signed_in = await house.otp.confirm_login(MAIL, f" {code[:3]} {code[3:]} ", ORIGIN, house.door)
    assert signed_in.person.user_id == person.user_id
    assert house.door.opened == [(person, ("otp",), "otp")]
    assert await refused(house, MAIL, code)


async def test_a_texted_code_signs_in_and_says_which_page_it_is_for(house: MessageHouse) -> None:
    await house.person(phone=PHONE)
    await house.otp.start_login("+49 1512 345 6789", ORIGIN)
    (text,) = await house.texted()
    code = code_in(text.partition("\n\n")[2])
    assert text.splitlines()[-1] == f"@id.example.com #{code}"
    await house.otp.confirm_login(PHONE, code, ORIGIN, house.door)
    assert house.door.opened[0][1] == ("otp", "sms")


async def test_unknown_disabled_and_unverified_ones_get_no_code_and_the_same_answer(house: MessageHouse) -> None:
    await house.person("unverified@example.com", verified=False)
    banned = await house.person("banned@example.com")
    await house.people.set_disabled(banned.user_id, True)
    for name in ("nobody", "unverified", "banned"):
        await house.otp.start_login(f"{name}@example.com", ORIGIN)
        assert await house.delivered() == []
        assert await refused(house, f"{name}@example.com", "000000")


async def test_a_code_dies_with_the_ban_of_its_person(house: MessageHouse) -> None:
    person = await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    await house.people.set_disabled(person.user_id, True)
    assert await refused(house, MAIL, code)
    assert house.door.opened == []


async def test_a_code_for_an_address_the_person_has_no_more_opens_nothing(house: MessageHouse) -> None:
    person = await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    await house.people.set_email(person.user_id, "new@example.com", verified=True)
    assert await refused(house, MAIL, code)


# --- guessing ---


async def test_five_guesses_at_once_are_five_guesses(
    house: MessageHouse, database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    """The race, over two workers: after five wrong guesses in parallel the right code is dead."""
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    async with message_house(database_url, tmp_path, clock) as other:
        guesses = [refused(worker, MAIL, wrong(code)) for worker in (house, other, house, other, house)]
        assert await asyncio.gather(*guesses) == [True] * 5
        assert await refused(other, MAIL, code)
    assert house.door.opened == []


async def test_of_many_who_guess_right_at_once_one_comes_in(house: MessageHouse) -> None:
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    outcomes = await asyncio.gather(*[refused(house, MAIL, code) for _ in range(5)])
    assert sorted(outcomes) == [False, True, True, True, True]
    assert len(house.door.opened) == 1


async def test_brute_force_in_parallel_gets_no_more_than_five_compared(house: MessageHouse) -> None:
    """A hundred guesses with the right one among the late: had more than five counted, it would come in."""
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    for _ in range(4):
        assert await refused(house, MAIL, wrong(code))
    await asyncio.gather(*[refused(house, MAIL, wrong(code)) for _ in range(20)])
    assert await refused(house, MAIL, code)


async def test_a_new_code_replaces_the_old_one_and_keeps_the_days_count_of_tries(
    house: MessageHouse, clock: FakeClock
) -> None:
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    first = await house.mailed_code()
    for _ in range(3):
        assert await refused(house, MAIL, wrong(first))
    clock.advance(seconds=60)
    await house.otp.start_login(MAIL, ORIGIN)
    second = await house.mailed_code()
    if first != second:
        assert await refused(house, MAIL, first)  # the fourth try
    else:
        assert await refused(house, MAIL, wrong(first))
    assert await refused(house, MAIL, wrong(second))  # the fifth
    assert await refused(house, MAIL, second)
    clock.advance(seconds=60)
    with pytest.raises(TooMany):
        await house.otp.start_login(MAIL, ORIGIN)
    clock.advance(days=1)
    await house.otp.start_login(MAIL, ORIGIN)
    assert not await refused(house, MAIL, await house.mailed_code())


async def test_wrong_tries_close_the_door_for_unknown_addresses_alike(house: MessageHouse, clock: FakeClock) -> None:
    await house.person()
    waits: list[float] = []
    for address in (MAIL, "nobody@example.com"):
        await house.otp.start_login(address, ORIGIN)
        await house.outbox.run()
        for guess in range(5):
            assert await refused(house, address, f"{guess:06}x")
        clock.advance(seconds=61)
        with pytest.raises(TooMany) as told:
            await house.otp.start_login(address, ORIGIN)
        waits.append(told.value.retry_after_seconds)
    assert waits[0] == waits[1]


async def test_guesses_without_a_code_asked_for_count_nothing(house: MessageHouse) -> None:
    """Nobody locks an owner out by guessing at a code that was never sent."""
    await house.person()
    for _ in range(10):
        assert await refused(house, MAIL, "123456")
    await house.otp.start_login(MAIL, ORIGIN)
    assert not await refused(house, MAIL, await house.mailed_code())


async def test_codes_are_in_no_table_in_a_form_that_a_copy_of_it_gives_away(house: MessageHouse) -> None:
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()

    async def body(tx: Any) -> list[Any]:
        rows = [*await tx.fetch_all("SELECT * FROM auth_otp"), *await tx.fetch_all("SELECT * FROM auth_outbox")]
        return [*rows, *await tx.fetch_all("SELECT * FROM auth_events")]

    kept = repr(await house.db.read(body))
    assert code not in kept
    assert MAIL not in kept
    (stored,) = await house.db.read(lambda tx: tx.fetch_all("SELECT code FROM auth_otp"))
    assert len(bytes(stored[0])) == 32


# --- what a code is good for ---


@pytest.mark.parametrize("meant", ["verify", "login", "mfa", "change"])
@pytest.mark.parametrize("used", ["verify", "login", "mfa", "change"])
async def test_a_code_serves_its_own_purpose_alone(house: MessageHouse, meant: Purpose, used: Purpose) -> None:
    person = await house.person()
    await house.person("bob@example.com")

    def target(purpose: Purpose) -> Target:
        return Target(purpose, "email", MAIL, None if purpose == "login" else person.user_id)

    for purpose in (meant,) if meant == used else (meant, used):
        await house.db.write(lambda tx, purpose=purpose: house.codes.begin(tx, target(purpose), ORIGIN))
    code = await house.db.write(lambda tx: house.codes.issue(tx, target(meant), person.user_id))
    assert code is not None
    found = await house.db.write(lambda tx: house.codes.check(tx, target(used), code))
    assert found == (person.user_id if meant == used else None)


async def test_a_code_is_bound_to_its_user_and_its_destination(house: MessageHouse) -> None:
    ada, bob = await house.person(), await house.person("bob@example.com")
    mine = Target("verify", "email", MAIL, ada.user_id)
    others = [mine._replace(subject=bob.user_id), mine._replace(destination="bob@example.com")]
    for target in (mine, *others):
        await house.db.write(lambda tx, target=target: house.codes.begin(tx, target, ORIGIN))
    code = await house.db.write(lambda tx: house.codes.issue(tx, mine, ada.user_id))
    assert code is not None
    for target in others:
        assert await house.db.write(lambda tx, target=target: house.codes.check(tx, target, code)) is None
    assert await house.db.write(lambda tx: house.codes.check(tx, mine, code)) == ada.user_id


async def test_a_mailed_code_of_eight_digits_by_setting(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    async with message_house(database_url, tmp_path, clock, OtpSettings(digits=8)) as house:
        await house.person(phone=PHONE)
        await house.otp.start_login(MAIL, ORIGIN)
        assert len(await house.mailed_code()) == 8
        await house.otp.start_login(PHONE, ORIGIN)
        (text,) = await house.texted()
        assert len(text.rpartition("#")[2].strip()) == 6


# --- time ---


@pytest.mark.parametrize(("identifier", "life_seconds"), [(MAIL, 600), (PHONE, 300)])
async def test_a_code_counts_to_the_end_of_its_life(
    house: MessageHouse, clock: FakeClock, identifier: str, life_seconds: int
) -> None:
    await house.person(phone=PHONE)
    for late in (False, True):
        await house.otp.start_login(identifier, ORIGIN)
        await house.outbox.run()
        (file,) = sorted(house.folder.glob("*"))[-1:]
        code = code_in(file.read_text().partition("\n\n")[2] if identifier == PHONE else file.read_text())
        clock.advance(seconds=life_seconds - (0 if late else 0.001))
        assert await refused(house, identifier, code) is late
        clock.advance(seconds=1)


async def test_a_clock_set_back_gives_a_code_no_longer_life(house: MessageHouse, clock: FakeClock) -> None:
    """Within the leeway between workers it counts, as their clocks differ; further back it was made in the future."""
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    code = await house.mailed_code()
    clock.set_back(seconds=31)
    assert await refused(house, MAIL, code)
    clock.advance(seconds=2)
    assert not await refused(house, MAIL, code)


async def test_a_clock_set_back_keeps_nobody_waiting_for_it(house: MessageHouse, clock: FakeClock) -> None:
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    clock.set_back(seconds=7200)
    await house.otp.start_login(MAIL, ORIGIN)
    assert not await refused(house, MAIL, await house.mailed_code())


async def test_a_code_that_could_not_be_sent_in_its_life_is_not_sent_later(
    house: MessageHouse, clock: FakeClock
) -> None:
    await house.person()
    await house.otp.start_login(MAIL, ORIGIN)
    clock.advance(seconds=601)
    assert await house.delivered() == []
    assert await house.outbox.waiting() == 0


# --- limits ---


async def test_the_next_code_comes_after_a_minute(house: MessageHouse, clock: FakeClock) -> None:
    for address in (MAIL, "nobody@example.com"):
        if address == MAIL:
            await house.person()
        await house.otp.start_login(address, ORIGIN)
        clock.advance(seconds=59)
        with pytest.raises(TooMany) as told:
            await house.otp.start_login(address, ORIGIN)
        assert told.value.retry_after_seconds == 1
        clock.advance(seconds=1)
        await house.otp.start_login(address, ORIGIN)


async def test_the_wait_for_text_messages_doubles(house: MessageHouse, clock: FakeClock) -> None:
    for gap in (60, 120, 240, 480):
        await house.otp.start_login(PHONE, ORIGIN)
        clock.advance(seconds=gap - 1)
        with pytest.raises(TooMany):
            await house.otp.start_login(PHONE, ORIGIN)
        clock.advance(seconds=1)
    await house.otp.start_login(PHONE, ORIGIN)


@pytest.mark.parametrize(("identifier", "per_day"), [(MAIL, 10), (PHONE, 5)])
async def test_a_destination_gets_so_many_codes_a_day(
    house: MessageHouse, clock: FakeClock, identifier: str, per_day: int
) -> None:
    for number in range(per_day):
        await house.otp.start_login(identifier, Origin(address=f"192.0.2.{number}"))
        clock.advance(minutes=30)
    with pytest.raises(TooMany):
        await house.otp.start_login(identifier, ORIGIN)
    clock.advance(days=1)
    await house.otp.start_login(identifier, ORIGIN)


@pytest.mark.parametrize(("form", "per_hour"), [("u{:03}@example.com", 20), ("+49151234560{:02}", 10)])
async def test_a_client_address_asks_for_so_many_codes_an_hour(
    house: MessageHouse, clock: FakeClock, form: str, per_hour: int
) -> None:
    """All of one IPv6 network count together, since one customer has them all."""
    for number in range(per_hour):
        await house.otp.start_login(form.format(number), Origin(address=f"2001:db8::{number:x}"))
    with pytest.raises(TooMany):
        await house.otp.start_login(form.format(98), Origin(address="2001:db8::ffff"))
    await house.otp.start_login(form.format(98), Origin(address="2001:db8:0:1::1"))
    clock.advance(hours=1)
    await house.otp.start_login(form.format(99), Origin(address="2001:db8::ffff"))


async def test_requests_at_once_get_one_code(house: MessageHouse) -> None:
    await house.person()
    found = await asyncio.gather(*[house.otp.start_login(MAIL, ORIGIN) for _ in range(5)], return_exceptions=True)
    assert sorted(type(one) is TooMany for one in found) == [False, True, True, True, True]
    assert len(await house.delivered()) == 1


async def test_a_refused_request_uses_up_no_budget(house: MessageHouse, clock: FakeClock) -> None:
    await house.otp.start_login(MAIL, ORIGIN)
    for _ in range(30):
        with pytest.raises(TooMany):
            await house.otp.start_login(MAIL, ORIGIN)
    await house.otp.start_login("other@example.com", ORIGIN)


# --- phones ---


async def test_texts_go_to_listed_countries_and_ordinary_numbers_alone(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with message_house(database_url, tmp_path, clock, OtpSettings(phone_countries=("de", "AT"))) as house:
        await house.otp.start_login(PHONE, ORIGIN)
        for number in ("+12015550123", "+499001234567"):  # another country; premium rate
            with pytest.raises(PhoneNotServed):
                await house.otp.start_login(number, ORIGIN)
        with pytest.raises(ValidationFailed):
            await house.otp.start_login("+49", ORIGIN)


async def test_a_block_of_numbers_gets_so_many_texts_an_hour_and_nobody_is_told(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with message_house(database_url, tmp_path, clock, OtpSettings(phone_prefix_per_hour=2)) as house:
        numbers = [f"+4915123456{n:03}" for n in range(3)] + ["+4917612345678"]
        for n, number in enumerate(numbers):
            await house.person(f"p{n}@example.com", phone=number)
            await house.otp.start_login(number, ORIGIN)
        texted = {text.partition("\n")[0].removeprefix("To: ") for text in await house.texted()}
        # Which two of the block is left to chance: the outbox does what is due side by side.
        assert (len(texted), len(texted & set(numbers[:3])), numbers[3] in texted) == (3, 2, True)


async def test_the_day_has_so_many_texts_for_everybody(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    async with message_house(database_url, tmp_path, clock, OtpSettings(phone_total_per_day=1)) as house:
        for n, number in enumerate((PHONE, "+4917612345678")):
            await house.person(f"p{n}@example.com", phone=number)
            await house.otp.start_login(number, ORIGIN)
        assert len(await house.texted()) == 1
        clock.advance(days=1)
        await house.otp.start_login(PHONE, ORIGIN)
        assert len(await house.texted()) == 1


async def test_without_a_provider_no_number_is_served(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    mail_only = FileSender(tmp_path / "outbox", clock, "no-reply@example.com")
    async with message_house(database_url, tmp_path, clock, senders={"email": mail_only}) as house:
        with pytest.raises(PhoneNotServed):
            await house.otp.start_login(PHONE, ORIGIN)


# --- verification ---


async def test_an_address_is_verified_by_its_code(house: MessageHouse) -> None:
    person = await house.person(verified=False)
    caller = house.caller(person)
    await house.otp.start_verify_email(caller, ORIGIN)
    code = await house.mailed_code()
    with pytest.raises(WrongCode):
        await house.otp.confirm_verify_email(caller, wrong(code), ORIGIN)
    changed = await house.otp.confirm_verify_email(caller, code, ORIGIN)
    assert changed.email_verified
    assert house.changes[-1].kind == "email_verified"
    assert house.changes[-1].cause.origin == ORIGIN
    await house.otp.start_verify_email(caller, ORIGIN)
    assert await house.delivered() == []


async def test_a_code_verifies_no_address_that_came_later(house: MessageHouse) -> None:
    person = await house.person(verified=False)
    await house.otp.start_verify_email(house.caller(person), ORIGIN)
    code = await house.mailed_code()
    await house.people.set_email(person.user_id, "victim@example.com", verified=False)
    with pytest.raises(WrongCode):
        await house.otp.confirm_verify_email(house.caller(person), code, ORIGIN)


async def test_a_number_becomes_the_accounts_by_its_code(house: MessageHouse) -> None:
    person = await house.person()
    caller = house.caller(person, proved_seconds_ago=299)
    await house.otp.start_verify_phone(caller, "+49 1512 3456789", ORIGIN, "de")
    (text,) = await house.texted()
    assert "bestätigt deine Nummer" in text
    with pytest.raises(WrongCode):
        await house.otp.confirm_verify_phone(caller, "+4917612345678", text.rpartition("#")[2].strip(), ORIGIN)
    changed = await house.otp.confirm_verify_phone(caller, PHONE, text.rpartition("#")[2].strip(), ORIGIN)
    assert (changed.phone, changed.phone_verified) == (PHONE, True)


async def test_replacing_a_number_needs_a_fresh_proof_and_tells_the_owner(house: MessageHouse) -> None:
    person = await house.person(phone=PHONE)
    new = "+4917612345678"
    with pytest.raises(StepUpRequired):
        await house.otp.start_verify_phone(house.caller(person, proved_seconds_ago=331), new, ORIGIN)
    caller = house.caller(person, proved_seconds_ago=299)
    await house.otp.start_verify_phone(caller, new, ORIGIN)
    (text,) = await house.texted()
    await house.otp.confirm_verify_phone(caller, new, text.rpartition("#")[2].strip(), ORIGIN)
    (mail,) = await house.delivered()
    assert "…78" in text_of(mail)
    assert new not in text_of(mail)


async def test_a_number_of_somebody_else_is_told_to_who_holds_it_alone(house: MessageHouse) -> None:
    await house.person("owner@example.com", phone=PHONE)
    person = await house.person()
    caller = house.caller(person)
    await house.otp.start_verify_phone(caller, PHONE, ORIGIN)
    (text,) = await house.texted()
    with pytest.raises(PhoneTaken):
        await house.otp.confirm_verify_phone(caller, PHONE, text.rpartition("#")[2].strip(), ORIGIN)


# --- second factor ---


async def test_a_code_is_a_second_factor_over_verified_ways_alone(house: MessageHouse) -> None:
    person = await house.person(phone=PHONE)
    bare = await house.person("bare@example.com", verified=False)
    assert await house.otp.mfa_channels(person.user_id) == ["sms", "email"]
    assert await house.otp.mfa_channels(bare.user_id) == []
    await house.otp.start_mfa(person.user_id, "email", ORIGIN)
    code = await house.mailed_code()
    with pytest.raises(WrongCode):
        await house.otp.confirm_mfa(person.user_id, "sms", code)
    assert await house.otp.confirm_mfa(person.user_id, "email", code) == ("otp",)


# --- upkeep ---


async def test_the_sweep_takes_what_no_limit_needs(house: MessageHouse, clock: FakeClock) -> None:
    await house.otp.start_login(MAIL, ORIGIN)
    assert await house.codes.sweep() == 0
    clock.advance(days=3)
    assert await house.codes.sweep() == 3  # the code, the destination's budget, the client address's budget
    assert await house.codes.sweep() == 0
