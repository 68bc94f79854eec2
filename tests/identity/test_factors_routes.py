"""JSON of factors and passkeys from end to end: apps with bearer tokens, and pages of our own with cookies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.testing.clock import FakeClock
from tests.identity.authenticator import SoftKey
from tests.identity.factor_house import EMAIL, PASSWORD, FactorHouse, factor_house
from tests.identity.message_house import code_in, wrong
from tests.identity.page_house import Visitor

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as opened:
        yield opened


class App:
    """An app that keeps its tokens as the answers hand them out."""

    def __init__(self, house: FactorHouse) -> None:
        self._http = house.hapta.http
        self.token = ""
        self.refresh_token = ""

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """The `data` of an answer with this status; an error's whole body."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        answer = await self._http.request(method, f"/identity/v1{path}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        if status >= 400:
            return answer.json()
        data = answer.json()["data"]
        if isinstance(data, dict) and "accessToken" in data:
            self.token, self.refresh_token = data["accessToken"], data["refreshToken"]
        return data

    async def log_in(self) -> Any:
        self.token = ""
        return await self.call("POST", "/login", {"identifier": EMAIL, "password": PASSWORD})


async def app_of(house: FactorHouse) -> App:
    await house.person()
    app = App(house)
    await app.log_in()
    return app


async def set_up(house: FactorHouse, app: App) -> tuple[str, list[str]]:
    begun = await app.call("POST", "/mfa/totp")
    assert begun["uri"].startswith("otpauth://totp/Hapta:")
    done = await app.call("POST", "/mfa/totp/confirm", {"code": house.code(begun["secret"])})
    house.clock.advance(seconds=30)
    return begun["secret"], done["recoveryCodes"]


async def test_a_password_alone_gets_a_token_that_opens_nothing_but_the_second_step(house: FactorHouse) -> None:
    app = await app_of(house)
    secret, codes = await set_up(house, app)
    assert len(codes) == 10
    assert (await app.call("GET", "/mfa"))["totp"] is True
    half = await app.log_in()
    assert (half["mfaRequired"], half["methods"]) == (True, ["totp", "recovery_code"])
    assert not {"accessToken", "refreshToken"} & {name for name, value in half.items() if value is not None}
    app.token = half["mfaToken"]
    await app.call("GET", "/me", status=401)
    app.token = ""
    refused = await app.call(
        "POST", "/login/second", {"mfaToken": half["mfaToken"], "code": wrong(house.code(secret))}, status=400
    )
    assert "accessToken" not in str(refused)
    done = await app.call("POST", "/login/second", {"mfaToken": half["mfaToken"], "code": house.code(secret)})
    assert done["mfaRequired"] is False
    me = await app.call("GET", "/me")
    assert set(me["amr"]) == {"pwd", "otp", "mfa"}
    app.token = ""
    await app.call("POST", "/login/second", {"mfaToken": half["mfaToken"], "code": codes[0]}, status=401)
    for nonsense in ("", "x", half["mfaToken"][:-2]):
        body = {"mfaToken": nonsense or "-", "code": "123456"}
        await app.call("POST", "/login/second", body, status=401)


async def test_tokens_roll_with_each_change_of_factors(house: FactorHouse) -> None:
    app = await app_of(house)
    seen = [app.token]
    await set_up(house, app)
    seen.append(app.token)
    assert len((await app.call("POST", "/mfa/recovery-codes"))["recoveryCodes"]) == 10
    seen.append(app.token)
    begun = await app.call("POST", "/passkeys/start")
    key = SoftKey()
    added = await app.call(
        "POST", "/passkeys", {"id": begun["id"], "credential": key.make(begun["options"]), "name": "phone"}, status=201
    )
    assert (added["passkey"]["name"], added["passkey"]["id"], added["passkey"]["synced"]) == ("phone", key.id, False)
    seen.append(app.token)
    await app.call("PATCH", f"/passkeys/{key.id}", {"name": "old phone"})
    (listed,) = (await app.call("GET", "/mfa"))["passkeys"]
    assert listed["name"] == "old phone"
    await app.call("DELETE", f"/passkeys/{key.id}")
    seen.append(app.token)
    await app.call("DELETE", "/mfa/totp")
    seen.append(app.token)
    assert len(set(seen)) == 6
    assert (await app.call("GET", "/mfa")) == {"totp": False, "recoveryCodesLeft": 0, "passkeys": []}
    refreshed = await app.call("POST", "/refresh", {"refreshToken": app.refresh_token})
    assert refreshed["accessToken"]


async def test_a_stale_sign_in_is_challenged_and_a_code_renews_it(house: FactorHouse) -> None:
    app = await app_of(house)
    secret, _ = await set_up(house, app)
    house.clock.advance(minutes=6)
    answer = await house.hapta.http.delete("/identity/v1/mfa/totp", headers={"authorization": f"Bearer {app.token}"})
    assert answer.status_code == 401
    assert 'error="insufficient_user_authentication"' in answer.headers["www-authenticate"]
    assert 'max_age="300"' in answer.headers["www-authenticate"]
    await app.call("POST", "/mfa/step-up", {"code": wrong(house.code(secret))}, status=400)
    await app.call("POST", "/mfa/step-up", {"code": house.code(secret)})
    await app.call("DELETE", "/mfa/totp")


