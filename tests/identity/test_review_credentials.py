"""One kind of credential never stands in for another: session keys, access tokens, half-done sign-ins, refresh tokens, device cookies.

Each of these was tried by somebody who has one of them and wants what another one opens.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from hapta.identity.models import SecondFactorNeeded
from hapta.kit.errors import InvalidToken
from hapta.testing.clock import FakeClock
from tests.identity.factor_house import EMAIL, PASSWORD, WHENCE, FactorHouse, factor_house
from tests.identity.page_house import Visitor

VICTIM = "grace@example.com"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as house:
        yield house


async def me(house: FactorHouse, token: str, scheme: str = "Bearer") -> httpx.Response:
    return await house.hapta.http.get("/identity/v1/me", headers={"authorization": f"{scheme} {token}"})


async def signed_in_tokens(house: FactorHouse) -> tuple[str, str]:
    """An access token and a session key."""
    await house.person()
    answer = await house.hapta.http.post("/identity/v1/login", json={"identifier": EMAIL, "password": PASSWORD})
    data = answer.json()["data"]
    return data["accessToken"], data["refreshToken"]


async def test_a_session_key_is_no_access_token_also_just_after_it_was_used_as_a_key(house: FactorHouse) -> None:
    _, key = await signed_in_tokens(house)
    assert (await me(house, key)).status_code == 401
    by_cookie = await house.hapta.http.get("/identity/v1/me", headers={"cookie": f"__Host-sid={key}.1"})
    assert by_cookie.status_code == 200
    assert (await me(house, key)).status_code == 401
    sessions = house.identity.core.sessions
    assert sessions.cached(key) is None
    with pytest.raises(InvalidToken):
        await sessions.verify(key)


async def test_an_access_token_is_no_session_key_also_just_after_it_was_used_as_a_token(house: FactorHouse) -> None:
    token, _ = await signed_in_tokens(house)
    assert (await me(house, token)).status_code == 200
    by_cookie = await house.hapta.http.get("/identity/v1/me", headers={"cookie": f"__Host-sid={token}.1"})
    assert by_cookie.status_code == 401
    with pytest.raises(InvalidToken):
        await house.identity.core.sessions.verify_key(token)


async def test_half_a_sign_in_opens_nothing_but_its_other_half(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    token = await house.needed(person)
    assert (await me(house, token)).status_code == 401
    as_cookie = await house.hapta.http.get("/identity/v1/me", headers={"cookie": f"__Host-sid={token}.1"})
    assert as_cookie.status_code == 401
    assert (await house.hapta.http.post("/identity/v1/refresh", json={"refreshToken": token})).status_code == 401


# --- the second factor has one door ---


async def test_the_login_of_the_sync_dialect_does_not_lead_past_a_second_factor(house: FactorHouse) -> None:
    person = await house.person()
    secret, _ = await house.enrolled(person)
    body = {"email": EMAIL, "password": PASSWORD}
    refused = await house.hapta.http.post("/auth/login", json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "second_factor_required")
    assert "token" not in refused.json()
    wrong = await house.hapta.http.post("/auth/login", json={**body, "password": "not the password at all"})
    assert wrong.status_code == 401  # who does not know the password does not learn that there is a second factor
    # What it points to: the token of the other door is good in the sync dialect as well.
    half = (await house.hapta.http.post("/identity/v1/login", json={"identifier": EMAIL, "password": PASSWORD})).json()
    second = {"mfaToken": half["data"]["mfaToken"], "code": house.code(secret)}
    whole = (await house.hapta.http.post("/identity/v1/login/second", json=second)).json()
    answer = await house.hapta.http.get("/auth/me", headers={"authorization": f"Bearer {whole['data']['accessToken']}"})
    assert answer.status_code == 200


# --- device cookies ---


def forged(cookie: str, **changes: str) -> str:
    """The flow cookie with other words in it: it is the browser's own."""
    values = msgspec.json.decode(urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)), type=dict[str, str])
    return urlsafe_b64encode(msgspec.json.encode({**values, **changes})).decode()


async def finished_second(house: FactorHouse, visitor: Visitor, secret: str, identifier: str) -> str | None:
    """Signs in by both factors, saying in between to be `identifier`; the device cookie that comes of it."""
    await visitor.open("/identity/login")
    half = await visitor.submit("/identity/login", identifier=EMAIL, password=PASSWORD)
    assert half.headers["location"].startswith("/identity/login/second")
    await visitor.follow(half)
    flow = next(cookie for cookie in visitor.http.cookies.jar if cookie.name == "__Host-flow")
    flow.value = forged(flow.value or "", identifier=identifier)
    done = await visitor.submit("/identity/login/second", method="totp", code=house.code(secret))
    assert done.status_code == 303, done.text
    return visitor.cookies.get("__Host-device")


async def test_nobody_is_known_as_a_browser_of_an_account_that_they_did_not_sign_in_to(house: FactorHouse) -> None:
    secret, _ = await house.enrolled(await house.person())
    await house.person(VICTIM)
    cookie = await finished_second(house, house.visitor(), secret, VICTIM)
    throttle = house.identity.throttle
    assert not throttle._knows(cookie, VICTIM)  # pyright: ignore[reportPrivateUsage] - what it would count by


async def test_a_browser_is_known_again_after_both_factors(house: FactorHouse) -> None:
    secret, _ = await house.enrolled(await house.person())
    cookie = await finished_second(house, house.visitor(), secret, EMAIL.upper())
    assert house.identity.throttle._knows(cookie, EMAIL)  # pyright: ignore[reportPrivateUsage]


async def test_the_one_door_asks_for_the_second_factor(house: FactorHouse) -> None:
    person = await house.person()
    await house.enrolled(person)
    for amr in (("pwd",), ("otp",), ("fed",), ("swk",)):
        outcome = await house.identity.core.signin.complete(person, WHENCE, amr=amr, provider="any")
        assert isinstance(outcome, SecondFactorNeeded)
