"""Signing in with GitHub: what it answers and means, and whose account that is."""

from __future__ import annotations

from base64 import b32decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hapta.identity.factors.totp import STEP_SECONDS, code_at
from hapta.identity.upstream.github import GitHub
from hapta.testing.clock import FakeClock
from tests.identity.page_house import EMAIL
from tests.identity.upstream_house import (
    FETCH,
    ORIGIN,
    FakeGitHub,
    UpstreamHouse,
    changed,
    come_in,
    depart,
    fake_github,
    onward,
    primary,
    there,
    upstream_house,
)

OCTO = ("github", "583231")
MAIL = "octo@example.com"


@pytest.fixture
def hub() -> Iterator[FakeGitHub]:
    with fake_github() as started:
        yield started


def github(hub: FakeGitHub) -> GitHub:
    return GitHub(FETCH, "hub-client", "hub-secret", web=hub.url, api=hub.url)


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock, hub: FakeGitHub) -> AsyncIterator[UpstreamHouse]:
    async with upstream_house(database_url, tmp_path, clock, [github(hub)]) as opened:
        yield opened


# --- what GitHub says ---


async def test_somebody_new_gets_an_account_with_their_verified_address(house: UpstreamHouse) -> None:
    visitor = house.visitor()
    answer = await come_in(visitor, "github")
    assert (answer.status_code, answer.headers["location"]) == (303, "/identity/account")
    me = await house.who(visitor)
    assert me is not None
    assert (me["email"], me["emailVerified"], me["hasPassword"], me["profile"]["name"]) == (MAIL, True, False, "Octo")
    person = await house.pages.core.people.find_by_login(MAIL)
    assert person is not None
    assert await house.linked(person) == [OCTO]
    assert await house.pages.events() == ["user.created", "auth.link.added", "auth.login.succeeded"]


async def test_no_token_of_a_provider_is_kept(house: UpstreamHouse) -> None:
    await come_in(house.visitor(), "github")
    db = house.pages.db
    kept = await db.read(lambda tx: tx.fetch_all("SELECT * FROM auth_links"))
    assert kept
    assert "gho_secret" not in repr(kept)
    spent = await db.read(lambda tx: tx.fetch_all("SELECT * FROM auth_spent"))
    assert "gho_secret" not in repr(spent)


async def test_the_way_there_carries_a_state_and_a_challenge_and_no_secret(
    house: UpstreamHouse, hub: FakeGitHub
) -> None:
    answer = await depart(house.visitor(), "github")
    location = onward(answer)
    assert location.startswith(f"{hub.url}/login/oauth/authorize?")
    assert "code_challenge_method=S256" in location
    assert "redirect_uri=https%3A%2F%2Fid.example.com%2Fidentity%2Fupstream%2Fgithub%2Fcallback" in location
    assert "hub-secret" not in location
    cookie = next(line for line in answer.headers.get_list("set-cookie") if "upstream" in line)
    name, _, rest = cookie.partition("=")
    assert name == "__Host-upstream"
    assert {"Path=/", "SameSite=Lax", "Max-Age=600", "HttpOnly", "Secure"} <= set(rest.split("; "))
    assert "Domain" not in rest


async def test_an_error_that_comes_with_status_200_lets_nobody_in(house: UpstreamHouse, hub: FakeGitHub) -> None:
    hub.token_error = "bad_verification_code"
    visitor = house.visitor()
    answer = await come_in(visitor, "github")
    assert answer.status_code == 400
    assert "could not be verified" in visitor.text
    assert await house.who(visitor) is None
    assert ("/user", "Bearer gho_secret") not in hub.asked


@pytest.mark.parametrize(
    "emails",
    [None, [], [primary(EMAIL, verified=False)], [{"email": EMAIL, "primary": False, "verified": True}]],
    ids=["withheld", "none", "not verified", "not primary"],
)
async def test_only_the_primary_verified_address_of_the_list_counts_and_never_that_of_the_profile(
    house: UpstreamHouse, hub: FakeGitHub, emails: list[dict[str, object]] | None
) -> None:
    known = await house.pages.person()
    hub.user["email"], hub.emails = EMAIL, emails
    visitor = house.visitor()
    answer = await come_in(visitor, "github")
    assert answer.headers["location"] == "/identity/account/connect"
    assert await house.who(visitor) is None
    assert await house.linked(known) == []
    assert EMAIL not in (await visitor.follow(answer)).text


async def test_somebody_who_is_renamed_there_stays_the_same_here(house: UpstreamHouse, hub: FakeGitHub) -> None:
    visitor = house.visitor()
    await come_in(visitor, "github")
    before = await house.who(visitor)
    hub.user |= {"login": "renamed", "name": "Other"}
    hub.emails = [primary("new@example.com")]
    again = house.visitor()
    await come_in(again, "github")
    after = await house.who(again)
    assert before is not None
    assert after is not None
    assert after["id"] == before["id"]
    assert after["email"] == MAIL
    await again.open("/identity/account")
    assert "GitHub · renamed" in again.text


async def test_whoever_takes_over_a_login_name_there_is_somebody_else_here(
    house: UpstreamHouse, hub: FakeGitHub
) -> None:
    visitor = house.visitor()
    await come_in(visitor, "github")
    hub.user["id"], hub.emails = 999, [primary("thief@example.com")]
    thief = house.visitor()
    await come_in(thief, "github")
    first, second = await house.who(visitor), await house.who(thief)
    assert first is not None
    assert second is not None
    assert first["id"] != second["id"]


@pytest.mark.parametrize("number", [None, "583231", True, 0, 5.5])
async def test_a_profile_without_a_numeric_id_is_nobody(house: UpstreamHouse, hub: FakeGitHub, number: object) -> None:
    hub.user["id"] = number
    visitor = house.visitor()
    assert (await come_in(visitor, "github")).status_code == 400
    assert await house.who(visitor) is None


