"""What the two servers of a pair say to each other (contract identity, section 1): tokens over the very request, people over
HTTP, and changes that reach the auth side before the call comes back. Everything crosses a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.identity.core import AuthCore, build_auth_core
from hapta.identity.errors import EmailTaken, PhoneTaken, WrongPassword
from hapta.identity.internal.auth_http import AUTHENTICATE, HttpAuthSide
from hapta.identity.internal.people_http import PATH, HttpIdentityStore
from hapta.identity.internal.routes import auth_routes, resource_routes
from hapta.identity.internal.schemas import Find, Outcome, RevokeDeviceRequest
from hapta.identity.internal.service import AuthAnswers
from hapta.identity.internal.tokens import InternalTokens
from hapta.identity.models import Cause, NewPerson, Origin, Profile, RewrappedKey
from hapta.identity.passwords import Passwords
from hapta.identity.people_store import LocalIdentityStore
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import SystemClock
from hapta.kit.errors import InvalidToken, Unavailable, ValidationFailed
from hapta.kit.ids import RandomIds
from hapta.settings import DatabaseSettings
from hapta.testing.clock import FakeClock
from tests.identity.conftest import CHEAP, PASSWORD, SECRET
from tests.identity.internal_house import internal_app, listening, peer_at

ADA = "ada@example.org"
NOBODY = UserId("0190a5f0-0000-7000-8000-000000000000")
CALLER = Caller(
    UserId("u"), SessionId("s"), 3, None, 2e9, frozenset({"a", "b"}), frozenset({"user"}), "app", 1.5, ("pwd",)
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def auth(clock: FakeClock) -> InternalTokens:
    return InternalTokens(SECRET, clock, RandomIds(), "auth")


@pytest.fixture
def resource(clock: FakeClock) -> InternalTokens:
    return InternalTokens(SECRET, clock, RandomIds(), "resource")


# --- tokens ---


def test_a_call_counts_for_its_own_method_path_and_body_alone(auth: InternalTokens, resource: InternalTokens) -> None:
    token = auth.sign_call("POST", "/internal/v1/x?a=1", b"body")
    resource.check_call(token, "POST", "/internal/v1/x?a=1", b"body")
    with pytest.raises(InvalidToken):  # it counts once
        resource.check_call(token, "POST", "/internal/v1/x?a=1", b"body")
    token = auth.sign_call("POST", "/internal/v1/x?a=1", b"body")
    for method, target, body in (
        ("GET", "/internal/v1/x?a=1", b"body"),
        ("POST", "/internal/v1/x", b"body"),
        ("POST", "/internal/v1/y?a=1", b"body"),
        ("POST", "/internal/v1/x?a=1", b"body "),
        ("POST", "/internal/v1/x?a=1", b""),
    ):
        with pytest.raises(InvalidToken):
            resource.check_call(token, method, target, body)


def test_a_token_for_one_server_is_nothing_to_the_other(auth: InternalTokens, resource: InternalTokens) -> None:
    with pytest.raises(InvalidToken):
        auth.check_call(auth.sign_call("POST", "/x", b""), "POST", "/x", b"")
    with pytest.raises(InvalidToken):
        resource.check_call(resource.sign_call("POST", "/x", b""), "POST", "/x", b"")


def test_kinds_of_internal_tokens_do_not_stand_in_for_each_other(
    auth: InternalTokens, resource: InternalTokens
) -> None:
    relay, call = resource.sign_relay("POST", "/x", "192.0.2.1"), resource.sign_call("POST", "/x", b"")
    assert auth.check_relay(relay, "POST", "/x").address == "192.0.2.1"
    with pytest.raises(InvalidToken):
        auth.check_call(relay, "POST", "/x", b"")
    with pytest.raises(InvalidToken):
        auth.check_relay(call, "POST", "/x")
    with pytest.raises(InvalidToken):
        resource.read_finding(auth.sign_call("POST", "/x", b""), "token")
    with pytest.raises(InvalidToken):
        auth.check_relay(relay, "POST", "/y")


def test_an_internal_token_lives_for_half_a_minute(
    auth: InternalTokens, resource: InternalTokens, clock: FakeClock
) -> None:
    first, second = (auth.sign_call("POST", "/x", b"") for _ in range(2))
    clock.advance(seconds=29)
    resource.check_call(first, "POST", "/x", b"")
    clock.advance(seconds=1)
    with pytest.raises(InvalidToken):
        resource.check_call(second, "POST", "/x", b"")


def test_another_secret_signs_nothing_that_counts(resource: InternalTokens, clock: FakeClock) -> None:
    stranger = InternalTokens("another secret that is just as long", clock, RandomIds(), "auth")
    with pytest.raises(InvalidToken):
        resource.check_call(stranger.sign_call("POST", "/x", b""), "POST", "/x", b"")


def test_a_finding_is_over_one_token_and_says_all_that_is_known_of_the_caller(
    auth: InternalTokens, resource: InternalTokens
) -> None:
    assertion = auth.sign_finding("a token", CALLER, 17)
    assert resource.read_finding(assertion, "a token") == (CALLER, 17)
    with pytest.raises(InvalidToken):
        resource.read_finding(assertion, "another token")


# --- two servers over two databases ---


@dataclass
class Pair:
    """Both servers: people behind one listener, sessions behind the other."""

    people: LocalIdentityStore
    store: HttpIdentityStore
    core: AuthCore
    auth: HttpAuthSide
    resource_url: str
    auth_url: str
    vault_keys: list[RewrappedKey]


@asynccontextmanager
async def database(url: str, folder: Path) -> AsyncIterator[Database]:
    db = await connect(DatabaseSettings(url=url), folder, SystemClock())
    await migrate(db, SystemClock())
    try:
        yield db
    finally:
        await db.close()


@pytest.fixture
async def pair(
    database_url: str, tmp_path: Path, clock: FakeClock, auth: InternalTokens, resource: InternalTokens
) -> AsyncIterator[Pair]:
    """The auth side is on SQLite whatever the resource side is on: they share nothing."""
    rewrapped: list[RewrappedKey] = []

    async def rewrap(tx: object, user_id: UserId, keys: object) -> None:
        rewrapped.extend(keys)  # type: ignore[arg-type]

    passwords = Passwords(CHEAP)
    async with (
        database(database_url, tmp_path) as res_db,
        database(f"sqlite:///{tmp_path / 'auth.db'}", tmp_path) as auth_db,
    ):
        people = LocalIdentityStore(res_db, clock, RandomIds(), passwords, CHEAP, rewrap_vault_keys=rewrap)
        async with (
            listening(internal_app(resource_routes(people), resource, clock)) as resource_url,
            peer_at(resource_url, auth) as to_resource,
        ):
            store = HttpIdentityStore(to_resource)
            core = build_auth_core(auth_db, MemoryBus(), clock, RandomIds(), CHEAP, SECRET, store)

            async def kids() -> list[str]:
                return []

            answers = AuthAnswers(core.sessions, core.sessions, auth, auth_db, clock, kids)
            async with (
                listening(internal_app(auth_routes(answers), auth, clock)) as auth_url,
                peer_at(auth_url, resource) as to_auth,
            ):
                side = HttpAuthSide(to_auth, resource)
                people.on_change(side.settle)
                yield Pair(people, store, core, side, resource_url, auth_url, rewrapped)
            await core.close()
    await passwords.close()


async def test_people_are_the_same_over_http(pair: Pair) -> None:
    profile = Profile(name="Ada", locale="en")
    made = await pair.store.create(NewPerson(email=ADA, phone="+4930123456", password=PASSWORD, profile=profile))
    assert await pair.people.find(made.user_id) == made
    assert await pair.store.find(made.user_id) == made
    assert await pair.store.find_by_login("ADA@example.org") == made
    assert await pair.store.find_by_login("nobody@example.org") is None
    assert await pair.store.find(NOBODY) is None
    assert await pair.store.check_password(ADA, PASSWORD) == made
    assert await pair.store.check_password(ADA, "another password") is None
    assert await pair.store.confirm_password(made.user_id, PASSWORD)
    assert not await pair.store.confirm_password(made.user_id, "another password")
    assert await pair.store.find_salt(ADA) is None
    changed = await pair.store.set_email(made.user_id, "countess@example.org", verified=True)
    assert (changed.email, changed.email_verified) == ("countess@example.org", True)
    assert (await pair.store.set_phone(made.user_id, None, verified=False)).phone is None
    assert (await pair.store.set_profile(made.user_id, Profile(name="Countess"))).profile.name == "Countess"
    assert (await pair.store.set_roles(made.user_id, ["user", "admin"])).roles == ("user", "admin")
    raised = await pair.store.raise_version(made.user_id)
    assert raised == await pair.people.find(made.user_id)
    assert await pair.store.delete(made.user_id)
    assert not await pair.store.delete(made.user_id)


async def test_vault_keys_cross_with_the_password_that_they_are_wrapped_under(pair: Pair) -> None:
    made = await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    key = RewrappedKey("vault", "wrapped", "salt", "nonce", 2, 1)
    await pair.store.set_password(
        made.user_id, "a new password, long", if_version=made.version, auth_salt=None, vault_keys=[key]
    )
    assert pair.vault_keys == [key]
    assert await pair.people.check_password(ADA, "a new password, long") is not None


async def test_what_the_resource_side_refuses_is_raised_on_the_auth_side(pair: Pair) -> None:
    made = await pair.store.create(NewPerson(email=ADA, phone="+4930123456", password=PASSWORD))
    with pytest.raises(EmailTaken):
        await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    with pytest.raises(PhoneTaken):
        await pair.store.create(NewPerson(phone="+4930123456", password=PASSWORD))
    with pytest.raises(WrongPassword):
        await pair.store.set_password(made.user_id, "a new password, long", if_version=made.version + 1)
    with pytest.raises(InvalidToken):
        await pair.store.set_disabled(NOBODY, True)
    with pytest.raises(ValidationFailed) as over_http:
        await pair.store.create(NewPerson(email="none", password="short"))
    with pytest.raises(ValidationFailed) as at_home:
        await pair.people.create(NewPerson(email="none", password="short"))
    assert over_http.value.issues == at_home.value.issues
    assert len(over_http.value.issues) == 2


async def test_a_ban_ends_all_sessions_on_the_other_side_before_the_call_comes_back(pair: Pair) -> None:
    made = await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    _, token = await pair.core.accounts.login(ADA, PASSWORD)
    assert (await pair.auth.authenticate(token)).caller.user_id == made.user_id
    await pair.store.set_disabled(made.user_id, True, cause=Cause(Origin(address="192.0.2.1"), actor="operator"))
    with pytest.raises(InvalidToken):
        await pair.auth.authenticate(token)
    revocations = (await pair.auth.pull(None)).revocations
    assert [one.user_id for one in revocations] == [made.user_id]


async def test_a_session_survives_the_change_of_password_that_was_made_from_it(pair: Pair) -> None:
    await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    _, token = await pair.core.accounts.login(ADA, PASSWORD)
    _, other = await pair.core.accounts.login(ADA, PASSWORD)
    caller = await pair.core.sessions.verify(token)
    _, renewed = await pair.core.accounts.change_password(caller, PASSWORD, "a new password, long")
    assert (await pair.auth.authenticate(renewed)).caller.session_id == caller.session_id
    for gone in (token, other):
        with pytest.raises(InvalidToken):
            await pair.auth.authenticate(gone)


async def test_a_removed_device_loses_its_sessions(pair: Pair) -> None:
    await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    person, token = await pair.core.accounts.login(ADA, PASSWORD, Origin(device_id="a device"))
    await pair.auth.revoke_device(person.user_id, "a device")
    with pytest.raises(InvalidToken):
        await pair.auth.authenticate(token)


async def test_a_change_made_while_the_auth_server_is_away_reaches_it_later(
    pair: Pair, clock: FakeClock, resource: InternalTokens
) -> None:
    made = await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    _, token = await pair.core.accounts.login(ADA, PASSWORD)
    async with peer_at("http://127.0.0.1:9", resource) as nowhere:
        pair.people.on_change(HttpAuthSide(nowhere, resource).settle)
        with pytest.raises(Unavailable):
            await pair.people.set_disabled(made.user_id, True)
    assert (await pair.auth.authenticate(token)).caller.user_id == made.user_id
    pair.people.on_change(pair.auth.settle)
    clock.advance(seconds=2)
    assert await pair.people.catch_up() == 1
    with pytest.raises(InvalidToken):
        await pair.auth.authenticate(token)


async def test_a_resource_server_that_is_away_makes_people_unavailable(auth: InternalTokens) -> None:
    async with peer_at("http://127.0.0.1:9", auth) as nowhere:
        with pytest.raises(Unavailable):
            await HttpIdentityStore(nowhere).find(NOBODY)


async def test_nobody_else_is_answered(pair: Pair, auth: InternalTokens, resource: InternalTokens) -> None:
    """Without a token, with one over another body, with one for the other server, and with a user's."""
    made = await pair.store.create(NewPerson(email=ADA, password=PASSWORD))
    _, of_user = await pair.core.accounts.login(ADA, PASSWORD)
    body = msgspec.json.encode(Find(made.user_id))
    good = auth.sign_call("POST", PATH + "find", body)
    async with httpx.AsyncClient(trust_env=False) as http:

        async def ask(token: str | None, content: bytes = body, path: str = PATH + "find") -> httpx.Response:
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            return await http.post(pair.resource_url + path, content=content, headers=headers)

        answered = await ask(good)
        assert answered.status_code == 200
        assert msgspec.json.decode(answered.content, type=Outcome).fault is None
        refused = [
            await ask(None),
            await ask(of_user),
            await ask(good, msgspec.json.encode(Find(NOBODY))),
            await ask(good, path=PATH + "find_by_login"),
            await ask(resource.sign_call("POST", PATH + "find", body)),
        ]
        assert [answer.status_code for answer in refused] == [401] * len(refused)
        assert ADA not in "".join(answer.text for answer in refused)
        unknown = auth.sign_call("POST", PATH + "list_people", b"{}")
        assert (await ask(unknown, b"{}", PATH + "list_people")).status_code == 404

        device = msgspec.json.encode(RevokeDeviceRequest(made.user_id, "x"))
        answer = await http.post(pair.auth_url + "/internal/v1/devices/revoke", content=device)
        assert answer.status_code == 401
        answer = await http.post(pair.auth_url + AUTHENTICATE, content=msgspec.json.encode({"token": of_user}))
        assert answer.status_code == 401
