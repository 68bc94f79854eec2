"""The account routes over HTTP, row by row as the contract states them (sync, sections 1, 2.2, 2.3, 6.4 and 10.6)."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.testing.clock import FakeClock
from hapta.testing.server import PASSWORD, TestHapta

ALICE = "Alice@Example.org"
INVALID_TOKEN = {"error": "Unauthorized - Invalid token", "code": "invalid_token"}
MISSING_TOKEN = {"error": "Unauthorized - Missing or invalid token", "code": "missing_token"}
CREDENTIALS = {"email": ALICE, "password": PASSWORD}
SALT = b64encode(bytes(range(32))).decode()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def hapta(tmp_path: Path, database_url: str, clock: FakeClock) -> AsyncIterator[TestHapta]:
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}, clock=clock) as opened:
        yield opened


def issues(answer: httpx.Response) -> set[tuple[Any, ...]]:
    body = answer.json()
    assert answer.status_code == 400
    assert (body["success"], body["error"], body["code"]) == (False, "Validation failed", "validation_error")
    return {tuple(issue["path"]) for issue in body["issues"]}


async def test_registration_answers_as_the_contract_says(hapta: TestHapta) -> None:
    answer = await hapta.http.post("/auth/register", json={**CREDENTIALS, "unknown": 1})
    body = answer.json()
    assert answer.status_code == 201
    assert body["message"] == "User registered successfully"
    assert body["user"] == {"id": body["user"]["id"], "email": ALICE, "createdAt": "2030-01-01T00:00:00.000Z"}
    assert set(body) == {"message", "user", "token"}


async def test_login_answers_as_the_contract_says(hapta: TestHapta) -> None:
    account = await hapta.register(ALICE)
    answer = await hapta.http.post("/auth/login", json={**CREDENTIALS, "email": ALICE.lower()})
    body = answer.json()
    assert answer.status_code == 200
    assert body["message"] == "Login successful"
    assert body["user"] == {"id": account.id, "email": ALICE, "createdAt": "2030-01-01T00:00:00.000Z"}
    assert set(body) == {"message", "user", "token"}
    assert body["token"] != account.token


async def test_a_taken_address_is_a_conflict_also_in_a_race(hapta: TestHapta) -> None:
    answers = await asyncio.gather(*(hapta.http.post("/auth/register", json=CREDENTIALS) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json() == {"error": "User already exists", "code": "email_taken"}


async def test_every_bad_field_is_named(hapta: TestHapta) -> None:
    post = hapta.http.post
    assert issues(await post("/auth/register", json={})) == {("email",), ("password",)}
    assert issues(await post("/auth/register", json={"email": 1, "password": "short"})) == {("email",), ("password",)}
    assert issues(await post("/auth/register", json={"email": "nobody", "password": PASSWORD})) == {("email",)}
    assert issues(await post("/auth/register", json={**CREDENTIALS, "password": "x" * 1025})) == {("password",)}
    assert issues(await post("/auth/register", json={**CREDENTIALS, "authSalt": "x" * 44})) == {("authSalt",)}
    assert issues(await post("/auth/register", json={**CREDENTIALS, "deviceId": ""})) == {("deviceId",)}
    assert issues(await post("/auth/login", json={"email": ALICE})) == {("password",)}
    assert issues(await post("/auth/login", json={"email": "nobody", "password": PASSWORD})) == {("email",)}
    assert issues(await post("/auth/prelogin", json={})) == {("email",)}


async def test_registration_can_be_switched_off(tmp_path: Path) -> None:
    async with TestHapta(tmp_path, {"ALLOW_REGISTRATION": "false"}) as hapta:
        answer = await hapta.http.post("/auth/register", json=CREDENTIALS)
    assert answer.status_code == 403
    assert answer.json()["code"] == "registration_disabled"


async def test_unknown_account_and_wrong_password_answer_with_the_same_bytes(hapta: TestHapta) -> None:
    await hapta.register(ALICE)
    unknown = await hapta.http.post("/auth/login", json={"email": "bob@example.org", "password": PASSWORD})
    wrong = await hapta.http.post("/auth/login", json={**CREDENTIALS, "password": "wrong password"})
    assert unknown.status_code == wrong.status_code == 401
    assert unknown.content == wrong.content
    assert wrong.json() == {"error": "Invalid email or password", "code": "invalid_credentials"}
    vary = {"x-request-id", "server-timing", "date"}
    assert {name: value for name, value in unknown.headers.items() if name not in vary} == {
        name: value for name, value in wrong.headers.items() if name not in vary
    }


async def test_attempts_on_one_address_are_limited_whoever_makes_them(tmp_path: Path) -> None:
    environ = {"HAPTA_RATELIMIT_ENABLED": "true", "HAPTA_RATELIMIT_AUTH": "3/60:3", "HAPTA_SERVER_TRUST_PROXY": "1"}
    async with TestHapta(tmp_path, environ) as hapta:
        statuses = [
            await hapta.http.post("/auth/login", json=CREDENTIALS, headers={"x-forwarded-for": f"192.0.2.{number}"})
            for number in range(5)
        ]
    assert [answer.status_code for answer in statuses] == [401, 401, 401, 429, 429]
    assert int(statuses[-1].headers["retry-after"]) >= 1
    assert statuses[-1].json()["code"] == "rate_limited"


@pytest.mark.parametrize("header", [None, "", "Basic YTpi", "Bearer", "Bearer ", "Bearer a b"])
async def test_an_odd_authorization_header_is_a_missing_token(hapta: TestHapta, header: str | None) -> None:
    answer = await hapta.http.get("/auth/me", headers={} if header is None else {"authorization": header})
    assert answer.status_code == 401
    assert answer.json() == MISSING_TOKEN
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_bad_token_is_refused_before_a_bad_body(hapta: TestHapta) -> None:
    answer = await hapta.http.put("/auth/password", headers={"authorization": "Bearer nonsense"}, content=b"{")
    assert answer.status_code == 401
    assert answer.json() == INVALID_TOKEN


async def test_a_token_ends_after_seven_days(hapta: TestHapta, clock: FakeClock) -> None:
    alice = await hapta.register(ALICE)
    clock.advance(days=7, seconds=-1)
    assert (await alice.get("/auth/me")).status_code == 200
    clock.advance(seconds=1)
    answer = await alice.get("/auth/me")
    assert (answer.status_code, answer.json()) == (401, INVALID_TOKEN)


async def test_me_says_who_and_where(hapta: TestHapta) -> None:
    alice = await hapta.register(ALICE, deviceId="phone-1")
    body = (await alice.get("/auth/me")).json()
    assert body["user"]["id"] == alice.id
    assert body["user"]["email"] == ALICE
    assert body["deviceId"] == "phone-1"


async def test_a_new_password_ends_every_other_token(hapta: TestHapta) -> None:
    here, there = await hapta.register(ALICE), await hapta.login(ALICE)
    change = {"currentPassword": PASSWORD, "newPassword": "another password"}
    wrong = await here.put("/auth/password", json={**change, "currentPassword": "wrong password"})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_password")
    changed = await here.put("/auth/password", json=change)
    assert changed.status_code == 200
    for account in (here, there):
        assert (await account.get("/auth/me")).json() == INVALID_TOKEN
    here.token = changed.json()["token"]
    assert (await here.get("/auth/me")).status_code == 200
    assert (await hapta.http.post("/auth/login", json=CREDENTIALS)).status_code == 401
    assert await hapta.login(ALICE, "another password")


async def test_a_new_password_takes_the_vault_keys_along_or_changes_nothing(hapta: TestHapta) -> None:
    alice = await hapta.register(ALICE)
    vault = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
    key = {"vaultId": vault, "encryptedVaultKey": "old", "salt": "s", "nonce": "n"}
    assert (await alice.post("/sync/vault-key", json=key)).status_code == 201
    version = (await alice.get(f"/sync/vault-key/{vault}")).json()["vaultKey"]["version"]
    change = {"currentPassword": PASSWORD, "newPassword": "another password"}
    stale = {**key, "encryptedVaultKey": "new", "version": version + 1}
    refused = await alice.put("/auth/password", json={**change, "vaultKeys": [stale]})
    assert refused.status_code == 409
    assert (await alice.get("/auth/me")).status_code == 200
    good = {**stale, "version": version}
    changed = await alice.put("/auth/password", json={**change, "vaultKeys": [good]})
    assert changed.status_code == 200
    alice.token = changed.json()["token"]
    assert (await alice.get(f"/sync/vault-key/{vault}")).json()["vaultKey"]["encryptedVaultKey"] == "new"


async def test_logout_ends_one_session_and_logout_all_the_rest(hapta: TestHapta) -> None:
    first, second, third = await hapta.register(ALICE), await hapta.login(ALICE), await hapta.login(ALICE)
    assert (await first.post("/auth/logout")).status_code == 200
    assert (await first.get("/auth/me")).json() == INVALID_TOKEN
    assert (await second.get("/auth/me")).status_code == 200
    assert (await second.post("/auth/logout-all")).status_code == 200
    for account in (second, third):
        assert (await account.get("/auth/me")).json() == INVALID_TOKEN


async def test_sessions_are_listed_and_ended(hapta: TestHapta) -> None:
    alice = await hapta.register(ALICE, deviceId="phone-1", deviceLabel="My phone")
    other = await hapta.login(ALICE)
    bob = await hapta.register("bob@example.org")
    sessions = {session["current"]: session for session in (await alice.get("/auth/sessions")).json()["sessions"]}
    assert len(sessions) == 2
    assert (sessions[True]["deviceId"], sessions[True]["deviceLabel"]) == ("phone-1", "My phone")
    path = f"/auth/sessions/{sessions[False]['id']}"
    assert (await bob.delete(path)).status_code == 404
    assert (await alice.delete(path)).status_code == 200
    assert (await alice.delete(path)).json() == {"error": "Session not found", "code": "session_not_found"}
    assert (await other.get("/auth/me")).json() == INVALID_TOKEN


async def test_a_deleted_account_is_a_401_everywhere_and_never_a_500(hapta: TestHapta) -> None:
    alice, again = await hapta.register(ALICE), await hapta.login(ALICE)
    log = {"encryptedData": "sealed", "nonce": "n", "haexTimestamp": "1/a"}
    push = {"vaultId": "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d", "logs": [log]}
    assert (await alice.post("/sync/push", json=push)).status_code == 200
    assert (await alice.delete("/auth/account", json={"password": "wrong password"})).status_code == 403
    assert (await alice.delete("/auth/account", json={"password": PASSWORD})).status_code == 200
    for answer in (
        await again.post("/sync/push", json=push),
        await again.get("/auth/me"),
        await alice.delete("/auth/account", json={"password": PASSWORD}),
        await alice.post("/auth/logout"),
    ):
        assert (answer.status_code, answer.json()) == (401, INVALID_TOKEN)
    reborn = await hapta.register(ALICE)
    assert reborn.id != alice.id
    pulled = await reborn.post("/sync/pull", json={"vaultId": push["vaultId"]})
    assert pulled.json()["logs"] == []


async def test_prelogin_looks_alike_for_everybody(hapta: TestHapta) -> None:
    await hapta.register(ALICE, authSalt=SALT)
    known = await hapta.http.post("/auth/prelogin", json={"email": ALICE.upper()})
    unknown = [await hapta.http.post("/auth/prelogin", json={"email": "bob@example.org"}) for _ in range(2)]
    assert known.json() == {"salt": SALT, "kdf": {"name": "PBKDF2-HMAC-SHA256", "iterations": 600_000}}
    assert unknown[0].json() == unknown[1].json()
    assert len(unknown[0].content) == len(known.content)
    assert unknown[0].json()["salt"] != SALT
