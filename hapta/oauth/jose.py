"""JSON Web Keys and signatures with them: strict reading of compact tokens, and the four algorithms that are used here.

A key knows its one algorithm, and a signature is judged by the key's, never by what a token says of itself (contract identity,
section 4.5; RFC 8725, section 3.1). Nothing of a payload is believed before its signature holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from hapta.kit.tokens import BadToken, Claims

Algorithm = Literal["ES256", "RS256", "PS256", "EdDSA"]
SigningAlgorithm = Literal["ES256", "RS256", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = ("ES256", "RS256", "PS256", "EdDSA")
"""What clients may sign with: assertions and DPoP proofs. All are asymmetric."""

Jwk = dict[str, Any]

MAX_TOKEN_CHARACTERS = 8 * 1024
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_POINTERS = frozenset({"jku", "x5u", "x5c", "crit", "b64", "zip", "enc"})
_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_ECDSA = ec.ECDSA(SHA256())
_PSS = padding.PSS(padding.MGF1(SHA256()), 32)
_PKCS1 = padding.PKCS1v15()


class BadKey(ValueError):
    """A JWK that cannot be used; the text says why."""


PublicKeyType = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
PrivateKeyType = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


# --- bytes and objects ---


def encode(raw: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2)."""
    return b2a_base64(raw, newline=False).rstrip(b"=").decode("ascii").replace("+", "-").replace("/", "_")


def decode(text: str) -> bytes:
    """The bytes of a base64url text.

    Raises:
        BadToken: padding, foreign characters, or stray bits at its end.
    """
    try:
        raw = a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
    except (Base64Error, ValueError) as error:
        raise BadToken("a part is not base64url") from error
    if encode(raw) != text:
        raise BadToken("stray bits in base64url")
    return raw


def decode_object(text: str) -> dict[str, Any]:
    """The JSON object in a base64url text, no member twice.

    Raises:
        BadToken: anything else.
    """
    raw = decode(text)
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadToken("a part is not JSON, or has a member twice") from error
    if not isinstance(value, dict):
        raise BadToken("a part is not a JSON object")
    return cast("dict[str, Any]", value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


# --- public keys ---


class VerifyingKey:
    """A public key bound to one algorithm."""

    __slots__ = ("_key", "alg", "jwk", "kid")

    def __init__(self, key: PublicKeyType, alg: Algorithm, kid: str | None = None) -> None:
        self._key = key
        self.alg = alg
        self.jwk = _public_members(key)
        self.kid = kid or thumbprint(self.jwk)

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any], alg: str | None = None) -> VerifyingKey:
        """Reads a public JWK (RFC 7517, section 4).

        Args:
            alg: the algorithm that it is to be used with; else its own `alg`, else the usual one of its type.

        Raises:
            BadKey: a private or symmetric key, a weak one, or one that does not go with the algorithm.
        """
        if _PRIVATE_MEMBERS & jwk.keys():
            raise BadKey("a public key has no private members")
        if jwk.get("use", "sig") != "sig":
            raise BadKey("the key is not for signatures")
        operations = jwk.get("key_ops")
        if operations is not None and operations != ["verify"]:
            raise BadKey("the key is not for verifying")
        try:
            key = _read_public(jwk)
        except (ValueError, TypeError) as error:
            raise BadKey("the key is malformed") from error
        kid = jwk.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise BadKey("`kid` is a text")
        return cls(key, _algorithm_of(key, jwk.get("alg"), alg), kid)

    @property
    def thumbprint(self) -> str:
        return thumbprint(self.jwk)

    def check(self, signed: bytes, signature: bytes) -> None:
        """Judges a signature by this key's own algorithm.

        Raises:
            BadToken: it does not hold.
        """
        key = self._key
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                if len(signature) != 64:
                    raise BadToken("the signature has another length")
                pair = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
                key.verify(encode_dss_signature(*pair), signed, _ECDSA)
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, signed, _PSS if self.alg == "PS256" else _PKCS1, SHA256())
            else:
                key.verify(signature, signed)
        except InvalidSignature:
            raise BadToken("the signature does not match") from None


def _read_public(jwk: Mapping[str, Any]) -> PublicKeyType:
    match jwk.get("kty"), jwk.get("crv"):
        case "EC", "P-256":
            x, y = _member(jwk, "x", 32), _member(jwk, "y", 32)
            return ec.EllipticCurvePublicNumbers(
                int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()
            ).public_key()  # refuses points off the curve
        case "OKP", "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(_member(jwk, "x", 32))
        case "RSA", _:
            modulus, exponent = int.from_bytes(_member(jwk, "n")), int.from_bytes(_member(jwk, "e"))
            if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS or not 3 <= exponent < 2**32:
                raise ValueError("an RSA key of another size")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        case _:
            raise ValueError("a type or curve that is not used here")


def _member(jwk: Mapping[str, Any], name: str, size_bytes: int | None = None) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing")
    raw = decode(value)
    if size_bytes is not None and len(raw) != size_bytes:
        raise ValueError(f"{name} has another length")
    return raw


