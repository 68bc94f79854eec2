"""DPoP proofs (RFC 9449): each counts once, for one request, with one key; nonces need no memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hapta.oauth.errors import InvalidDpopProof, ResourceDpopProof, ResourceNeedsDpopNonce, UseDpopNonce
from hapta.oauth.jose import SigningAlgorithm, SigningKey, encode
from tests.oauth.clients_house import ISSUER, Worker, Workers, compact, post

PATH = "/oauth/token"
TOKEN = "an-access-token"


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def worker(workers: Workers) -> Worker:
    return await workers.new()


def proof(worker: Worker, key: SigningKey, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims: dict[str, Any] = {
        "jti": worker.ids.secret(16),
        "htm": "POST",
        "htu": ISSUER + PATH,
        "iat": int(worker.clock.now()),
    }
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    full = {"typ": "dpop+jwt", "alg": key.alg, "jwk": key.jwk, **(header or {})}
    return compact(key, {name: value for name, value in full.items() if value is not None}, claims)


async def check(worker: Worker, *proofs: str, access_token: str | None = None) -> str | None:
    request, _ = post(path=PATH, headers=[("DPoP", one) for one in proofs])
    return await worker.dpop.check(request, form_url_path=PATH, access_token=access_token)


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
async def test_a_proof_names_the_key_by_its_thumbprint(worker: Worker, alg: SigningAlgorithm) -> None:
    key = SigningKey.generate(alg)
    assert await check(worker, proof(worker, key)) == key.kid


async def test_without_a_proof_there_is_no_key(worker: Worker) -> None:
    assert await check(worker) is None


async def test_a_proof_counts_once_on_all_workers_together(workers: Workers) -> None:
    one, two = await workers.new(), await workers.new()
    key = SigningKey.generate("ES256")
    given = proof(one, key)
    outcomes = await asyncio.gather(*(check(w, given) for w in (one, two) * 10), return_exceptions=True)
    assert outcomes.count(key.kid) == 1
    assert sum(isinstance(outcome, InvalidDpopProof) for outcome in outcomes) == 19
    # Another key may have made the same `jti`.
    again = SigningKey.generate("ES256")
    assert await check(one, proof(one, again, jti="x"))
    assert await check(two, proof(two, key, jti="x"))


@pytest.mark.parametrize(
    "htu",
    [ISSUER + PATH, ISSUER + PATH + "?a=1#f", "HTTPS://ID.example" + PATH, "https://id.example:443" + PATH],
)
async def test_the_address_is_compared_without_query_fragment_and_default_port(worker: Worker, htu: str) -> None:
    assert await check(worker, proof(worker, SigningKey.generate("ES256"), htu=htu))


BAD_CLAIMS: list[dict[str, Any]] = [
    {"jti": None},
    {"jti": ""},
    {"jti": 1},
    {"jti": "x" * 300},
    {"htm": None},
    {"htm": "GET"},
    {"htm": "post"},
    {"htu": None},
    {"htu": 1},
    {"htu": ISSUER},
    {"htu": ISSUER + PATH + "/"},
    {"htu": "https://evil.test" + PATH},
    {"htu": "http://id.example" + PATH},
    {"htu": "https://id.example:8443" + PATH},
    {"htu": "http://inside.test" + PATH},
    {"htu": "https://[::1" + PATH},
    {"iat": None},
    {"iat": "now"},
    {"iat": True},
    {"iat": 1},
    {"iat": 4102444800},
]


@pytest.mark.parametrize("changes", BAD_CLAIMS, ids=str)
async def test_a_proof_with_a_wrong_claim_is_refused(worker: Worker, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidDpopProof):
        await check(worker, proof(worker, SigningKey.generate("ES256"), **changes))


PRIVATE = {"d": encode(bytes(32))}
BAD_HEADERS: list[dict[str, Any]] = [
    {"typ": None},
    {"typ": "JWT"},
    {"typ": "at+jwt"},
    {"alg": "none"},
    {"alg": "HS256"},
    {"alg": "RS256"},
    {"alg": None},
    {"jwk": None},
    {"jwk": "key"},
    {"jwk": {}},
    {"jwk": {"kty": "oct", "k": "AAAA"}},
    {"jwk": {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}},
    {"jwk": {"kty": "EC", "crv": "P-256", "x": encode(bytes(32)), "y": encode(bytes(32))}},
    {"jwk": {"kty": "RSA", "n": encode(b"\xff" * 64), "e": "AQAB"}},
    {"crit": ["x"]},
    {"jku": "https://evil.test"},
]


@pytest.mark.parametrize("header", BAD_HEADERS, ids=str)
async def test_a_proof_with_a_wrong_header_is_refused(worker: Worker, header: dict[str, Any]) -> None:
    with pytest.raises(InvalidDpopProof):
        await check(worker, proof(worker, SigningKey.generate("ES256"), header))


async def test_a_proof_that_gives_its_private_key_away_is_refused(worker: Worker) -> None:
    key = SigningKey.generate("ES256")
    with pytest.raises(InvalidDpopProof):
        await check(worker, proof(worker, key, {"jwk": {**key.jwk, **PRIVATE}}))


async def test_a_key_that_did_not_sign_is_refused_and_so_is_garbage(worker: Worker) -> None:
    key, other = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    for given in (proof(worker, key, {"jwk": other.jwk}), "", "a.b.c", "x" * 9000):
        with pytest.raises(InvalidDpopProof):
            await check(worker, given)


async def test_two_proofs_in_one_request_are_refused(worker: Worker) -> None:
    key = SigningKey.generate("ES256")
    with pytest.raises(InvalidDpopProof):
        await check(worker, proof(worker, key), proof(worker, key))


async def test_a_proof_is_accepted_within_a_minute_and_remembered_for_longer(worker: Worker) -> None:
    key = SigningKey.generate("ES256")
    now = int(worker.clock.now())
    early, late = proof(worker, key, iat=now + 60), proof(worker, key, iat=now - 60)
    assert await check(worker, early)
    assert await check(worker, late)
    worker.clock.advance(seconds=119)
    await worker.dpop.sweep()
    with pytest.raises(InvalidDpopProof, match="used before"):
        await check(worker, early)
    worker.clock.advance(seconds=60)
    await worker.dpop.sweep()
    assert await worker.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM auth_dpop_proofs")) == 0


async def test_at_a_resource_the_proof_names_the_token_and_errors_are_challenges(worker: Worker) -> None:
    key = SigningKey.generate("ES256")
    ath = encode(hashlib.sha256(TOKEN.encode()).digest())
    assert await check(worker, proof(worker, key, ath=ath), access_token=TOKEN) == key.kid
    for wrong in (None, "", encode(hashlib.sha256(b"another").digest()), 7):
        with pytest.raises(ResourceDpopProof) as refused:
            await check(worker, proof(worker, key, ath=wrong), access_token=TOKEN)
        ((name, value),) = refused.value.wire_headers
        assert name == "www-authenticate"
        assert value.startswith('DPoP error="invalid_dpop_proof"')
        assert "ES256" in value


async def test_a_demanded_nonce_is_told_and_then_counts_on_every_worker_for_five_minutes(workers: Workers) -> None:
    one, two = await workers.new(dpop_nonce=True), await workers.new(dpop_nonce=True)
    key = SigningKey.generate("ES256")
    with pytest.raises(UseDpopNonce) as refused:
        await check(one, proof(one, key))
    headers = dict(refused.value.wire_headers)
    nonce = headers["dpop-nonce"]
    assert await check(two, proof(two, key, nonce=nonce)) == key.kid
    workers.clock.advance(seconds=301)
    for given in (nonce, "", "made-up", nonce[:-2] + "AA", 5):
        with pytest.raises(UseDpopNonce):
            await check(two, proof(two, key, nonce=given))
    assert dict(two.dpop.nonce_headers()).keys() == {b"dpop-nonce"}

    ath = encode(hashlib.sha256(TOKEN.encode()).digest())
    with pytest.raises(ResourceNeedsDpopNonce) as asked:
        await check(one, proof(one, key, ath=ath), access_token=TOKEN)
    names = dict(asked.value.wire_headers)
    assert names["www-authenticate"].startswith('DPoP error="use_dpop_nonce"')
    assert await check(one, proof(one, key, ath=ath, nonce=names["dpop-nonce"]), access_token=TOKEN)


async def test_without_the_switch_nonces_are_not_asked_for_but_wrong_ones_are_refused(worker: Worker) -> None:
    key = SigningKey.generate("ES256")
    assert await check(worker, proof(worker, key))
    with pytest.raises(UseDpopNonce):
        await check(worker, proof(worker, key, nonce="made-up"))
    assert worker.dpop.nonce_headers() == ()
