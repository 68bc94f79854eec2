"""`Keyring`: every key that is made from the configured secret, and from the one before it while that is being replaced.

What is signed for a while is signed with the current secret and counts under both (`current`, `every`). What must keep its
meaning for ever - sealed values, pairwise subjects, the audit log - has a lasting key that is stored, sealed under the secret
(`identity/roots.py`), so that no change of the secret loses anything that is stored (contract identity, section 4.2).
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from hapta.kit.seal import KEY_ID_BYTES, Sealer
from hapta.kit.secrets import Purpose, derive_key

Lasting = Literal[
    "data-seal",
    "key-seal",
    "otp",
    "subject",
    "audit",
    "audit-address",
    "prelogin-salt",
    "throttle",
    "device-cookie",
    "user-code",
]
LASTING: tuple[Lasting, ...] = get_args(Lasting)
"""Purposes of what is stored, or compared with what is stored, on the auth side."""

LastingOfData = Literal["relay-vault", "relay-names"]
LASTING_OF_DATA: tuple[LastingOfData, ...] = get_args(LastingOfData)
"""The same for what lies beside people's data: a server of a pair that has no auth side keeps these keys itself."""


class Keyring:
    """The keys of one server.

    Args:
        secret: the configured secret, which signs and seals.
        previous: the one before it, or the next one; it only verifies and opens. Empty: there is none.
        lasting: the lasting keys, as `identity.roots.opened` reads them; None: not read yet, so that none can be had.
    """

    def __init__(self, secret: str, previous: str = "", lasting: Mapping[str, bytes] | None = None) -> None:
        self._secrets = (secret, previous) if previous else (secret,)
        self._lasting = lasting

    @classmethod
    def of(cls, secret: Secret) -> Keyring:
        """The ring itself, or that of a bare secret that was never another one: its lasting keys are what it gives."""
        if isinstance(secret, Keyring):
            return secret
        return cls(secret, lasting=first_lasting(secret, (*LASTING, *LASTING_OF_DATA)))

    def with_lasting(self, lasting: Mapping[str, bytes]) -> Keyring:
        """The same ring with its lasting keys."""
        return Keyring(self._secrets[0], "".join(self._secrets[1:]), lasting)

    @property
    def secret(self) -> str:
        """The current secret, from which the first value of a lasting key is made."""
        return self._secrets[0]

    def current(self, purpose: Purpose, *, size_bytes: int = 32) -> bytes:
        """The key to sign and seal with."""
        return self.every(purpose, size_bytes=size_bytes)[0]

    def every(self, purpose: Purpose, *, size_bytes: int = 32) -> tuple[bytes, ...]:
        """All keys that count, the current one first.

        Raises:
            RuntimeError: of a lasting key before they were read: a defect of the wiring.
        """
        if purpose in LASTING or purpose in LASTING_OF_DATA:
            if self._lasting is None or purpose not in self._lasting:
                raise RuntimeError(f"the lasting key {purpose!r} is asked for before it was read")
            return (self._lasting[purpose],)
        return tuple([derive_key(secret, purpose, size_bytes=size_bytes) for secret in self._secrets])

    def sealer(self, purpose: Purpose) -> Sealer:
        """A sealer that seals with the current key and opens with all of them."""
        if purpose in LASTING or purpose in LASTING_OF_DATA:
            return Sealer.of(self.current(purpose))
        return Sealer({key_id(key): key for key in self.every(purpose)})


Secret = Keyring | str
"""What services take. A bare text is for tests and for tools without a database."""


def first_lasting(secret: str, purposes: Sequence[Lasting | LastingOfData] = LASTING) -> dict[str, bytes]:
    """The lasting keys of an installation that has had this secret alone."""
    return {purpose: derive_key(secret, purpose) for purpose in purposes}


def key_id(key: bytes) -> bytes:
    """Tells which key it is and nothing about the key: its hash, under a name of its own."""
    return hashlib.sha256(b"id of " + key).digest()[:KEY_ID_BYTES]


def key_name(key: bytes) -> str:
    """The same as text, for the header `kid` of a token."""
    return urlsafe_b64encode(hashlib.sha256(b"name of " + key).digest()[:9]).decode("ascii")
