"""Tokens that clients hold: they look like PocketBase's, so that its SDKs take them, and are ours alone (contract gateway, A.10, B.2).

A token holds nothing that its row does not hold, so the same generation always gives the same token, whoever asks again.
File tokens carry PocketBase's own file token sealed within.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import Any

import msgspec

from hapta.gateway.errors import TokenRefused, UpstreamBroken
from hapta.gateway.sessions.models import Presented, SessionRow
from hapta.kit.clock import Clock
from hapta.kit.keyring import Keyring, Secret
from hapta.kit.seal import KEY_ID_BYTES, BadSeal, Sealer
from hapta.kit.tokens import SKEW_SECONDS, BadToken, Hs256, ring, secrets_of, sign

ISSUER = "hapta"
TYP = "JWT"
FILE_TOKEN_SECONDS = 180
KID_BYTES = 9


class GatewayTokens:
    """Makes and reads the gateway's tokens, and seals PocketBase's.

    Args:
        secret: the ring of the configured secrets; the keys are derived from it, and tokens of all of them count.
    """

    def __init__(self, secret: Secret, clock: Clock) -> None:
        keyring = Keyring.of(secret)
        keys = ring(keyring, "gateway-token", "gateway-token-kid")
        self._key = keys[0]
        self._auth = Hs256(secrets_of(keys), clock, typ=TYP, kind="auth")
        self._file = Hs256(secrets_of(keys), clock, typ=TYP, kind="file")
        self._clock = clock
        # Named by what the ids of the token keys leave over: rows of sessions hold these names.
        names = [name[KID_BYTES:] for name in keyring.every("gateway-token-kid", size_bytes=KID_BYTES + KEY_ID_BYTES)]
        self._sealer = Sealer(dict(zip(names, keyring.every("gateway-seal"), strict=True)))
        self._headers = tuple([f"{key.header(TYP)}.".encode() for key in keys])

    def is_ours(self, token: bytes) -> bool:
        """Whether a token claims, by its first part, to be one of ours; proves nothing."""
        return token.startswith(self._headers)

    def token(self, row: SessionRow) -> str:
        """The token of a session's current generation; the same one each time."""
        claims = {
            "id": row.record_id,
            "collectionId": row.collection_id,
            "type": "auth",
            "refreshable": True,
            "iat": row.issued_at // 1000,
            "exp": row.token_expires_at // 1000,
            "iss": ISSUER,
            "sub": f"{row.collection_id}/{row.record_id}",
            "sid": row.id,
            "gen": row.generation,
            "jti": row.token_id,
        }
        return sign(claims, self._key, typ=TYP)

    def read(self, token: str) -> Presented:
        """What a token says. Clocks may differ by 30 seconds, at both of its ends (contract gateway, B.2).

        Raises:
            TokenRefused: it is not ours, was changed, or has ended.
        """
        try:
            return _presented(self._auth.verify(token, late_seconds=SKEW_SECONDS))
        except BadToken:
            raise TokenRefused from None

    def file_token(self, collection_id: str, record_id: str, session_id: str, upstream_token: str) -> str:
        """A short-lived token for protected files, which ends with its session too."""
        now = int(self._clock.now())
        end = min(now + FILE_TOKEN_SECONDS, upstream_end_ms(upstream_token) // 1000)
        sealed = self._sealer.seal(upstream_token.encode(), _context("file", session_id))
        claims = {
            "id": record_id,
            "collectionId": collection_id,
            "type": "file",
            "iat": now,
            "exp": end,
            "iss": ISSUER,
            "sub": f"{collection_id}/{record_id}",
            "sid": session_id,
            "up": urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii"),
        }
        return sign(claims, self._key, typ=TYP)

    def read_file_token(self, token: str) -> tuple[Presented, str]:
        """What a file token says, and PocketBase's own one.

        Raises:
            TokenRefused: it is not ours, was changed, or has ended.
        """
        try:
            claims = self._file.verify(token)
            presented = _presented({"gen": 0, "jti": "", **claims})
            sealed = _decoded(claims.get("up"))
            return presented, self._sealer.open(sealed, _context("file", presented.session_id)).decode()
        except (BadToken, BadSeal, ValueError):
            raise TokenRefused from None

    def seal(self, session_id: str, upstream_token: str) -> bytes:
        """PocketBase's token as the row of a session keeps it."""
        return self._sealer.seal(upstream_token.encode(), _context("session", session_id))

    def open(self, session_id: str, sealed: bytes) -> str:
        """PocketBase's token of a session.

        Raises:
            TokenRefused: it was sealed under a secret that is not configured any more, or for another session.
        """
        try:
            return self._sealer.open(sealed, _context("session", session_id)).decode()
        except BadSeal:
            raise TokenRefused from None


def upstream_end_ms(token: str) -> int:
    """When a token of PocketBase ends, as it says itself.

    Raises:
        UpstreamBroken: it is no token.
    """
    parts = token.split(".")
    try:
        end = upstream_claims(token)["exp"] if len(parts) == 3 else None
    except (KeyError, ValueError):
        end = None
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end < 2**43:
        raise UpstreamBroken
    return int(end * 1000)


def upstream_claims(token: str) -> dict[str, Any]:
    """What a token of PocketBase says. Nothing is proved by it: its key is PocketBase's.

    Raises:
        ValueError: it is no token.
    """
    try:
        return msgspec.json.decode(_decoded(token.split(".")[1]), type=dict[str, Any])
    except (IndexError, msgspec.DecodeError) as error:
        raise ValueError("no token of PocketBase") from error


def _presented(claims: dict[str, Any]) -> Presented:
    """The claims in their types: only our own code signs them, so anything else is the work of an older or a stranger's version."""
    texts = [claims.get(name) for name in ("collectionId", "id", "sid", "jti")]
    generation = claims.get("gen")
    if (
        claims.get("iss") != ISSUER
        or not isinstance(generation, int)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise BadToken("claims of another form")
    collection_id, record_id, session_id, token_id = map(str, texts)
    return Presented(collection_id, record_id, session_id, generation, token_id, float(claims["exp"]))


def _decoded(text: object) -> bytes:
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("no base64url")
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except Base64Error as error:
        raise ValueError("no base64url") from error


def _context(kind: str, session_id: str) -> bytes:
    return f"gateway-{kind}:{session_id}".encode()
