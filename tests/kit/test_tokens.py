"""The hot-path verifier against a corpus of attacks, held beside joserfc where both have the same rule."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from hapta.kit.secrets import WeakSecret, check_secret, derive_key, load_or_create_secret
from hapta.kit.tokens import BadToken, Hs256, Hs256Key, sign

NOW = 1_800_000_000
SECRET = derive_key("a secret for tests", "access-token")
KEY = Hs256Key("K", SECRET)
HEADER = '{"alg":"HS256","kid":"K","typ":"at+jwt"}'
PAYLOAD = '{"sub":"a","exp":1800000600,"type":"access"}'
CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("jwt_attacks.json").read_text("utf-8"))["cases"]


class StillClock:
    """A clock that stands at the corpus's hour."""

    def now(self) -> float:
        return float(NOW)

    def now_ms(self) -> int:
        return NOW * 1000

    def monotonic(self) -> float:
        return 0.0


VERIFIER = Hs256({"K": SECRET}, StillClock())


def encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def seal(header: str, payload: str, secret: bytes = SECRET) -> str:
    signed = f"{header}.{payload}"
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def last_bit_flipped(text: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


def with_stray_bits(text: str) -> str:
    """Base64 of a text whose length leaves unused bits in the last character, with one of them set."""
    raw = text.encode()
    raw += b" " * ((1 - len(raw)) % 3)
    return last_bit_flipped(encode(raw))


def padded(text: str) -> str:
    raw = text.encode()
    return urlsafe_b64encode(raw + b" " * ((1 - len(raw)) % 3)).decode()


def build(case: dict[str, Any]) -> str:
    header_text, payload_text = case.get("header", HEADER), case.get("payload", PAYLOAD)
    secret = {"good": SECRET, "other": b"o" * 32, "empty": b""}[case.get("sign", "good")]
    header, payload = encode(header_text.encode()), encode(payload_text.encode())
    token = seal(header, payload, secret)
    signed, _, signature = token.rpartition(".")
    alter, _, argument = case.get("alter", "").partition(":")
    raw_signature = urlsafe_b64decode(signature + "=")
    match alter:
        case "":
            return token
        case "raw":
            return argument
        case "append":
            return token + argument
        case "prepend":
            return argument + token
        case "drop_signature":
            return signed + "."
        case "drop_last_part":
            return signed
        case "zero_signature":
            return f"{signed}.{encode(bytes(32))}"
        case "short_signature":
            return f"{signed}.{encode(raw_signature[:16])}"
        case "pad_signature":
            return token + "="
        case "stray_signature":
            return last_bit_flipped(token)
        case "hex_signature":
            return f"{signed}.{raw_signature.hex()}"
        case "pad_payload":
            return seal(header, padded(payload_text))
        case "stray_payload":
            return seal(header, with_stray_bits(payload_text))
        case "pad_header":
            return seal(padded(header_text), payload)
        case "standard_alphabet":
            letters = encode(b'{"sub":"\xc3\xbf\xc3\xbf\xc3\xbe~~~???","exp":1800000600,"type":"access"}')
            assert "-" in letters or "_" in letters
            return seal(header, letters.replace("-", "+").replace("_", "/"))
        case "blank_inside":
            return f"{signed[:20]} {signed[20:]}.{signature}"
        case "fullwidth":
            return "\uff41" + token[1:]
        case "deep_header":
            return seal(encode(b"[" * 5000), payload)
        case "latin_header":
            return seal(encode(HEADER.encode().replace(b"K", b"\xff")), payload)
        case "huge":
            return seal(header, encode(PAYLOAD[:-1].encode() + b',"x":"' + b"x" * 7000 + b'"}'))
        case other:
            raise AssertionError(f"unknown alteration {other!r}")


def joserfc_accepts(token: str) -> bool:
    """joserfc as a careful caller would use it: HS256 only, `exp` and `sub` demanded."""
    registry = jwt.JWTClaimsRegistry(now=lambda: NOW, leeway=0, exp={"essential": True}, sub={"essential": True})
    headers = jws.JWSRegistry(algorithms=["HS256"], strict_check_header=False)
    try:
        decoded = jwt.decode(token, OctKey.import_key(SECRET), registry=headers)
        registry.validate(decoded.claims)
    except (JoseError, ValueError, TypeError, RecursionError):
        return False
    # joserfc leaves the type of `sub` and of the claims as a whole to the caller.
    return isinstance(decoded.claims, dict) and isinstance(decoded.claims.get("sub"), str)


def test_a_good_token_gives_back_its_claims_here_and_in_joserfc() -> None:
    claims = {"sub": "a", "iat": NOW, "exp": NOW + 1, "type": "access", "email": "é@example.org"}
    token = sign(claims, KEY)
    assert VERIFIER.verify(token) == claims
    assert joserfc_accepts(token)


def test_a_token_that_joserfc_signed_with_the_key_is_accepted() -> None:
    claims = {"type": "access", "exp": NOW + 60.5, "sub": "a"}
    token = jwt.encode({"typ": "at+jwt", "alg": "HS256", "kid": "K"}, claims, OctKey.import_key(SECRET))
    assert VERIFIER.verify(token) == claims


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_attack_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        VERIFIER.verify(build(case))


SHARED = [case for case in CASES if case.get("joserfc", True)]


@pytest.mark.parametrize("case", SHARED, ids=[case["name"] for case in SHARED])
def test_joserfc_refuses_the_attack_too(case: dict[str, Any]) -> None:
    assert not joserfc_accepts(build(case))


def test_the_default_parts_of_the_corpus_make_a_good_token() -> None:
    assert VERIFIER.verify(build({}))["sub"] == "a"


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_half_a_minute_of_skew_is_forgiven(name: str) -> None:
    assert VERIFIER.verify(sign({"sub": "a", "exp": NOW + 60, "type": "access", name: NOW + 30}, KEY))


@given(st.data())
def test_any_change_of_a_good_token_is_refused(data: st.DataObject) -> None:
    token = sign({"sub": "a", "exp": NOW + 60, "type": "access"}, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda character: character != token[at]))
    how = data.draw(st.sampled_from(["replace", "insert", "remove"]))
    changed = {
        "replace": token[:at] + other + token[at + 1 :],
        "insert": token[:at] + other + token[at:],
        "remove": token[:at] + token[at + 1 :],
    }[how]
    with pytest.raises(BadToken):
        VERIFIER.verify(changed)


