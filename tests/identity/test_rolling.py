"""Rolling keys on both engines (contract identity, section 19): one head, an overlap, and the end for whoever is late."""

from __future__ import annotations

from typing import Any

import pytest

from hapta.db.database import WriteTx
from hapta.identity.models import NewPerson, Origin, Person, SignedIn
from hapta.identity.session_keys import BadKey, SessionKey, SessionKeys, key_hash
from hapta.identity.session_tokens import coarse_address
from hapta.kit.access import SessionId, UserId
from hapta.kit.errors import InvalidToken
from hapta.testing.clock import FakeClock
from tests.identity.conftest import PASSWORD, SECRET, NewWorker, Worker, outcomes
from tests.identity.events import KeptEvents

ALICE = "alice@example.org"
HERE = Origin("phone-1", "My phone", "App/1", "192.0.2.77")


async def a_person(worker: Worker, email: str = ALICE) -> Person:
    return await worker.people.create(NewPerson(email=email, password=PASSWORD))


async def signed_in(worker: Worker, person: Person | None = None) -> SignedIn:
    done = await worker.signin.complete(person or await a_person(worker), HERE, amr=("pwd",), provider="password")
    assert isinstance(done, SignedIn)
    return done


async def rows(worker: Worker, columns: str) -> list[Any]:
    return await worker.auth_db.read(lambda tx: tx.fetch_all(f"SELECT {columns} FROM auth_sessions"))


async def dead(worker: Worker, *, tokens: tuple[str, ...] = (), keys: tuple[str, ...] = ()) -> None:
    for token in tokens:
        with pytest.raises(InvalidToken):
            await worker.sessions.verify(token)
    for key in keys:
        with pytest.raises(InvalidToken):
            await worker.sessions.verify_key(key)


async def test_a_login_gives_a_short_token_and_a_key_that_both_tell_who_calls(worker: Worker, clock: FakeClock) -> None:
    done = await signed_in(worker)
    by_token = await worker.sessions.verify(done.access_token)
    by_key = await worker.sessions.verify_key(done.refresh_token)
    assert done.expires_in_seconds == 600
    assert by_token.expires_at == clock.now() + 600
    assert by_key.expires_at == clock.now() + 14 * 86400
    assert by_token._replace(expires_at=0) == by_key._replace(expires_at=0)
    assert (by_key.user_id, by_key.session_id) == (done.person.user_id, done.session_id)
    assert by_key.roles == {"user"}
    assert (by_key.amr, by_key.authenticated_at, by_key.device_id) == (("pwd",), clock.now(), "phone-1")


async def test_the_key_is_stored_as_its_hash_only(worker: Worker) -> None:
    done = await signed_in(worker)
    [(stored,)] = await rows(worker, "key_hash")
    assert bytes(stored) == key_hash(done.refresh_token)


async def test_a_refresh_rolls_and_the_key_before_it_counts_for_ten_seconds(worker: Worker, clock: FakeClock) -> None:
    first = await signed_in(worker)
    second = await worker.sessions.refresh(first.refresh_token)
    assert second.session_id == first.session_id
    assert second.refresh_token != first.refresh_token
    assert (await worker.sessions.verify(second.access_token)).generation == 2
    clock.advance(seconds=9.9)
    assert (await worker.sessions.verify(first.access_token)).generation == 1
    assert (await worker.sessions.verify_key(first.refresh_token)).generation == 1


async def test_fifty_refreshes_at_once_leave_one_head_and_fifty_usable_answers(worker: Worker) -> None:
    first = await signed_in(worker)
    answers = await outcomes([worker.sessions.refresh(first.refresh_token) for _ in range(50)])
    assert len({answer.refresh_token for answer in answers}) == 1
    for answer in answers:
        assert (await worker.sessions.verify(answer.access_token)).generation == 2
    assert [generation for (generation,) in await rows(worker, "generation")] == [2]
    assert await worker.sessions.refresh(answers[7].refresh_token)


async def test_two_workers_refresh_with_one_key_to_the_same_key(new_worker: NewWorker) -> None:
    one, two = await new_worker(), await new_worker()
    first = await signed_in(one)
    answers = await outcomes([at.sessions.refresh(first.refresh_token) for at in (one, two, one, two)])
    assert len({answer.refresh_token for answer in answers}) == 1


