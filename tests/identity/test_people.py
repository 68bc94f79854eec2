"""People on both engines: who is found by what, what belongs to one only, and what a change carries to the auth side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hapta.db.connect import connect
from hapta.db.migrate import load, migrate
from hapta.identity.errors import EmailTaken, PhoneTaken, WrongCode, WrongPassword
from hapta.identity.models import Cause, Change, NewPerson, Origin, Profile
from hapta.identity.password_policy import common_passwords
from hapta.kit.access import SessionId, UserId
from hapta.kit.clock import SystemClock
from hapta.kit.errors import InvalidToken, Unavailable, ValidationFailed
from hapta.settings import DatabaseSettings
from hapta.testing.clock import FakeClock
from tests.identity.conftest import PASSWORD, NewWorker, Worker, outcomes
from tests.identity.events import KeptEvents

ALICE = "Alice@Example.org"
PHONE = "+4915123456789"
NOBODY = UserId("00000000-0000-7000-8000-000000000000")


async def test_a_person_is_found_by_address_number_and_id(worker: Worker, clock: FakeClock) -> None:
    made = await worker.people.create(
        NewPerson(email=f" {ALICE} ", phone="+49 1512 3456789", password=PASSWORD, profile=Profile(name="Alice"))
    )
    assert (made.email, made.phone, made.version, made.created_at) == (ALICE, PHONE, 0, clock.now_ms())
    assert made.roles == ("user",)
    assert await worker.people.find(made.user_id) == made
    for identifier in (ALICE.upper(), f" {ALICE} ", PHONE, "+49 (1512) 34 56 789", "\uff21lice@example.org"):
        assert await worker.people.find_by_login(identifier) == made
    for identifier in ("", "alice", "@", "+49", "4915123456789", "bob@example.org", "\ud800@b", "+" * 40):
        assert await worker.people.find_by_login(identifier) is None


async def test_an_account_needs_no_address_and_no_password(worker: Worker) -> None:
    first = await worker.people.create(NewPerson(phone=PHONE))
    second = await worker.people.create(NewPerson())
    assert not first.has_password
    assert first.user_id != second.user_id
    assert await worker.people.check_password(PHONE, PASSWORD) is None
    assert not await worker.people.confirm_password(first.user_id, PASSWORD)
    with_password = await worker.people.set_password(first.user_id, PASSWORD, if_version=0)
    assert with_password.has_password
    assert await worker.people.check_password(PHONE, PASSWORD) == with_password
    without = await worker.people.set_password(first.user_id, None, if_version=1)
    assert (without.has_password, without.version) == (False, 2)


async def test_of_many_with_one_address_or_number_one_wins(worker: Worker) -> None:
    made = await outcomes([worker.people.create(NewPerson(email=ALICE, password=PASSWORD)) for _ in range(10)])
    assert sum(isinstance(result, EmailTaken) for result in made) == 9
    made = await outcomes([worker.people.create(NewPerson(phone=PHONE)) for _ in range(10)])
    assert sum(isinstance(result, PhoneTaken) for result in made) == 9
    bob = await worker.people.create(NewPerson(email="bob@example.org"))
    with pytest.raises(EmailTaken):
        await worker.people.set_email(bob.user_id, ALICE.lower(), verified=True)
    with pytest.raises(PhoneTaken):
        await worker.people.set_phone(bob.user_id, PHONE, verified=True)
    assert await worker.people.find(bob.user_id) == bob


async def test_addresses_numbers_and_profiles_are_replaced_and_removed(worker: Worker) -> None:
    person = await worker.people.create(NewPerson(email=ALICE, password=PASSWORD))
    changed = await worker.people.set_email(person.user_id, "alice@example.com", verified=True)
    assert (changed.email, changed.email_verified, changed.version) == ("alice@example.com", True, 0)
    assert await worker.people.find_by_login(ALICE) is None
    changed = await worker.people.set_phone(person.user_id, PHONE, verified=True)
    assert (changed.phone, changed.phone_verified) == (PHONE, True)
    changed = await worker.people.set_profile(person.user_id, Profile(name="Alice", locale="de"))
    assert changed.profile == Profile(name="Alice", locale="de")
    changed = await worker.people.set_phone(person.user_id, None, verified=True)
    changed = await worker.people.set_email(person.user_id, None, verified=True)
    assert (changed.email, changed.email_verified, changed.phone, changed.phone_verified) == (None, False, None, False)


@pytest.mark.parametrize(
    "password", ["password", "PassWord1", "qwertyuiop", "alice@example.org", "ALICE@example.org", "short", "x" * 1025]
)
async def test_a_password_that_others_guess_first_is_refused(worker: Worker, password: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await worker.people.create(NewPerson(email=ALICE, password=password))
    assert [issue.path for issue in refused.value.issues] == [("password",)]
    person = await worker.people.create(NewPerson(email=ALICE, password=PASSWORD))
    with pytest.raises(ValidationFailed):
        await worker.people.set_password(person.user_id, password, if_version=0)


def test_the_list_of_common_passwords_holds_thousands_that_would_be_long_enough() -> None:
    assert len(common_passwords()) > 9000
    assert all(len(password) >= 8 and password == password.lower() for password in common_passwords())


async def test_every_bad_field_is_named(worker: Worker) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await worker.people.create(NewPerson(email="nobody", phone="12", password="short", auth_salt="AAAA"))
    assert [issue.path for issue in refused.value.issues] == [("email",), ("phone",), ("password",), ("authSalt",)]
    person = await worker.people.create(NewPerson())
    with pytest.raises(ValidationFailed):
        await worker.people.set_phone(person.user_id, "12", verified=False)
    with pytest.raises(ValidationFailed):
        await worker.people.set_email(person.user_id, "nobody", verified=False)
    with pytest.raises(ValidationFailed):
        await worker.people.set_roles(person.user_id, ["user", "two words"])


async def test_a_password_is_set_over_the_version_it_was_proved_at(worker: Worker) -> None:
    person = await worker.people.create(NewPerson(email=ALICE, password=PASSWORD))
    new = [f"another password {number}" for number in range(5)]
    results = await outcomes([worker.people.set_password(person.user_id, password, if_version=0) for password in new])
    assert sum(isinstance(result, WrongPassword) for result in results) == 4
    with pytest.raises(WrongPassword):
        await worker.people.delete(person.user_id, if_version=0)
    assert await worker.people.delete(person.user_id, if_version=1)


async def test_an_address_is_verified_only_while_the_account_has_it(worker: Worker) -> None:
    person = await worker.people.create(NewPerson(email=ALICE, password=PASSWORD))
    changed = await worker.people.set_email(person.user_id, "alice@example.com", verified=True)
    with pytest.raises(WrongCode):  # a code for the address before was confirmed at the same moment
        await worker.people.set_email(person.user_id, ALICE, verified=True, if_email=ALICE)
    assert await worker.people.find(person.user_id) == changed
    again = await worker.people.set_email(
        person.user_id, "alice@example.com", verified=False, if_email="alice@example.com"
    )
    assert not again.email_verified


async def test_nothing_can_be_done_to_nobody(worker: Worker) -> None:
    people = worker.people
    for call in (
        people.set_password(NOBODY, PASSWORD, if_version=0),
        people.set_email(NOBODY, ALICE, verified=False),
        people.set_phone(NOBODY, PHONE, verified=False),
        people.set_profile(NOBODY, Profile()),
        people.set_roles(NOBODY, ["user"]),
        people.set_disabled(NOBODY, True),
        people.raise_version(NOBODY),
    ):
        with pytest.raises(InvalidToken):
            await call
    assert await people.find(NOBODY) is None
    assert not await people.delete(NOBODY)


async def test_each_change_is_told_once_with_its_cause(new_worker: NewWorker) -> None:
    events = KeptEvents()
    worker = await new_worker(accounts={"events": events})
    cause = Cause(Origin(address="192.0.2.1", request_id="r"), "operator")
    person = await worker.people.create(NewPerson(email=ALICE), cause=cause)
    await worker.people.set_email(person.user_id, ALICE, verified=True, cause=cause)
    await worker.people.set_phone(person.user_id, PHONE, verified=True, cause=cause)
    await worker.people.set_profile(person.user_id, Profile(name="A"), cause=cause)
    await worker.people.set_password(person.user_id, PASSWORD, if_version=0, cause=cause)
    await worker.people.set_password(person.user_id, "another one", if_version=1, cause=cause._replace(reason="reset"))
    await worker.people.set_disabled(person.user_id, True, cause=cause)
    await worker.people.delete(person.user_id, cause=cause)
    assert events.types() == [
        "user.created",
        "user.email_verified",
        "user.phone_verified",
        "user.updated",
        "auth.password.changed",
        "auth.password.reset",
        "admin.action",
        "user.deleted",
    ]
    assert {(event.actor, event.origin) for event in events.all} == {("operator", cause.origin)}
    assert await worker.people.catch_up(everything=True) == 0


Break = Callable[[Change], Awaitable[None]]


async def broken(change: Change) -> None:
    raise Unavailable


@pytest.mark.parametrize("change", ["password", "ban", "delete"])
async def test_what_a_crash_left_between_the_two_sides_is_taken_in_afterwards(
    new_worker: NewWorker, clock: FakeClock, change: str
) -> None:
    events = KeptEvents()
    worker, restarted = await new_worker(), await new_worker(accounts={"events": events})
    kept, lost = [
        await worker.caller((await call).token)
        for call in (worker.accounts.register(ALICE, PASSWORD), worker.accounts.login(ALICE, PASSWORD))
    ]
    worker.people.on_change(broken)  # as if the process died right after the commit on the resource side
    cause = Cause(keep_session=kept.session_id)
    with pytest.raises(Unavailable):
        await {
            "password": lambda: worker.people.set_password(kept.user_id, "another one", if_version=0, cause=cause),
            "ban": lambda: worker.people.set_disabled(kept.user_id, True),
            "delete": lambda: worker.people.delete(kept.user_id),
        }[change]()
    assert len(await restarted.sessions.list_sessions(kept.user_id)) == 2
    assert await restarted.people.catch_up() == 0  # it is young: whoever made it may be at it
    clock.advance(seconds=1)
    assert await restarted.people.catch_up() == 1
    assert await restarted.people.catch_up() == 0
    left = [session.id for session in await restarted.sessions.list_sessions(kept.user_id)]
    assert left == ([kept.session_id] if change == "password" else [])
    assert lost.session_id not in left
    assert len(events.all) == 1


async def test_a_login_made_between_the_two_sides_ends_with_them(worker: Worker, clock: FakeClock) -> None:
    token = (await worker.accounts.register(ALICE, PASSWORD)).token
    caller = await worker.caller(token)
    before = await worker.people.check_password(ALICE, PASSWORD)
    assert before is not None
    worker.people.on_change(broken)
    with pytest.raises(Unavailable):
        await worker.people.set_password(caller.user_id, "another password", if_version=0)
    worker.people.on_change(worker.sessions.settle)
    done = await worker.signin.complete(before, Origin(), amr=("pwd",), provider="password")
    assert await worker.people.catch_up(everything=True) == 1
    assert await worker.sessions.list_sessions(caller.user_id) == []
    with pytest.raises(InvalidToken):
        await worker.sessions.verify(done.access_token)  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_change_taken_in_twice_counts_once(worker: Worker) -> None:
    person = await worker.people.create(NewPerson(email=ALICE, password=PASSWORD))
    seen: list[Change] = []

    async def twice(change: Change) -> None:
        seen.append(change)
        await worker.sessions.settle(change)

    worker.people.on_change(twice)
    changed = await worker.people.raise_version(person.user_id)
    done = await worker.signin.complete(changed, Origin(), amr=("pwd",), provider="password")
    await worker.sessions.settle(seen[0])
    await worker.sessions.settle(seen[0]._replace(id="again", cause=Cause(keep_session=SessionId("gone"))))
    assert await worker.sessions.verify(done.access_token)  # pyright: ignore[reportAttributeAccessIssue]


async def test_accounts_of_earlier_releases_are_kept(empty_database_url: str, tmp_path: Path) -> None:
    db = await connect(DatabaseSettings(url=empty_database_url), tmp_path, SystemClock())
    folder = tmp_path / "migrations"
    folder.mkdir()
    for migration in load(db.engine)[:2]:
        (folder / f"{migration.version:04d}_{migration.name}.sql").write_text(migration.sql)

    async def rows(tx: Any) -> None:
        await tx.execute(
            "INSERT INTO res_accounts VALUES ('u1', 'Alice@Example.org', 'alice@example.org', 'h', 's', 3, 5, 6)"
        )
        await tx.execute(
            "INSERT INTO auth_sessions (user_id, id, generation, rolled_at, token_version, provider, amr,"
            " authenticated_at, created_at, last_seen_at, token_expires_at, absolute_expires_at, expires_at)"
            " VALUES ('u1', 's1', 1, 1, 3, 'password', 'pwd', 1, 1, 1, 9, 9, 9)"
        )

    await migrate(db, SystemClock(), folder)
    await db.write(rows)
    await db.write(lambda tx: tx.execute("DELETE FROM schema_migrations WHERE version > 2"))
    await db.write(_as_packaged(load(db.engine)[:2]))
    await migrate(db, SystemClock())
    kept = await db.read(
        lambda tx: tx.fetch_all(
            "SELECT id, email, email_key, email_verified, phone, roles, disabled, password_hash, auth_salt,"
            " token_version, created_at, updated_at FROM res_accounts"
        )
    )
    assert kept == [("u1", "Alice@Example.org", "alice@example.org", 0, None, "user", 0, "h", "s", 3, 5, 6)]
    assert await db.read(lambda tx: tx.fetch_all("SELECT id, roles, key_hash FROM auth_sessions")) == [
        ("s1", "user", None)
    ]
    await db.close()


def _as_packaged(migrations: Any) -> Callable[[Any], Awaitable[None]]:
    """Records the checksums of the packaged files: what was applied is their text, spelled for one engine."""

    async def body(tx: Any) -> None:
        for migration in migrations:
            await tx.execute(
                "UPDATE schema_migrations SET checksum = :sum WHERE version = :version",
                sum=migration.checksum,
                version=migration.version,
            )

    return body
