"""One-time passwords and recovery codes: every rule, on each engine."""

from __future__ import annotations

from base64 import b32decode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.db.database import ReadTx
from hapta.identity.errors import WrongCode
from hapta.identity.factors.errors import FactorExists, FactorNotFound, StepUpRequired
from hapta.identity.factors.service import MAX_TRIES, RECOVERY_CODES
from hapta.identity.models import SecondFactorNeeded, SignedIn
from hapta.kit.errors import InvalidToken, TooMany
from hapta.testing.clock import FakeClock
from tests.identity.conftest import outcomes
from tests.identity.factor_house import WHENCE, FactorHouse, factor_house
from tests.identity.message_house import code_in, wrong

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as opened:
        yield opened


async def test_an_app_asks_for_nothing_until_it_is_confirmed(house: FactorHouse) -> None:
    person = await house.person()
    factors, caller = house.identity.factors, await house.caller(person)
    await factors.begin_totp(caller)
    assert await factors.methods(person.user_id) == ()
    assert isinstance(await house.sign_in(person), SignedIn)


async def test_a_confirmed_app_is_asked_for_at_the_next_sign_in(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    outcome = await house.sign_in(person)
    assert isinstance(outcome, SecondFactorNeeded)
    assert outcome.methods == ("totp", "recovery_code")
    signed_in = await house.identity.factors.second(outcome.token, house.code(secret), WHENCE)
    caller = await house.verified(signed_in)
    assert set(caller.amr) == {"pwd", "otp", "mfa"}


async def test_the_secret_that_waits_is_the_one_that_was_shown(house: FactorHouse) -> None:
    caller = await house.caller(await house.person())
    factors = house.identity.factors
    assert await factors.pending_totp(caller) is None
    begun = await factors.begin_totp(caller)
    assert await factors.pending_totp(caller) == begun
    again = await factors.begin_totp(caller)
    assert again.secret != begun.secret
    with pytest.raises(WrongCode):
        await factors.confirm_totp(caller, house.code(begun.secret), WHENCE)


async def test_an_app_that_is_set_up_is_not_replaced_without_being_removed(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    caller = await house.caller(person)
    with pytest.raises(FactorExists):
        await house.identity.factors.begin_totp(caller)
    with pytest.raises(FactorNotFound):
        await house.identity.factors.confirm_totp(caller, "123456", WHENCE)


@pytest.mark.parametrize("steps", [-1, 0, 1])
async def test_a_code_of_a_clock_half_a_minute_off_counts(house: FactorHouse, steps: int) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    house.clock.advance(minutes=2)
    token = await house.needed(person)
    signed_in = await house.identity.factors.second(token, house.code(secret, steps=steps), WHENCE)
    assert signed_in.person.user_id == person.user_id


@pytest.mark.parametrize("steps", [-2, 2])
async def test_a_code_of_a_clock_a_minute_off_does_not_count(house: FactorHouse, steps: int) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    house.clock.advance(minutes=2)
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), house.code(secret, steps=steps), WHENCE)


async def test_a_code_counts_once(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    code = house.code(secret)
    await house.identity.factors.second(await house.needed(person), code, WHENCE)
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), code, WHENCE)


async def test_the_code_that_confirmed_an_app_does_not_sign_in(house: FactorHouse) -> None:
    person = await house.person()
    caller = await house.caller(person)
    begun = await house.identity.factors.begin_totp(caller)
    code = house.code(begun.secret)
    await house.identity.factors.confirm_totp(caller, code, WHENCE)
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), code, WHENCE)


async def test_after_a_later_code_an_earlier_one_counts_no_more(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    house.clock.advance(minutes=2)
    await house.identity.factors.second(await house.needed(person), house.code(secret, steps=1), WHENCE)
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), house.code(secret), WHENCE)


