"""Session keys: what browsers keep in a cookie and apps as their refresh token. Opaque text; only its hash is stored.

A key names its session and generation and carries a mark of ours (an HMAC), so that an old key is told from a made-up one:
the first ends the session, the second nothing. The key that replaces one is kept for a moment, sealed under the old one, so
that everybody who presents the old one at the same time gets the same new one (contract identity, section 19).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import NamedTuple

from hapta.kit.access import SessionId, UserId
from hapta.kit.keyring import Keyring, Secret
from hapta.kit.seal import BadSeal, Sealer

SECRET_BYTES = 32
MARK_BYTES = 16
MAX_KEY_CHARACTERS = 512


class BadKey(ValueError):
    """The text is no key of ours."""


class SessionKey(NamedTuple):
    """What a key says."""

    user_id: UserId
    session_id: SessionId
    generation: int


class SessionKeys:
    """Makes and reads keys.

    Args:
        secret: the configured secret; the keys for the mark are derived from it.
    """

    def __init__(self, secret: Secret) -> None:
        self._mark_keys = Keyring.of(secret).every("session-key")

    def new(self, key: SessionKey) -> str:
        """A fresh key of a session's generation."""
        body = (
            secrets.token_bytes(SECRET_BYTES) + "\n".join((str(key.generation), key.session_id, key.user_id)).encode()
        )
        return urlsafe_b64encode(_mark(self._mark_keys[0], body) + body).rstrip(b"=").decode("ascii")

    def read(self, text: str) -> SessionKey:
        """What a presented key says; that it still counts, only the session's row can tell.

        Raises:
            BadKey: it was not made here.
        """
        if len(text) > MAX_KEY_CHARACTERS or not text.isascii():
            raise BadKey("too long")
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (Base64Error, ValueError):
            raise BadKey("not base64url") from None
        mark, body = raw[:MARK_BYTES], raw[MARK_BYTES:]
        if not any(hmac.compare_digest(_mark(key, body), mark) for key in self._mark_keys):
            raise BadKey("not our mark")
        generation, session_id, user_id = body[SECRET_BYTES:].decode().split("\n", 2)
        return SessionKey(UserId(user_id), SessionId(session_id), int(generation))


def _mark(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:MARK_BYTES]


def key_hash(text: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(text.encode("ascii", "replace")).digest()


def seal_successor(successor: str, presented: str) -> bytes:
    """The new key, to be opened by whoever has the old one."""
    return _sealer(presented).seal(successor.encode("ascii"), b"session-successor")


def open_successor(sealed: bytes, presented: str) -> str | None:
    """The new key, for whoever presents the old one."""
    try:
        return _sealer(presented).open(sealed, b"session-successor").decode("ascii")
    except BadSeal:
        return None


def _sealer(presented: str) -> Sealer:
    return Sealer.of(hmac.digest(presented.encode("ascii"), b"hapta/v1/session-successor", "sha256"))
