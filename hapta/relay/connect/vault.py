"""Sealing of what other services gave an account: XSalsa20-Poly1305 under a key of its own for each place (contract relay, 12.5).

The form is the one of the servers that the clients were written for, so that rows of theirs can be read with their secret.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hapta.kit.keyring import Keyring
from hapta.settings import SettingsError
from hapta.settings.relay import RelaySettings

if TYPE_CHECKING:
    from nacl.secret import SecretBox  # loaded when something is sealed: most servers never do

MIN_SECRET_CHARACTERS = 32
MAX_KEYS = 1000
_MASTER_SALT, _MASTER_INFO = b"happy-server-encryption", b"master-key"
_PATH_SALT = b"path-derived-key"


class CannotOpen(ValueError):
    """The bytes were sealed under another secret, for another place, or were changed."""


class Vault:
    """Seals and opens texts.

    Args:
        secret: the master secret; its text counts, also where it looks like hex.

    Raises:
        ValueError: it has fewer than 32 characters.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < MIN_SECRET_CHARACTERS:
            raise ValueError(f"the master secret has fewer than {MIN_SECRET_CHARACTERS} characters")
        self._master = master_key(secret)
        self._boxes: OrderedDict[tuple[str, ...], SecretBox] = OrderedDict()

    def seal(self, path: Sequence[str], text: str) -> bytes:
        """A text for a place: 24 bytes of nonce, then the ciphertext with its tag."""
        return bytes(self._box(path).encrypt(text.encode("utf-8", "surrogatepass")))

    def open(self, path: Sequence[str], sealed: bytes) -> str:
        """The text that was sealed for a place.

        Raises:
            CannotOpen
        """
        from nacl.exceptions import CryptoError

        try:
            return self._box(path).decrypt(bytes(sealed)).decode("utf-8", "surrogatepass")
        except (CryptoError, ValueError):  # ValueError: shorter than a nonce, or no text
            raise CannotOpen from None

    def _box(self, path: Sequence[str]) -> SecretBox:
        key = tuple(path)
        box = self._boxes.get(key)
        if box is None:
            from nacl.secret import SecretBox

            box = self._boxes[key] = SecretBox(path_key(self._master, path))
            if len(self._boxes) > MAX_KEYS:
                self._boxes.popitem(last=False)
        return box


def master_key(secret: str) -> bytes:
    """The key that all others are made from."""
    return _derived(secret.encode(), _MASTER_SALT, _MASTER_INFO)


def path_key(master: bytes, path: Sequence[str]) -> bytes:
    """The key of one place. No part of a path may hold a `/`: ours are ids and vendors."""
    return _derived(master, _PATH_SALT, "/".join(path).encode())


def _derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def own_secret(keyring: Keyring) -> str:
    """The master secret of a server that was given none: it lasts, whatever becomes of the configured secret."""
    return keyring.current("relay-vault").hex()


def vault_of(settings: RelaySettings, keyring: Keyring) -> Vault:
    """The vault of a server.

    Args:
        keyring: with the lasting keys that lie beside people's data.

    Raises:
        SettingsError: the configured master secret is too short.
    """
    try:
        return Vault(settings.master_secret or own_secret(keyring))
    except ValueError as error:
        raise SettingsError([f"relay.master_secret (HAPPY_MASTER_SECRET): {error}"]) from None
