"""Passkeys, made and used by an authenticator in software: every check of WebAuthn that is ours to make, on each engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.identity.factors.errors import BadPasskey, ChallengeOver, FactorNotFound, StepUpRequired, TooManyPasskeys
from hapta.identity.factors.passkeys import MAX_PASSKEYS, passkey_id
from hapta.identity.models import SecondFactorNeeded, SignedIn
from hapta.kit.errors import InvalidToken
from hapta.testing.clock import FakeClock
from tests.identity.authenticator import PRESENT, VERIFIED, SoftKey, b64, unb64
from tests.identity.conftest import outcomes
from tests.identity.factor_house import WHENCE, FactorHouse, factor_house

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as opened:
        yield opened


# --- registration ---


async def test_options_ask_for_a_discoverable_key_and_tell_nothing_of_the_person(house: FactorHouse) -> None:
    person = await house.person()
    caller = await house.caller(person)
    options = (await house.identity.passkeys.begin_registration(caller)).options
    assert options["rp"] == {"name": "Hapta", "id": "hapta.test"}
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert len(unb64(options["challenge"])) == 32
    handle = unb64(options["user"]["id"])
    assert len(handle) == 32
    assert person.user_id.encode() not in handle
    again = (await house.identity.passkeys.begin_registration(caller)).options
    assert again["user"]["id"] == options["user"]["id"]
    assert again["challenge"] != options["challenge"]


async def test_a_passkey_is_kept_with_its_name_and_its_flags(house: FactorHouse) -> None:
    person = await house.person()
    key, passkey = await house.registered(person, SoftKey(synced=True))
    assert (passkey.credential_id, passkey.name, passkey.synced, passkey.backed_up) == (
        key.credential_id,
        "my phone",
        True,
        True,
    )
    assert await house.identity.passkeys.list(person.user_id) == [passkey]
    _, bound = await house.registered(person, SoftKey())
    assert (bound.synced, bound.backed_up) == (False, False)


async def test_keys_of_the_account_are_excluded_from_the_next_registration(house: FactorHouse) -> None:
    person = await house.person()
    key, _ = await house.registered(person)
    options = (await house.identity.passkeys.begin_registration(await house.caller(person))).options
    assert [one["id"] for one in options["excludeCredentials"]] == [key.id]


@pytest.mark.parametrize(
    "fault",
    [
        {"origin": "https://hapta.test.evil.example"},
        {"origin": "http://hapta.test"},
        {"origin": "https://hapta.test:8443"},
        {"origin": "https://sub.hapta.test"},
        {"rp_id": "evil.example"},
        {"challenge": b64(b"c" * 32)},
        {"kind": "webauthn.get"},
        {"flags": 0},
        {"flags": VERIFIED},
    ],
    ids=str,
)
async def test_a_registration_that_does_not_verify_is_refused(house: FactorHouse, fault: dict[str, Any]) -> None:
    person = await house.person()
    caller = await house.caller(person)
    begun = await house.identity.passkeys.begin_registration(caller)
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.finish_registration(
            caller, begun.id, SoftKey().make(begun.options, **fault), "x", WHENCE
        )
    assert await house.identity.passkeys.list(person.user_id) == []


async def test_a_registration_counts_once(house: FactorHouse) -> None:
    caller = await house.caller(await house.person())
    passkeys = house.identity.passkeys
    begun = await passkeys.begin_registration(caller)
    made = SoftKey().make(begun.options)
    await passkeys.finish_registration(caller, begun.id, made, "x", WHENCE)
    with pytest.raises(ChallengeOver):
        await passkeys.finish_registration(caller, begun.id, made, "x", WHENCE)


async def test_a_registration_is_over_after_five_minutes(house: FactorHouse) -> None:
    caller = await house.caller(await house.person())
    begun = await house.identity.passkeys.begin_registration(caller)
    house.clock.advance(minutes=5, seconds=1)
    with pytest.raises(ChallengeOver):
        await house.identity.passkeys.finish_registration(caller, begun.id, SoftKey().make(begun.options), "x", WHENCE)


async def test_a_registration_belongs_to_the_session_that_began_it(house: FactorHouse) -> None:
    person = await house.person()
    begun = await house.identity.passkeys.begin_registration(await house.caller(person))
    for other in (await house.caller(person), await house.caller(await house.person("eve@example.com"))):
        with pytest.raises(ChallengeOver):
            await house.identity.passkeys.finish_registration(
                other, begun.id, SoftKey().make(begun.options), "x", WHENCE
            )


async def test_a_ceremony_of_another_purpose_is_none(house: FactorHouse) -> None:
    person = await house.person()
    caller = await house.caller(person)
    key, _ = await house.registered(person)
    passkeys = house.identity.passkeys
    registration, login = await passkeys.begin_registration(caller), await passkeys.begin_authentication()
    step_up = await passkeys.begin_step_up(caller)
    with pytest.raises(ChallengeOver):
        await passkeys.finish_registration(caller, login.id, SoftKey().make(registration.options), "x", WHENCE)
    with pytest.raises(ChallengeOver):
        await passkeys.sign_in(step_up.id, key.prove(step_up.options), WHENCE)
    with pytest.raises(ChallengeOver):
        await passkeys.step_up(caller, login.id, key.prove(login.options), WHENCE)


async def test_a_key_has_one_owner(house: FactorHouse) -> None:
    key, _ = await house.registered(await house.person())
    other = await house.person("eve@example.com")
    with pytest.raises(BadPasskey):
        await house.registered(other, key)
    assert await house.identity.passkeys.list(other.user_id) == []


async def test_an_account_has_ten_passkeys_at_most(house: FactorHouse) -> None:
    person = await house.person()
    caller = await house.caller(person)
    passkeys = house.identity.passkeys
    early = [await passkeys.begin_registration(caller) for _ in range(MAX_PASSKEYS + 1)]
    for begun in early[:-1]:
        rolled, _ = await passkeys.finish_registration(caller, begun.id, SoftKey().make(begun.options), "x", WHENCE)
        caller = await house.verified(rolled)
    with pytest.raises(TooManyPasskeys):
        await passkeys.finish_registration(caller, early[-1].id, SoftKey().make(early[-1].options), "x", WHENCE)
    with pytest.raises(TooManyPasskeys):
        await passkeys.begin_registration(caller)
    assert len(await passkeys.list(person.user_id)) == MAX_PASSKEYS


async def test_racing_registrations_do_not_pass_the_limit(house: FactorHouse) -> None:
    person = await house.person()
    for _ in range(MAX_PASSKEYS - 1):
        await house.registered(person)
    callers = [await house.caller(person) for _ in range(4)]
    passkeys = house.identity.passkeys
    begun = [await passkeys.begin_registration(caller) for caller in callers]
    found = await outcomes(
        [
            passkeys.finish_registration(caller, one.id, SoftKey().make(one.options), "x", WHENCE)
            for caller, one in zip(callers, begun, strict=True)
        ]
    )
    assert [isinstance(one, TooManyPasskeys) for one in found].count(True) == 3
    assert len(await passkeys.list(person.user_id)) == MAX_PASSKEYS


# --- signing in ---


async def test_a_passkey_alone_signs_in_and_counts_as_two_proofs(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    key, _ = await house.registered(person)
    begun = await house.login_ceremony()
    assert begun.options["userVerification"] == "required"
    assert "allowCredentials" not in begun.options or begun.options["allowCredentials"] == []
    signed_in = await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options), WHENCE)
    assert isinstance(signed_in, SignedIn)
    assert signed_in.person.user_id == person.user_id
    assert set((await house.verified(signed_in)).amr) == {"hwk", "user", "mfa"}
    (passkey,) = await house.identity.passkeys.list(person.user_id)
    assert (passkey.sign_count, passkey.last_used_at) == (1, house.clock.now_ms())


async def test_a_synced_passkey_is_called_a_software_key_and_never_counts(house: FactorHouse) -> None:
    person = await house.person()
    key, _ = await house.registered(person, SoftKey(synced=True))
    for _ in range(3):
        begun = await house.login_ceremony()
        signed_in = await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options), WHENCE)
        assert isinstance(signed_in, SignedIn)
        assert set((await house.verified(signed_in)).amr) == {"swk", "user", "mfa"}
    assert await house.events("auth.passkey.counter_went_back") == []


@pytest.mark.parametrize(
    "fault",
    [
        {"origin": "https://hapta.test.evil.example"},
        {"origin": "http://hapta.test"},
        {"rp_id": "evil.example"},
        {"challenge": b64(b"c" * 32)},
        {"kind": "webauthn.create"},
        {"flags": PRESENT},
        {"flags": VERIFIED},
        {"handle": b"somebody else's random handle!!!"},
        {"handle": b""},
        {"signed_by": SoftKey().key},
    ],
    ids=lambda fault: next(iter(fault)),
)
async def test_an_answer_that_does_not_verify_signs_nobody_in(house: FactorHouse, fault: dict[str, Any]) -> None:
    key, _ = await house.registered(await house.person())
    begun = await house.login_ceremony()
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options, **fault), WHENCE)


async def test_a_key_that_names_another_account_signs_nobody_in(house: FactorHouse) -> None:
    key, _ = await house.registered(await house.person())
    other, _ = await house.registered(await house.person("eve@example.com"))
    begun = await house.login_ceremony()
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options, handle=other.handle), WHENCE)


async def test_a_key_that_nobody_registered_signs_nobody_in(house: FactorHouse) -> None:
    begun = await house.login_ceremony()
    stranger = SoftKey(handle=b"h" * 32)
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.sign_in(begun.id, stranger.prove(begun.options), WHENCE)


async def test_an_answer_counts_once_also_when_sent_twice_at_once(house: FactorHouse) -> None:
    key, _ = await house.registered(await house.person())
    begun = await house.login_ceremony()
    answer = key.prove(begun.options)
    found = await outcomes([house.identity.passkeys.sign_in(begun.id, answer, WHENCE) for _ in range(4)])
    assert sorted(type(one).__name__ for one in found) == [*["ChallengeOver"] * 3, "SignedIn"]


async def test_a_login_is_over_after_five_minutes_and_is_swept(house: FactorHouse) -> None:
    key, _ = await house.registered(await house.person())
    begun = await house.login_ceremony()
    house.clock.advance(minutes=5, seconds=1)
    with pytest.raises(ChallengeOver):
        await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options), WHENCE)
    assert await house.identity.passkeys.sweep() == 1
    assert await house.identity.passkeys.sweep() == 0


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        {"id": 7},
        {"id": "€", "rawId": "€"},
        {"id": "AAAA", "rawId": "AAAA", "type": "public-key", "response": []},
        {"response": None},
        {"response": {"clientDataJSON": "AA", "authenticatorData": "AA", "signature": "AA"}},
        {"response": {"clientDataJSON": 1, "authenticatorData": {}, "signature": None}},
        {"type": "private-key"},
    ],
    ids=str,
)
async def test_garbage_is_refused_as_a_bad_passkey(house: FactorHouse, garbage: dict[str, Any]) -> None:
    person = await house.person()
    key, _ = await house.registered(person)
    begun = await house.login_ceremony()
    credential = {**key.prove(begun.options), **garbage} if garbage else {}
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.sign_in(begun.id, credential, WHENCE)
    caller = await house.caller(person)
    registration = await house.identity.passkeys.begin_registration(caller)
    made = {**SoftKey().make(registration.options), **garbage} if garbage else {}
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.finish_registration(caller, registration.id, made, "x", WHENCE)


@pytest.mark.parametrize("known", [5, 1])
async def test_a_counter_that_goes_back_warns_but_signs_in(house: FactorHouse, known: int) -> None:
    person = await house.person()
    key, _ = await house.registered(person, SoftKey(count=known))
    key.count = -1  # the next use says 0
    begun = await house.login_ceremony()
    assert isinstance(await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options), WHENCE), SignedIn)
    (warning,) = await house.events("auth.passkey.counter_went_back")
    assert (warning.user_id, json.loads(warning.data or "")) == (person.user_id, {"known": known, "given": 0})
    (passkey,) = await house.identity.passkeys.list(person.user_id)
    assert (passkey.sign_count, passkey.last_used_at) == (known, house.clock.now_ms())


async def test_somebody_disabled_is_not_signed_in(house: FactorHouse) -> None:
    person = await house.person()
    key, _ = await house.registered(person)
    await house.identity.whole.people.set_disabled(person.user_id, True)
    begun = await house.login_ceremony()
    found = await outcomes([house.identity.passkeys.sign_in(begun.id, key.prove(begun.options), WHENCE)])
    assert type(found[0]).__name__ in {"InvalidCredentials", "InvalidToken"}


# --- as second factor, and to prove it once more ---


async def test_a_passkey_is_a_second_factor_also_without_verifying_its_user(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    key, _ = await house.registered(person)
    needed = await house.sign_in(person)
    assert isinstance(needed, SecondFactorNeeded)
    assert "passkey" in needed.methods
    begun = await house.identity.passkeys.begin_second(needed.token)
    assert begun.options["userVerification"] == "preferred"
    assert [one["id"] for one in begun.options["allowCredentials"]] == [key.id]
    signed_in = await house.identity.passkeys.second(
        needed.token, begun.id, key.prove(begun.options, flags=PRESENT, handle=b""), WHENCE
    )
    assert set((await house.verified(signed_in)).amr) == {"pwd", "hwk", "mfa"}
    again = await house.identity.passkeys.begin_second(needed.token)
    with pytest.raises(InvalidToken):
        await house.identity.passkeys.second(needed.token, again.id, key.prove(again.options), WHENCE)


async def test_a_passkey_of_somebody_else_is_no_second_factor(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    await house.registered(person)
    other, _ = await house.registered(await house.person("eve@example.com"))
    token = await house.needed(person)
    begun = await house.identity.passkeys.begin_second(token)
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.second(token, begun.id, other.prove(begun.options), WHENCE)


async def test_a_passkey_alone_is_not_demanded_as_second_factor(house: FactorHouse) -> None:
    person = await house.person()
    await house.registered(person)
    assert isinstance(await house.sign_in(person), SignedIn)


async def test_a_passkey_proves_once_more_who_is_there(house: FactorHouse) -> None:
    person = await house.person()
    key, _ = await house.registered(person)
    caller = await house.caller(person)
    house.clock.advance(minutes=6)
    passkeys = house.identity.passkeys
    begun = await passkeys.begin_step_up(caller)
    rolled = await passkeys.step_up(caller, begun.id, key.prove(begun.options), WHENCE)
    after = await house.verified(rolled)
    assert (after.authenticated_at, after.session_id) == (house.clock.now(), caller.session_id)
    again = await passkeys.begin_authentication()
    rolled = await passkeys.confirm(after, again.id, key.prove(again.options), WHENCE)
    assert (await house.verified(rolled)).generation == after.generation + 1


async def test_a_passkey_of_somebody_else_proves_nothing(house: FactorHouse) -> None:
    caller = await house.caller(await house.person())
    other, _ = await house.registered(await house.person("eve@example.com"))
    passkeys = house.identity.passkeys
    begun = await passkeys.begin_step_up(caller)
    with pytest.raises(BadPasskey):
        await passkeys.step_up(caller, begun.id, other.prove(begun.options), WHENCE)
    login = await passkeys.begin_authentication()
    with pytest.raises(BadPasskey):
        await passkeys.confirm(caller, login.id, other.prove(login.options), WHENCE)


# --- keeping ---


async def test_adding_and_removing_needs_a_fresh_sign_in_and_rolls_the_session(house: FactorHouse) -> None:
    person = await house.person()
    _, passkey = await house.registered(person)
    caller, passkeys = await house.caller(person), house.identity.passkeys
    rolled = await house.verified(await passkeys.remove(caller, passkey_id(passkey), WHENCE))
    assert (rolled.session_id, rolled.generation) == (caller.session_id, caller.generation + 1)
    begun = await passkeys.begin_registration(rolled)
    signed_in, kept = await passkeys.finish_registration(rolled, begun.id, SoftKey().make(begun.options), "x", WHENCE)
    after = await house.verified(signed_in)
    assert after.generation == rolled.generation + 1
    house.clock.advance(minutes=5, seconds=1)
    with pytest.raises(StepUpRequired):
        await passkeys.begin_registration(after)
    with pytest.raises(StepUpRequired):
        await passkeys.remove(after, passkey_id(kept), WHENCE)


async def test_a_removed_passkey_signs_nobody_in(house: FactorHouse) -> None:
    person = await house.person()
    key, passkey = await house.registered(person)
    await house.identity.passkeys.remove(await house.caller(person), passkey_id(passkey), WHENCE)
    begun = await house.login_ceremony()
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.sign_in(begun.id, key.prove(begun.options), WHENCE)


async def test_nobody_renames_or_removes_the_passkey_of_another(house: FactorHouse) -> None:
    person = await house.person()
    _, passkey = await house.registered(person)
    eve = await house.caller(await house.person("eve@example.com"))
    for name in (passkey_id(passkey), "", "€", "AAAA", "a"):
        with pytest.raises(FactorNotFound):
            await house.identity.passkeys.rename(eve, name, "mine")
        with pytest.raises(FactorNotFound):
            await house.identity.passkeys.remove(eve, name, WHENCE)
    assert await house.identity.passkeys.list(person.user_id) == [passkey]


async def test_names_are_trimmed_and_never_empty(house: FactorHouse) -> None:
    person = await house.person()
    _, passkey = await house.registered(person)
    caller = await house.caller(person)
    for given, kept in (("  desk key ", "desk key"), ("   ", "Passkey"), ("x" * 100, "x" * 64)):
        await house.identity.passkeys.rename(caller, passkey_id(passkey), given)
        (renamed,) = await house.identity.passkeys.list(person.user_id)
        assert renamed.name == kept


async def test_owners_are_told_of_added_and_removed_passkeys(house: FactorHouse) -> None:
    person = await house.person()
    _, passkey = await house.registered(person)
    await house.identity.passkeys.remove(await house.caller(person), passkey_id(passkey), WHENCE)
    mails = await house.mails()
    assert ["a passkey" in mail for mail in mails] == [True, True]
    told = [event for event in await house.events() if event.type.startswith("auth.mfa.")]
    assert [(event.type, event.data) for event in told] == [
        ("auth.mfa.enrolled", '{"factor":"passkey"}'),
        ("auth.mfa.removed", '{"factor":"passkey"}'),
    ]
