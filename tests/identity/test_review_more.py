"""What a review of all of identity found: ways in that were not counted, ways in that stayed, and apps that kept theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hapta.identity.errors import BadLink, EmailTaken, InvalidCredentials, WrongPassword
from hapta.identity.factors.errors import BadPasskey
from hapta.identity.factors.passkeys import passkey_id
from hapta.identity.models import Cause, NewPerson, Origin, Person, SecondFactorNeeded
from hapta.identity.passwords import Passwords
from hapta.identity.throttle.service import Throttle
from hapta.kit.access import Caller
from hapta.kit.errors import InvalidToken, TooMany
from hapta.oauth.clients.models import NewClient
from hapta.oauth.models import Authorization
from hapta.testing.clock import FakeClock
from tests.identity.conftest import SECRET, Worker
from tests.identity.factor_house import EMAIL, PASSWORD, WHENCE, FactorHouse, factor_house
from tests.identity.message_house import MessageHouse, message_house, token_in

NEW_PASSWORD = "another horse, another battery"


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as house:
        yield house


@pytest.fixture
async def mailing(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MessageHouse]:
    async with message_house(database_url, tmp_path, clock) as house:
        yield house


@pytest.fixture
def throttled(worker: Worker, clock: FakeClock) -> Worker:
    """Accounts of the sync dialect whose failures are counted."""
    worker.accounts.throttle_with(Throttle(worker.auth_db, clock, SECRET))
    return worker


# --- failures in the sync dialect ---


async def failures(worker: Worker, email: str, count: int) -> None:
    for _ in range(count):
        with pytest.raises(InvalidCredentials):
            await worker.accounts.login(email, "wrong, wrong, wrong", WHENCE)


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
async def test_failures_of_the_sync_dialect_delay_even_the_right_password(
    throttled: Worker, clock: FakeClock, email: str
) -> None:
    await throttled.accounts.register(EMAIL, PASSWORD)
    await failures(throttled, email, 5)
    with pytest.raises(TooMany) as refused:
        await throttled.accounts.login(email, PASSWORD, WHENCE)
    assert refused.value.code == "rate_limited"
    clock.advance(seconds=2)
    if email == EMAIL:
        assert (await throttled.accounts.login(email, PASSWORD, WHENCE)).person.email == EMAIL


async def test_a_login_in_the_sync_dialect_forgives_the_failures_before_it(throttled: Worker) -> None:
    await throttled.accounts.register(EMAIL, PASSWORD)
    for _ in range(3):
        await failures(throttled, EMAIL, 4)
        await throttled.accounts.login(EMAIL, PASSWORD, WHENCE)


async def test_attempts_that_were_never_judged_do_not_count(throttled: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    await throttled.accounts.register(EMAIL, PASSWORD)
    passwords: Passwords = throttled.passwords
    monkeypatch.setattr(passwords, "_busy", passwords._limit)  # pyright: ignore[reportPrivateUsage] - its queue is full
    for _ in range(8):
        with pytest.raises(TooMany):
            await throttled.accounts.login(EMAIL, PASSWORD, WHENCE)
    monkeypatch.undo()
    await failures(throttled, EMAIL, 4)
    assert await throttled.accounts.login(EMAIL, PASSWORD, WHENCE)


async def test_whoever_holds_a_session_cannot_guess_the_password_by_changing_it_or_by_leaving(
    throttled: Worker,
) -> None:
    person, token = await throttled.accounts.register(EMAIL, PASSWORD)
    caller = await throttled.caller(token)
    for _ in range(3):
        with pytest.raises(WrongPassword):
            await throttled.accounts.delete(caller, "wrong, wrong, wrong", WHENCE)
    for _ in range(2):
        with pytest.raises(WrongPassword):
            await throttled.accounts.change_password(caller, "wrong, wrong, wrong", NEW_PASSWORD, origin=WHENCE)
    with pytest.raises(TooMany):
        await throttled.accounts.change_password(caller, PASSWORD, NEW_PASSWORD, origin=WHENCE)
    with pytest.raises(TooMany):
        await throttled.accounts.delete(caller, PASSWORD, WHENCE)
    assert await throttled.people.find(person.user_id) is not None


async def test_both_dialects_count_together(house: FactorHouse) -> None:
    await house.person()
    http = house.visitor().http
    for _ in range(2):
        answer = await http.post("/auth/login", json={"email": EMAIL, "password": "wrong, wrong, wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")
    for _ in range(3):
        body = {"identifier": EMAIL, "password": "wrong, wrong, wrong"}
        assert (await http.post("/identity/v1/login", json=body)).status_code == 401
    answer = await http.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    house.clock.advance(seconds=2)
    assert (await http.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})).status_code == 200


# --- an account that only claimed its address ---


async def mailed_token(house: FactorHouse, path: str) -> str:
    """The token of the link to this page, as soon as the outbox, which works beside us, has mailed it."""
    async with asyncio.timeout(120):
        while True:
            for text in await house.mails():
                if path in text:
                    return token_in(text)
            await asyncio.sleep(0)


async def reset(house: FactorHouse) -> None:
    await house.identity.recovery.forgot(EMAIL, WHENCE)
    await house.identity.recovery.reset(await mailed_token(house, "/identity/reset"), NEW_PASSWORD, WHENCE)


@pytest.mark.parametrize("phone_verified", [False, True])
@pytest.mark.parametrize("verified", [False, True])
async def test_a_reset_takes_every_way_in_from_whoever_had_only_claimed_the_address(
    house: FactorHouse, verified: bool, phone_verified: bool
) -> None:
    identity = house.identity
    new = NewPerson(
        email=EMAIL,
        email_verified=verified,
        phone="+4915123456789",
        phone_verified=phone_verified,
        password=PASSWORD,
    )
    person = await identity.whole.people.create(new)
    await house.registered(person)
    await identity.links.claim("github", "583231", person.user_id, WHENCE)
    await reset(house)
    left = await identity.whole.people.find(person.user_id)
    assert left is not None
    assert left.email_verified
    kept = (
        bool(left.phone),
        bool(await identity.passkeys.list(person.user_id)),
        bool(await identity.links.list(left.user_id)),
    )
    assert kept == (verified, verified, verified)
    assert await identity.whole.people.check_password(EMAIL, NEW_PASSWORD) is not None


async def test_a_passkey_that_was_left_in_a_claimed_account_opens_nothing_after_the_reset(house: FactorHouse) -> None:
    person = await house.identity.whole.people.create(NewPerson(email=EMAIL, password=PASSWORD))
    key, _ = await house.registered(person)
    await reset(house)
    ceremony = await house.login_ceremony()
    with pytest.raises(BadPasskey):
        await house.identity.passkeys.sign_in(ceremony.id, key.prove(ceremony.options), WHENCE)


async def test_a_reset_never_takes_a_second_factor_away(house: FactorHouse) -> None:
    person = await house.identity.whole.people.create(NewPerson(email=EMAIL, password=PASSWORD))
    await house.enrolled(person)
    await reset(house)
    owner = await house.identity.whole.people.check_password(EMAIL, NEW_PASSWORD)
    assert owner is not None
    assert isinstance(await house.sign_in(owner), SecondFactorNeeded)


# --- what apps hold when the factors change ---


async def app_token(house: FactorHouse, person: Person, caller: Caller) -> str:
    """An access token of an app that the person has allowed something, from a family of refresh tokens."""
    oauth = house.app.services.oauth
    made = await oauth.clients.create(
        NewClient(
            name="An app",
            type="confidential",
            redirect_uris=["https://app.example/cb"],
            scopes=["openid", "offline_access"],
            grant_types=["authorization_code", "refresh_token"],
        )
    )
    now = house.clock.now_ms()
    current = await house.identity.whole.people.find(person.user_id)
    assert current is not None
    allowed = Authorization(
        client_id=made.client.client_id,
        user_id=person.user_id,
        session_id=caller.session_id,
        scopes=("openid", "offline_access"),
        resources=(oauth.issuer.url,),
        redirect_uri="https://app.example/cb",
        redirect_uri_sent=True,
        code_challenge=None,
        nonce=None,
        dpop_jkt=None,
        authenticated_at=now,
        amr=("pwd",),
        acr=None,
        wants_auth_time=False,
        person_version=current.version,
    )
    families = oauth.access_tokens._families
    started = await house.app.services.auth_db.write(
        lambda tx: families.start(tx, allowed, made.client, person.user_id)
    )
    minted = oauth.access_tokens.mint(
        made.client, family=started.family, scopes=allowed.scopes, audience=list(allowed.resources)
    )
    assert (await oauth.access_tokens.verify(minted.token)).user_id == person.user_id
    return minted.token


Change = Callable[[FactorHouse, Person, Caller], Awaitable[object]]


async def enrol(house: FactorHouse, person: Person, caller: Caller) -> None:
    begun = await house.identity.factors.begin_totp(caller)
    await house.identity.factors.confirm_totp(caller, house.code(begun.secret), WHENCE)


async def unenrol(house: FactorHouse, person: Person, caller: Caller) -> None:
    await house.identity.factors.remove_totp(caller, WHENCE)


async def add_passkey(house: FactorHouse, person: Person, caller: Caller) -> None:
    await house.registered(person)


async def remove_passkey(house: FactorHouse, person: Person, caller: Caller) -> None:
    (passkey,) = await house.identity.passkeys.list(person.user_id)
    await house.identity.passkeys.remove(caller, passkey_id(passkey), WHENCE)


async def add_link(house: FactorHouse, person: Person, caller: Caller) -> None:
    await house.identity.upstream.links.add(caller, "github", "583231", "octocat", WHENCE)


async def remove_link(house: FactorHouse, person: Person, caller: Caller) -> None:
    (link,) = await house.identity.upstream.links.list(caller)
    await house.identity.upstream.links.remove(caller, link.id, WHENCE)


async def add_nothing(house: FactorHouse, person: Person, caller: Caller) -> None:
    return


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (add_nothing, enrol),
        (enrol, unenrol),
        (add_nothing, add_passkey),
        (add_passkey, remove_passkey),
        (add_nothing, add_link),
        (add_link, remove_link),
    ],
    ids=["totp added", "totp removed", "passkey added", "passkey removed", "link added", "link removed"],
)
async def test_a_change_of_how_one_signs_in_ends_what_apps_hold(
    house: FactorHouse, before: Change, change: Change
) -> None:
    person, bob = await house.person(), await house.person("bob@example.com")
    caller = await house.caller(person)
    await before(house, person, caller)
    caller, bystander = await house.caller(person), await house.caller(bob)
    ended, kept = await app_token(house, person, caller), await app_token(house, bob, bystander)
    await change(house, person, caller)
    tokens = house.app.services.oauth.access_tokens
    with pytest.raises(InvalidToken):
        await tokens.verify(ended)
    assert (await tokens.verify(kept)).user_id == bob.user_id


async def test_a_link_that_was_there_already_ends_nothing(house: FactorHouse) -> None:
    person = await house.person()
    caller = await house.caller(person)
    await add_link(house, person, caller)
    token = await app_token(house, person, caller)
    await add_link(house, person, caller)
    assert await house.app.services.oauth.access_tokens.verify(token)


# --- the link to a new address ---


async def test_a_link_to_a_new_address_is_not_used_up_by_somebody_who_has_the_address(mailing: MessageHouse) -> None:
    person = await mailing.person()
    await mailing.recovery.change_email(mailing.caller(person), "new@example.com", Origin())
    token = await mailing.mailed_token()
    other = await mailing.person("new@example.com")
    with pytest.raises(EmailTaken):
        await mailing.recovery.confirm_email(token, Origin())
    await mailing.people.set_email(other.user_id, None, verified=False, cause=Cause())
    changed = await mailing.recovery.confirm_email(token, Origin())
    assert (changed.email, changed.email_verified) == ("new@example.com", True)
    with pytest.raises(BadLink):
        await mailing.recovery.confirm_email(token, Origin())