async def test_of_two_sign_ins_with_one_code_at_once_one_gets_in(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    tokens = [await house.needed(person) for _ in range(4)]
    found = await outcomes([house.identity.factors.second(one, house.code(secret), WHENCE) for one in tokens])
    assert sorted(type(one).__name__ for one in found) == ["SignedIn", "WrongCode", "WrongCode", "WrongCode"]


async def test_a_half_done_sign_in_ends_once(house: FactorHouse) -> None:
    person = await house.person()
    secret, codes = await house.enrolled(person)
    token = await house.needed(person)
    await house.identity.factors.second(token, house.code(secret), WHENCE)
    with pytest.raises(InvalidToken):
        await house.identity.factors.second(token, codes[0], WHENCE)


async def test_a_half_done_sign_in_ends_after_ten_minutes(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    token = await house.needed(person)
    house.clock.advance(minutes=10, seconds=1)
    with pytest.raises(InvalidToken):
        await house.identity.factors.second(token, house.code(secret), WHENCE)


async def test_a_half_done_sign_in_is_no_session(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    with pytest.raises(InvalidToken):
        await house.identity.core.sessions.verify(await house.needed(person))


async def test_five_wrong_codes_close_the_way_for_five_minutes(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    token = await house.needed(person)
    for _ in range(MAX_TRIES):
        with pytest.raises(WrongCode):
            await house.identity.factors.second(token, wrong(house.code(secret)), WHENCE)
    with pytest.raises(TooMany) as refused:
        await house.identity.factors.second(token, house.code(secret), WHENCE)
    assert 1 <= refused.value.retry_after_seconds <= 300
    house.clock.advance(minutes=5, seconds=1)
    assert await house.identity.factors.second(token, house.code(secret), WHENCE)


async def test_parallel_guesses_are_guesses(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    token = await house.needed(person)
    guesses = [wrong(house.code(secret))] * 12
    found = await outcomes([house.identity.factors.second(token, one, WHENCE) for one in guesses])
    kinds = [type(one).__name__ for one in found]
    assert (kinds.count("WrongCode"), kinds.count("TooMany")) == (MAX_TRIES, 12 - MAX_TRIES)


async def test_recovery_codes_are_guessed_from_the_same_budget(house: FactorHouse) -> None:
    person = await house.person()
    _, codes = await house.enrolled(person)
    token = await house.needed(person)
    for guess in ("000000", "aaaaa-aaaaa", "111111", "bbbbb-bbbbb", "222222"):
        with pytest.raises(WrongCode):
            await house.identity.factors.second(token, guess, WHENCE)
    with pytest.raises(TooMany):
        await house.identity.factors.second(token, codes[0], WHENCE)


async def test_wrong_codes_while_setting_up_are_counted_too(house: FactorHouse) -> None:
    caller = await house.caller(await house.person())
    begun = await house.identity.factors.begin_totp(caller)
    for _ in range(MAX_TRIES):
        with pytest.raises(WrongCode):
            await house.identity.factors.confirm_totp(caller, wrong(house.code(begun.secret)), WHENCE)
    with pytest.raises(TooMany):
        await house.identity.factors.confirm_totp(caller, house.code(begun.secret), WHENCE)


async def test_a_right_code_forgets_the_wrong_ones(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    for _ in range(3):
        token = await house.needed(person)
        for _ in range(MAX_TRIES - 1):
            with pytest.raises(WrongCode):
                await house.identity.factors.second(token, wrong(house.code(secret)), WHENCE)
        assert await house.identity.factors.second(token, house.code(secret), WHENCE)
        house.clock.advance(seconds=30)


@pytest.mark.parametrize("code", ["", " ", "١٢٣٤٥٦", "12345", "1234567", "ähnlich-nein", "\x00\x00\x00\x00\x00\x00", "-" * 64])  # fmt: skip
async def test_what_is_no_code_is_a_wrong_code(house: FactorHouse, code: str) -> None:
    person = await house.person()
    caller = await house.caller(person)
    await house.identity.factors.begin_totp(caller)
    with pytest.raises(WrongCode):
        await house.identity.factors.confirm_totp(caller, code, WHENCE)
    person = await house.person("bob@example.com")
    await house.enrolled(person)
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), code, WHENCE)


async def test_codes_may_be_typed_with_blanks_hyphens_and_capitals(house: FactorHouse) -> None:
    person = await house.person()
    caller = await house.caller(person)
    begun = await house.identity.factors.begin_totp(caller)
    code = house.code(begun.secret)
    _, codes = await house.identity.factors.confirm_totp(caller, f" {code[:3]} {code[3:]} ", WHENCE)
    token = await house.needed(person)
    assert await house.identity.factors.second(token, codes[0].upper().replace("-", " "), WHENCE)


async def test_ten_recovery_codes_of_fifty_bits_come_with_the_app(house: FactorHouse) -> None:
    person = await house.person()
    _, codes = await house.enrolled(person)
    assert len(set(codes)) == RECOVERY_CODES == 10
    assert all(len(code.replace("-", "")) == 10 for code in codes)
    assert (await house.identity.factors.factors(person.user_id)).recovery_codes_left == 10


async def test_a_recovery_code_counts_once(house: FactorHouse) -> None:
    person = await house.person()
    _, codes = await house.enrolled(person)
    signed_in = await house.identity.factors.second(await house.needed(person), codes[3], WHENCE)
    assert "mfa" in (await house.verified(signed_in)).amr
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), codes[3], WHENCE)
    assert (await house.identity.factors.factors(person.user_id)).recovery_codes_left == 9


async def test_of_racing_sign_ins_with_one_recovery_code_one_gets_in(house: FactorHouse) -> None:
    person = await house.person()
    _, codes = await house.enrolled(person)
    tokens = [await house.needed(person) for _ in range(5)]
    found = await outcomes([house.identity.factors.second(one, codes[0], WHENCE) for one in tokens])
    assert sorted(type(one).__name__ for one in found) == ["SignedIn", *["WrongCode"] * 4]


async def test_a_recovery_code_of_somebody_else_opens_nothing(house: FactorHouse) -> None:
    person, other = await house.person(), await house.person("bob@example.com")
    await house.enrolled(person)
    _, codes = await house.enrolled(other)
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), codes[0], WHENCE)