@pytest.mark.parametrize("by", ["token", "key", "refresh"])
async def test_what_is_older_than_the_overlap_ends_the_session_and_is_told(
    new_worker: NewWorker, clock: FakeClock, by: str
) -> None:
    events = KeptEvents()
    worker = await new_worker(accounts={"events": events})
    first = await signed_in(worker)
    second = await worker.sessions.refresh(first.refresh_token)
    clock.advance(seconds=10)
    call = {
        "token": lambda: worker.sessions.verify(first.access_token),
        "key": lambda: worker.sessions.verify_key(first.refresh_token),
        "refresh": lambda: worker.sessions.refresh(first.refresh_token),
    }[by]
    with pytest.raises(InvalidToken):
        await call()
    await dead(worker, tokens=(second.access_token,), keys=(second.refresh_token,))
    with pytest.raises(InvalidToken):
        await worker.sessions.refresh(second.refresh_token)
    assert events.types().count("auth.session.replay") == 1
    assert worker.ended == [(first.person.user_id, first.session_id)]


async def test_the_key_before_the_last_ends_the_session_also_at_once(worker: Worker) -> None:
    first = await signed_in(worker)
    second = await worker.sessions.refresh(first.refresh_token)
    third = await worker.sessions.refresh(second.refresh_token)
    with pytest.raises(InvalidToken):
        await worker.sessions.refresh(first.refresh_token)
    await dead(worker, tokens=(third.access_token,), keys=(third.refresh_token,))


async def test_a_made_up_key_ends_nothing(worker: Worker) -> None:
    done = await signed_in(worker)
    foreign = SessionKeys("another secret, long enough to be one").new(
        SessionKey(done.person.user_id, done.session_id, 0)
    )
    for key in ("", "x", "é", "A" * 513, foreign, done.refresh_token[:-2], done.access_token):
        await dead(worker, keys=(key,))
        with pytest.raises(InvalidToken):
            await worker.sessions.refresh(key)
    assert await worker.sessions.verify_key(done.refresh_token)


async def test_a_key_that_was_never_handed_out_does_not_count(worker: Worker) -> None:
    done = await signed_in(worker)
    guess = SessionKeys(SECRET).new(SessionKey(done.person.user_id, done.session_id, 1))
    await dead(worker, keys=(guess,))
    assert await worker.sessions.verify_key(done.refresh_token)


async def test_the_sealed_successor_is_erased_after_the_overlap(worker: Worker, clock: FakeClock) -> None:
    first = await signed_in(worker)
    second = await worker.sessions.refresh(first.refresh_token)
    [(sealed,)] = await rows(worker, "successor")
    assert second.refresh_token.encode() not in bytes(sealed)
    assert await worker.sessions.erase_successors() == 0
    clock.advance(seconds=10.1)
    assert await worker.sessions.erase_successors() == 1
    assert await rows(worker, "successor") == [(None,)]
    assert await worker.sessions.refresh(second.refresh_token)


async def test_a_further_proof_rolls_the_session_and_old_keys_do_not_share_it(worker: Worker, clock: FakeClock) -> None:
    first = await signed_in(worker)
    caller = await worker.sessions.verify(first.access_token)
    clock.advance(seconds=400)
    raised = await worker.sessions.step_up(caller, ("otp",), HERE, key=first.refresh_token)
    now = await worker.sessions.verify(raised.access_token)
    assert (now.generation, now.amr, now.authenticated_at) == (2, ("pwd", "otp", "mfa"), clock.now())
    worker.sessions.cache.clear()
    before = await worker.sessions.verify_key(first.refresh_token)
    assert (before.generation, before.amr, before.authenticated_at) == (1, (), 0.0)
    assert (await worker.sessions.refresh(first.refresh_token)).refresh_token == raised.refresh_token


async def test_a_caller_of_an_old_generation_cannot_step_up(worker: Worker, clock: FakeClock) -> None:
    first = await signed_in(worker)
    caller = await worker.sessions.verify(first.access_token)
    await worker.sessions.refresh(first.refresh_token)
    clock.advance(seconds=10)
    with pytest.raises(InvalidToken):
        await worker.sessions.step_up(caller, ("otp",), HERE)


async def test_a_session_lives_as_long_as_it_is_used_and_never_beyond_its_end(
    new_worker: NewWorker, clock: FakeClock
) -> None:
    worker = await new_worker(session_idle_seconds=1000, session_absolute_seconds=3000)
    done = await signed_in(worker)
    begun = clock.now()
    for _ in range(3):
        clock.advance(seconds=900)
        done = await worker.sessions.refresh(done.refresh_token)
    assert done.absolute_expires_at == (begun + 3000) * 1000
    assert done.expires_in_seconds == 300
    clock.advance(seconds=300)
    with pytest.raises(InvalidToken):
        await worker.sessions.refresh(done.refresh_token)
    idle = await signed_in(worker, done.person)
    clock.advance(seconds=1000)
    await dead(worker, keys=(idle.refresh_token,))


