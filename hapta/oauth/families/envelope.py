"""The envelope of a refresh token: an HS256 JWT that lets garbage be refused without a look into the database.

What counts is the row (`store.py`), which holds the hash of the `jti`. The end in the envelope is the absolute end of the
family, so a successor can be made from its parent alone.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from hapta.kit.clock import Clock
from hapta.kit.keyring import Keyring, Secret, key_id
from hapta.kit.seal import BadSeal, Sealer
from hapta.kit.tokens import BadToken, Hs256, ring, secrets_of, sign
from hapta.oauth.families.models import Envelope

REFRESH_TYP = "rt+jwt"
REFRESH_TYPE = "refresh"


class Envelopes:
    """Signs and reads refresh tokens, and seals the successor of one.

    Args:
        secret: the configured secret; its keys for this purpose are derived from it.
    """

    def __init__(self, secret: Secret, clock: Clock) -> None:
        keys = ring(secret, "refresh-token", "refresh-token-kid")
        self._key = keys[0]
        self._tokens = Hs256(secrets_of(keys), clock, typ=REFRESH_TYP, kind=REFRESH_TYPE)
        self._successor_keys = Keyring.of(secret).every("refresh-successor")

    def sign(self, envelope: Envelope) -> str:
        """The token. The same envelope always gives the same text."""
        claims = {
            "type": REFRESH_TYPE,
            "client_id": envelope.client_id,
            "sub": envelope.subject,
            "exp": envelope.expires_at,
            "jti": envelope.jti,
            "fam": envelope.family_id,
            "n": envelope.number,
        }
        return sign(claims, self._key, typ=REFRESH_TYP)

    def open(self, token: str) -> Envelope | None:
        """What a refresh token says; None: it is not ours, or it is over."""
        try:
            claims = self._tokens.verify(token)
        except BadToken:
            return None
        # The signature holds, so these are the members that `sign` wrote.
        return Envelope(
            claims["client_id"], claims["fam"], claims["sub"], claims["jti"], claims["n"], int(claims["exp"])
        )

    def seal(self, successor: str, presented: Envelope) -> bytes:
        """A successor under a key that only its parent gives: neither the database nor our secret alone opens it."""
        return self._sealer(presented).seal(successor.encode(), _context(presented))

    def unseal(self, sealed: bytes, presented: Envelope) -> str | None:
        """The successor of the presented token; None: it was sealed for another one."""
        try:
            return self._sealer(presented).open(sealed, _context(presented)).decode()
        except BadSeal:
            return None

    def _sealer(self, presented: Envelope) -> Sealer:
        keys = [hmac.digest(key, presented.jti.encode(), "sha256") for key in self._successor_keys]
        return Sealer({key_id(key): key for key in keys})


def digest(jti: str) -> bytes:
    """The form in which a `jti` is kept; it has 256 random bits, so a plain hash hides it."""
    return sha256(jti.encode()).digest()


def _context(envelope: Envelope) -> bytes:
    return f"refresh-successor:{envelope.client_id}:{envelope.family_id}:{envelope.number}".encode()