@given(st.text(max_size=300))
def test_no_text_makes_the_verifier_fail_otherwise(text: str) -> None:
    with pytest.raises(BadToken):
        VERIFIER.verify(text)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_signed_bytes_make_the_verifier_fail_otherwise(header: bytes, payload: bytes) -> None:
    with pytest.raises(BadToken):
        VERIFIER.verify(seal(encode(header) or "A", encode(payload) or "A"))


def test_a_token_of_another_purpose_is_refused() -> None:
    other = Hs256Key("K", derive_key("a secret for tests", "internal"))
    with pytest.raises(BadToken, match="signature"):
        VERIFIER.verify(sign({"sub": "a", "exp": NOW + 60, "type": "access"}, other))


def test_keys_of_different_purposes_share_nothing_and_are_stable() -> None:
    purposes = ("access-token", "access-token-kid", "prelogin-salt", "limit-key", "csrf", "internal", "flow-seal")
    keys = {derive_key("one secret", purpose) for purpose in purposes}
    assert len(keys) == len(purposes)
    assert Hs256Key.for_access_tokens("one").kid == Hs256Key.for_access_tokens("one").kid
    assert Hs256Key.for_access_tokens("one").kid != Hs256Key.for_access_tokens("two").kid


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Hs256({"K": b"short"}, StillClock())


@pytest.mark.parametrize("secret", ["", "  ", "\n"])
def test_an_empty_secret_is_refused_everywhere(secret: str) -> None:
    with pytest.raises(WeakSecret):
        check_secret(secret, production=False)


@pytest.mark.parametrize(
    "secret", ["thirty-one bytes of secret text", "a" * 64, "Your-Super-Secret-Jwt-Key-Change-This-In-Production"]
)
def test_production_refuses_what_development_lets_pass(secret: str) -> None:
    check_secret(secret, production=False)
    with pytest.raises(WeakSecret):
        check_secret(secret, production=True)


def test_production_accepts_a_random_secret() -> None:
    check_secret("kq3vN0y2Jr5Ttq8ZpWc1Xa7LmEo4Ubd9", production=True)


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "jwt"
    secret, made = load_or_create_secret(path)
    assert made
    assert load_or_create_secret(path) == (secret, False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["jwt"]
    check_secret(secret, production=True)