async def test_a_new_password_spares_the_session_it_was_set_from(worker: Worker) -> None:
    person = await a_person(worker)
    here, there = await signed_in(worker, person), await signed_in(worker, person)
    caller = await worker.sessions.verify(here.access_token)
    await worker.accounts.change_password(caller, PASSWORD, "another password")
    await dead(worker, tokens=(here.access_token, there.access_token), keys=(there.refresh_token,))
    again = await worker.sessions.refresh(here.refresh_token)
    assert again.session_id == here.session_id
    assert again.person.version == 1


@pytest.mark.parametrize("change", ["roles", "ban", "raise", "delete"])
async def test_a_change_of_the_person_ends_all_sessions(new_worker: NewWorker, change: str) -> None:
    worker, other = await new_worker(), await new_worker()
    person = await a_person(worker)
    sessions = [await signed_in(worker, person) for _ in range(2)]
    for done in sessions:
        assert await other.sessions.verify(done.access_token)
    await {
        "roles": lambda: worker.people.set_roles(person.user_id, ["user", "mod"]),
        "ban": lambda: worker.people.set_disabled(person.user_id, True),
        "raise": lambda: worker.people.raise_version(person.user_id),
        "delete": lambda: worker.people.delete(person.user_id),
    }[change]()
    await other.watch.poll_once()
    for at in (worker, other):
        await dead(
            at,
            tokens=tuple(done.access_token for done in sessions),
            keys=tuple(done.refresh_token for done in sessions),
        )


async def test_new_roles_count_from_the_next_login(worker: Worker) -> None:
    person = await a_person(worker)
    changed = await worker.people.set_roles(person.user_id, ["user", "admin", "user"])
    assert changed.roles == ("user", "admin")
    done = await signed_in(worker, changed)
    assert (await worker.sessions.verify(done.access_token)).roles == {"user", "admin"}
    assert (await worker.sessions.verify_key(done.refresh_token)).roles == {"user", "admin"}


async def test_the_list_shows_the_network_and_never_the_address(worker: Worker) -> None:
    done = await signed_in(worker)
    [session] = await worker.sessions.list_sessions(done.person.user_id)
    assert session.address == "192.0.2.0/24"
    assert (session.provider, session.amr, session.device_label) == ("password", ("pwd",), "My phone")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("unix:", None),
        (None, None),
    ],
)
def test_an_address_is_cut_to_its_network(address: str | None, network: str | None) -> None:
    assert coarse_address(address) == network


def test_keys_are_told_from_what_somebody_made_up() -> None:
    keys = SessionKeys(SECRET)
    named = SessionKey(UserId("user"), SessionId("session"), 3)
    assert keys.read(keys.new(named)) == named
    assert keys.new(named) != keys.new(named)
    with pytest.raises(BadKey):
        keys.read(keys.new(named)[1:])


async def test_marks_reach_every_worker_and_last_as_long_as_tokens(new_worker: NewWorker, clock: FakeClock) -> None:
    worker, other = await new_worker(), await new_worker()
    person = await a_person(worker)

    async def body(tx: WriteTx) -> Any:
        return await worker.sessions.marks.put(tx, person.user_id, ["g:1", "j:2"])

    marked_at = clock.now()
    await worker.sessions.announce(await worker.auth_db.write(body))
    assert worker.sessions.marks.revoked("g:1")
    assert not other.sessions.marks.revoked("g:1")
    clock.advance(seconds=1)
    await other.watch.poll_once()
    assert other.sessions.marks.revoked("j:2")
    assert not other.sessions.marks.revoked("j:3")
    assert other.sessions.marks.revoked("g:1", issued_at=marked_at - 1)
    assert not other.sessions.marks.revoked("g:1", issued_at=marked_at + 1)
    late = await new_worker()
    assert late.sessions.marks.revoked("g:1")
    clock.advance(seconds=3)
    assert not late.sessions.cache.trusted
    assert await late.sessions.marks.check(["x", "g:1"])
    assert not await late.sessions.marks.check(["g:1"], issued_at=marked_at + 1)
    clock.advance(seconds=2 * 3600)
    await late.sessions.sweep()
    assert len(late.sessions.marks) == 0
    assert await worker.auth_db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM auth_revocations")) == 0


async def test_what_hangs_on_a_session_ends_in_its_transaction(worker: Worker) -> None:
    done = await signed_in(worker)
    told: list[Any] = []

    async def end_grants(tx: WriteTx, user_id: UserId, sessions: Any, reason: str) -> Any:
        told.append((user_id, list(sessions), reason))
        return await worker.sessions.marks.put(tx, user_id, ["g:of-the-session"])

    worker.sessions.on_end(end_grants)
    await worker.sessions.revoke(done.person.user_id, done.session_id)
    assert told == [(done.person.user_id, [done.session_id], "logout")]
    assert worker.sessions.marks.revoked("g:of-the-session")
