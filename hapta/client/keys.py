"""How one account opens and locks its vault keys: under the login split's secret, or under a vault's own passphrase."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from hapta.client import envelope, wire
from hapta.client.envelope import Random, WrappedKey
from hapta.client.errors import WrongPassphrase


@dataclass(frozen=True, slots=True, repr=False)
class KeyAccess:
    """What opens a vault key. With a passphrase new keys are wrapped under it, else under the secret.

    Args:
        secret: the `wrap` half of the login split, when the account uses it.
        passphrase: a vault's own passphrase, or the password of an account that does not split.
    """

    secret: bytes | None = None
    passphrase: str | None = None
    random: Random = os.urandom

    def wrap(self, vault_key: bytes, vault_id: str, key_epoch: int) -> WrappedKey:
        """Wraps a key; takes about 0.2 s with a passphrase, so call it from a worker thread."""
        if self.passphrase is not None:
            return envelope.wrap_with_passphrase(vault_key, self.passphrase, self.random)
        if self.secret is None:
            raise WrongPassphrase("Neither a login secret nor a passphrase is at hand")
        return envelope.wrap_with_secret(vault_key, self.secret, vault_id, key_epoch, self.random)

    def unwrap(self, wrapped: WrappedKey, vault_id: str, key_epoch: int) -> bytes:
        """Opens a key in whichever way it was wrapped.

        Raises:
            WrongPassphrase: what we hold does not open it.
        """
        if envelope.is_secret_wrapped(wrapped):
            if self.secret is None:
                raise WrongPassphrase("This vault opens with the account's password: log in first")
            return envelope.unwrap_with_secret(wrapped, self.secret, vault_id, key_epoch)
        if self.passphrase is None:
            raise WrongPassphrase("This vault has a passphrase of its own")
        return envelope.unwrap_with_passphrase(wrapped, self.passphrase)


class KeptKey(msgspec.Struct, frozen=True):
    """A wrapped key as the local database keeps it, so that a vault opens without the network."""

    key_epoch: int
    encrypted_vault_key: str
    salt: str
    nonce: str

    @property
    def wrapped(self) -> WrappedKey:
        return WrappedKey(self.encrypted_vault_key, self.salt, self.nonce)


def keep(keys: Iterable[wire.VaultKey]) -> list[KeptKey]:
    return [KeptKey(key.key_epoch, key.encrypted_vault_key, key.salt, key.nonce) for key in keys]


def encode_kept(keys: list[KeptKey]) -> str:
    return msgspec.json.encode(keys).decode()


def decode_kept(text: str) -> list[KeptKey]:
    return msgspec.json.decode(text, type=list[KeptKey]) if text else []
