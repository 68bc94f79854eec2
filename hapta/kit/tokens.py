"""Signed tokens on the hot path: JSON Web Tokens with HS256, by hmac and msgspec alone.

`sign` mints, `Hs256.verify` judges. The verifier knows its keys by `kid` and takes the algorithm from the key, never from
the token, so there is no algorithm to confuse. Nothing of the payload is parsed before its signature holds.
"""

from __future__ import annotations

import hmac
import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from hapta.kit.clock import Clock
from hapta.kit.keyring import Keyring, Secret, key_name
from hapta.kit.secrets import Purpose

MAX_TOKEN_CHARACTERS = 8 * 1024
SKEW_SECONDS = 30.0
"""How far `iat` and `nbf` may lie ahead of our clock. There is no such grace for `exp`."""
ACCESS_TYP = "at+jwt"
ACCESS_TYPE = "access"

Claims = dict[str, Any]

# HS256 signatures are 32 bytes: 43 characters of base64url. `fullmatch` below, so no newline slips in at the end.
_SHAPE = re.compile(
    r"(?P<signed>(?P<header>[A-Za-z0-9_-]+)\.(?P<payload>[A-Za-z0-9_-]+))\.(?P<signature>[A-Za-z0-9_-]{43})"
)
_HEADER_MEMBERS = frozenset({"alg", "typ", "kid"})
_MAX_INSTANT = 2**53


class BadToken(ValueError):
    """The token does not count. The text says why, for logs and tests; callers are all told the same."""


class Hs256Key:
    """A key with its id. Its id is derived like the key, so all workers agree on it and it tells nothing."""

    __slots__ = ("_header", "kid", "secret")

    def __init__(self, kid: str, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("an HS256 key has at least 32 bytes (RFC 7518 section 3.2)")
        self.kid = kid
        self.secret = secret
        self._header: dict[str, str] = {}

    @classmethod
    def for_access_tokens(cls, secret: Secret) -> Hs256Key:
        """The key that signs first-party access tokens, from the configured secret."""
        return ring(secret, "access-token", "access-token-kid")[0]

    def header(self, typ: str) -> str:
        """The encoded JOSE header of tokens of this key and type."""
        known = self._header.get(typ)
        if known is None:
            known = _encode(msgspec.json.encode({"alg": "HS256", "kid": self.kid, "typ": typ}))
            self._header[typ] = known
        return known


def ring(secret: Secret, purpose: Purpose, naming: Purpose | None = None) -> tuple[Hs256Key, ...]:
    """The keys of one kind of token: the first one signs, all of them count.

    Args:
        naming: what the ids of the keys are derived for; None: their own purpose.
    """
    keyring = Keyring.of(secret)
    keys = keyring.every(purpose)
    names = [key_name(key) for key in keys] if naming is None else map(_encode, keyring.every(naming, size_bytes=9))
    return tuple([Hs256Key(name, key) for name, key in zip(names, keys, strict=True)])


def secrets_of(keys: Iterable[Hs256Key]) -> dict[str, bytes]:
    """Keys by their ids, as `Hs256` takes them."""
    return {key.kid: key.secret for key in keys}


def sign(claims: Mapping[str, object], key: Hs256Key, *, typ: str = ACCESS_TYP) -> str:
    """A token over `claims` in compact form (RFC 7515 section 3.1)."""
    signed = f"{key.header(typ)}.{_encode(msgspec.json.encode(claims))}"
    return f"{signed}.{_signature(signed, key.secret)}"


class Hs256:
    """Verifies tokens of one kind: one header `typ`, one claim `type`, and a fixed set of keys.

    Args:
        keys: the keys that count, by their ids.
        clock: where the hour comes from.
        typ: the header's `typ` that every token must carry.
        kind: the claim `type` that every token must carry.
    """

    def __init__(
        self, keys: Mapping[str, bytes], clock: Clock, *, typ: str = ACCESS_TYP, kind: str = ACCESS_TYPE
    ) -> None:
        self._keys = {kid: Hs256Key(kid, secret) for kid, secret in keys.items()}
        self._clock = clock
        self._typ = typ
        self._kind = kind
        # Our own tokens all carry one of these headers letter by letter, so theirs need no decoding.
        self._own_headers = {key.header(typ): key for key in self._keys.values()}

    def verify(self, token: str, *, late_seconds: float = 0.0) -> Claims:
        """The claims of a token that counts.

        Args:
            late_seconds: how long after its end it still counts, for what exchanges it for a newer one.

        Raises:
            BadToken: anything else, whatever it is.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise BadToken("longer than 8 KiB")
        parts = _SHAPE.fullmatch(token)
        if parts is None:
            raise BadToken("not three parts of base64url with an HS256 signature")
        key = self._own_headers.get(parts["header"]) or self._key_of(parts["header"])
        # The encoded forms are compared, so padding and stray bits in the last character are refused as well.
        if not hmac.compare_digest(_signature(parts["signed"], key.secret), parts["signature"]):
            raise BadToken("the signature does not match")
        return self._judge(_decode_object(parts["payload"]), late_seconds)

    def _key_of(self, segment: str) -> Hs256Key:
        header = _decode_object(segment)
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise BadToken("unknown key id")
        if header.get("alg") != "HS256":
            raise BadToken("the algorithm is not the one that belongs to the key")
        if header.get("typ") != self._typ:
            raise BadToken("another type of token")
        # jku, jwk, x5u and the like point at foreign keys, and `crit` names rules we do not know: refuse all of it.
        if not header.keys() <= _HEADER_MEMBERS:
            raise BadToken("header members that we do not read")
        return key

    def _judge(self, claims: Claims, late_seconds: float) -> Claims:
        if claims.get("type") != self._kind:
            raise BadToken("another kind of token")
        sub = claims.get("sub")
        if not isinstance(sub, str) or not sub:
            raise BadToken("`sub` is not a non-empty string")
        now = self._clock.now()
        if _instant(claims, "exp") + late_seconds <= now:
            raise BadToken("expired")
        for name in ("iat", "nbf"):
            if name in claims and _instant(claims, name) > now + SKEW_SECONDS:
                raise BadToken(f"`{name}` lies in the future")
        return claims


def _instant(claims: Claims, name: str) -> float:
    """A NumericDate (RFC 7519 section 2): a finite JSON number, which `true` and `"1"` are not."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_INSTANT < value < _MAX_INSTANT:
        raise BadToken(f"`{name}` is not a finite number")
    return value


def _decode_object(segment: str) -> Claims:
    try:
        raw = a2b_base64(segment.replace("-", "+").replace("_", "/") + "=" * (-len(segment) % 4))
        value = msgspec.json.decode(raw)
    except (Base64Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadToken("a part is not base64url of JSON") from error
    if _encode(raw) != segment:
        raise BadToken("stray bits in base64url")
    if not isinstance(value, dict):
        raise BadToken("a part is not a JSON object")
    claims = cast("Claims", value)
    # What encodes back to the same bytes had no name twice. Only foreign spellings pay for the slow look.
    if msgspec.json.encode(claims) != raw:
        _refuse_duplicates(raw)
    return claims


def _refuse_duplicates(raw: bytes) -> None:
    try:
        json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadToken("a member stands twice") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _signature(signed: str, secret: bytes) -> str:
    return _encode(hmac.digest(secret, signed.encode("ascii"), "sha256"))


def _encode(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).rstrip(b"=").decode("ascii").replace("+", "-").replace("/", "_")
