"""ID tokens of other providers: whether one was made by this provider, for us, for this attempt, a moment ago.

The rules are those of OpenID Connect Core, section 3.1.3.7, and RFC 8725. Keys come from the provider's key set alone, never from
the token; the algorithm must be one of ours, so neither `none` nor a key turned into a shared secret gets anywhere.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256, sha384, sha512
from typing import Any, cast

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from hapta.http.json import reader
from hapta.identity.upstream.errors import UpstreamRefused
from hapta.kit.clock import Clock
from hapta.kit.errors import Invalid

Json = dict[str, Any]
PublicKey = RSAKey | ECKey | OKPKey
ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""Algorithms that count, each with the kind of key and curve that goes with it."""
LEEWAY_SECONDS = 30
MAX_AGE_SECONDS = 600
"""A token is made in the answer to the code, and the whole attempt takes no longer than this."""
MAX_TOKEN_CHARACTERS = 32_768
MAX_SUBJECT_CHARACTERS = 255
MIN_RSA_BYTES = 256
_HASHES = {"256": sha256, "384": sha384, "512": sha512}
_read = reader(dict[str, Any])


class IdToken:
    """A token taken apart, not yet believed.

    Args:
        text: in the compact form.

    Raises:
        UpstreamRefused: it has another form, or an algorithm that does not count.
    """

    def __init__(self, text: object) -> None:
        if not isinstance(text, str) or not text.isascii() or len(text) > MAX_TOKEN_CHARACTERS or text.count(".") != 2:
            raise UpstreamRefused("there is no ID token")
        header = _part(text.partition(".")[0])
        alg, kid = header.get("alg"), header.get("kid")
        if not isinstance(alg, str) or alg not in ALGORITHMS:
            raise UpstreamRefused("the ID token is signed by an algorithm that does not count")
        if kid is not None and not isinstance(kid, str):
            raise UpstreamRefused("the ID token names its key by something that is no text")
        if "crit" in header:
            raise UpstreamRefused("the ID token asks for an extension")
        self.alg = alg
        self.kid = kid
        self._text = text

    def key_among(self, keys: Sequence[Json]) -> PublicKey | None:
        """The one key of a set that may have made it; None: it is not there (yet)."""
        fitting = [key for key in keys if self._fits(key)]
        if self.kid is None and len(fitting) > 1:
            return None  # without a name it may be any of them, and trying them all is no proof of intent
        for key in fitting:
            imported = _imported(key)
            if imported is not None:
                return imported
        return None

    def verified(self, key: PublicKey) -> Json:
        """Its claims, once the signature holds.

        Raises:
            UpstreamRefused: it does not.
        """
        registry = jws.JWSRegistry(algorithms=[self.alg], strict_check_header=False)
        try:
            opened = jws.deserialize_compact(self._text, key, registry=registry)
            return _read(opened.payload)
        except (JoseError, Invalid, ValueError):
            raise UpstreamRefused("the signature of the ID token does not hold") from None

    def _fits(self, key: Json) -> bool:
        kind, curve = ALGORITHMS[self.alg]
        return (
            key.get("kty") == kind
            and (curve is None or key.get("crv") == curve)
            and key.get("use", "sig") == "sig"
            and key.get("alg", self.alg) == self.alg
            and (self.kid is None or key.get("kid") == self.kid)
        )


def check_claims(
    claims: Json,
    *,
    issuers: Sequence[str],
    client_id: str,
    nonce: str,
    clock: Clock,
    alg: str,
    access_token: str | None,
) -> str:
    """Whether verified claims are about this attempt; the subject.

    Args:
        issuers: what the provider may call itself.
        access_token: what came with it: held against `at_hash`, if there is one.

    Raises:
        UpstreamRefused: they are not.
    """
    now = clock.now()
    if claims.get("iss") not in issuers:
        raise UpstreamRefused("the ID token is of another issuer")
    _check_audience(claims, client_id)
    if now >= _instant(claims, "exp") + LEEWAY_SECONDS:
        raise UpstreamRefused("the ID token has ended")
    made = _instant(claims, "iat")
    if not now - MAX_AGE_SECONDS - LEEWAY_SECONDS <= made <= now + LEEWAY_SECONDS:
        raise UpstreamRefused("the ID token was not made just now")
    if "nbf" in claims and _instant(claims, "nbf") > now + LEEWAY_SECONDS:
        raise UpstreamRefused("the ID token does not count yet")
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        raise UpstreamRefused("the ID token was made for another attempt")
    if "at_hash" in claims and access_token is not None and alg[2:] in _HASHES:
        _check_hash(claims["at_hash"], alg, access_token)
    return subject_of(claims)


def subject_of(claims: Json) -> str:
    """The subject of claims.

    Raises:
        UpstreamRefused: there is none, or none that a provider may give (OpenID Connect Core, section 2).
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS:
        raise UpstreamRefused("there is no subject")
    if not subject.isascii() or not subject.isprintable():
        raise UpstreamRefused("the subject is not plain text")
    return subject


def _check_audience(claims: Json, client_id: str) -> None:
    audience = claims.get("aud")
    named = cast("list[object]", audience) if isinstance(audience, list) else [audience]
    if client_id not in named:
        raise UpstreamRefused("the ID token is for somebody else")
    # With several readers the token must say for whom it was made (OpenID Connect Core, section 3.1.3.7, rules 3 to 5).
    if claims.get("azp", None if len(named) > 1 else client_id) != client_id:
        raise UpstreamRefused("the ID token was made for somebody else")


def _check_hash(given: object, alg: str, access_token: str) -> None:
    """OpenID Connect Core, section 3.1.3.8."""
    digest = _HASHES[alg[2:]](access_token.encode("ascii")).digest()
    wanted = urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), wanted):
        raise UpstreamRefused("the ID token goes with another access token")


def _instant(claims: Json, name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise UpstreamRefused(f"the ID token has no {name}")
    return value


def _part(text: str) -> Json:
    try:
        return _read(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (Invalid, ValueError):
        raise UpstreamRefused("the ID token cannot be read") from None


def _imported(key: Json) -> PublicKey | None:
    """A key that can be used; None for one that is broken, too weak, or a secret."""
    public = {name: value for name, value in key.items() if name in _MEMBERS and isinstance(value, str)}
    try:
        if public.get("kty") == "RSA" and len(urlsafe_b64decode(public["n"] + "==").lstrip(b"\0")) < MIN_RSA_BYTES:
            return None
        imported = JWKRegistry.import_key(public)  # pyright: ignore[reportArgumentType] - a plain dict is what it takes
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    return imported if isinstance(imported, RSAKey | ECKey | OKPKey) else None


_MEMBERS = frozenset({"kty", "crv", "x", "y", "n", "e", "kid"})