async def test_a_provider_that_is_away_is_said_to_be_away(house: UpstreamHouse, hub: FakeGitHub) -> None:
    visitor = house.visitor()
    path = await there(await depart(visitor, "github"))
    hub.is_down = True
    answer = await visitor.open(path)
    assert answer.status_code == 503
    assert "GitHub does not answer" in visitor.text


# --- the journey ---


async def test_a_state_is_spent_even_if_the_cookie_is_kept(house: UpstreamHouse) -> None:
    visitor = house.visitor()
    path = await there(await depart(visitor, "github"))
    cookies = visitor.cookies
    assert (await visitor.open(path)).status_code == 303
    thief = house.visitor()
    for name, value in cookies.items():
        thief.http.cookies.set(name, value, domain="id.example.com", path="/")
    assert (await thief.open(path)).status_code == 400
    assert "finished already" in thief.text
    assert await house.who(thief) is None


async def test_what_one_browser_began_no_other_one_ends(house: UpstreamHouse) -> None:
    visitor, other = house.visitor(), house.visitor()
    path = await there(await depart(visitor, "github"))
    assert (await other.open(path)).status_code == 400
    await depart(other, "github")  # nor with an attempt of its own
    assert (await other.open(path)).status_code == 400
    assert await house.who(other) is None


async def test_a_return_without_its_state_or_its_code_leads_nowhere(house: UpstreamHouse) -> None:
    for wrong in ({"state": None}, {"state": "another"}, {"code": None}, {"state": "ü"}):
        visitor = house.visitor()
        path = changed(await there(await depart(visitor, "github")), **wrong)
        assert (await visitor.open(path)).status_code == 400
        assert await house.who(visitor) is None


async def test_an_attempt_ends_after_ten_minutes(house: UpstreamHouse, clock: FakeClock) -> None:
    visitor = house.visitor()
    path = await there(await depart(visitor, "github"))
    clock.advance(seconds=600)
    assert (await visitor.open(path)).status_code == 400


async def test_spent_attempts_are_forgotten_once_they_would_have_ended(house: UpstreamHouse, clock: FakeClock) -> None:
    await come_in(house.visitor(), "github")
    assert await house.upstream.sweep() == 0
    clock.advance(minutes=11)
    assert await house.upstream.sweep() == 1


async def test_a_refusal_by_the_person_is_told_and_spends_the_attempt(house: UpstreamHouse) -> None:
    visitor = house.visitor()
    path = await there(await depart(visitor, "github"))
    answer = await visitor.open(changed(path, code=None, error="access_denied"))
    assert answer.status_code == 400
    assert "GitHub did not let you in" in visitor.text
    assert (await visitor.open(path)).status_code == 400


async def test_an_answer_in_the_name_of_another_issuer_is_refused(house: UpstreamHouse, hub: FakeGitHub) -> None:
    visitor = house.visitor()
    path = await there(await depart(visitor, "github"))
    assert (await visitor.open(changed(path, iss="https://evil.example"))).status_code == 400
    path = await there(await depart(visitor, "github"))
    assert (await visitor.open(changed(path, iss=f"{hub.url}/login/oauth"))).status_code == 303


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "/a\tb", "javascript:alert(1)", "/ /evil.example"],
)
async def test_the_way_back_never_leads_to_another_server(house: UpstreamHouse, target: str) -> None:
    visitor = house.visitor()
    answer = await come_in(visitor, "github", **{"continue": target})
    assert answer.headers["location"] == "/identity/account"


async def test_the_way_back_leads_to_where_one_was_also_if_that_is_a_long_address(house: UpstreamHouse) -> None:
    target = "/oauth/authorize?" + "&".join(f"parameter{number}=value{number}" for number in range(60))
    visitor = house.visitor()
    answer = await come_in(visitor, "github", **{"continue": target})
    assert answer.headers["location"].startswith("/identity/on?continue=")
    assert (await visitor.follow(answer)).headers["refresh"] == f"0; url={target}"


async def test_a_form_of_a_foreign_page_begins_nothing(house: UpstreamHouse) -> None:
    visitor = house.visitor()
    assert (await depart(visitor, "github", csrf=None)).status_code == 403
    assert (await depart(visitor, "github", csrf="forged")).status_code == 403


async def test_an_unknown_provider_is_not_there(house: UpstreamHouse) -> None:
    assert (await house.visitor().open("/identity/upstream/nobody/callback?code=a&state=b")).status_code == 404


async def test_a_second_factor_is_asked_for_as_after_a_password(house: UpstreamHouse, clock: FakeClock) -> None:
    visitor = house.visitor()
    await come_in(visitor, "github")
    caller = await house.caller(visitor)
    enrolment = await house.factors.begin_totp(caller)
    code = code_at(b32decode(enrolment.secret), int(clock.now()) // STEP_SECONDS)
    await house.factors.confirm_totp(caller, code, ORIGIN)
    again = house.visitor()
    answer = await come_in(again, "github")
    assert answer.headers["location"].startswith("/identity/login/second")
    assert await house.who(again) is None


async def test_a_short_visit_gets_cookies_that_go_with_the_window(house: UpstreamHouse) -> None:
    answer = await come_in(house.visitor(), "github", remember=None)
    sid = next(line for line in answer.headers.get_list("set-cookie") if line.startswith("__Host-sid="))
    assert "Max-Age" not in sid
    answer = await come_in(house.visitor(), "github")
    sid = next(line for line in answer.headers.get_list("set-cookie") if line.startswith("__Host-sid="))
    assert "Max-Age" in sid
