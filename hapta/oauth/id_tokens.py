"""ID tokens (OpenID Connect Core, section 2; contract identity, section 15): they tell a client who signed in, and when."""

from __future__ import annotations

from hashlib import sha256, sha512
from typing import Any, cast

from hapta.kit.clock import Clock
from hapta.oauth.families.models import Family
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import SigningAlgorithm, encode
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.models import Client
from hapta.settings import OAuthSettings

ID_TYP = "JWT"
ID_TYPE = "id"


class IdTokens:
    """Mints ID tokens, each by the algorithm that its client registered."""

    def __init__(self, keys: SigningKeys, clock: Clock, settings: OAuthSettings, issuer: Issuer) -> None:
        self._keys = keys
        self._clock = clock
        self._settings = settings
        self._issuer = issuer.url

    async def mint(self, client: Client, family: Family, access_token: str, *, nonce: str | None = None) -> str:
        """The ID token of an authorization.

        Args:
            access_token: the one that is handed out with it, for `at_hash`.
            nonce: of the authorization request; left out of tokens that come with a refresh (section 12.2).
        """
        now = int(self._clock.now())
        alg = cast("SigningAlgorithm", client.id_token_alg)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": family.subject,
            "aud": client.client_id,
            "azp": client.client_id,
            "type": ID_TYPE,
            "iat": now,
            "exp": now + self._settings.id_token_seconds,
            "amr": list(family.amr),
            "at_hash": at_hash(access_token, alg),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        if family.wants_auth_time or client.require_auth_time or client.default_max_age is not None:
            claims["auth_time"] = family.authenticated_at // 1000
        if family.acr is not None:
            claims["acr"] = family.acr
        await self._keys.ready(alg)
        return self._keys.sign(claims, alg=alg, typ=ID_TYP)


def at_hash(access_token: str, alg: SigningAlgorithm) -> str:
    """The left half of the token's hash, by the hash function of the signature (section 3.1.3.6); Ed25519 has SHA-512."""
    hashed = (sha512 if alg == "EdDSA" else sha256)(access_token.encode("ascii")).digest()
    return encode(hashed[: len(hashed) // 2])