async def test_new_recovery_codes_end_the_old_ones(house: FactorHouse) -> None:
    person = await house.person()
    _, old = await house.enrolled(person)
    rolled, new = await house.identity.factors.new_recovery_codes(await house.caller(person), WHENCE)
    assert not set(old) & set(new)
    assert (await house.verified(rolled)).user_id == person.user_id
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), old[0], WHENCE)
    assert await house.identity.factors.second(await house.needed(person), new[0], WHENCE)


async def test_without_an_app_there_are_no_recovery_codes(house: FactorHouse) -> None:
    with pytest.raises(FactorNotFound):
        await house.identity.factors.new_recovery_codes(await house.caller(await house.person()), WHENCE)


async def test_after_removal_the_password_alone_signs_in(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    await house.identity.factors.remove_totp(await house.caller(person), WHENCE)
    assert isinstance(await house.sign_in(person), SignedIn)
    found = await house.identity.factors.factors(person.user_id)
    assert (found.totp, found.recovery_codes_left) == (False, 0)
    with pytest.raises(FactorNotFound):
        await house.identity.factors.remove_totp(await house.caller(person), WHENCE)


async def test_a_change_of_factors_needs_a_fresh_sign_in(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    fresh, stale = await house.person("bob@example.com"), await house.caller(person)
    other = await house.caller(fresh)
    await house.identity.factors.begin_totp(other)
    house.clock.advance(minutes=5, seconds=1)
    factors = house.identity.factors
    with pytest.raises(StepUpRequired):
        await factors.begin_totp(other)
    with pytest.raises(StepUpRequired):
        await factors.pending_totp(other)
    with pytest.raises(StepUpRequired):
        await factors.confirm_totp(other, "123456", WHENCE)
    with pytest.raises(StepUpRequired):
        await factors.remove_totp(stale, WHENCE)
    with pytest.raises(StepUpRequired):
        await factors.new_recovery_codes(stale, WHENCE)
    rolled = await factors.step_up(stale, house.code(secret), WHENCE)
    await factors.remove_totp(await house.verified(rolled), WHENCE)


async def test_a_change_of_factors_rolls_the_session_but_is_no_proof_of_who_is_there(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    before = await house.caller(person)
    house.clock.advance(minutes=4)
    rolled, _ = await house.identity.factors.new_recovery_codes(before, WHENCE)
    after = await house.verified(rolled)
    assert (after.session_id, after.generation) == (before.session_id, before.generation + 1)
    assert after.authenticated_at == before.authenticated_at
    house.clock.advance(minutes=1, seconds=1)
    with pytest.raises(StepUpRequired):
        await house.identity.factors.new_recovery_codes(after, WHENCE)


async def test_confirming_an_app_rolls_the_session_and_is_a_second_proof(house: FactorHouse) -> None:
    person = await house.person()
    before = await house.verified(await house.sign_in(person))
    begun = await house.identity.factors.begin_totp(before)
    rolled, _ = await house.identity.factors.confirm_totp(before, house.code(begun.secret), WHENCE)
    after = await house.verified(rolled)
    assert after.generation == before.generation + 1
    assert set(after.amr) == {"pwd", "otp", "mfa"}


async def test_owners_are_told_of_each_change(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    assert [("codes from an app" in mail) for mail in await house.mails()] == [True]
    await house.identity.factors.new_recovery_codes(await house.caller(person), WHENCE)
    assert [("recovery codes" in mail) for mail in await house.mails()] == [True]
    await house.identity.factors.remove_totp(await house.caller(person), WHENCE)
    assert [("removed" in mail) for mail in await house.mails()] == [True]
    told = [event for event in await house.events() if event.type.startswith("auth.mfa.")]
    assert [event.type for event in told] == ["auth.mfa.enrolled", "auth.mfa.enrolled", "auth.mfa.removed"]
    assert all(event.user_id == person.user_id for event in told)


async def test_a_wrong_code_is_recorded_without_the_code(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    guess = wrong(house.code(secret))
    with pytest.raises(WrongCode):
        await house.identity.factors.second(await house.needed(person), guess, WHENCE)
    (failed,) = await house.events("auth.login.failed")
    assert failed.reason == "wrong_totp"
    assert guess not in repr(failed)


async def test_nothing_of_a_deleted_person_is_left(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    await house.registered(person)
    await house.identity.whole.people.delete(person.user_id)
    await house.identity.whole.people.catch_up(everything=True)
    for table in ("auth_totp", "auth_recovery_codes", "auth_factor_tries", "auth_passkeys", "auth_passkey_handles"):
        sql = f"SELECT count(*) FROM {table}"
        assert await house.app.services.auth_db.read(lambda tx, sql=sql: tx.fetch_value(sql)) == 0, table


async def test_seeds_and_recovery_codes_are_not_in_the_database(house: FactorHouse) -> None:
    person = await house.person()
    secret, codes = await house.enrolled(person)

    async def rows(tx: ReadTx) -> list[tuple[object, ...]]:
        seeds = await tx.fetch_all("SELECT seed FROM auth_totp")
        return [*seeds, *await tx.fetch_all("SELECT code_hash FROM auth_recovery_codes")]

    kept = repr(await house.app.services.auth_db.read(rows))
    assert secret not in kept
    assert repr(b32decode(secret))[2:-1] not in kept
    assert not [code for code in codes if code in kept or code.replace("-", "") in kept]


async def test_a_mailed_code_does_not_stand_in_for_the_app_unless_the_operator_says_so(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    token = await house.needed(person)
    with pytest.raises(FactorNotFound):
        await house.identity.factors.send_second(token, "email", WHENCE)
    with pytest.raises(FactorNotFound):
        await house.identity.factors.second_by_sent_code(token, "email", "123456", WHENCE)


async def test_a_mailed_code_stands_in_for_the_app_where_the_operator_says_so(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with factor_house(database_url, tmp_path, clock, HAPTA_IDENTITY_SECOND_FACTOR_BY_MAIL="true") as house:
        factors, person = house.identity.factors, await house.person()
        assert isinstance(await house.sign_in(person), SignedIn)  # a mail address alone asks for nothing
        await house.enrolled(person)
        outcome = await house.sign_in(person)
        assert outcome.methods == ("totp", "recovery_code", "email")
        await house.mails()
        await factors.send_second(outcome.token, "email", WHENCE)
        code = code_in(*await house.mails())
        with pytest.raises(WrongCode):
            await factors.second_by_sent_code(outcome.token, "email", wrong(code), WHENCE)
        with pytest.raises(FactorNotFound):
            await factors.second_by_sent_code(outcome.token, "sms", code, WHENCE)
        signed_in = await factors.second_by_sent_code(outcome.token, "email", code, WHENCE)
        assert set((await house.verified(signed_in)).amr) == {"pwd", "otp", "mfa"}


async def test_who_came_in_by_a_mailed_code_needs_something_else_as_second(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with factor_house(database_url, tmp_path, clock, HAPTA_IDENTITY_SECOND_FACTOR_BY_MAIL="true") as house:
        person = await house.person()
        secret, _ = await house.enrolled(person)
        half = await house.sign_in(person, amr=("otp",))
        with pytest.raises(FactorNotFound):
            await house.identity.factors.send_second(half.token, "email", WHENCE)
        assert await house.identity.factors.second(half.token, house.code(secret), WHENCE)