async def test_a_passkey_signs_in_as_second_factor_and_once_more(house: FactorHouse) -> None:
    app = await app_of(house)
    await set_up(house, app)
    key = SoftKey()
    begun = await app.call("POST", "/passkeys/start")
    await app.call("POST", "/passkeys", {"id": begun["id"], "credential": key.make(begun["options"])}, status=201)
    house.clock.advance(minutes=6)
    again = await app.call("POST", "/passkeys/step-up/start")
    await app.call("POST", "/passkeys/step-up", {"id": again["id"], "credential": key.prove(again["options"])})
    await app.call("POST", "/mfa/recovery-codes")

    app.token = ""
    login = await app.call("POST", "/login/passkey/start")
    answer = {"id": login["id"], "credential": key.prove(login["options"])}
    assert (await app.call("POST", "/login/passkey", answer))["mfaRequired"] is False
    assert set((await app.call("GET", "/me"))["amr"]) == {"hwk", "user", "mfa"}
    app.token = ""
    await app.call("POST", "/login/passkey", answer, status=400)

    half = await app.log_in()
    assert "passkey" in half["methods"]
    second = await app.call("POST", "/login/second/passkey/start", {"mfaToken": half["mfaToken"]})
    body = {"mfaToken": half["mfaToken"], "id": second["id"], "credential": key.prove(second["options"])}
    await app.call("POST", "/login/second/passkey", body)
    assert set((await app.call("GET", "/me"))["amr"]) == {"pwd", "hwk", "user", "mfa"}


async def test_codes_are_sent_only_where_the_operator_allows_it(
    database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    async with factor_house(database_url, tmp_path, clock) as house:
        app = await app_of(house)
        await set_up(house, app)
        half = await app.log_in()
        send = {"mfaToken": half["mfaToken"], "sentBy": "email"}
        await app.call("POST", "/login/second/send", send, status=404)
        await app.call("POST", "/login/second", {**send, "code": "123456"}, status=404)
    async with factor_house(database_url, tmp_path, clock, HAPTA_IDENTITY_SECOND_FACTOR_BY_MAIL="true") as house:
        await house.mails()
        app = App(house)
        send = {"mfaToken": (await app.log_in())["mfaToken"], "sentBy": "email"}
        await app.call("POST", "/login/second/send", send, status=202)
        code = code_in(*await house.mails())
        await app.call("POST", "/login/second", {**send, "code": code})
        assert set((await app.call("GET", "/me"))["amr"]) == {"pwd", "otp", "mfa"}


async def test_nobody_changes_factors_without_a_session(house: FactorHouse) -> None:
    for method, path in (
        ("GET", "/mfa"),
        ("POST", "/mfa/totp"),
        ("DELETE", "/mfa/totp"),
        ("POST", "/mfa/recovery-codes"),
        ("POST", "/passkeys/start"),
        ("DELETE", "/passkeys/AAAA"),
    ):
        await App(house).call(method, path, status=401)


# --- with cookies ---


async def call(house: FactorHouse, page: Visitor, path: str, body: Any = None) -> httpx.Response:
    """A POST of a page of our own, with the token that it has."""
    return await page.call("POST", f"/identity/v1{path}", body, origin=house.url)


def cookies_of(answer: httpx.Response) -> set[str]:
    return {line.partition("=")[0] for line in answer.headers.get_list("set-cookie")}


async def test_a_page_with_cookies_gets_its_session_in_cookies_and_no_refresh_token(house: FactorHouse) -> None:
    await house.person()
    page = house.visitor()
    first = await call(house, page, "/login", {"identifier": EMAIL, "password": PASSWORD, "cookies": True})
    assert "__Host-sid" in cookies_of(first)
    begun = (await call(house, page, "/mfa/totp")).json()["data"]
    done = await call(house, page, "/mfa/totp/confirm", {"code": house.code(begun["secret"])})
    assert "__Host-sid" in cookies_of(done)
    assert "refreshToken" not in done.json()["data"]
    house.clock.advance(minutes=1)  # long past the overlap: only the rolled key is good now
    assert (await page.http.get("/identity/v1/me")).status_code == 200

    other = house.visitor()
    half = await call(house, other, "/login", {"identifier": EMAIL, "password": PASSWORD, "cookies": True})
    assert "__Host-sid" not in cookies_of(half)
    token = half.json()["data"]["mfaToken"]
    body = {"mfaToken": token, "code": house.code(begun["secret"]), "cookies": True}
    foreign = await other.http.post("/identity/v1/login/second", json=body)
    assert foreign.status_code == 403  # login CSRF: without the token a foreign page signs nobody in
    ended = await call(house, other, "/login/second", body)
    assert "__Host-sid" in cookies_of(ended)
    assert ended.json()["data"].get("refreshToken") is None


async def test_a_page_that_signs_in_once_more_by_a_passkey_ends_the_session_that_it_had(house: FactorHouse) -> None:
    person = await house.person()
    key, _ = await house.registered(person)
    page = house.visitor()
    sessions: list[str] = []
    for _ in range(2):
        begun = (await page.http.post("/identity/v1/login/passkey/start")).json()["data"]
        body = {"id": begun["id"], "credential": key.prove(begun["options"]), "cookies": True}
        answer = await call(house, page, "/login/passkey", body)
        assert answer.status_code == 200
        sessions.append(answer.json()["data"]["sessionId"])
    alive = {session.id for session in await house.identity.core.sessions.list_sessions(person.user_id)}
    assert sessions[0] not in alive
    assert sessions[1] in alive
