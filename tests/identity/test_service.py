"""Accounts on both engines: who gets in, who does not, what a change of password ends, and what is left of a deletion."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from hapta.db.database import WriteTx
from hapta.identity.errors import (
    AccountNotFound,
    EmailTaken,
    InvalidCredentials,
    RegistrationDisabled,
    SessionNotFound,
    WrongPassword,
)
from hapta.identity.models import Origin, RewrappedKey
from hapta.kit.errors import Conflict, InvalidToken, TooMany, ValidationFailed
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.testing.clock import FakeClock
from tests.identity.conftest import PASSWORD, NewWorker, Worker, outcomes

ALICE = "Alice@Example.org"
SALT = b64encode(bytes(range(32))).decode()


async def count(worker: Worker, table: str) -> int:
    return await worker.db.read(lambda tx: tx.fetch_value(f"SELECT count(*) FROM {table}"))


async def test_registering_logs_in_and_answers_the_address_as_given(worker: Worker, clock: FakeClock) -> None:
    account, token = await worker.accounts.register(f"  {ALICE} ", PASSWORD)
    assert account.email == ALICE
    assert account.created_at == clock.now_ms()
    assert (await worker.caller(token)).user_id == account.user_id
    assert (await worker.accounts.login("ALICE@EXAMPLE.ORG", PASSWORD)).person.user_id == account.user_id


async def test_fifty_registrations_of_one_address_make_one_account(worker: Worker) -> None:
    spellings = [ALICE.upper() if number % 2 else ALICE for number in range(50)]
    results = await outcomes([worker.accounts.register(email, PASSWORD) for email in spellings])
    refused = [result for result in results if isinstance(result, EmailTaken)]
    assert len(refused) == 49
    assert await count(worker, "res_accounts") == 1
    assert await count(worker, "auth_sessions") == 1


async def test_two_workers_race_for_one_address(new_worker: NewWorker) -> None:
    first, second = await new_worker(), await new_worker()
    results = await outcomes([at.accounts.register(ALICE, PASSWORD) for at in (first, second)])
    assert sum(isinstance(result, EmailTaken) for result in results) == 1
    assert await count(first, "res_accounts") == 1


@pytest.mark.parametrize(
    "email", ["", "@", "a@", "@b", "a", "a@b@c", "a@" + "b" * 253, "a\0@b", "a\n@b", "\ud800@b", "a@İ" + "b" * 252]
)
async def test_what_is_no_address_is_refused_everywhere(worker: Worker, email: str) -> None:
    for call in (
        worker.accounts.register(email, PASSWORD),
        worker.accounts.login(email, PASSWORD),
        worker.accounts.prelogin(email),
    ):
        with pytest.raises(ValidationFailed) as refused:
            await call
        assert refused.value.issues[0].path == ("email",)


async def test_the_longest_address_is_accepted(worker: Worker) -> None:
    email = "a@" + "b" * 252
    assert (await worker.accounts.register(email, PASSWORD)).person.email == email


async def test_every_bad_field_of_a_registration_is_named(worker: Worker) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await worker.accounts.register("nobody", "short", auth_salt="AAAA")
    assert [issue.path for issue in refused.value.issues] == [("email",), ("password",), ("authSalt",)]


@pytest.mark.parametrize(("length", "fits"), [(7, False), (8, True), (1024, True), (1025, False)])
async def test_a_password_has_8_to_1024_characters(worker: Worker, length: int, fits: bool) -> None:
    if fits:
        await worker.accounts.register(ALICE, "é" * length)
        assert await worker.accounts.login(ALICE, "é" * length)
    else:
        with pytest.raises(ValidationFailed):
            await worker.accounts.register(ALICE, "é" * length)


async def test_switched_off_registration_still_lets_the_operator_add(new_worker: NewWorker) -> None:
    worker = await new_worker(allow_registration=False)
    with pytest.raises(RegistrationDisabled):
        await worker.accounts.register(ALICE, PASSWORD)
    account = await worker.admin.add(ALICE, PASSWORD)
    assert (await worker.accounts.login(ALICE, PASSWORD)).person.user_id == account.user_id


async def test_unknown_account_and_wrong_password_answer_alike(worker: Worker) -> None:
    await worker.accounts.register(ALICE, PASSWORD)
    answers: set[tuple[Any, ...]] = set()
    for email, password in ((ALICE, "wrong password"), ("bob@example.org", PASSWORD), (ALICE, "")):
        with pytest.raises(InvalidCredentials) as refused:
            await worker.accounts.login(email, password)
        answers.add((refused.value.code, refused.value.message, str(refused.value.details)))
    assert answers == {("invalid_credentials", "Invalid email or password", "{}")}


async def test_a_login_renews_a_hash_below_the_policy(new_worker: NewWorker) -> None:
    old = await new_worker(password_scheme="bcrypt")
    new = await new_worker()
    await old.accounts.register(ALICE, PASSWORD)

    async def stored() -> str:
        return await new.db.read(lambda tx: tx.fetch_value("SELECT password_hash FROM res_accounts"))

    assert (await stored()).startswith("bcrypt-v2:$2b$04$")
    await new.accounts.login(ALICE, PASSWORD)
    renewed = await stored()
    assert renewed.startswith("argon2id:$argon2id$v=19$m=8,t=1,p=1$")
    await new.accounts.login(ALICE, PASSWORD)
    assert await stored() == renewed


async def test_a_new_password_ends_all_other_tokens_and_gives_a_fresh_one(worker: Worker) -> None:
    _, here = await worker.accounts.register(ALICE, PASSWORD)
    _, there = await worker.accounts.login(ALICE, PASSWORD)
    caller, other = await worker.caller(here), await worker.caller(there)
    _, fresh = await worker.accounts.change_password(caller, PASSWORD, "another password")
    for dead in (here, there):
        with pytest.raises(InvalidToken):
            await worker.caller(dead)
    assert (await worker.caller(fresh)).session_id == caller.session_id
    assert worker.ended == [(other.user_id, other.session_id)]
    with pytest.raises(InvalidCredentials):
        await worker.accounts.login(ALICE, PASSWORD)
    assert await worker.accounts.login(ALICE, "another password")


async def test_the_wrong_current_password_changes_nothing(worker: Worker) -> None:
    _, token = await worker.accounts.register(ALICE, PASSWORD)
    with pytest.raises(WrongPassword):
        await worker.accounts.change_password(await worker.caller(token), "wrong password", "another password")
    assert await worker.caller(token)
    assert await worker.accounts.login(ALICE, PASSWORD)


async def test_of_two_password_changes_at_once_one_wins(worker: Worker) -> None:
    _, token = await worker.accounts.register(ALICE, PASSWORD)
    caller = await worker.caller(token)
    new = ["first new one", "second new one"]
    results = await outcomes([worker.accounts.change_password(caller, PASSWORD, password) for password in new])
    assert sum(isinstance(result, WrongPassword) for result in results) == 1
    winner = next(index for index, result in enumerate(results) if not isinstance(result, Exception))
    assert await worker.accounts.login(ALICE, new[winner])
    assert await worker.caller(results[winner].token)


async def test_no_login_outlives_the_password_that_it_was_made_with(worker: Worker) -> None:
    _, token = await worker.accounts.register(ALICE, PASSWORD)
    caller = await worker.caller(token)
    change = worker.accounts.change_password(caller, PASSWORD, "another password")
    logins = [worker.accounts.login(ALICE, PASSWORD) for _ in range(10)]
    changed, *made = await outcomes([change, *logins])
    fresh = await worker.caller(changed.token)
    for login in made:
        if not isinstance(login, InvalidCredentials):
            with pytest.raises(InvalidToken):
                await worker.caller(login.token)
    assert [session.id for session in await worker.accounts.list_sessions(fresh)] == [caller.session_id]


async def test_rewrapped_keys_and_the_password_change_together_or_not_at_all(new_worker: NewWorker) -> None:
    seen: list[Any] = []

    async def rewrap(tx: WriteTx, user_id: str, keys: Any) -> None:
        await tx.execute("UPDATE res_accounts SET email = 'touched' WHERE id = :id", id=user_id)
        seen.append((user_id, list(keys)))
        if keys[0].version == 7:
            raise Conflict("another version")

    worker = await new_worker(accounts={"rewrap_vault_keys": rewrap})
    account, token = await worker.accounts.register(ALICE, PASSWORD)
    caller = await worker.caller(token)
    stale, good = (RewrappedKey("v", "sealed", "salt", "nonce", version, 0) for version in (7, 8))
    with pytest.raises(Conflict, match="another version"):
        await worker.accounts.change_password(caller, PASSWORD, "another password", vault_keys=[stale])
    assert (await worker.accounts.me(caller)).email == ALICE
    assert await worker.caller(token)
    await worker.accounts.change_password(caller, PASSWORD, "another password", vault_keys=[good])
    assert seen[-1] == (account.user_id, [good])
    assert (await worker.accounts.me(caller)).email == "touched"


async def test_logout_ends_this_session_only(worker: Worker) -> None:
    _, here = await worker.accounts.register(ALICE, PASSWORD)
    _, there = await worker.accounts.login(ALICE, PASSWORD)
    await worker.accounts.logout(await worker.caller(here))
    with pytest.raises(InvalidToken):
        await worker.caller(here)
    assert await worker.caller(there)


async def test_logout_everywhere_ends_all_and_a_new_login_works(worker: Worker) -> None:
    tokens = [(await worker.accounts.register(ALICE, PASSWORD)).token]
    tokens += [(await worker.accounts.login(ALICE, PASSWORD)).token for _ in range(3)]
    await worker.accounts.logout_all(await worker.caller(tokens[1]))
    for token in tokens:
        with pytest.raises(InvalidToken):
            await worker.caller(token)
    assert len(worker.ended) == 4
    assert await worker.caller((await worker.accounts.login(ALICE, PASSWORD)).token)


async def test_a_deleted_account_leaves_nothing_and_its_tokens_are_worth_nothing(new_worker: NewWorker) -> None:
    purged: list[str] = []

    async def purge(tx: WriteTx, user_id: str) -> None:
        purged.append(user_id)

    worker = await new_worker(accounts={"on_deleted": [purge]})
    account, token = await worker.accounts.register(ALICE, PASSWORD)
    caller = await worker.caller(token)
    with pytest.raises(WrongPassword):
        await worker.accounts.delete(caller, "wrong password")
    await worker.accounts.delete(caller, PASSWORD)
    assert purged == [account.user_id]
    assert await count(worker, "res_accounts") == await count(worker, "auth_sessions") == 0
    with pytest.raises(InvalidToken):
        await worker.caller(token)
    # A caller that was verified a moment before meets the same answer, whatever it does.
    for late in (
        worker.accounts.me(caller),
        worker.accounts.change_password(caller, PASSWORD, "another password"),
        worker.accounts.logout_all(caller),
        worker.accounts.delete(caller, PASSWORD),
    ):
        with pytest.raises(InvalidToken):
            await late
    await worker.accounts.logout(caller)
    assert (await worker.accounts.register(ALICE, PASSWORD)).person.user_id != account.user_id


async def test_a_failing_purge_keeps_the_account(new_worker: NewWorker) -> None:
    async def purge(tx: WriteTx, user_id: str) -> None:
        raise Conflict("not now")

    worker = await new_worker(accounts={"on_deleted": [purge]})
    _, token = await worker.accounts.register(ALICE, PASSWORD)
    with pytest.raises(Conflict, match="not now"):
        await worker.accounts.delete(await worker.caller(token), PASSWORD)
    assert await worker.caller(token)


async def test_sessions_are_listed_and_ended_by_their_owner_only(worker: Worker, clock: FakeClock) -> None:
    phone = Origin("phone-1", "My phone", "App/1")
    _, mine = await worker.accounts.register(ALICE, PASSWORD, phone)
    clock.advance(seconds=5)
    _, other = await worker.accounts.login(ALICE, PASSWORD)
    _, foreign = await worker.accounts.register("bob@example.org", PASSWORD)
    alice, second, bob = [await worker.caller(token) for token in (mine, other, foreign)]
    sessions = await worker.accounts.list_sessions(alice)
    assert [session.id for session in sessions] == [second.session_id, alice.session_id]
    assert sessions[1][1:4] == phone[:3]
    with pytest.raises(SessionNotFound):
        await worker.accounts.end_session(bob, alice.session_id)
    await worker.accounts.end_session(alice, second.session_id)
    with pytest.raises(SessionNotFound):
        await worker.accounts.end_session(alice, second.session_id)
    with pytest.raises(InvalidToken):
        await worker.caller(other)


async def test_prelogin_tells_nobody_who_has_an_account(worker: Worker) -> None:
    await worker.accounts.register(ALICE, PASSWORD, auth_salt=SALT)
    await worker.accounts.register("bob@example.org", PASSWORD)
    known = await worker.accounts.prelogin(ALICE.lower())
    made_up = [await worker.accounts.prelogin(email) for email in ("nobody@example.org", "bob@example.org")]
    assert known.salt == SALT
    assert {len(answer.salt) for answer in (known, *made_up)} == {44}
    assert {answer.iterations for answer in (known, *made_up)} == {600_000}
    assert made_up[0] != made_up[1]
    assert await worker.accounts.prelogin("NOBODY@example.org") == made_up[0]


async def test_a_made_up_salt_needs_the_servers_secret(new_worker: NewWorker, worker: Worker) -> None:
    again = await new_worker()
    first = await worker.accounts.prelogin("nobody@example.org")
    assert await again.accounts.prelogin("nobody@example.org") == first


async def test_a_new_password_may_bring_a_new_salt(worker: Worker) -> None:
    _, token = await worker.accounts.register(ALICE, PASSWORD, auth_salt=SALT)
    other = b64encode(bytes(32)).decode()
    _, token = await worker.accounts.change_password(await worker.caller(token), PASSWORD, "another one")
    assert (await worker.accounts.prelogin(ALICE)).salt == SALT
    await worker.accounts.change_password(await worker.caller(token), "another one", "a third one", auth_salt=other)
    assert (await worker.accounts.prelogin(ALICE)).salt == other


@pytest.mark.parametrize("salt", ["", "=" * 44, "A" * 44, SALT[:-2] + "9=", SALT[:-1] + " ", SALT + "AAAA", "é" * 44])
async def test_a_salt_that_does_not_look_like_a_made_up_one_is_refused(worker: Worker, salt: str) -> None:
    with pytest.raises(ValidationFailed):
        await worker.accounts.register(ALICE, PASSWORD, auth_salt=salt)


async def test_attempts_are_counted_by_address_known_or_not_before_hashing(
    new_worker: NewWorker, clock: FakeClock
) -> None:
    limiter = MemoryLimiter(clock.monotonic)
    worker = await new_worker(accounts={"limiter": limiter, "attempts": Rate.parse("3/60:3")})
    for email in ("nobody@example.org", "NOBODY@example.org", "nobody@example.org "):
        with pytest.raises(InvalidCredentials):
            await worker.accounts.login(email, PASSWORD)
    assert len(limiter) == 1
    with pytest.raises(InvalidCredentials):
        await worker.accounts.login("somebody@example.org", PASSWORD)
    await worker.passwords.close()  # from here on, whatever hashes fails
    with pytest.raises(TooMany) as refused:
        await worker.accounts.login("nobody@example.org", PASSWORD)
    assert refused.value.retry_after_seconds == pytest.approx(20)


async def test_guesses_at_the_password_of_a_stolen_token_are_counted(new_worker: NewWorker, clock: FakeClock) -> None:
    limits = {"limiter": MemoryLimiter(clock.monotonic), "attempts": Rate.parse("3/60:3")}
    worker = await new_worker(accounts=limits)
    caller = await worker.caller((await worker.accounts.register(ALICE, PASSWORD)).token)
    for _ in range(3):
        with pytest.raises(WrongPassword):
            await worker.accounts.delete(caller, "a wild guess")
    with pytest.raises(TooMany):
        await worker.accounts.change_password(caller, PASSWORD, "another password")


async def test_operators_page_through_accounts_and_delete_one(new_worker: NewWorker) -> None:
    server, beside = await new_worker(), await new_worker()
    tokens = {name: (await server.accounts.register(f"{name}@example.org", PASSWORD)).token for name in "cab"}
    first, cursor = await beside.admin.list_accounts(limit=2)
    assert cursor is not None
    rest, end = await beside.admin.list_accounts(cursor, limit=2)
    assert [account.email for account in [*first, *rest]] == [f"{name}@example.org" for name in "cab"]
    assert end is None
    assert await server.caller(tokens["b"])
    await beside.admin.delete("B@example.org")
    await server.watch.poll_once()
    with pytest.raises(InvalidToken):
        await server.caller(tokens["b"])
    with pytest.raises(AccountNotFound):
        await beside.admin.delete("b@example.org")
    with pytest.raises(AccountNotFound):
        await beside.admin.find("b@example.org")
