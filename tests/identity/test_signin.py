"""The one door after a proof of identity, on both engines: second factors, half-done logins, and what is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hapta.identity.amr import combined
from hapta.identity.errors import InvalidCredentials
from hapta.identity.models import NewPerson, Origin, Person, SecondFactorNeeded, SignedIn
from hapta.kit.access import UserId
from hapta.kit.errors import InvalidToken
from hapta.testing.clock import FakeClock
from tests.identity.conftest import PASSWORD, NewWorker, Worker, outcomes
from tests.identity.events import KeptEvents

HERE = Origin("phone-1", "My phone", "App/1", "192.0.2.77", "request-1")


async def a_person(worker: Worker) -> Person:
    return await worker.people.create(NewPerson(email="alice@example.org", password=PASSWORD))


async def half_done(worker: Worker, person: Person) -> SecondFactorNeeded:
    async def totp(user_id: UserId) -> Sequence[str]:
        return ("totp", "recovery_code")

    worker.signin.ask(totp)
    needed = await worker.signin.complete(person, HERE, amr=("pwd",), provider="password")
    assert isinstance(needed, SecondFactorNeeded)
    return needed


async def test_a_login_is_recorded_with_its_session(new_worker: NewWorker) -> None:
    events = KeptEvents()
    worker = await new_worker(accounts={"events": events})
    person = await a_person(worker)
    done = await worker.signin.complete(person, HERE, amr=("pwd",), provider="password")
    assert isinstance(done, SignedIn)
    assert events.types() == ["user.created", "auth.login.succeeded"]
    assert (events.all[1].session_id, events.all[1].origin) == (done.session_id, HERE)


async def test_a_failed_login_is_recorded_whether_or_not_there_is_an_account(new_worker: NewWorker) -> None:
    events = KeptEvents()
    worker = await new_worker(accounts={"events": events})
    await a_person(worker)
    for email in ("alice@example.org", "nobody@example.org"):
        with pytest.raises(InvalidCredentials):
            await worker.accounts.login(email, "a wild guess", HERE)
    assert events.types() == ["user.created", "auth.login.failed", "auth.login.failed"]
    assert events.all[1] == events.all[2]


async def test_a_second_factor_is_asked_for_and_completes_the_login(worker: Worker, clock: FakeClock) -> None:
    person = await a_person(worker)
    needed = await half_done(worker, person)
    assert needed.methods == ("totp", "recovery_code")
    assert await worker.sessions.list_sessions(person.user_id) == []
    pending = await worker.signin.pending(needed.token)
    assert (pending.user_id, pending.amr, pending.provider) == (person.user_id, ("pwd",), "password")
    done = await worker.signin.complete_second(needed.token, ("otp",), HERE)
    caller = await worker.sessions.verify(done.access_token)
    assert (caller.amr, caller.authenticated_at) == (("pwd", "otp", "mfa"), clock.now())


async def test_a_proof_of_two_kinds_needs_no_second_factor(worker: Worker) -> None:
    person = await a_person(worker)
    await half_done(worker, person)
    assert isinstance(await worker.signin.complete(person, HERE, amr=("hwk", "mfa"), provider="passkey"), SignedIn)


async def test_a_half_done_login_counts_once_also_in_a_race(worker: Worker) -> None:
    person = await a_person(worker)
    needed = await half_done(worker, person)
    answers = await outcomes([worker.signin.complete_second(needed.token, ("otp",), HERE) for _ in range(10)])
    assert sum(isinstance(answer, SignedIn) for answer in answers) == 1
    assert sum(isinstance(answer, InvalidToken) for answer in answers) == 9
    assert len(await worker.sessions.list_sessions(person.user_id)) == 1


async def test_a_half_done_login_ends_after_ten_minutes(worker: Worker, clock: FakeClock) -> None:
    needed = await half_done(worker, await a_person(worker))
    clock.advance(seconds=600)
    with pytest.raises(InvalidToken):
        await worker.signin.complete_second(needed.token, ("otp",), HERE)


async def test_a_half_done_login_dies_with_the_password_it_began_with(worker: Worker) -> None:
    person = await a_person(worker)
    needed = await half_done(worker, person)
    await worker.people.set_password(person.user_id, "another password", if_version=0)
    with pytest.raises(InvalidCredentials):
        await worker.signin.complete_second(needed.token, ("otp",), HERE)


async def test_a_half_done_token_opens_nothing_and_an_access_token_completes_nothing(worker: Worker) -> None:
    person = await a_person(worker)
    done = await worker.signin.complete(person, HERE, amr=("pwd",), provider="password")
    assert isinstance(done, SignedIn)
    needed = await half_done(worker, person)
    with pytest.raises(InvalidToken):
        await worker.sessions.verify(needed.token)
    for token in (done.access_token, done.refresh_token, "", "a.b.c"):
        with pytest.raises(InvalidToken):
            await worker.signin.pending(token)


async def test_a_disabled_person_gets_in_by_no_door(worker: Worker) -> None:
    person = await a_person(worker)
    banned = await worker.people.set_disabled(person.user_id, True)
    for known in (banned, person):  # the second was read before the ban
        with pytest.raises(InvalidCredentials):
            await worker.signin.complete(known, HERE, amr=("pwd",), provider="password")
    with pytest.raises(InvalidCredentials):
        await worker.accounts.login("alice@example.org", PASSWORD)
    await worker.people.set_disabled(person.user_id, False)
    assert await worker.accounts.login("alice@example.org", PASSWORD)


@pytest.mark.parametrize(
    ("before", "further", "together"),
    [
        (["pwd"], ["otp"], ("pwd", "otp", "mfa")),
        (["pwd"], ["pwd"], ("pwd",)),
        (["sms"], ["otp"], ("sms", "otp")),
        (["fed"], ["hwk"], ("fed", "hwk", "mfa")),
        (["pwd", "otp", "mfa"], ["pwd"], ("pwd", "otp", "mfa")),
    ],
)
def test_two_kinds_of_proof_make_a_multiple_one(
    before: list[str], further: list[str], together: tuple[str, ...]
) -> None:
    assert combined(before, further) == together
