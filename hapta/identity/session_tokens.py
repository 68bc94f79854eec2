"""First-party access tokens: HS256, of one session at one generation (contract identity, section 4.3).

Two kinds share the key and the form: the short tokens of sessions with a rolling key, and the long one that a session of the
sync dialect consists of (contract sync, section 2.3)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import NamedTuple

from hapta.identity.models import Started
from hapta.identity.session_keys import SessionKey
from hapta.kit.access import SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import Ids
from hapta.kit.keyring import Secret
from hapta.kit.tokens import ACCESS_TYPE, BadToken, Claims, Hs256, ring, secrets_of, sign

OVERLAP_MS = 10_000
"""How long the previous generation of a session's keys is honoured (contract identity, section 19)."""


class TokenParts(NamedTuple):
    """What a token says that was signed here and has not ended."""

    session: SessionKey
    version: int
    expires_at: float
    claims: Claims


class SessionTokens:
    """Mints and reads access tokens.

    Args:
        issuer: stands as `iss` and `aud` in the short tokens, and is held against those of every token that has them.
    """

    def __init__(self, secret: Secret, clock: Clock, ids: Ids, issuer: str = "") -> None:
        keys = ring(secret, "access-token", "access-token-kid")
        self._key = keys[0]
        self._verifier = Hs256(secrets_of(keys), clock)
        self._ids = ids
        self._issuer = issuer

    def mint(self, started: Started) -> str:
        """The token of a session that is committed."""
        issued_at = started.issued_at // 1000
        claims: dict[str, object] = {
            "sub": started.user_id,
            "iat": issued_at,
            "exp": started.token_expires_at // 1000,
            "jti": self._ids.uuid(),
            "tv": started.token_version,
            "sid": started.session_id,
            "gen": started.generation,
            "type": ACCESS_TYPE,
        }
        if started.device_id is not None:
            claims["deviceId"] = started.device_id
        if not started.key:
            claims["email"] = started.email
        else:
            claims["nbf"] = issued_at
            claims["roles"] = started.roles
            claims["amr"] = started.amr
            claims["auth_time"] = started.authenticated_at // 1000
            if self._issuer:
                claims["iss"] = claims["aud"] = self._issuer
        return sign(claims, self._key)

    def verify(self, token: str, *, late_seconds: float = 0.0) -> TokenParts:
        """What the token says; that its session lives, only its row can tell.

        Raises:
            InvalidToken: it was not signed here, has ended, or is none of a session.
        """
        try:
            claims = self._verifier.verify(token, late_seconds=late_seconds)
        except BadToken:
            raise InvalidToken from None
        session_id, generation, version = claims.get("sid"), claims.get("gen"), claims.get("tv")
        if not isinstance(session_id, str) or not session_id:
            raise InvalidToken
        if type(generation) is not int or type(version) is not int:
            raise InvalidToken
        if self._issuer and any(claims.get(name, self._issuer) != self._issuer for name in ("iss", "aud")):
            raise InvalidToken
        return TokenParts(
            SessionKey(UserId(claims["sub"]), SessionId(session_id), generation), version, float(claims["exp"]), claims
        )


def coarse_address(address: str | None) -> str | None:
    """The network of an address: enough to recognise where one is, too little to tell one household from another."""
    if address is None:
        return None
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))
