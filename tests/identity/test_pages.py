"""The pages of an account as a browser without JavaScript uses them, on real services and both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hapta.http.forms import Form
from hapta.identity.models import Origin, SignedIn
from hapta.identity.pages.ports import Activity, AppAccess, ProviderButton, SecondStep
from hapta.identity.policy import safe_path
from hapta.kit.access import UserId
from hapta.kit.errors import Forbidden
from hapta.testing.clock import FakeClock
from tests.identity.page_house import EMAIL, PASSWORD, PageHouse, page_house

NEW = "a quite different set of words"


class WrongToken(Forbidden):
    code = "wrong_code"
    message = "This code is not right"


class Apps:
    """Consents of a person, in memory."""

    def __init__(self) -> None:
        self.apps = [AppAccess("app-1", "Chess <club>", ["see your name"], 0)]

    async def list_apps(self, user_id: UserId) -> Sequence[AppAccess]:
        return self.apps

    async def withdraw(self, user_id: UserId, client_id: str, origin: Origin) -> None:
        self.apps = [app for app in self.apps if app.client_id != client_id]


APPS = Apps()


def offered(house: PageHouse) -> dict[str, Any]:
    async def finish(token: str, form: Form, origin: Origin) -> SignedIn:
        if form.one("code") != "246810":
            raise WrongToken
        return await house.core.signin.complete_second(token, ("otp", "mfa"), origin)

    async def activity(user_id: UserId) -> Sequence[Activity]:
        return [Activity(0, "Signed in", "192.0.2.0", alarming=True)]

    return {
        "steps": [SecondStep("totp", "Code from your app", "Open your app.", finish)],
        "providers": [ProviderButton("Example", "/identity/upstream/example", "https://provider.example")],
        "apps": APPS,
        "activity": activity,
    }


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[PageHouse]:
    APPS.__init__()
    async with page_house(database_url, tmp_path, clock, offered=offered) as house:
        yield house


async def test_somebody_signs_in_sees_the_account_and_signs_out_without_javascript(house: PageHouse) -> None:
    await house.person()
    ada = house.visitor()
    assert (await ada.open("/identity/account")).headers["location"] == "/identity/login?continue=/identity/account"
    signed_in = await ada.sign_in()
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/identity/account")
    await ada.follow(signed_in)
    assert EMAIL in ada.text
    await ada.open("/identity/logout")
    gone = await ada.submit("/identity/logout")
    await ada.follow(gone)
    assert "You are signed out" in ada.text
    assert (await ada.open("/identity/account")).status_code == 303


async def test_a_page_lets_nothing_in_from_elsewhere_and_is_kept_nowhere(house: PageHouse) -> None:
    page = await house.visitor().open("/identity/login")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert "form-action 'self' https://provider.example;" in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["strict-transport-security"].startswith("max-age=")
    assert "<script" not in page.text


async def test_a_failed_sign_in_says_the_same_for_known_and_unknown_people(house: PageHouse) -> None:
    await house.person()
    shown: list[tuple[int, str]] = []
    for email in (EMAIL, "nobody@example.com", "no address at all"):
        visitor = house.visitor()
        answer = await visitor.sign_in(email, "wrong words entirely")
        shown.append((answer.status_code, visitor.text.replace(email, "")))
    assert len(set(shown)) == 1
    assert "did not match" in shown[0][1]


async def test_a_new_session_ends_the_one_that_the_browser_had(house: PageHouse) -> None:
    await house.person()
    other = await house.person("bob@example.com")
    visitor = house.visitor()
    await visitor.sign_in()
    first = visitor.cookies["__Host-sid"]
    await visitor.open("/identity/login?again=1&switch=1")
    await visitor.submit("/identity/login", identifier="bob@example.com", password=PASSWORD)
    assert visitor.cookies["__Host-sid"] != first
    await visitor.open("/identity/account")
    assert "bob@example.com" in visitor.text
    visitor.http.cookies.set("__Host-sid", first, domain="id.example.com")
    assert len(await house.core.sessions.list_sessions(other.user_id)) == 1


async def test_cookies_are_locked_to_this_host_and_last_only_as_long_as_asked(house: PageHouse) -> None:
    await house.person()
    lasting, passing = house.visitor(), house.visitor()
    await lasting.open("/identity/login")
    kept = (await lasting.submit("/identity/login", identifier=EMAIL, password=PASSWORD, remember="1")).headers
    await passing.open("/identity/login")
    gone = (await passing.submit("/identity/login", identifier=EMAIL, password=PASSWORD, remember=None)).headers
    sid = next(line for line in kept.get_list("set-cookie") if line.startswith("__Host-sid="))
    assert {"Path=/", "SameSite=Lax", "HttpOnly", "Secure", "Max-Age=7776000"} <= set(sid.split("; "))
    refresh = next(line for line in kept.get_list("set-cookie") if line.startswith("__Secure-rt="))
    assert {"Path=/identity", "SameSite=Strict", "HttpOnly", "Secure"} <= set(refresh.split("; "))
    csrf = next(line for line in kept.get_list("set-cookie") if line.startswith("csrf="))
    assert "HttpOnly" not in csrf
    brief = next(line for line in gone.get_list("set-cookie") if line.startswith("__Host-sid="))
    assert "Max-Age" not in brief


@pytest.mark.parametrize(
    "continue_to",
    ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "/a\tb",
     "/a\nb", "evil", "/ b", "/é", "/" + "a" * 9000],
)  # fmt: skip
async def test_the_way_on_never_leads_to_another_place(house: PageHouse, continue_to: str) -> None:
    assert safe_path(continue_to) is None
    await house.person()
    visitor = house.visitor()
    await visitor.open("/identity/login")
    answer = await visitor.submit("/identity/login", identifier=EMAIL, password=PASSWORD, **{"continue": continue_to})
    assert answer.headers["location"] == "/identity/account"


async def test_the_way_on_is_kept_through_the_sign_in(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    answer = await visitor.sign_in(path="/identity/login?continue=/oauth/authorize%3Fclient_id%3Da%26state%3Db%252Fc")
    # Not at once: what follows may end at an app, and browsers would hold that against the login page's form-action.
    assert answer.headers["location"].startswith("/identity/on?continue=")
    on = await visitor.follow(answer)
    assert (on.status_code, on.headers["refresh"]) == (200, "0; url=/oauth/authorize?client_id=a&state=b%2Fc")
    assert 'href="/oauth/authorize?client_id=a&amp;state=b%2Fc"' in visitor.page


async def test_the_page_that_leads_on_leads_to_no_other_place(house: PageHouse) -> None:
    visitor = house.visitor()
    for given in ("https://evil.example/", "//evil.example/", "/\\evil.example", ""):
        on = await visitor.http.get("/identity/on", params={"continue": given})
        assert on.headers["refresh"] == "0; url=/identity/account"


async def test_a_second_factor_is_asked_for_after_the_password(house: PageHouse) -> None:
    async def totp(user_id: UserId) -> Sequence[str]:
        return ("totp", "something unknown")

    house.core.signin.ask(totp)
    await house.person()
    visitor = house.visitor()
    half = await visitor.sign_in(path="/identity/login?continue=/oauth/x")
    assert half.headers["location"] == "/identity/login/second?continue=/oauth/x"
    assert "__Host-sid" not in visitor.cookies
    await visitor.follow(half)
    assert "Open your app" in visitor.text
    wrong = await visitor.submit("/identity/login/second", code="000000")
    assert (wrong.status_code, "not right" in visitor.text) == (400, True)
    done = await visitor.submit("/identity/login/second", code="246810")
    assert (done.status_code, done.headers["location"]) == (303, "/identity/on?continue=/oauth/x")
    assert "__Host-sid" in visitor.cookies


async def test_a_sign_in_that_waits_too_long_for_its_second_half_begins_anew(
    house: PageHouse, clock: FakeClock
) -> None:
    async def totp(user_id: UserId) -> Sequence[str]:
        return ("totp",)

    house.core.signin.ask(totp)
    await house.person()
    visitor = house.visitor()
    await visitor.follow(await visitor.sign_in())
    clock.advance(seconds=601)
    over = await visitor.submit("/identity/login/second", code="246810")
    assert over.headers["location"] == "/identity/login?over=1"
    await visitor.follow(over)
    assert "took too long" in visitor.text


async def test_somebody_signs_up_and_verifies_the_address_before_signing_in(house: PageHouse) -> None:
    visitor = house.visitor()
    await visitor.open("/identity/register")
    answer = await visitor.submit("/identity/register", email=EMAIL, password=PASSWORD, name="Ada")
    assert answer.headers["location"] == "/identity/verify"
    await visitor.follow(answer)
    code = await house.mailed_code()
    wrong = await visitor.submit("/identity/verify", code="1" if code != "1" else "2")
    assert wrong.status_code == 400
    verified = await visitor.submit("/identity/verify", code=code)
    assert verified.headers["location"] == "/identity/login?verified=1"
    assert "__Host-sid" not in visitor.cookies
    person = await house.core.people.find_by_login(EMAIL)
    assert person is not None
    assert person.email_verified


async def test_signing_up_looks_the_same_when_the_address_is_taken(house: PageHouse) -> None:
    await house.person()
    seen: list[tuple[int, str, str]] = []
    for email in (EMAIL, "new@example.com"):
        visitor = house.visitor()
        await visitor.open("/identity/register")
        answer = await visitor.submit("/identity/register", email=email, password=PASSWORD)
        await visitor.follow(answer)
        seen.append((answer.status_code, answer.headers["location"], visitor.text.replace(email, "")))
    assert seen[0] == seen[1]
    mails = await house.mailed()
    assert any("there is an account already" in " ".join(text.split()) for text in mails)
    assert len(mails) == 2


async def test_a_bad_password_is_told_at_its_field(house: PageHouse) -> None:
    visitor = house.visitor()
    await visitor.open("/identity/register")
    answer = await visitor.submit("/identity/register", email=EMAIL, password="short")
    assert answer.status_code == 400
    assert 'aria-invalid="true" aria-describedby="password-fault password-hint"' in visitor.page
    assert "short" not in visitor.page.replace("short word", "")


async def test_somebody_signs_in_by_a_code(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.open("/identity/login/code?continue=/oauth/x")
    sent = await visitor.submit("/identity/login/code", identifier=EMAIL)
    await visitor.follow(sent)
    done = await visitor.submit("/identity/login/code/enter", code=await house.mailed_code())
    assert (done.status_code, done.headers["location"]) == (303, "/identity/on?continue=/oauth/x")
    assert "__Host-sid" in visitor.cookies


async def test_a_forgotten_password_is_replaced_by_a_link_that_opening_does_not_use_up(house: PageHouse) -> None:
    await house.person()
    visitor, elsewhere = house.visitor(), house.visitor()
    await elsewhere.sign_in()
    await visitor.open("/identity/forgot")
    await visitor.follow(await visitor.submit("/identity/forgot", identifier=EMAIL))
    token = await house.mailed_token()
    for _ in range(3):
        assert (await visitor.open(f"/identity/reset?token={token}")).status_code == 200
    done = await visitor.submit("/identity/reset", password=NEW)
    assert done.headers["location"] == "/identity/reset/done"
    assert "__Host-sid" not in visitor.cookies
    assert (await elsewhere.open("/identity/account")).status_code == 303
    assert (await visitor.open(f"/identity/reset?token={token}")).status_code == 400
    assert (await visitor.sign_in(password=NEW)).status_code == 303


async def test_a_password_is_changed_with_the_present_one_or_a_fresh_proof(house: PageHouse, clock: FakeClock) -> None:
    await house.person()
    visitor, elsewhere = house.visitor(), house.visitor()
    await elsewhere.sign_in()
    await visitor.sign_in()
    clock.advance(seconds=301)
    await visitor.open("/identity/account/password")
    wrong = await visitor.submit("/identity/account/password", password="wrong words", new_password=NEW)
    assert (wrong.status_code, "current password is wrong" in visitor.text) == (400, True)
    stale = await visitor.submit("/identity/account/password", password=None, new_password=NEW)
    assert stale.headers["location"] == "/identity/login?continue=/identity/account/password&again=1"
    await visitor.follow(stale)
    before = visitor.cookies["__Host-sid"]
    confirmed = await visitor.submit("/identity/login", password=PASSWORD)
    assert confirmed.headers["location"] == "/identity/account/password"
    assert visitor.cookies["__Host-sid"] != before
    await visitor.follow(confirmed)
    done = await visitor.submit("/identity/account/password", new_password=NEW)
    assert done.headers["location"] == "/identity/account?done=password"
    await visitor.follow(done)
    assert "password is changed" in visitor.text
    assert (await elsewhere.open("/identity/account")).status_code == 303
    assert any("was changed" in text for text in await house.mailed())


async def test_sessions_are_listed_and_ended_by_their_owner(house: PageHouse) -> None:
    await house.person()
    here, there, third = house.visitor(), house.visitor(), house.visitor()
    for visitor in (there, third, here):
        await visitor.sign_in()
    await here.open("/identity/account")
    assert here.text.count("this one") == 1
    done = await here.submit("/identity/account/sessions/end")
    await here.follow(done)
    assert [await alive(there), await alive(third)].count(True) == 1
    await here.submit("/identity/account/sessions/end-others")
    assert [await alive(there), await alive(third), await alive(here)] == [False, False, True]


async def alive(visitor: Any) -> bool:
    return (await visitor.open("/identity/account")).status_code == 200


async def test_apps_and_activity_of_other_nouns_stand_on_the_account_page_escaped(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.follow(await visitor.sign_in())
    assert "Chess &lt;club&gt;" in visitor.page
    assert "Chess <club>" not in visitor.page
    assert "Signed in" in visitor.text
    await visitor.follow(await visitor.submit("/identity/account/apps/withdraw"))
    assert "No app may do anything" in visitor.text


async def test_an_address_is_changed_by_a_link_and_given_back_by_another(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.sign_in()
    await visitor.open("/identity/account/email")
    await visitor.follow(await visitor.submit("/identity/account/email", email="ada@new.example.com"))
    token = await house.mailed_token()
    reader = house.visitor()
    await reader.open(f"/identity/email/confirm?token={token}")
    assert await house.core.people.find_by_login("ada@new.example.com") is None
    await reader.follow(await reader.submit("/identity/email/confirm"))
    assert await house.core.people.find_by_login("ada@new.example.com") is not None
    await reader.open(f"/identity/email/undo?token={await house.mailed_token()}")
    await reader.follow(await reader.submit("/identity/email/undo"))
    assert "old address again" in reader.text
    assert await house.core.people.find_by_login(EMAIL) is not None


async def test_a_phone_number_is_added_by_a_texted_code(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.sign_in()
    await visitor.open("/identity/account/phone")
    bad = await visitor.submit("/identity/account/phone", phone="12")
    assert (bad.status_code, "phone-fault" in visitor.page) == (400, True)
    sent = await visitor.submit("/identity/account/phone", phone="+4915123456789")
    await visitor.follow(sent)
    await house.outbox.run()
    texts = sorted(house.mails.glob("*.txt"))
    code = texts[-1].read_text().rpartition("#")[2].split()[0]
    await visitor.follow(await visitor.submit("/identity/verify", code=code))
    assert "+4915123456789 verified" in visitor.text


async def test_logging_out_everywhere_ends_every_session(house: PageHouse) -> None:
    await house.person()
    here, there = house.visitor(), house.visitor()
    await here.sign_in()
    await there.sign_in()
    await here.open("/identity/logout")
    await here.submit("/identity/logout", everywhere="1")
    assert not await alive(there)


async def test_opening_any_page_changes_nothing(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.sign_in()
    for endpoint in house.endpoints:
        if endpoint.method == "GET" and "{" not in endpoint.path:
            answer = await visitor.open(endpoint.path)
            assert answer.status_code in (200, 303, 400), endpoint.path
    assert await alive(visitor)
    assert (await house.events()).count("auth.logout") == 0


async def test_the_way_to_a_form_from_a_foreign_page_is_shut(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    await visitor.open("/identity/login")
    form = visitor.form("/identity/login") | {"identifier": EMAIL, "password": PASSWORD}
    foreign = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    answer = await visitor.http.post("/identity/login", data=form, headers=foreign)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "__Host-sid" not in visitor.cookies


async def test_too_many_attempts_are_told_on_the_page_with_when_to_come_back(house: PageHouse) -> None:
    await house.person()
    visitor = house.visitor()
    for _ in range(5):
        await visitor.sign_in(password="wrong words entirely")
    answer = await visitor.sign_in()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert "again in 1 second" in visitor.text


async def test_what_the_edge_refuses_is_told_by_a_page_as_well(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with page_house(database_url, tmp_path, clock, limits=True) as house:
        visitor = house.visitor()
        answers = [await visitor.open("/identity/login") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert "<h1>A moment, please</h1>" in answers[-1].text
    assert "retry-after" in answers[-1].headers
