"""The wire contract row by row, with its exact words, over HTTP: sections 2.2 and 2.3: what `test_account.py` leaves of accounts."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hapta.testing.clock import FakeClock
from hapta.testing.server import PASSWORD, Account, TestHapta
from tests.flows.contract.rows import (
    SECRET,
    UUID,
    issues,
    refused,
)

pytestmark = pytest.mark.anyio


# --- 2.2, 2.3 accounts: what test_account.py leaves ---


@pytest.mark.parametrize(
    ("email", "known_as"),
    [
        ("  Carol@Example.org ", "Carol@Example.org"),
        ("a@b", "a@b"),
        ("é@ü.example", "é@ü.example"),
        ("x" * 242 + "@example.org", None),
    ],
)
async def test_an_address_is_stripped_and_returned_as_given(hapta: TestHapta, email: str, known_as: str | None) -> None:
    account = await hapta.register(email)
    assert account.email == (known_as or email)
    taken = await hapta.http.post("/auth/register", json={"email": email.strip().lower(), "password": PASSWORD})
    refused(taken, 409, "User already exists", "email_taken")


@pytest.mark.parametrize("email", ["", "@", "a@", "@b", "a@b@c", "plain", "x" * 243 + "@example.org"])
async def test_what_is_no_address_is_a_validation_error(hapta: TestHapta, email: str) -> None:
    answer = await hapta.http.post("/auth/register", json={"email": email, "password": PASSWORD})
    assert issues(answer) == {("email",)}


@pytest.mark.parametrize(("length", "status"), [(7, 400), (8, 201), (1024, 201), (1025, 400)])
async def test_a_password_has_8_to_1024_characters(hapta: TestHapta, length: int, status: int) -> None:
    answer = await hapta.http.post("/auth/register", json={"email": f"{uuid4()}@example.org", "password": "ü" * length})
    assert answer.status_code == status


async def test_long_passwords_that_share_72_bytes_are_not_equal(tmp_path: Path) -> None:
    environ = {"HAPTA_IDENTITY_PASSWORD_SCHEME": "bcrypt", "HAPTA_IDENTITY_BCRYPT_COST": "4"}
    async with TestHapta(tmp_path, environ) as hapta:
        await hapta.register("carol@example.org", "x" * 72 + "one")
        other = {"email": "carol@example.org", "password": "x" * 72 + "two"}
        refused(
            await hapta.http.post("/auth/login", json=other), 401, "Invalid email or password", "invalid_credentials"
        )
        assert await hapta.login("carol@example.org", "x" * 72 + "one")


def jwt(header: dict[str, Any], claims: dict[str, Any], digest: str | None = "sha256") -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    signed = f"{part(header)}.{part(claims)}"
    signature = b"" if digest is None else hmac.new(SECRET.encode(), signed.encode(), digest).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, payload, _ = (part + "=" * (-len(part) % 4) for part in token.split("."))
    return json.loads(base64.urlsafe_b64decode(head)), json.loads(base64.urlsafe_b64decode(payload))


async def test_a_token_is_hs256_and_carries_the_promised_claims(alice: Account) -> None:
    header, claims = parts_of(alice.token)
    assert header["alg"] == "HS256"
    assert {"sub", "email", "iat", "exp", "jti", "tv"} <= claims.keys()
    assert (claims["sub"], claims["email"]) == (alice.id, alice.email)
    assert claims["exp"] - claims["iat"] == 7 * 86_400
    assert UUID.fullmatch(alice.id)


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("none", None), ("None", None), ("HS512", "sha512"), ("RS256", "sha256"), ("", "sha256")]
)
async def test_no_algorithm_but_hs256_is_taken(
    hapta: TestHapta, alice: Account, algorithm: str, digest: str | None
) -> None:
    header, claims = parts_of(alice.token)
    forged = jwt({**header, "alg": algorithm}, claims, digest)
    answer = await hapta.http.get("/auth/me", headers={"authorization": f"Bearer {forged}"})
    refused(answer, 401, "Unauthorized - Invalid token", "invalid_token")


@pytest.mark.parametrize(("seconds", "status"), [(29, 200), (31, 401)])
async def test_a_clock_that_lags_30_seconds_still_takes_a_token(tmp_path: Path, seconds: int, status: int) -> None:
    clock = FakeClock()
    clock.advance(seconds=seconds)
    async with TestHapta(tmp_path, clock=clock) as hapta:
        account = await hapta.register("carol@example.org")
        clock.set_back(seconds=seconds)
        assert (await account.get("/auth/me")).status_code == status
