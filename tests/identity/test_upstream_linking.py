"""Whose an identity elsewhere is: joined by a proof on both sides, or by its owner, and never taken over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hapta.identity.models import Cause, NewPerson, Person, SignedIn
from hapta.identity.upstream.github import GitHub
from hapta.identity.upstream.models import UpstreamIdentity
from hapta.testing.clock import FakeClock
from tests.identity.page_house import EMAIL, PASSWORD, Visitor, query_of
from tests.identity.upstream_house import (
    FETCH,
    ORIGIN,
    FakeGitHub,
    UpstreamHouse,
    come_in,
    fake_github,
    onward,
    primary,
    there,
    upstream_house,
)

OCTO = ("github", "583231")
CONNECT = "/identity/account/connect"
START = "/identity/upstream/github"


@pytest.fixture
def hub() -> Iterator[FakeGitHub]:
    with fake_github() as started:
        started.emails = [primary(EMAIL)]
        yield started


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock, hub: FakeGitHub) -> AsyncIterator[UpstreamHouse]:
    providers = [GitHub(FETCH, "hub-client", "hub-secret", web=hub.url, api=hub.url)]
    async with upstream_house(database_url, tmp_path, clock, providers) as opened:
        yield opened


def octo(email: str | None = EMAIL, *, verified: bool = True, subject: str = "583231") -> UpstreamIdentity:
    return UpstreamIdentity(provider="github", subject=subject, label="octocat", email=email, email_verified=verified)


async def connected(house: UpstreamHouse, visitor: Visitor) -> Person:
    """Somebody whose only way in is GitHub."""
    outcome = await house.upstream.service.create(octo(None), ORIGIN)
    assert isinstance(outcome, SignedIn)
    assert (await come_in(visitor, "github")).headers["location"] == "/identity/account"
    return outcome.person


# --- joined by the address ---


async def test_an_address_that_both_sides_have_verified_joins_the_accounts_and_the_owner_is_told(
    house: UpstreamHouse,
) -> None:
    person = await house.pages.person()
    visitor = house.visitor()
    assert (await come_in(visitor, "github")).headers["location"] == "/identity/account"
    me = await house.who(visitor)
    assert me is not None
    assert (me["id"], me["hasPassword"]) == (person.user_id, True)
    assert await house.linked(person) == [OCTO]
    assert "GitHub" in "".join(await house.pages.mailed())


async def test_an_account_that_nobody_proved_is_emptied_before_the_owner_of_its_address_gets_it(
    house: UpstreamHouse,
) -> None:
    # Somebody registers with the address of their victim, and leaves every way in open that an account can have.
    people = house.pages.core.people
    person = await house.pages.person(verified=False)
    await people.set_phone(person.user_id, "+491711234567", verified=True)
    thief = house.visitor()
    await thief.sign_in()
    session = await house.caller(thief)
    await house.factors.begin_totp(session)
    await house.links.claim("github", "666", person.user_id, ORIGIN)
    await house.links.claim("key", "ab" * 32, person.user_id, ORIGIN)

    visitor = house.visitor()
    assert (await come_in(visitor, "github")).headers["location"] == "/identity/account"
    me = await house.who(visitor)
    assert me is not None
    assert (me["id"], me["email"], me["emailVerified"], me["hasPassword"], me["phone"]) == (
        person.user_id,
        EMAIL,
        True,
        False,
        None,
    )
    assert await house.linked(person) == [OCTO]
    assert await house.who(thief) is None
    assert await people.check_password(EMAIL, PASSWORD) is None
    assert not (await house.factors.factors(person.user_id)).totp
    assert "auth.password.reset" in await house.pages.events()


async def test_what_a_crash_left_half_emptied_is_taken_up_by_the_next_sign_in(house: UpstreamHouse) -> None:
    person = await house.pages.person(verified=False)
    await house.links.claim("github", "666", person.user_id, ORIGIN)
    cause = Cause(ORIGIN, reason="reset")
    await house.pages.core.people.set_password(person.user_id, None, if_version=person.version, cause=cause)
    outcome = await house.upstream.service.sign_in(octo(), ORIGIN)
    assert isinstance(outcome, SignedIn)
    assert outcome.person.user_id == person.user_id
    assert await house.linked(person) == [OCTO]


async def test_an_account_with_rights_is_not_handed_over_by_an_address_that_nobody_proved_here(
    house: UpstreamHouse,
) -> None:
    person = await house.pages.person(verified=False)
    await house.pages.core.people.set_roles(person.user_id, ["user", "admin"])
    visitor = house.visitor()
    assert (await come_in(visitor, "github")).headers["location"] == CONNECT
    assert await house.who(visitor) is None
    assert await house.linked(person) == []
    assert await house.pages.core.people.check_password(EMAIL, PASSWORD) is not None


async def test_an_address_of_letters_that_only_look_alike_joins_nothing(house: UpstreamHouse, hub: FakeGitHub) -> None:
    person = await house.pages.person("kim@example.com")
    hub.emails = [primary("\N{KELVIN SIGN}im@example.com")]
    visitor = house.visitor()
    assert (await come_in(visitor, "github")).headers["location"] == CONNECT
    assert await house.linked(person) == []


async def test_of_two_first_sign_ins_at_once_one_makes_the_account(house: UpstreamHouse) -> None:
    service = house.upstream.service
    outcomes = await asyncio.gather(*[service.sign_in(octo(), ORIGIN) for _ in range(4)])
    made = {outcome.person.user_id for outcome in outcomes if isinstance(outcome, SignedIn)}
    assert len(made) == 1
    found = await house.pages.core.people.find_by_login(EMAIL)
    assert found is not None
    assert made == {found.user_id}
    people, _ = await house.pages.core.people.list_people()
    assert len(people) == 1


async def test_a_disabled_account_lets_nobody_in_and_is_not_joined(house: UpstreamHouse) -> None:
    person = await house.pages.person()
    await house.pages.core.people.set_disabled(person.user_id, True)
    visitor = house.visitor()
    assert (await come_in(visitor, "github")).status_code == 400
    assert "cannot be used" in visitor.text
    assert await house.linked(person) == []
    await house.links.claim(*OCTO, person.user_id, ORIGIN)
    assert (await come_in(visitor, "github")).status_code == 400
    assert await house.who(visitor) is None


# --- joined by the owner ---


async def test_without_a_verified_address_the_owner_signs_in_to_the_account_first(
    house: UpstreamHouse, hub: FakeGitHub
) -> None:
    person = await house.pages.person()
    hub.emails = [primary(EMAIL, verified=False)]
    visitor = house.visitor()
    answer = await come_in(visitor, "github", **{"continue": "/notes"})
    await visitor.follow(answer)
    assert "GitHub (octocat) is not connected" in visitor.text.replace("( ", "(").replace(" )", ")")
    await visitor.open(f"/identity/login?continue={CONNECT}")
    answer = await visitor.submit("/identity/login", identifier=EMAIL, password=PASSWORD)
    await visitor.follow(answer)
    assert EMAIL in visitor.text
    assert await house.linked(person) == []  # being signed in is not enough: it is asked for
    answer = await visitor.submit(CONNECT)
    assert onward(answer) == "/notes"
    assert await house.who(visitor) is not None
    await visitor.open("/identity/account")
    assert (await visitor.submit("/identity/account/profile", name="Ada")).status_code == 303
    assert await house.linked(person) == [OCTO]
    again = house.visitor()
    assert (await come_in(again, "github")).headers["location"] == "/identity/account"
    me = await house.who(again)
    assert me is not None
    assert me["id"] == person.user_id


async def test_whoever_has_no_account_may_have_one_made_which_has_no_address(
    house: UpstreamHouse, hub: FakeGitHub
) -> None:
    person = await house.pages.person()
    hub.emails = [primary(EMAIL, verified=False)]
    visitor = house.visitor()
    await visitor.follow(await come_in(visitor, "github"))
    pending = visitor.cookies
    assert (await visitor.submit(f"{CONNECT}/new")).headers["location"] == "/identity/account"
    me = await house.who(visitor)
    assert me is not None
    assert me["id"] != person.user_id
    assert me["email"] is None
    # The cookie that waited is spent: it is no way in for whoever finds it.
    thief = house.visitor()
    await thief.open("/identity/login")
    thief.http.cookies.set("__Host-upstream-link", pending["__Host-upstream-link"], domain="id.example.com", path="/")
    await thief.open(CONNECT)
    assert (await thief.submit(f"{CONNECT}/new")).status_code == 400
    assert await house.who(thief) is None


async def test_a_page_that_waits_for_nothing_says_so(house: UpstreamHouse, clock: FakeClock, hub: FakeGitHub) -> None:
    visitor = house.visitor()
    assert (await visitor.open(CONNECT)).status_code == 400
    hub.emails = []
    await come_in(visitor, "github")
    assert (await visitor.open(CONNECT)).status_code == 200
    clock.advance(minutes=10)
    assert (await visitor.open(CONNECT)).status_code == 400


async def test_where_registration_is_off_nobody_new_comes_in(
    database_url: str, tmp_path: Path, clock: FakeClock, hub: FakeGitHub
) -> None:
    providers = [GitHub(FETCH, "hub-client", "hub-secret", web=hub.url, api=hub.url)]
    async with upstream_house(database_url, tmp_path, clock, providers, allow_registration=False) as house:
        visitor = house.visitor()
        assert (await come_in(visitor, "github")).status_code == 400
        assert "Registration is disabled" in visitor.text
        hub.emails = []
        await visitor.follow(await come_in(visitor, "github"))
        assert f'action="{CONNECT}/new"' not in visitor.page
        assert (await house.pages.core.people.list_people())[0] == []


# --- from the account page ---


async def test_somebody_who_is_signed_in_connects_another_way_in(house: UpstreamHouse, hub: FakeGitHub) -> None:
    person = await house.pages.person("other@example.com")
    visitor = house.visitor()
    await visitor.sign_in("other@example.com")
    await visitor.open("/identity/account")
    assert START in visitor.page
    await visitor.open(START)
    before = visitor.cookies["__Host-sid"]
    answer = await visitor.open(await there(await visitor.submit(START)))
    assert answer.headers["location"] == "/identity/account"
    assert visitor.cookies["__Host-sid"] != before
    assert await house.linked(person) == [OCTO]
    assert "GitHub" in "".join(await house.pages.mailed())
    await visitor.open("/identity/account")
    assert "GitHub · octocat" in visitor.text
    assert await house.pages.core.people.find_by_login(EMAIL) is None  # the address there changes nothing here


async def test_connecting_needs_a_login_of_the_last_minutes(house: UpstreamHouse, clock: FakeClock) -> None:
    person = await house.pages.person("other@example.com")
    visitor = house.visitor()
    await visitor.sign_in("other@example.com")
    await visitor.open(START)
    clock.advance(minutes=4)
    path = await there(await visitor.submit(START))
    clock.advance(minutes=2)
    answer = await visitor.open(path)
    assert query_of(answer.headers["location"]) == {"continue": CONNECT, "again": "1"}
    assert await house.linked(person) == []
    answer = await visitor.open(START)
    assert query_of(answer.headers["location"]) == {"continue": START, "again": "1"}
    await visitor.open(f"/identity/login?continue={CONNECT}&again=1")
    await visitor.follow(await visitor.submit("/identity/login", password=PASSWORD))
    await visitor.submit(CONNECT)
    assert await house.linked(person) == [OCTO]


async def test_an_identity_belongs_to_one_account(house: UpstreamHouse, hub: FakeGitHub) -> None:
    hub.emails = []
    first = await connected(house, house.visitor())
    second = await house.pages.person()
    visitor = house.visitor()
    await visitor.sign_in()
    await visitor.open(START)
    answer = await visitor.open(await there(await visitor.submit(START)))
    assert answer.status_code == 400
    assert "connected to another account" in visitor.text
    assert (await house.linked(first), await house.linked(second)) == ([OCTO], [])


async def test_what_one_person_began_is_not_done_to_the_account_of_another(house: UpstreamHouse) -> None:
    await house.pages.person("other@example.com")
    second = await house.pages.person("second@example.com")
    visitor = house.visitor()
    await visitor.sign_in("other@example.com")
    await visitor.open(START)
    path = await there(await visitor.submit(START))
    await visitor.sign_in("second@example.com", path="/identity/login?again=1&switch=1")
    me = await house.who(visitor)
    assert me is not None
    assert me["id"] == second.user_id
    assert (await visitor.open(path)).status_code == 400
    assert await house.linked(second) == []


async def test_signing_in_anew_ends_the_session_that_the_browser_had(house: UpstreamHouse) -> None:
    await house.pages.person()
    visitor = house.visitor()
    await visitor.sign_in()
    before = await house.caller(visitor)
    await visitor.open("/identity/login?again=1")
    await visitor.open(await there(await visitor.submit(START)))
    after = await house.caller(visitor)
    assert after.session_id != before.session_id
    assert after.amr == ("fed",)
    sessions = await house.pages.core.sessions.list_sessions(after.user_id)
    assert [session.id for session in sessions] == [after.session_id]


# --- removing ---


async def test_the_only_way_in_cannot_be_removed(house: UpstreamHouse, hub: FakeGitHub) -> None:
    hub.emails = []
    visitor = house.visitor()
    person = await connected(house, visitor)
    (link,) = (await visitor.call("GET", "/identity/v1/links")).json()["data"]["links"]
    answer = await visitor.call("DELETE", f"/identity/v1/links/{link['id']}")
    assert answer.status_code == 409
    await visitor.open("/identity/account")
    assert (await visitor.submit("/identity/account/links/remove")).status_code == 400
    assert "only way to sign in" in visitor.text
    assert await house.linked(person) == [OCTO]


@pytest.mark.parametrize("way", ["password", "email", "phone", "link"])
async def test_with_another_way_in_a_link_can_be_removed(house: UpstreamHouse, hub: FakeGitHub, way: str) -> None:
    hub.emails = []
    visitor = house.visitor()
    person = await connected(house, visitor)
    people = house.pages.core.people
    match way:
        case "password":
            cause = Cause(ORIGIN, keep_session=(await house.caller(visitor)).session_id)
            await people.set_password(person.user_id, PASSWORD, if_version=person.version, cause=cause)
        case "email":
            await people.set_email(person.user_id, EMAIL, verified=True)
        case "phone":
            await people.set_phone(person.user_id, "+491711234567", verified=True)
        case _:
            await house.links.claim("key", "ab" * 32, person.user_id, ORIGIN)
    links = (await visitor.call("GET", "/identity/v1/links")).json()["data"]["links"]
    assert links[0]["provider"] == "github"
    assert links[0]["label"] == "octocat"
    answer = await visitor.call("DELETE", f"/identity/v1/links/{links[0]['id']}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"].get("refreshToken") is None
    assert OCTO not in await house.linked(person)
    assert await house.who(visitor) is not None
    assert "auth.link.removed" in await house.pages.events()


async def test_an_address_that_nobody_proved_is_no_way_in(house: UpstreamHouse, hub: FakeGitHub) -> None:
    hub.emails = []
    visitor = house.visitor()
    person = await connected(house, visitor)
    await house.pages.core.people.set_email(person.user_id, EMAIL, verified=False)
    (link,) = (await visitor.call("GET", "/identity/v1/links")).json()["data"]["links"]
    assert (await visitor.call("DELETE", f"/identity/v1/links/{link['id']}")).status_code == 409


async def test_of_the_last_two_links_one_stays_whoever_removes_them_at_once(house: UpstreamHouse) -> None:
    person = await house.pages.core.people.create(NewPerson())
    await house.links.claim(*OCTO, person.user_id, ORIGIN)
    await house.links.claim("github", "777", person.user_id, ORIGIN)
    outcomes = [await house.upstream.service.sign_in(octo(None, subject=s), ORIGIN) for s in ("583231", "777")]
    callers = [
        await house.pages.core.sessions.verify(outcome.access_token)
        for outcome in outcomes
        if isinstance(outcome, SignedIn)
    ]
    links = await house.links.list(person.user_id)
    done = await asyncio.gather(
        *[house.upstream.links.remove(caller, link.id, ORIGIN) for caller, link in zip(callers, links, strict=True)],
        return_exceptions=True,
    )
    assert len(await house.links.list(person.user_id)) == 1, done


async def test_removing_ends_the_sessions_that_the_link_began(house: UpstreamHouse) -> None:
    person = await house.pages.person()
    by_github, by_password = house.visitor(), house.visitor()
    await come_in(by_github, "github")
    await by_password.sign_in()
    await by_password.open("/identity/account")
    assert (await by_password.submit("/identity/account/links/remove")).headers["location"] == "/identity/account"
    assert await house.linked(person) == []
    assert await house.who(by_github) is None
    assert await house.who(by_password) is not None
    assert "GitHub" in "".join(await house.pages.mailed())


async def test_removing_needs_a_login_of_the_last_minutes(house: UpstreamHouse, clock: FakeClock) -> None:
    person = await house.pages.person()
    visitor = house.visitor()
    await come_in(visitor, "github")
    await visitor.open("/identity/account")
    (link,) = await house.links.list(person.user_id)
    clock.advance(minutes=6)
    answer = await visitor.call("DELETE", f"/identity/v1/links/{link.id}")
    assert answer.status_code == 401
    assert "insufficient_user_authentication" in answer.headers["www-authenticate"]
    answer = await visitor.submit("/identity/account/links/remove")
    assert query_of(answer.headers["location"]) == {"continue": "/identity/account", "again": "1"}
    assert await house.linked(person) == [OCTO]


async def test_nobody_sees_or_removes_the_links_of_others(house: UpstreamHouse) -> None:
    person = await house.pages.person()
    await come_in(house.visitor(), "github")
    (link,) = await house.links.list(person.user_id)
    await house.pages.person("other@example.com")
    other = house.visitor()
    await other.sign_in("other@example.com")
    assert (await other.call("GET", "/identity/v1/links")).json()["data"]["links"] == []
    assert (await other.call("DELETE", f"/identity/v1/links/{link.id}")).status_code == 404
    assert (await house.visitor().http.get("/identity/v1/links")).status_code == 401


async def test_removing_from_a_foreign_page_does_nothing(house: UpstreamHouse) -> None:
    person = await house.pages.person()
    visitor = house.visitor()
    await come_in(visitor, "github")
    (link,) = await house.links.list(person.user_id)
    answer = await visitor.http.delete(
        f"/identity/v1/links/{link.id}", headers={"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    await visitor.open("/identity/account")
    assert (await visitor.submit("/identity/account/links/remove", csrf=None)).status_code == 403
    assert await house.linked(person) == [OCTO]


async def test_a_person_who_is_deleted_takes_their_links_along(house: UpstreamHouse) -> None:
    person = await house.pages.person()
    await come_in(house.visitor(), "github")
    await house.pages.db.write(lambda tx: house.links.delete_person(tx, person.user_id))
    assert await house.links.find(*OCTO) is None
