"""First-party JSON on real services and both engines: envelopes, cookies, sessions, and answers that tell nobody anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.kit.access import UserId
from hapta.testing.clock import FakeClock
from tests.identity.page_house import EMAIL, PASSWORD, URL, PageHouse, page_house

NEW = "a quite different set of words"


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[PageHouse]:
    async with page_house(database_url, tmp_path, clock) as house:
        yield house


async def login(house: PageHouse, password: str = PASSWORD, email: str = EMAIL, **more: Any) -> httpx.Response:
    body = {"identifier": email, "password": password, **more}
    return await house.visitor().http.post("/identity/v1/login", json=body)


def bearer(answer: httpx.Response) -> dict[str, str]:
    return {"authorization": f"Bearer {answer.json()['data']['accessToken']}"}


async def test_an_app_signs_in_and_calls_with_its_token(house: PageHouse) -> None:
    person = await house.person()
    answer = await login(house, deviceLabel="Ada's phone")
    body = answer.json()
    assert (body["status"], body["code"], body["data"]["expiresIn"]) == ("success", 200, 600)
    assert body["data"]["mfaRequired"] is False
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    app = house.visitor().http
    me = (await app.get("/identity/v1/me", headers=bearer(answer))).json()["data"]
    assert me["user"]["id"] == person.user_id
    assert me["sessionId"] == body["data"]["sessionId"]
    listed = (await app.get("/identity/v1/sessions", headers=bearer(answer))).json()["data"]["sessions"]
    assert [(one["deviceLabel"], one["current"]) for one in listed] == [("Ada's phone", True)]


async def test_a_failed_login_is_the_same_to_the_byte_for_whatever_reason(house: PageHouse, clock: FakeClock) -> None:
    await house.person()
    await house.person("keys@example.com", password=None)
    banned = await house.person("banned@example.com")
    await house.core.people.set_disabled(banned.user_id, True)
    answers = [
        await login(house, "wrong words entirely"),
        await login(house, email="nobody@example.com"),
        await login(house, email="no address"),
        await login(house, email="+4915100000000"),
        await login(house, email="keys@example.com"),
        await login(house, email="banned@example.com"),
    ]
    seen = {
        (answer.status_code, answer.content, *[
            (name, value) for name, value in answer.headers.items() if name not in ("x-request-id", "server-timing")
        ])
        for answer in answers
    }  # fmt: skip
    assert len(seen) == 1
    assert answers[0].json()["details"] == {"issue": "invalid_credentials"}


async def test_too_many_failures_are_the_same_for_people_who_do_not_exist(house: PageHouse) -> None:
    await house.person()
    for email in (EMAIL, "nobody@example.com"):
        visitor = house.visitor(f"198.51.100.{len(email)}")
        body = {"identifier": email, "password": "wrong words entirely"}
        answers = [await visitor.http.post("/identity/v1/login", json=body) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429]
        assert answers[-1].headers["retry-after"] == "1"
        assert answers[-1].json()["details"]["issue"] == "rate_limited"
    assert (await house.events()).count("auth.login.failed") == 4


async def test_sign_up_answers_the_same_whether_or_not_the_address_is_taken(house: PageHouse) -> None:
    await house.person()
    answers = [
        await house.visitor().http.post("/identity/v1/register", json={"email": email, "password": PASSWORD})
        for email in (EMAIL, EMAIL.upper(), "new@example.com")
    ]
    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    assert answers[0].json()["data"] == {}
    assert len(await house.mailed()) == 3
    assert (await login(house, email="new@example.com")).status_code == 200


async def test_a_password_that_will_not_do_is_named_before_anything_else(house: PageHouse) -> None:
    await house.person()
    for email in (EMAIL, "new@example.com"):
        answer = await house.visitor().http.post("/identity/v1/register", json={"email": email, "password": "password"})
        assert answer.status_code == 400
        assert answer.json()["details"]["field"] == "password"


async def test_an_address_must_be_verified_first_where_the_operator_says_so(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with page_house(database_url, tmp_path, clock, settings={"verify_email_before_login": True}) as house:
        app = house.visitor().http
        await app.post("/identity/v1/register", json={"email": EMAIL, "password": PASSWORD})
        code = await house.mailed_code()
        refused, wrong = await login(house), await login(house, "wrong words entirely")
        assert (refused.status_code, refused.content) == (401, wrong.content)
        body = {"email": EMAIL, "code": code}
        unknown = await app.post("/identity/v1/register/verify", json=body | {"email": "nobody@example.com"})
        mistaken = await app.post("/identity/v1/register/verify", json=body | {"code": "x"})
        assert (unknown.status_code, unknown.content) == (400, mistaken.content)
        assert (await app.post("/identity/v1/register/verify", json=body)).status_code == 200
        assert (await login(house)).status_code == 200


async def test_a_refresh_token_rolls_and_an_old_one_ends_the_session(house: PageHouse, clock: FakeClock) -> None:
    await house.person()
    app = house.visitor().http
    first = (await login(house)).json()["data"]["refreshToken"]
    second = await app.post("/identity/v1/refresh", json={"refreshToken": first})
    assert second.json()["data"]["refreshToken"] != first
    third = await app.post("/identity/v1/refresh", json={"refreshToken": second.json()["data"]["refreshToken"]})
    assert third.status_code == 200
    clock.advance(seconds=11)
    assert (await app.post("/identity/v1/refresh", json={"refreshToken": first})).status_code == 401
    assert (await app.get("/identity/v1/me", headers=bearer(third))).status_code == 401
    assert "auth.session.replay" in await house.events()


async def test_a_page_of_ours_keeps_its_session_in_cookies_and_gets_no_refresh_token(
    house: PageHouse, clock: FakeClock
) -> None:
    await house.person()
    page = house.visitor()
    body = {"identifier": EMAIL, "password": PASSWORD, "cookies": True, "remember": False}
    answer = await page.call("POST", "/identity/v1/login", body)
    assert answer.status_code == 200
    assert "refreshToken" not in answer.json()["data"]
    assert {"__Host-sid", "__Secure-rt", "__Host-device", "csrf"} <= page.cookies.keys()
    before = page.cookies
    rolled = await page.call("POST", "/identity/v1/refresh", {})
    assert rolled.status_code == 200
    assert page.cookies["__Secure-rt"] != before["__Secure-rt"]
    assert page.cookies["__Host-sid"] == page.cookies["__Secure-rt"]
    lines = [line for line in rolled.headers.get_list("set-cookie") if line.startswith("__Host-sid")]
    assert all("Max-Age" not in line for line in lines)
    clock.advance(seconds=11)
    assert (await page.http.get("/identity/v1/me")).status_code == 200
    page.http.cookies.delete("csrf")
    bare = await page.http.post("/identity/v1/refresh", json={}, headers={"origin": URL})
    assert (bare.status_code, bare.json()["details"]["issue"]) == (403, "csrf_failed")


async def test_signing_out_takes_the_cookies_away_and_ends_the_session(house: PageHouse) -> None:
    await house.person()
    page = house.visitor()
    await page.sign_in()
    key = page.cookies["__Host-sid"]
    assert (await page.call("POST", "/identity/v1/logout")).status_code == 200
    assert "__Host-sid" not in page.cookies
    page.http.cookies.set("__Host-sid", key, domain="id.example.com", path="/")
    assert (await page.http.get("/identity/v1/me")).status_code == 401


async def test_a_second_factor_is_announced_and_no_session_begins(house: PageHouse) -> None:
    async def totp(user_id: UserId) -> Sequence[str]:
        return ("totp", "recovery_code")

    house.core.signin.ask(totp)
    person = await house.person()
    data = (await login(house)).json()["data"]
    assert data["mfaRequired"] is True
    assert data["methods"] == ["totp", "recovery_code"]
    assert data.keys() == {"mfaRequired", "mfaToken", "methods"}
    assert await house.core.sessions.list_sessions(person.user_id) == []


async def test_a_changed_password_ends_all_other_sessions_and_rolls_this_one(
    house: PageHouse, clock: FakeClock
) -> None:
    await house.person()
    mine, other = await login(house), await login(house)
    clock.advance(seconds=301)
    app = house.visitor().http
    path = "/identity/v1/password/change"
    stale = await app.post(path, json={"newPassword": NEW}, headers=bearer(mine))
    assert stale.status_code == 401
    assert "insufficient_user_authentication" in stale.headers["www-authenticate"]
    wrong = await app.post(path, json={"newPassword": NEW, "currentPassword": "wrong"}, headers=bearer(mine))
    assert (wrong.status_code, wrong.json()["details"]["issue"]) == (403, "wrong_password")
    done = await app.post(path, json={"newPassword": NEW, "currentPassword": PASSWORD}, headers=bearer(mine))
    assert done.status_code == 200
    assert (await app.get("/identity/v1/me", headers=bearer(other))).status_code == 401
    assert (await app.get("/identity/v1/me", headers=bearer(mine))).status_code == 401
    assert (await app.get("/identity/v1/me", headers=bearer(done))).status_code == 200
    assert done.json()["data"]["refreshToken"] != mine.json()["data"]["refreshToken"]
    assert (await login(house, NEW)).status_code == 200
    assert len(await house.mailed()) == 1


async def test_a_step_up_makes_the_login_fresh_and_its_failures_are_counted(house: PageHouse, clock: FakeClock) -> None:
    await house.person()
    mine = await login(house)
    clock.advance(seconds=400)
    app = house.visitor().http
    done = await app.post("/identity/v1/step-up", json={"password": PASSWORD}, headers=bearer(mine))
    me = (await app.get("/identity/v1/me", headers=bearer(done))).json()["data"]
    assert me["authenticatedAt"] > done.json()["data"]["user"]["createdAt"]
    for _ in range(5):
        await app.post("/identity/v1/step-up", json={"password": "wrong"}, headers=bearer(done))
    refused = await app.post("/identity/v1/step-up", json={"password": PASSWORD}, headers=bearer(done))
    assert refused.status_code == 429
    assert (await login(house)).status_code == 200


async def test_the_profile_is_changed_member_by_member(house: PageHouse) -> None:
    await house.person()
    token = bearer(await login(house))
    app = house.visitor().http
    await app.patch("/identity/v1/me", json={"name": "Ada", "website": "https://ada.example"}, headers=token)
    changed = await app.patch("/identity/v1/me", json={"name": None, "nickname": "A"}, headers=token)
    profile = changed.json()["data"]["user"]["profile"]
    assert (profile["name"], profile["nickname"], profile["website"]) == (None, "A", "https://ada.example")
    bad = await app.patch("/identity/v1/me", json={"picture": "javascript:alert(1)"}, headers=token)
    assert bad.status_code == 400


async def test_sessions_end_one_by_one_and_all_at_once(house: PageHouse) -> None:
    await house.person()
    mine, second, third = await login(house), await login(house), await login(house)
    app = house.visitor().http
    one = second.json()["data"]["sessionId"]
    assert (await app.delete(f"/identity/v1/sessions/{one}", headers=bearer(mine))).json()["data"] == {"ended": 1}
    assert (await app.delete(f"/identity/v1/sessions/{one}", headers=bearer(mine))).status_code == 404
    assert (await app.delete("/identity/v1/sessions", headers=bearer(mine))).json()["data"] == {"ended": 1}
    assert (await app.get("/identity/v1/me", headers=bearer(third))).status_code == 401
    assert (await app.post("/identity/v1/logout-all", headers=bearer(mine))).status_code == 200
    assert (await app.get("/identity/v1/me", headers=bearer(mine))).status_code == 401


async def test_nobody_ends_a_session_of_somebody_else(house: PageHouse) -> None:
    await house.person()
    await house.person("eve@example.com")
    mine, hers = await login(house), await login(house, email="eve@example.com")
    session = mine.json()["data"]["sessionId"]
    answer = await house.visitor().http.delete(f"/identity/v1/sessions/{session}", headers=bearer(hers))
    assert answer.status_code == 404
    assert (await house.visitor().http.get("/identity/v1/me", headers=bearer(mine))).status_code == 200
