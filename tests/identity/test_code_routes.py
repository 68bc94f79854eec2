"""Codes and recovery over HTTP: nobody learns by the bytes of an answer who has an account."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.identity.browser import BrowserSessions
from hapta.identity.otp.routes import routes as otp_routes
from hapta.identity.recovery.routes import routes as recovery_routes
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.errors import InvalidToken
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.identity.message_house import PHONE, SECRET, MessageHouse, message_house

VOLATILE = {"x-request-id", "server-timing", "date"}


class Tokens:
    """Judges tokens: one is the id of its owner, and after a blank says for how many seconds that was proved."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        user, _, age = token.partition(".")
        proved = self._clock.now() - float(age or 0)
        return Caller(UserId(user), SessionId("a session"), 1, None, 4e9, authenticated_at=proved)

    async def verify_key(self, key: str) -> Caller:
        raise InvalidToken


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MessageHouse]:
    async with message_house(database_url, tmp_path, clock) as house:
        yield house


@pytest.fixture
async def client(house: MessageHouse, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    tokens = Tokens(clock)
    browser = BrowserSessions(tokens, clock, SECRET, "https://id.example.com")
    endpoints = [*otp_routes(house.otp, house.door, browser), *recovery_routes(house.recovery)]
    classes = {name: LimitClass(name, Rate.parse("600/60"), "address") for name in ("login", "account", "default")}
    edge = Edge(ServerSettings(), tokens, Limits(None, classes), Cors(["*"]), Metrics(), clock, None)
    transport = httpx.ASGITransport(cast("Any", Application(endpoints, edge)), client=("192.0.2.7", 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="https://id.example.com/identity/v1") as client:
        yield client


def seen(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a caller sees of an answer, but for what names the request."""
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in VOLATILE]
    return answer.status_code, headers, answer.content


async def test_answers_about_known_and_unknown_ones_are_the_same_bytes(
    client: httpx.AsyncClient, house: MessageHouse
) -> None:
    """Byte diff over everything that anybody may ask: also the refusals, and with the mails on their way in between."""
    await house.person("known@example.com", phone=PHONE)
    pairs = [("known@example.com", "other@example.com"), (PHONE, "+4915123456780")]
    for pair in pairs:
        found: list[list[tuple[Any, ...]]] = []
        for identifier in pair:
            answers: list[httpx.Response] = []
            for _ in range(4):
                answers.append(await client.post("/password/forgot", json={"identifier": identifier}))
            for _ in range(2):
                answers.append(await client.post("/login/code/start", json={"identifier": identifier}))
                await house.outbox.run()
            for guess in range(7):
                body = {"identifier": identifier, "code": f"x{guess}"}
                answers.append(await client.post("/login/code/confirm", json=body))
            answers.append(await client.post("/login/code/start", json={"identifier": identifier}))
            found.append([seen(answer) for answer in answers])
        assert found[0] == found[1]
        assert {answer[0] for answer in found[0]} == {202, 400, 429}


async def test_a_code_signs_in_over_http_and_the_answer_is_kept_by_nobody(
    client: httpx.AsyncClient, house: MessageHouse
) -> None:
    person = await house.person()
    started = await client.post("/login/code/start", json={"identifier": "ada@example.com", "locale": "de"})
    assert started.status_code == 202
    assert started.headers["cache-control"] == "no-store"
    (mail,) = await house.delivered()
    assert "Anmeldecode" in str(mail["subject"])
    code = str(mail["subject"]).partition(" ")[0]
    assert code not in started.text
    body = {"identifier": "ada@example.com", "code": code}
    answer = await client.post("/login/code/confirm", json=body)
    assert answer.status_code == 200
    assert answer.json()["data"]["accessToken"] == "an access token"
    assert answer.json()["data"]["user"]["id"] == person.user_id
    assert answer.headers["cache-control"] == "no-store"
    assert (await client.post("/login/code/confirm", json=body)).json()["details"] == {"issue": "wrong_code"}


async def test_a_page_of_another_site_signs_nobody_in_by_code(client: httpx.AsyncClient, house: MessageHouse) -> None:
    body = {"identifier": "ada@example.com", "code": "123456", "cookies": True}
    answer = await client.post("/login/code/confirm", json=body, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert answer.json()["details"]["issue"] == "csrf_failed"


async def test_address_and_number_are_verified_over_http(client: httpx.AsyncClient, house: MessageHouse) -> None:
    person = await house.person(verified=False)
    client.headers["authorization"] = f"Bearer {person.user_id}"
    assert (await client.post("/verify/email/start")).status_code == 202
    code = await house.mailed_code()
    answer = await client.post("/verify/email/confirm", json={"code": code})
    assert answer.json()["data"] == {"emailVerified": True, "phoneVerified": False}
    assert (await client.post("/verify/phone/start", json={"phone": PHONE})).status_code == 202
    (text,) = await house.texted()
    body = {"phone": PHONE, "code": text.rpartition("#")[2].strip()}
    assert (await client.post("/verify/phone/confirm", json=body)).json()["data"]["phoneVerified"]


async def test_password_and_address_are_recovered_over_http(client: httpx.AsyncClient, house: MessageHouse) -> None:
    person = await house.person()
    await client.post("/password/forgot", json={"identifier": "ada@example.com"})
    body = {"token": await house.mailed_token(), "newPassword": "short"}
    refused = await client.post("/password/reset", json=body)
    assert (refused.status_code, refused.json()["details"]["field"]) == (400, "newPassword")
    assert (
        await client.post("/password/reset", json={**body, "newPassword": "long enough, and rare"})
    ).status_code == 200
    again = await client.post("/password/reset", json=body)
    assert again.json()["details"] == {"issue": "bad_link"}
    await house.delivered()
    stale = {"authorization": f"Bearer {person.user_id}.999"}
    asked = {"email": "new@example.org"}
    assert (await client.post("/email/change", json=asked, headers=stale)).status_code == 401
    fresh = {"authorization": f"Bearer {person.user_id}"}
    assert (await client.post("/email/change", json=asked, headers=fresh)).status_code == 202
    assert (await client.post("/email/confirm", json={"token": await house.mailed_token()})).status_code == 200
    assert (await client.post("/email/undo", json={"token": await house.mailed_token()})).status_code == 200
    back = await house.people.find(person.user_id)
    assert back is not None
    assert back.email == "ada@example.com"


@pytest.mark.parametrize("path", ["/password/reset", "/email/confirm", "/email/undo", "/login/code/confirm"])
async def test_a_get_uses_nothing_up(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"{path}?token=x")
    assert answer.status_code == 405
    assert "GET" not in answer.headers["allow"]


async def test_what_belongs_to_somebody_asks_who_calls(client: httpx.AsyncClient) -> None:
    for path in ("/verify/email/start", "/verify/email/confirm", "/verify/phone/start", "/email/change"):
        answer = await client.post(path, json={})
        assert answer.status_code == 401, path
    assert json.loads(answer.content)["status"] == "error"
