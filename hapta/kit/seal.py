"""Sealing of what must be read again: AES-256-GCM with the id of its key in front, bound to a context.

`context` says what the bytes are and whose (`b"totp:" + user_id`), so that a sealed value cannot be moved to another row.
Keys are replaced by adding a new one: old values stay readable while their key is in the ring.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_ID_BYTES = 4
NONCE_BYTES = 12


class BadSeal(ValueError):
    """The bytes were not sealed by a known key for this context, or were changed."""


class Sealer:
    """Seals and opens.

    Args:
        keys: keys of 32 bytes by their ids of 4 bytes; the first one seals, all of them open.
    """

    def __init__(self, keys: Mapping[bytes, bytes]) -> None:
        if not keys or any(len(key_id) != KEY_ID_BYTES or len(key) != 32 for key_id, key in keys.items()):
            raise ValueError("a ring has at least one key of 32 bytes, each with an id of 4")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = next(iter(keys))

    @classmethod
    def of(cls, key: bytes) -> Sealer:
        """A ring of one derived key."""
        return cls({b"\0\0\0\1": key})

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """`plain` for this context; 32 bytes longer."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self._current + nonce + self._ciphers[self._current].encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed for this context.

        Raises:
            BadSeal: anything else.
        """
        cipher = self._ciphers.get(sealed[:KEY_ID_BYTES])
        if cipher is None:
            raise BadSeal("unknown key")
        nonce = sealed[KEY_ID_BYTES : KEY_ID_BYTES + NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[KEY_ID_BYTES + NONCE_BYTES :], context)
        except (InvalidTag, ValueError):
            raise BadSeal("the bytes do not belong to this context") from None
