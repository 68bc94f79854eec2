"""Tokens that must not count, from a corpus that can grow: tests/oauth/jwt_corpus.json."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hapta.kit.tokens import BadToken, Hs256Key
from hapta.kit.tokens import sign as sign_hs256
from hapta.oauth.jose import SigningKey, decode, encode
from tests.oauth.clients_house import ISSUER, SECRET, Worker, Workers, compact

CORPUS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "jwt_corpus.json").read_text(encoding="utf-8"))[
    "tokens"
]


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    workers = Workers(f"sqlite:///{tmp_path / 'hapta.db'}", tmp_path)
    made = await workers.new()
    await made.keys.open()
    yield made
    await workers.close()


def own_key(worker: Worker) -> SigningKey:
    key = worker.keys._signer("ES256")  # pyright: ignore[reportPrivateUsage] - the corpus signs what the service never would
    assert key is not None
    return key


def good_claims(worker: Worker) -> dict[str, Any]:
    now = int(worker.clock.now())
    return {"iss": ISSUER, "sub": "user", "aud": ISSUER, "type": "access", "iat": now, "exp": now + 600, "jti": "j"}


def good_header(key: SigningKey) -> dict[str, Any]:
    return {"alg": "ES256", "typ": "at+jwt", "kid": key.kid}


def changed(members: dict[str, Any], changes: dict[str, Any], now: int) -> dict[str, Any]:
    known = {"NOW": now, "NOW+60": now + 60}
    new = members | {
        name: known.get(value, value) if isinstance(value, str) else value for name, value in changes.items()
    }
    return {name: value for name, value in new.items() if value is not None}


def made(worker: Worker, recipe: dict[str, Any]) -> str:
    key, now = own_key(worker), int(worker.clock.now())
    header = changed(good_header(key), recipe.get("header", {}), now)
    claims = changed(good_claims(worker), recipe.get("claims", {}), now)
    if "raw" in recipe:
        return bent(worker, recipe["raw"])
    match recipe["sign"]:
        case "own":
            return compact(key, header, claims)
        case "none":
            return f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}."
        case "stranger":
            return compact(SigningKey.generate("ES256"), header, claims)
        case "embedded":
            stranger = SigningKey.generate("ES256")
            return compact(stranger, {**header, "jwk": stranger.jwk}, claims)
        case "hmac-public":
            signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
            public = json.dumps(key.jwk).encode()
            return f"{signed}.{encode(hmac.digest(public, signed.encode(), 'sha256'))}"
        case other:
            raise AssertionError(other)


def bent(worker: Worker, how: str) -> str:
    """A token whose text itself is wrong. Whatever can be signed is signed with the right key."""
    key = own_key(worker)
    good = compact(key, good_header(key), good_claims(worker))
    header, payload, signature = good.split(".")
    text = json.dumps(good_claims(worker))

    def signed(raw_header: bytes, raw_payload: bytes) -> str:
        both = f"{encode(raw_header)}.{encode(raw_payload)}"
        return f"{both}.{encode(key.sign_bytes(both.encode()))}"

    plain = json.dumps(good_header(key)).encode()
    raw = decode(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    exp = str(good_claims(worker)["exp"])
    last = signature[:-1] + chr(ord(signature[-1]) + 1)
    forms = {
        "exp-nan": lambda: signed(plain, text.replace(exp, "NaN").encode()),
        "exp-infinity": lambda: signed(plain, text.replace(exp, "Infinity").encode()),
        "empty": lambda: "",
        "two-parts": lambda: f"{header}.{payload}",
        "four-parts": lambda: f"{good}.{signature}",
        "five-parts": lambda: f"{header}.{payload}.{signature}.{payload}.{signature}",
        "padded": lambda: f"{header}.{payload}=.{signature}",
        "standard-base64": lambda: f"{header}.{payload}.{'+' + signature[1:]}",
        "stray-bits": lambda: f"{header}.{payload}.{last}",
        "newline": lambda: good + "\n",
        "blank": lambda: " " + good,
        "no-signature": lambda: f"{header}.{payload}.",
        "short-signature": lambda: f"{header}.{payload}.{encode(raw[:63])}",
        "zero-signature": lambda: f"{header}.{payload}.{encode(bytes(64))}",
        "der-signature": lambda: f"{header}.{payload}.{encode(der)}",
        "changed-payload": lambda: f"{header}.{encode(text.replace('user', 'root').encode())}.{signature}",
        "list-header": lambda: signed(b"[]", text.encode()),
        "list-payload": lambda: signed(plain, b"[]"),
        "text-payload": lambda: signed(plain, b"user"),
        "duplicate-claim": lambda: signed(plain, text.replace("{", '{"sub": "root", ', 1).encode()),
        "duplicate-header": lambda: signed(plain.replace(b"{", b'{"alg": "none", ', 1), text.encode()),
        "latin-payload": lambda: signed(plain, text.replace("user", "us\u00e9r").encode("latin-1")),
        "deep-payload": lambda: signed(plain, b"[" * 2800),
        "long": lambda: signed(plain, text.replace("user", "u" * 9 * 1024).encode()),
        "first-party": lambda: sign_hs256(good_claims(worker), Hs256Key.for_access_tokens(SECRET)),
        "unicode": lambda: good[:-1] + "\u0661",
    }
    return forms[how]()


def test_the_corpus_is_long_enough_and_names_each_attack_once() -> None:
    names = [recipe["name"] for recipe in CORPUS]
    assert len(names) == len(set(names)) >= 70


async def test_the_token_that_the_corpus_bends_counts_while_it_is_straight(worker: Worker) -> None:
    token = made(worker, {"sign": "own"})
    assert (await worker.keys.verify(token, typ="at+jwt", audience=[ISSUER]))["sub"] == "user"
    listed = made(worker, {"sign": "own", "claims": {"aud": ["https://other.example", ISSUER]}})
    assert await worker.keys.verify(listed, typ="at+jwt", audience=[ISSUER])


@pytest.mark.parametrize("recipe", CORPUS, ids=lambda recipe: recipe["name"])
async def test_a_bent_token_never_counts(worker: Worker, recipe: dict[str, Any]) -> None:
    token = made(worker, recipe)
    with pytest.raises(BadToken):
        await worker.keys.verify(token, typ="at+jwt", audience=[ISSUER])
