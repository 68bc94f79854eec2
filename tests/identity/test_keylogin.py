"""Accounts that are keys, over the real routes: sign-in by signature, pairing of devices, exchange of tokens (contract relay, 2)."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey

from hapta.identity.keylogin.encodings import decode
from hapta.kit.access import SessionId, UserId
from hapta.testing.clock import FakeClock
from tests.identity.factor_house import FactorHouse, factor_house

pytestmark = pytest.mark.anyio

YEAR_DAYS = 366


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[FactorHouse]:
    async with factor_house(database_url, tmp_path, clock) as opened:
        yield opened


def standard(raw: bytes) -> str:
    return b64encode(raw).decode()


SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "standard": standard,
    "standard without padding": lambda raw: standard(raw).rstrip("="),
    "url-safe": lambda raw: urlsafe_b64encode(raw).decode(),
    "url-safe without padding": lambda raw: urlsafe_b64encode(raw).decode().rstrip("="),
    "plus as blank": lambda raw: standard(raw).replace("+", " "),
}


def proof(key: SigningKey, spell: Callable[[bytes], str] = standard) -> dict[str, str]:
    """What a client sends that has this key."""
    challenge = secrets.token_bytes(32)
    signed = key.sign(challenge).signature
    return {"publicKey": spell(bytes(key.verify_key)), "challenge": spell(challenge), "signature": spell(signed)}


async def post(house: FactorHouse, path: str, body: Any = None, token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return await house.hapta.http.post(path, json=body, headers=headers)


async def token_of(house: FactorHouse, key: SigningKey) -> str:
    answer = await post(house, "/v1/auth", proof(key))
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"success", "token"}
    return answer.json()["token"]


async def who(house: FactorHouse, token: str) -> tuple[UserId, SessionId]:
    caller = await house.identity.core.sessions.verify(token)
    return caller.user_id, caller.session_id


async def people(house: FactorHouse) -> int:
    found, _ = await house.identity.whole.people.list_people(limit=100)
    return len(found)


async def ask(house: FactorHouse, device: PrivateKey, kind: str = "", **more: Any) -> httpx.Response:
    return await post(house, f"/v1/auth/{kind}request", {"publicKey": standard(bytes(device.public_key)), **more})


async def approve(house: FactorHouse, device: PrivateKey, token: str, response: str, kind: str = "") -> httpx.Response:
    body = {"publicKey": standard(bytes(device.public_key)), "response": response}
    return await post(house, f"/v1/auth/{kind}response", body, token)


# --- sign-in ---


async def test_a_key_makes_an_account_once_and_then_signs_in_to_it(house: FactorHouse) -> None:
    key = SigningKey.generate()
    first, second = await token_of(house, key), await token_of(house, key)
    (user, session), (same, other) = await who(house, first), await who(house, second)
    assert (user, await people(house)) == (same, 1)
    assert session != other
    assert user != (await who(house, await token_of(house, SigningKey.generate())))[0]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_all_spellings_of_base64_are_one_key(house: FactorHouse, spelling: str) -> None:
    # A key, challenge and signature in which the alphabets differ.
    key = next(k for k in iter(SigningKey.generate, None) if {"+", "/"} <= set(standard(bytes(k.verify_key))))
    user, _ = await who(house, await token_of(house, key))
    answer = await post(house, "/v1/auth", proof(key, SPELLINGS[spelling]))
    assert answer.status_code == 200
    assert (await who(house, answer.json()["token"]))[0] == user


@pytest.mark.parametrize("raw", [b"\xf8" * 3, b"\xf8\x00\x00", b"\x00\x00\x3e", b"\x03\xe0", b"\xfb\xef\xbe" * 8])
def test_a_plus_that_became_a_blank_is_one_at_the_ends_too(raw: bytes) -> None:
    for spelling, spell in SPELLINGS.items():
        assert decode(spell(raw)) == raw, spelling
        assert decode(spell(raw) + "\r\n") == raw, spelling


@pytest.mark.parametrize(
    "fault",
    [
        {"publicKey": standard(bytes(31))},
        {"publicKey": standard(bytes(33))},
        {"publicKey": standard(bytes(32))},
        {"publicKey": standard(b"\xff" * 32)},
        {"publicKey": "not base64!"},
        {"publicKey": "A"},
        {"publicKey": "€"},
        {"publicKey": "===="},
        {"signature": standard(bytes(63))},
        {"signature": standard(bytes(64))},
        {"signature": standard(b"\xff" * 64)},
        {"signature": "%%%%"},
        {"challenge": "no base64 at all!"},
        {"challenge": standard(b"something else")},
        {"publicKey": standard(bytes(SigningKey(b"\1" * 32).verify_key))},
    ],
    ids=str,
)
async def test_whatever_does_not_verify_is_an_invalid_signature(house: FactorHouse, fault: dict[str, str]) -> None:
    answer = await post(house, "/v1/auth", {**proof(SigningKey.generate()), **fault})
    assert answer.status_code == 401
    assert answer.json()["error"] == "Invalid signature"
    assert await people(house) == 0


@pytest.mark.parametrize("body", [{}, {"publicKey": ""}, {**proof(SigningKey.generate()), "signature": 7}, []])
async def test_a_body_of_another_shape_is_a_bad_request(house: FactorHouse, body: Any) -> None:
    assert (await post(house, "/v1/auth", body)).status_code == 400


async def test_first_logins_at_once_make_one_account(house: FactorHouse) -> None:
    key = SigningKey.generate()
    tokens = await asyncio.gather(*[token_of(house, key) for _ in range(6)])
    assert len({(await who(house, token))[0] for token in tokens}) == 1
    await house.identity.whole.people.catch_up(everything=True)
    assert await people(house) == 1


async def test_a_disabled_account_is_refused(house: FactorHouse) -> None:
    key = SigningKey.generate()
    user, _ = await who(house, await token_of(house, key))
    await house.identity.whole.people.set_disabled(user, True)
    assert (await post(house, "/v1/auth", proof(key))).status_code == 401


async def test_a_key_of_a_deleted_account_makes_a_new_one(house: FactorHouse) -> None:
    key = SigningKey.generate()
    user, _ = await who(house, await token_of(house, key))
    await house.identity.whole.people.delete(user)
    await house.identity.whole.people.catch_up(everything=True)
    assert (await who(house, await token_of(house, key)))[0] != user


async def test_a_token_lasts_a_year_and_opens_the_account(house: FactorHouse) -> None:
    token = await token_of(house, SigningKey.generate())
    house.clock.advance(days=YEAR_DAYS - 1)
    me = await house.hapta.http.get("/identity/v1/me", headers={"authorization": f"Bearer {token}"})
    assert me.status_code == 200
    house.clock.advance(days=2)
    me = await house.hapta.http.get("/identity/v1/me", headers={"authorization": f"Bearer {token}"})
    assert me.status_code == 401


# --- pairing ---


@pytest.mark.parametrize("kind", ["", "account/"])
async def test_a_device_polls_until_it_is_approved_and_opens_the_box(house: FactorHouse, kind: str) -> None:
    owner, device, account_secret = (
        await token_of(house, SigningKey.generate()),
        PrivateKey.generate(),
        bytes(range(32)),
    )
    for _ in range(3):
        asked = await ask(house, device, kind)
        assert (asked.status_code, asked.json()) == (200, {"state": "requested"})
    ephemeral, nonce = PrivateKey.generate(), secrets.token_bytes(24)
    sealed = Box(ephemeral, device.public_key).encrypt(account_secret, nonce).ciphertext
    blob = standard(bytes(ephemeral.public_key) + nonce + sealed)
    done = await approve(house, device, owner, blob, kind)
    assert (done.status_code, done.json()) == (200, {"success": True})
    polls = [(await ask(house, device, kind)).json() for _ in range(3)]
    assert [poll["state"] for poll in polls] == ["authorized"] * 3
    assert {poll["response"] for poll in polls} == {blob}
    callers = {await who(house, poll["token"]) for poll in polls}
    assert len(callers) == 1
    ((user, session),) = callers
    owner_user, owner_session = await who(house, owner)
    assert user == owner_user
    assert session != owner_session

    raw = b64decode(polls[0]["response"])
    opened = Box(device, PublicKey(raw[:32])).decrypt(raw[56:], raw[32:56])
    assert opened == account_secret


async def test_polls_at_once_get_tokens_of_one_session(house: FactorHouse) -> None:
    owner, device = await token_of(house, SigningKey.generate()), PrivateKey.generate()
    await ask(house, device)
    await approve(house, device, owner, "AAAA")
    before = len(await house.identity.core.sessions.list_sessions((await who(house, owner))[0]))
    answers = await asyncio.gather(*[ask(house, device) for _ in range(6)])
    sessions = {(await who(house, answer.json()["token"]))[1] for answer in answers}
    assert len(sessions) == 1
    assert len(await house.identity.core.sessions.list_sessions((await who(house, owner))[0])) == before + 1


async def test_the_first_approval_wins(house: FactorHouse) -> None:
    owner, eve, device = (
        await token_of(house, SigningKey.generate()),
        await token_of(house, SigningKey.generate()),
        PrivateKey.generate(),
    )
    await ask(house, device)
    assert (await approve(house, device, owner, "AAAA")).status_code == 200
    late = await approve(house, device, eve, "BBBB")
    assert (late.status_code, late.json()) == (200, {"success": True})
    polled = (await ask(house, device)).json()
    assert polled["response"] == "AAAA"
    assert (await who(house, polled["token"]))[0] == (await who(house, owner))[0]


async def test_the_two_kinds_of_pairing_know_nothing_of_each_other(house: FactorHouse) -> None:
    owner, device = await token_of(house, SigningKey.generate()), PrivateKey.generate()
    await ask(house, device)
    assert (await approve(house, device, owner, "AAAA", "account/")).status_code == 404
    assert (await ask(house, device, "account/")).json() == {"state": "requested"}


@pytest.mark.parametrize("kind", ["", "account/"])
async def test_an_approval_of_an_unknown_key_is_not_found_and_of_no_key_refused(house: FactorHouse, kind: str) -> None:
    owner = await token_of(house, SigningKey.generate())
    unknown = await approve(house, PrivateKey.generate(), owner, "AAAA", kind)
    assert (unknown.status_code, unknown.json()["error"]) == (404, "Request not found")
    for bad in (standard(bytes(31)), standard(bytes(33)), "not base64!", "A", "€"):
        for path, token in ((f"/v1/auth/{kind}response", owner), (f"/v1/auth/{kind}request", None)):
            answer = await post(house, path, {"publicKey": bad, "response": "AAAA"}, token)
            assert (answer.status_code, answer.json()["error"]) == (401, "Invalid public key")


@pytest.mark.parametrize("kind", ["", "account/"])
async def test_only_who_is_signed_in_approves(house: FactorHouse, kind: str) -> None:
    device = PrivateKey.generate()
    await ask(house, device, kind)
    body = {"publicKey": standard(bytes(device.public_key)), "response": "AAAA"}
    assert (await post(house, f"/v1/auth/{kind}response", body)).status_code == 401
    assert (await post(house, f"/v1/auth/{kind}response", body, "nonsense")).status_code == 401
    assert (await ask(house, device, kind)).json() == {"state": "requested"}


async def status(house: FactorHouse, spelled: str) -> Any:
    answer = await house.hapta.http.get(f"/v1/auth/request/status?publicKey={spelled}")
    assert answer.status_code == 200
    return answer.json()


async def test_the_first_call_says_whether_a_device_speaks_the_second_version(house: FactorHouse) -> None:
    for first, later in ((True, False), (None, True)):
        device = PrivateKey.generate()
        spelled = quote(standard(bytes(device.public_key)), safe="")
        await ask(house, device, supportsV2=first)
        await ask(house, device, supportsV2=later)
        assert await status(house, spelled) == {"status": "pending", "supportsV2": bool(first)}
        await approve(house, device, await token_of(house, SigningKey.generate()), "AAAA")
        assert await status(house, spelled) == {"status": "authorized", "supportsV2": bool(first)}


async def test_the_status_takes_every_spelling_and_calls_what_is_no_key_not_found(house: FactorHouse) -> None:
    device = next(k for k in iter(PrivateKey.generate, None) if "+" in standard(bytes(k.public_key)))
    await ask(house, device)
    raw = bytes(device.public_key)
    for spell in SPELLINGS.values():
        assert (await status(house, quote(spell(raw), safe="")))["status"] == "pending"
    assert (await status(house, standard(raw)))["status"] == "pending"  # an unescaped plus arrives as a blank
    for bad in ("", "AAAA", "%E2%82%AC", standard(bytes(33)), quote(standard(bytes(32)), safe="")):
        assert await status(house, bad) == {"status": "not_found", "supportsV2": False}


async def test_a_request_ends_after_a_day_and_an_answer_after_an_hour(house: FactorHouse) -> None:
    owner, device, other = await token_of(house, SigningKey.generate()), PrivateKey.generate(), PrivateKey.generate()
    await ask(house, device)
    await ask(house, other, supportsV2=True)
    await approve(house, device, owner, "AAAA")
    house.clock.advance(minutes=59)
    assert (await ask(house, device)).json()["state"] == "authorized"
    house.clock.advance(minutes=2)
    assert (await ask(house, device)).json() == {"state": "requested"}
    house.clock.advance(hours=24)
    assert (await approve(house, other, owner, "AAAA")).status_code == 404
    assert await house.identity.keys.sweep() == 2
    assert (await ask(house, other)).json() == {"state": "requested"}
    spelled = quote(standard(bytes(other.public_key)), safe="")
    assert (await status(house, spelled))["supportsV2"] is False


async def test_a_device_that_was_signed_out_gets_no_token_by_polling_on(house: FactorHouse) -> None:
    owner, device = await token_of(house, SigningKey.generate()), PrivateKey.generate()
    await ask(house, device)
    await approve(house, device, owner, "AAAA")
    user, session = await who(house, (await ask(house, device)).json()["token"])
    await house.identity.core.sessions.revoke(user, session, "ended_by_owner")
    assert (await ask(house, device)).status_code == 401


async def test_answers_of_a_deleted_account_are_forgotten(house: FactorHouse) -> None:
    owner, device = await token_of(house, SigningKey.generate()), PrivateKey.generate()
    await ask(house, device)
    await approve(house, device, owner, "AAAA")
    await house.identity.whole.people.delete((await who(house, owner))[0])
    await house.identity.whole.people.catch_up(everything=True)
    assert (await ask(house, device)).json() == {"state": "requested"}


# --- limits ---


async def test_polls_are_not_counted_but_new_keys_are(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    limits = {"HAPTA_RATELIMIT_ENABLED": "true", "HAPTA_RATELIMIT_KEY_ACCOUNTS": "5/60"}
    async with factor_house(database_url, tmp_path, clock, **limits) as house:
        devices = [PrivateKey.generate() for _ in range(5)]
        found: Counter[int] = Counter()
        for _ in range(90):  # five terminals in one office, each of which polls every second
            found.update([(await ask(house, device)).status_code for device in devices])
            clock.advance(seconds=1)
        assert found == {200: 450}
        new = Counter([(await ask(house, PrivateKey.generate())).status_code for _ in range(9)])
        assert new == {200: 5, 429: 4}
        assert (await post(house, "/v1/auth", proof(SigningKey.generate()))).status_code == 429
        assert (await ask(house, devices[0])).status_code == 200
        clock.advance(seconds=61)
        assert (await ask(house, PrivateKey.generate())).status_code == 200


# --- exchange of tokens ---


async def test_a_token_is_exchanged_for_a_newer_one_of_the_same_session(house: FactorHouse) -> None:
    old = await token_of(house, SigningKey.generate())
    house.clock.advance(days=30)
    answer = await post(house, "/v1/auth/refresh", None, old)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"success", "token", "expiresIn"}
    assert (body["success"], body["expiresIn"]) == (True, YEAR_DAYS * 86_400)
    assert await who(house, body["token"]) == await who(house, old)
    user, session = await who(house, old)
    house.clock.advance(days=YEAR_DAYS - 1)
    assert await who(house, body["token"]) == (user, session)


async def test_a_token_can_be_exchanged_until_seven_days_after_its_end(house: FactorHouse) -> None:
    old = await token_of(house, SigningKey.generate())
    before = await who(house, old)
    house.clock.advance(days=YEAR_DAYS + 6)
    fresh = await post(house, "/v1/auth/refresh", {}, old)
    assert fresh.status_code == 200
    assert await who(house, fresh.json()["token"]) == before
    house.clock.advance(days=2)
    late = await post(house, "/v1/auth/refresh", None, old)
    assert (late.status_code, late.json()["code"], late.json()["success"]) == (401, "TOKEN_EXPIRED", False)


async def test_what_cannot_be_exchanged_is_refused_in_the_words_of_its_clients(house: FactorHouse) -> None:
    token = await token_of(house, SigningKey.generate())
    missing = await post(house, "/v1/auth/refresh")
    assert missing.status_code == 401
    assert missing.json()["success"] is False
    assert missing.json()["code"] == "TOKEN_INVALID"
    assert missing.json()["error"] == "Missing or invalid Authorization header"
    email = (await house.hapta.register("ada@example.org")).token
    head, _, signature = token.rpartition(".")
    for bad in ("nonsense", f"{head}.{signature[::-1]}", email):
        refused = await post(house, "/v1/auth/refresh", None, bad)
        assert refused.status_code == 401, refused.text
        assert (refused.status_code, refused.json()["code"]) == (401, "TOKEN_EXPIRED"), bad
        assert refused.json()["error"] == "Token expired beyond grace period or is invalid"
    user, session = await who(house, token)
    await house.identity.core.sessions.revoke(user, session, "logout")
    assert (await post(house, "/v1/auth/refresh", None, token)).status_code == 401


async def test_a_paired_device_exchanges_its_token_too(house: FactorHouse) -> None:
    owner, device = await token_of(house, SigningKey.generate()), PrivateKey.generate()
    await ask(house, device)
    await approve(house, device, owner, "AAAA")
    token = (await ask(house, device)).json()["token"]
    fresh = await post(house, "/v1/auth/refresh", None, token)
    assert await who(house, fresh.json()["token"]) == await who(house, token)