def _algorithm_of(key: PublicKeyType, stated: object, wanted: str | None) -> Algorithm:
    fitting: tuple[Algorithm, ...]
    if isinstance(key, ec.EllipticCurvePublicKey):
        fitting = ("ES256",)
    elif isinstance(key, rsa.RSAPublicKey):
        fitting = ("RS256", "PS256")
    else:
        fitting = ("EdDSA",)
    names = {"EdDSA" if name == "Ed25519" else name for name in (stated, wanted) if name is not None}
    if len(names) > 1:
        raise BadKey("the key is for another algorithm")
    name = next(iter(names), fitting[0])
    for algorithm in fitting:
        if algorithm == name:
            return algorithm
    raise BadKey("the key does not go with the algorithm")


def _public_members(key: PublicKeyType) -> Jwk:
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        return {"crv": "P-256", "kty": "EC", "x": encode(point.x.to_bytes(32)), "y": encode(point.y.to_bytes(32))}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"e": encode(_minimal(numbers.e)), "kty": "RSA", "n": encode(_minimal(numbers.n))}
    return {"crv": "Ed25519", "kty": "OKP", "x": encode(key.public_bytes_raw())}


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The SHA-256 thumbprint of a public key (RFC 7638, section 3): its required members, in order of their names."""
    wanted = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}[jwk["kty"]]
    return encode(hashlib.sha256(msgspec.json.encode({name: jwk[name] for name in wanted})).digest())


# --- private keys ---


class SigningKey:
    """A private key bound to one algorithm. `kid` is its thumbprint (contract identity, section 4.2)."""

    __slots__ = ("_headers", "_key", "alg", "jwk", "kid")

    def __init__(self, key: PrivateKeyType, alg: SigningAlgorithm) -> None:
        self._key = key
        self.alg: SigningAlgorithm = alg
        self.jwk = _public_members(key.public_key())
        self.kid = thumbprint(self.jwk)
        self._headers: dict[str, str] = {}

    @classmethod
    def generate(cls, alg: SigningAlgorithm) -> SigningKey:
        """A new key. RSA takes some 100 ms of CPU: call that on a thread."""
        if alg == "ES256":
            return cls(ec.generate_private_key(ec.SECP256R1()), alg)
        if alg == "RS256":
            return cls(rsa.generate_private_key(65537, 2048), alg)
        return cls(ed25519.Ed25519PrivateKey.generate(), alg)

    @classmethod
    def from_der(cls, der: bytes, alg: SigningAlgorithm) -> SigningKey:
        """What `to_der` wrote.

        Raises:
            BadKey: another kind of key.
        """
        # Not checked once more: it was sealed by us, and the check of an RSA key takes longer than ten signatures.
        key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
            raise BadKey("a key of a type that is not used here")
        return cls(key, alg)

    def to_der(self) -> bytes:
        """The private key in PKCS #8, unprotected: seal it."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def public(self) -> VerifyingKey:
        return VerifyingKey(self._key.public_key(), self.alg, self.kid)

    def sign(self, claims: Mapping[str, object], typ: str) -> str:
        """A compact token over `claims` (RFC 7515, section 3.1). ES256 takes some 40 microseconds, RS256 a millisecond."""
        header = self._headers.get(typ)
        if header is None:
            header = encode(msgspec.json.encode({"alg": self.alg, "kid": self.kid, "typ": typ}))
            self._headers[typ] = header
        signed = f"{header}.{encode(msgspec.json.encode(claims))}"
        return f"{signed}.{encode(self.sign_bytes(signed.encode('ascii')))}"

    def sign_bytes(self, signed: bytes) -> bytes:
        """The signature in the form of RFC 7518."""
        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(key.sign(signed, _ECDSA))
            return r.to_bytes(32) + s.to_bytes(32)
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(signed, _PKCS1, SHA256())
        return key.sign(signed)


# --- compact tokens ---


class Parsed(NamedTuple):
    """A compact token whose form is right. Nothing of it is proven."""

    header: dict[str, Any]
    signed: bytes
    payload: str
    signature: bytes

    def unproven(self, name: str) -> object:
        """One claim of a payload that nobody has verified: only to find out whose key to verify with.

        Raises:
            BadToken: the payload is no JSON object.
        """
        return decode_object(self.payload).get(name)

    def verified(self, key: VerifyingKey) -> Claims:
        """The claims, once the signature holds.

        Raises:
            BadToken: the algorithm is not the key's, the signature does not hold, or the payload is no JSON object.
        """
        if self.header.get("alg") != key.alg:
            raise BadToken("the algorithm is not the one that belongs to the key")
        key.check(self.signed, self.signature)
        return decode_object(self.payload)


def parse(token: str, *, embedded_key: bool = False) -> Parsed:
    """Takes a compact token apart, by the first two steps of contract identity, section 4.5.

    Args:
        embedded_key: whether the header has to carry its key (`jwk`), as in DPoP proofs; in all others it must not.

    Raises:
        BadToken: its form is wrong, or its header points at foreign keys or names rules that nobody here knows.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise BadToken("longer than any token of ours")
    match = _SHAPE.fullmatch(token)
    if match is None:
        raise BadToken("not three parts of base64url")
    header = decode_object(match[1])
    if _POINTERS & header.keys() or ("jwk" in header) != embedded_key:
        raise BadToken("header members that are not read here")
    return Parsed(header, token[: match.end(2)].encode("ascii"), match[2], decode(match[3]))


MAX_INSTANT = 2**53


def instant(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2): a finite JSON number, which `true` and `"1"` are not.

    Raises:
        BadToken: it is missing or something else.
    """
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_INSTANT < value < MAX_INSTANT:
        raise BadToken(f"`{name}` is not a finite number")
    return value
