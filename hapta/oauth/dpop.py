"""`Dpop`: proofs that a request comes from the holder of a key (RFC 9449), for the token endpoint and for resources.

A proof counts once: its `jti` is kept in the database until the proof is too old anyway, so that all workers know it. Nonces need
no memory: they are instants with a MAC.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hapta.db.database import Database
from hapta.http.requests import Request
from hapta.kit.clock import Clock
from hapta.kit.keyring import Keyring, Secret
from hapta.kit.tokens import BadToken
from hapta.oauth.errors import (
    InvalidDpopProof,
    OAuthError,
    ResourceDpopProof,
    ResourceNeedsDpopNonce,
    UseDpopNonce,
)
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import ALGORITHMS, BadKey, VerifyingKey, decode, encode, instant, parse
from hapta.oauth.proofs import store

WINDOW_SECONDS = 60
"""How far a proof's `iat` may lie from our clock (contract identity, section 16)."""
NONCE_SECONDS = 300
MAX_JTI_CHARACTERS = 256
SWEEP_BATCH = 1000
_MAC_BYTES = 16

_DEFAULT_PORTS = {"https": 443, "http": 80}


class Dpop:
    """Checks proofs and gives out nonces.

    Args:
        secret: the server's secret; the keys of the nonces are derived from it.
        needs_nonce: whether every proof must carry a nonce of ours (`oauth.dpop_nonce`).
    """

    def __init__(
        self, db: Database, clock: Clock, issuer: Issuer, secret: Secret, *, needs_nonce: bool = False
    ) -> None:
        self._db = db
        self._clock = clock
        self._issuer = issuer
        self._keys = Keyring.of(secret).every("dpop-nonce")
        self.needs_nonce = needs_nonce

    async def check(self, request: Request, *, form_url_path: str, access_token: str | None = None) -> str | None:
        """The thumbprint of the key that this request is proven with; None when it carries no proof.

        Args:
            form_url_path: the path that the client called, as the metadata has it (`/oauth/token`); the public origin is put
                before it, whatever `Host` said.
            access_token: at a resource, the token that came with the proof; it has to be named by `ath`.

        Raises:
            InvalidDpopProof, UseDpopNonce: at the endpoints of the authorization server (400).
            ResourceDpopProof, ResourceNeedsDpopNonce: at a resource (401 with a DPoP challenge).
        """
        proofs = request.header_values("dpop")
        if not proofs:
            return None
        try:
            if len(proofs) > 1:
                raise BadToken("more than one proof")  # RFC 9449, section 4.3
            key, claims = _read(proofs[0])
            self._judge(claims, request.method, self._issuer.at(form_url_path), access_token)
        except (BadToken, BadKey) as error:
            if access_token is not None:
                raise ResourceDpopProof(f"The DPoP proof is not valid: {error}") from None
            raise InvalidDpopProof(f"The DPoP proof is not valid: {error}") from None
        if not self._nonce_counts(claims):
            nonce = self.nonce()
            raise ResourceNeedsDpopNonce(nonce) if access_token is not None else UseDpopNonce(nonce)
        thumbprint = key.thumbprint
        if not await self._remember(thumbprint, claims["jti"]):
            message = "The DPoP proof is not valid: it was used before"
            raise ResourceDpopProof(message) if access_token is not None else InvalidDpopProof(message)
        return thumbprint

    def _judge(self, claims: Mapping[str, Any], method: str, address: str, access_token: str | None) -> None:
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_CHARACTERS:
            raise BadToken("`jti` is missing")
        if claims.get("htm") != method:
            raise BadToken("`htm` is another method")
        if not _same_address(claims.get("htu"), address):
            raise BadToken("`htu` is another address")
        if abs(instant(claims, "iat") - self._clock.now()) > WINDOW_SECONDS:
            raise BadToken("`iat` is too far from now")
        if access_token is not None:
            ath = claims.get("ath")
            wanted = encode(hashlib.sha256(access_token.encode("ascii", "replace")).digest())
            if not isinstance(ath, str) or not hmac.compare_digest(ath.encode(), wanted.encode()):
                raise BadToken("`ath` does not name the access token")

    async def _remember(self, thumbprint: str, jti: str) -> bool:
        """Takes note of a proof; False when it was seen before."""
        proof = hashlib.sha256(f"{thumbprint}.{jti}".encode("utf-8", "surrogatepass")).digest()
        # `iat` may lie a window ahead of now, and the proof then counts for another one.
        expires_at = self._clock.now_ms() + 2 * WINDOW_SECONDS * 1000 + 1000
        return await self._db.write(lambda tx: store.remember(tx, proof, expires_at), single=True)

    # --- nonces (RFC 9449, section 8) ---

    def nonce(self) -> str:
        """A nonce that counts for five minutes, on every worker."""
        at = int(self._clock.now()).to_bytes(8)
        return encode(at + _mac(self._keys[0], at))

    def nonce_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """For successful answers: the nonce of the next proof, when nonces are asked for (RFC 9449, section 8.2)."""
        return ((b"dpop-nonce", self.nonce().encode()),) if self.needs_nonce else ()

    def _nonce_counts(self, claims: Mapping[str, Any]) -> bool:
        """Whether the proof's nonce is fresh and ours. Without one it counts as long as nonces are not asked for."""
        nonce = claims.get("nonce")
        if nonce is None:
            return not self.needs_nonce
        if not isinstance(nonce, str):
            return False
        try:
            raw = decode(nonce)
        except BadToken:
            return False
        at, mac = raw[:8], raw[8:]
        age = self._clock.now() - int.from_bytes(at)
        ours = any(hmac.compare_digest(mac, _mac(key, at)) for key in self._keys)
        return ours and -WINDOW_SECONDS <= age <= NONCE_SECONDS

    # --- job ---

    async def sweep(self) -> None:
        """Forgets proofs that are too old to be accepted: a job for every few minutes."""
        now = self._clock.now_ms()
        while await self._db.write(lambda tx: store.sweep(tx, now, SWEEP_BATCH)) == SWEEP_BATCH:
            pass


def _mac(key: bytes, at: bytes) -> bytes:
    return hmac.digest(key, at, "sha256")[:_MAC_BYTES]


def _read(proof: str) -> tuple[VerifyingKey, Mapping[str, Any]]:
    """The key in a proof, and the claims that it signed (RFC 9449, section 4.2 and 4.3)."""
    parsed = parse(proof, embedded_key=True)
    if parsed.header.get("typ") != "dpop+jwt":
        raise BadToken("another type of token")
    jwk, alg = parsed.header.get("jwk"), parsed.header.get("alg")
    if not isinstance(jwk, dict) or alg not in ALGORITHMS:
        raise BadToken("no public key, or an algorithm that is not offered")
    # The proof brings its own key, so the algorithm is held against the type of that key.
    key = VerifyingKey.from_jwk(jwk, alg)  # pyright: ignore[reportUnknownArgumentType] - members are judged one by one
    return key, parsed.verified(key)


def _same_address(given: object, wanted: str) -> bool:
    """Scheme, host, port and path, without query and fragment (RFC 9449, section 4.3; RFC 3986, section 6.2)."""
    if not isinstance(given, str) or len(given) > 2048:
        return False
    try:
        return _normal(urlsplit(given)) == _normal(urlsplit(wanted))
    except ValueError:
        return False


def _normal(parts: SplitResult) -> tuple[str, str | None, int | None, str]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme), parts.path or "/"


ERRORS: tuple[type[OAuthError], ...] = (InvalidDpopProof, UseDpopNonce)
"""What `check` raises at the authorization server's own endpoints, for their tables."""
