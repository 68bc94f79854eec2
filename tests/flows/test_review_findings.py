"""What a review of identity found, each as the attack or the accident that it was."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from hapta.identity.factors.totp import STEP_SECONDS, code_at
from hapta.identity.models import Origin
from hapta.testing.clock import FakeClock
from hapta.testing.server import PASSWORD as ACCOUNT_PASSWORD
from hapta.testing.server import TestHapta
from tests.flows.identity_story import EMAIL, PASSWORD, Story
from tests.identity.page_house import page_house

MAILS_A_DAY = 10
ORIGIN = Origin()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_nobodys_mailbox_is_filled_by_signing_them_up(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with page_house(database_url, tmp_path, clock) as house:
        await house.person()
        app = house.visitor().http
        answers = []
        for _ in range(MAILS_A_DAY + 5):
            body = {"email": EMAIL.upper(), "password": PASSWORD}
            answers.append((await app.post("/identity/v1/register", json=body)).status_code)
        assert {*answers} == {202}  # the one who asks learns nothing of it
        assert len(await house.mailed()) == MAILS_A_DAY
        clock.advance(days=1)
        await app.post("/identity/v1/register", json={"email": EMAIL, "password": PASSWORD})
        assert len(await house.mailed()) == 1


async def test_a_wrong_code_costs_the_same_whether_or_not_anybody_has_the_address(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with page_house(database_url, tmp_path, clock) as house:
        app = house.visitor().http
        await app.post("/identity/v1/register", json={"email": EMAIL, "password": PASSWORD})
        costs: list[tuple[int, int]] = []
        for address in (EMAIL, "nobody@example.com"):
            writes = house.db.stats.writes
            answer = await app.post("/identity/v1/register/verify", json={"email": address, "code": "000000x"})
            costs.append((answer.status_code, house.db.stats.writes - writes))
        assert costs == [(400, 1), (400, 1)]


async def test_new_recovery_codes_end_what_apps_hold(tmp_path: Path, database_url: str, clock: FakeClock) -> None:
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}, clock=clock) as hapta:
        story = await Story(hapta).begin()
        login = {"identifier": EMAIL, "password": PASSWORD}
        access = (await hapta.http.post("/identity/v1/login", json=login)).json()["data"]["accessToken"]
        headers = {"authorization": f"Bearer {access}"}
        text = (await hapta.http.post("/identity/v1/mfa/totp", headers=headers)).json()["data"]["secret"]
        seed = base64.b32decode(text + "=" * (-len(text) % 8))
        code = code_at(seed, int(clock.now()) // STEP_SECONDS)
        confirmed = await hapta.http.post("/identity/v1/mfa/totp/confirm", json={"code": code}, headers=headers)
        headers = {"authorization": f"Bearer {confirmed.json()['data']['accessToken']}"}

        clock.advance(seconds=2 * STEP_SECONDS)
        await story.sign_in()
        await story.browser.open("/identity/login/second")
        code = code_at(seed, int(clock.now()) // STEP_SECONDS)
        assert (await story.browser.submit("/identity/login/second", code=code)).status_code == 303
        await story.redeem(await story.authorize())
        assert (await story.userinfo()).status_code == 200

        made = await hapta.http.post("/identity/v1/mfa/recovery-codes", headers=headers)
        assert made.status_code == 200, made.text
        assert (await story.userinfo()).status_code == 401
        token = story.tokens["refresh_token"]
        assert (await story.call("token", grant_type="refresh_token", refresh_token=token)).status_code == 400


async def test_the_sync_dialect_lets_nobody_in_whose_address_must_be_verified_first(
    tmp_path: Path, database_url: str, clock: FakeClock
) -> None:
    environ = {"DATABASE_URL": database_url, "HAPTA_IDENTITY_VERIFY_EMAIL_BEFORE_LOGIN": "true"}
    async with TestHapta(tmp_path, environ, clock=clock) as hapta:
        body = {"email": "ada@example.org", "password": ACCOUNT_PASSWORD}
        # It signs in at once, so it cannot make accounts here.
        assert (await hapta.http.post("/auth/register", json=body)).status_code == 403
        assert (await hapta.http.post("/identity/v1/register", json=body)).status_code == 202
        refused = await hapta.http.post("/auth/login", json=body)
        wrong = await hapta.http.post("/auth/login", json=body | {"password": "another password"})
        assert (refused.status_code, refused.content) == (401, wrong.content)
        people = hapta.app.services.identity.people
        person = await people.find_by_login("ada@example.org")
        assert person is not None
        await people.set_email(person.user_id, "ada@example.org", verified=True)
        assert (await hapta.http.post("/auth/login", json=body)).status_code == 200


async def test_two_first_decisions_about_an_app_both_count(tmp_path: Path, database_url: str, clock: FakeClock) -> None:
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}, clock=clock) as hapta:
        services = hapta.app.services
        oauth = services.oauth
        assert oauth is not None
        story = await Story(hapta).begin()
        person = await services.identity.people.find_by_login(EMAIL)
        assert person is not None
        client, user_id = story.app.client, person.user_id

        async def decide(scope: str, refused: str) -> None:
            await services.auth_db.write(
                lambda tx: oauth.consents.allow(
                    tx, user_id, client, scopes=[scope], refused=[refused], resources=[], origin=ORIGIN
                )
            )

        for _ in range(10):
            await asyncio.gather(decide("openid", "email"), decide("profile", "posts:read"))
            kept = await oauth.consents.find(user_id, client.client_id)
            assert kept is not None
            assert {*kept.scopes} == {"openid", "profile"}
            assert {*kept.refused_scopes} == {"email", "posts:read"}
            await oauth.consents.withdraw(user_id, client.client_id, ORIGIN)
