"""Signing keys: published before they sign, rotated without a lost token, revoked at once, sealed at rest, on several workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from hapta.bus.memory import MemoryBus
from hapta.kit.errors import NotFound, Unavailable
from hapta.kit.seal import BadSeal
from hapta.kit.secrets import WeakSecret
from hapta.kit.tokens import BadToken
from hapta.oauth.jose import SigningAlgorithm, thumbprint
from hapta.oauth.keys.sealing import key_sealer
from hapta.oauth.keys.service import ALGORITHMS, JWKS_SECONDS
from tests.oauth.clients_house import ISSUER, SECRET, Worker, Workers


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    await made.close()


def claims(worker: Worker, life_seconds: int = 600) -> dict[str, object]:
    now = int(worker.clock.now())
    return {"iss": ISSUER, "sub": "user", "aud": ISSUER, "type": "access", "iat": now, "exp": now + life_seconds}


def sign(worker: Worker, alg: SigningAlgorithm | None = None, life_seconds: int = 600) -> str:
    return worker.keys.sign(claims(worker, life_seconds), alg=alg, typ="at+jwt")


async def state_of(worker: Worker, kid: str) -> str:
    return next(key.state for key in await worker.keys.list_keys() if key.kid == kid)


async def kids(worker: Worker) -> set[str]:
    return {key["kid"] for key in (await worker.keys.jwks())["keys"]}


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_a_token_is_verified_here_and_by_an_independent_library_from_the_jwks(
    workers: Workers, alg: SigningAlgorithm
) -> None:
    worker = await workers.new(signing_algorithm=alg)
    await worker.keys.open()
    token = sign(worker)
    assert (await worker.keys.verify(token, typ="at+jwt", audience=[ISSUER]))["sub"] == "user"
    jwks = await worker.keys.jwks()
    found = jwt.decode(token, KeySet.import_key_set(jwks), algorithms=[alg])  # pyright: ignore[reportArgumentType]
    assert found.claims["sub"] == "user"
    assert found.header["typ"] == "at+jwt"


async def test_the_jwks_has_public_members_only_and_always_a_key_for_rs256(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    keys = (await worker.keys.jwks())["keys"]
    assert {key["alg"] for key in keys} == {"ES256", "RS256"}
    for key in keys:
        assert key["use"] == "sig"
        assert key["kid"] == thumbprint(key)
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & key.keys()


async def test_workers_that_start_together_agree_on_one_first_key(workers: Workers) -> None:
    made = [await workers.new() for _ in range(4)]
    await asyncio.gather(*(worker.keys.open() for worker in made))
    await asyncio.gather(*(worker.keys.ready("RS256") for worker in made))
    keys = await made[0].keys.list_keys()
    assert [(key.alg, key.state) for key in keys] == [("ES256", "active"), ("RS256", "active")]
    for worker in made:
        await made[0].keys.verify(sign(worker), typ="at+jwt")


async def test_a_new_key_is_published_for_a_whole_cache_life_before_it_signs_and_the_old_one_until_its_tokens_end(
    workers: Workers,
) -> None:
    worker = await workers.new(signing_algorithm="ES256", access_token_seconds=3600)
    await worker.keys.open()
    old = (await worker.keys.list_keys())[0].kid
    (pending,) = await worker.keys.rotate("ES256")
    assert pending.state == "pending"
    assert {old, pending.kid} <= await kids(worker)

    workers.clock.advance(seconds=JWKS_SECONDS)
    assert json.loads(_header(sign(worker)))["kid"] == old
    workers.clock.advance(seconds=61)
    assert json.loads(_header(sign(worker)))["kid"] == pending.kid
    assert await state_of(worker, old) == "retiring"
    assert await state_of(worker, pending.kid) == "active"

    workers.clock.advance(seconds=3590)
    assert old in await kids(worker)
    workers.clock.advance(seconds=600)
    assert old not in await kids(worker)
    assert await state_of(worker, old) == "retired"


def _header(token: str) -> bytes:
    import base64

    part = token.partition(".")[0]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_rotation_is_due_by_the_calendar_and_done_once_however_many_workers_ask(workers: Workers) -> None:
    made = [await workers.new(key_rotation_days=30) for _ in range(3)]
    for worker in made:
        await worker.keys.open()
    workers.clock.advance(days=29)
    assert await made[0].keys.rotate_due() == []
    workers.clock.advance(days=1, seconds=1)
    await asyncio.gather(*(worker.keys.rotate_due() for worker in made))
    states = [key.state for key in await made[0].keys.list_keys()]
    assert states == ["pending", "active"]
    assert made[0].events.types + made[1].events.types + made[2].events.types == ["auth.key.rotated"] * 2


async def test_two_hundred_days_of_rotation_under_load_lose_no_token(workers: Workers) -> None:
    """Tokens of an hour, signed on one worker and verified on another, an hour and a half for each step."""
    one, two = await workers.new(access_token_seconds=3600), await workers.new()
    await one.keys.open()
    await two.keys.open()
    alive: list[tuple[float, str]] = []
    seen: set[str] = set()
    for step in range(400):
        await (one if step % 2 else two).keys.rotate_due()
        signer, verifier = (one, two) if step % 3 else (two, one)
        await signer.keys.refresh()
        alive = [entry for entry in alive if entry[0] > workers.clock.now()]
        alive.append((workers.clock.now() + 3600, sign(signer, life_seconds=3600)))
        for _, token in alive:
            assert (await verifier.keys.verify(token, typ="at+jwt"))["sub"] == "user"
        seen.add(_header(alive[-1][1]).decode())
        workers.clock.advance(seconds=43_200 if step % 4 else 1200)
    assert len(seen) >= 5


async def test_tokens_are_signed_and_verified_without_a_failure_while_keys_rotate_beside(workers: Workers) -> None:
    signer, verifier, operator = [await workers.new() for _ in range(3)]
    for worker in (signer, verifier, operator):
        await worker.keys.open()
    for worker in (signer, verifier):
        worker.keys.following.every_seconds = 0.01
        worker.keys.following.start()
    failures, signed = 0, set[str]()
    for _ in range(8):
        await operator.keys.rotate("ES256")
        for _ in range(10):
            token = sign(signer)
            signed.add(_header(token).decode())
            try:
                await verifier.keys.verify(token, typ="at+jwt")
            except BadToken:
                failures += 1
            workers.clock.advance(seconds=37)
            await signer.keys.refresh()
    for worker in (signer, verifier):
        await worker.keys.following.stop()
    assert failures == 0
    assert len(signed) >= 4


async def test_an_emergency_revocation_ends_all_tokens_of_a_key_on_every_worker(workers: Workers) -> None:
    bus = MemoryBus()
    one, two, apart = await workers.new(bus), await workers.new(bus), await workers.new()
    for worker in (one, two, apart):
        await worker.keys.open()
    dropped: list[str] = []
    heard = asyncio.Event()
    two.keys.on_revoked(dropped.extend)
    two.keys.on_revoked(lambda kids: heard.set())
    two.keys.following.every_seconds = 60
    two.keys.following.start()
    token = sign(one)
    kid = json.loads(_header(token))["kid"]
    for worker in (one, two, apart):
        await worker.keys.verify(token, typ="at+jwt")

    await one.keys.revoke(kid)
    async with asyncio.timeout(120):
        await heard.wait()
    await two.keys.following.stop()
    for worker in (one, two):  # these heard of it by the bus
        with pytest.raises(BadToken, match="unknown key"):
            await worker.keys.verify(token, typ="at+jwt")
    workers.clock.advance(seconds=2.001)  # and this one by its own look, though nobody told it
    with pytest.raises(BadToken, match="unknown key"):
        await apart.keys.verify(token, typ="at+jwt")

    assert dropped == [kid]
    assert kid not in await kids(two)
    assert await state_of(one, kid) == "revoked"
    fresh = sign(one)
    assert json.loads(_header(fresh))["kid"] != kid
    await apart.keys.verify(fresh, typ="at+jwt")
    assert "auth.key.rotated" in one.events.types


async def test_when_the_active_key_is_revoked_the_waiting_one_takes_over_at_once(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    active = (await worker.keys.list_keys())[0].kid
    (pending,) = await worker.keys.rotate("ES256")
    await worker.keys.revoke(active)
    assert await state_of(worker, pending.kid) == "active"
    assert json.loads(_header(sign(worker)))["kid"] == pending.kid


async def test_when_the_waiting_key_is_revoked_the_active_one_goes_on_without_an_end(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    active = (await worker.keys.list_keys())[0].kid
    (pending,) = await worker.keys.rotate("ES256")
    await worker.keys.revoke(pending.kid)
    workers.clock.advance(days=2)
    await worker.keys.refresh()
    assert await state_of(worker, active) == "active"
    assert json.loads(_header(sign(worker)))["kid"] == active


async def test_an_unknown_key_cannot_be_revoked(workers: Workers) -> None:
    worker = await workers.new()
    with pytest.raises(NotFound):
        await worker.keys.revoke("nobody")


async def test_private_keys_are_sealed_at_rest_and_destroyed_when_they_retire(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    sealed = await worker.db.read(lambda tx: tx.fetch_value("SELECT sealed FROM auth_keys"))
    assert b"PRIVATE" not in sealed
    assert b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" not in sealed  # the curve's name, which every plain key carries
    await worker.keys.rotate()
    workers.clock.advance(days=1)
    await worker.keys.rotate_due()
    rows = await worker.db.read(lambda tx: tx.fetch_all("SELECT sealed FROM auth_keys ORDER BY serial"))
    assert rows[0][0] is None
    assert rows[1][0] is not None


async def test_a_new_master_key_seals_anew_and_no_token_is_lost(workers: Workers) -> None:
    first, second = "the first master key, long enough for this", "another master key that comes after it"
    before = await workers.new(key_secret=first)
    await before.keys.open()
    token = sign(before)

    both = await workers.new(key_secret=second, key_secret_previous=first)
    assert await both.keys.rewrap() == 1
    after = await workers.new(key_secret=second)
    await after.keys.open()
    await after.keys.verify(token, typ="at+jwt")
    assert _header(sign(after)) == _header(token)
    with pytest.raises(BadSeal):
        await before.keys.rewrap()


async def test_a_lost_master_key_costs_a_new_key_and_not_the_tokens_of_the_old_one(workers: Workers) -> None:
    before = await workers.new()
    await before.keys.open()
    token = sign(before)
    after = await workers.new(secret="the secret of another installation, as long")
    await after.keys.open()
    await after.keys.verify(token, typ="at+jwt")
    assert _header(sign(after)) != _header(token)
    workers.clock.advance(seconds=0.2)  # unknown keys are looked for at most ten times a second
    await before.keys.verify(sign(after), typ="at+jwt")


def test_a_weak_master_key_is_refused() -> None:
    with pytest.raises(WeakSecret):
        key_sealer(SECRET, "short")


async def test_without_a_key_nothing_is_signed(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    with pytest.raises(Unavailable):
        sign(worker, "EdDSA")
    await worker.keys.ready("EdDSA")
    await worker.keys.verify(sign(worker, "EdDSA"), typ="at+jwt")


async def test_an_expired_id_token_still_counts_as_a_hint(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    token = worker.keys.sign({**claims(worker), "type": "id"}, typ="JWT")
    workers.clock.advance(hours=1)
    with pytest.raises(BadToken, match="expired"):
        await worker.keys.verify(token, typ="JWT")
    assert (await worker.keys.verify(token, typ="JWT", allow_expired=True))["sub"] == "user"
