"""From one password to two secrets that know nothing of each other (docs/client.md, login split).

The server sees only `auth`; vault keys are wrapped under `wrap`. Whoever holds the server's database, or even watches
its logins, must still guess the password itself through PBKDF2. Invariant: neither secret can be computed from the other.
"""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ITERATIONS = 600_000
SALT_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class LoginSecrets:
    """What a password becomes. `repr` is left out so that neither secret can slip into a log or a traceback."""

    auth: str
    """Sent to the server in the place of the password."""
    wrap: bytes
    """Never leaves the device; wraps vault keys."""


def stretch(password: str, salt: bytes, iterations: int = ITERATIONS) -> bytes:
    """PBKDF2-HMAC-SHA256 over the UTF-8 of the password as given; 32 bytes. About 0.2 s at 600,000 iterations."""
    return hashlib.pbkdf2_hmac("sha256", password.encode("utf-8"), salt, iterations, 32)


def expand(key: bytes, info: str, salt: bytes | None = None) -> bytes:
    """HKDF-SHA256 to 32 bytes (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info.encode()).derive(key)


def split_password(password: str, salt: bytes, iterations: int = ITERATIONS) -> LoginSecrets:
    """The login split: master key by PBKDF2, then one secret for the server and one for the vaults.

    Args:
        password: as typed; normalised to NFC, since keyboards of different systems compose accents differently.
        salt: the account's own salt, from registration or `POST /auth/prelogin`.
        iterations: for tests with other costs; accounts use the default.
    """
    master = stretch(unicodedata.normalize("NFC", password), salt, iterations)
    auth = base64.urlsafe_b64encode(expand(master, "auth")).decode()
    return LoginSecrets(auth=auth, wrap=expand(master, "wrap"))


def new_salt(random: Callable[[int], bytes] = os.urandom) -> bytes:
    return random(SALT_BYTES)
