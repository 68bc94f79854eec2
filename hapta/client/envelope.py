"""The cryptographic envelope: how vault keys and logs are sealed before the server gets them.

Two formats. v1 is byte-compatible with existing clients of the protocol (docs/sync.md, section 6): JSON under
AES-256-GCM without associated data. v2 binds every log to its vault, its id and its timestamp, hides lengths by PADMÉ
padding, and carries bytes without a second base64. Invariant: what opens was sealed by a holder of the vault key, and
a v2 log opens only in the place it was sealed for.
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
import unicodedata
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hapta.client.errors import DecryptFailed, WrongPassphrase
from hapta.client.kdf import ITERATIONS, SALT_BYTES, expand, stretch

KEY_BYTES = 32
NONCE_BYTES = 12
V2_MARK = 0x02
V2_HEAD = struct.Struct(">BII")
ACCOUNT_MARK = "v2."
"""In front of an encryptedVaultKey that is wrapped under the login split's secret instead of a passphrase."""
HIDDEN_STAMP = "0/0"
"""What a v2 log shows the server as its timestamp: the real one is nobody's business but the devices'."""

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A vault key as the server keeps it; every field standard base64."""

    encrypted_vault_key: str
    salt: str
    nonce: str


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The plaintext of one log: one column of one row changed, or a row was deleted."""

    id: str
    haex_timestamp: str
    table_name: str = ""
    row_pks: str = "{}"
    op_type: str = ""
    column_name: str | None = None
    new_value: str | None = None
    old_value: str | None = None


@dataclass(frozen=True, slots=True)
class SealedLog:
    """One log as the server sees it."""

    id: str | None
    encrypted_data: str
    nonce: str
    haex_timestamp: str
    key_epoch: int = 0


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def unb64(text: str) -> bytes:
    """Standard base64.

    Raises:
        DecryptFailed: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecryptFailed("Not base64") from error


# --- vault keys -------------------------------------------------------------------------------------------------------


def new_vault_key(random: Random = os.urandom) -> bytes:
    return random(KEY_BYTES)


def wrap_with_passphrase(
    vault_key: bytes, passphrase: str, random: Random = os.urandom, iterations: int = ITERATIONS
) -> WrappedKey:
    """Wraps under a passphrase of the vault's own, in the format every client of the protocol reads (section 6.1)."""
    salt, nonce = random(SALT_BYTES), random(NONCE_BYTES)
    kek = stretch(unicodedata.normalize("NFC", passphrase), salt, iterations)
    return WrappedKey(b64(AESGCM(kek).encrypt(nonce, vault_key, None)), b64(salt), b64(nonce))


def unwrap_with_passphrase(wrapped: WrappedKey, passphrase: str, iterations: int = ITERATIONS) -> bytes:
    """Opens a passphrase-wrapped key: NFC first, then the passphrase exactly as typed, as older clients used it.

    Raises:
        WrongPassphrase: neither form opens it.
    """
    normalized = unicodedata.normalize("NFC", passphrase)
    forms = [normalized] if normalized == passphrase else [normalized, passphrase]
    for form in forms:
        kek = stretch(form, unb64(wrapped.salt), iterations)
        try:
            return AESGCM(kek).decrypt(unb64(wrapped.nonce), unb64(wrapped.encrypted_vault_key), None)
        except InvalidTag:
            continue
    raise WrongPassphrase


def wrap_with_secret(
    vault_key: bytes, secret: bytes, vault_id: str, key_epoch: int = 0, random: Random = os.urandom
) -> WrappedKey:
    """Wraps under the account's `wrap` secret; bound to the vault and the key epoch."""
    salt, nonce = random(SALT_BYTES), random(NONCE_BYTES)
    kek = expand(secret, "hapta vault key", salt)
    sealed = AESGCM(kek).encrypt(nonce, vault_key, _key_aad(vault_id, key_epoch))
    return WrappedKey(ACCOUNT_MARK + b64(sealed), b64(salt), b64(nonce))


def unwrap_with_secret(wrapped: WrappedKey, secret: bytes, vault_id: str, key_epoch: int = 0) -> bytes:
    """Opens a key wrapped by `wrap_with_secret`.

    Raises:
        WrongPassphrase: another secret, another vault, another epoch, or altered.
    """
    kek = expand(secret, "hapta vault key", unb64(wrapped.salt))
    sealed = unb64(wrapped.encrypted_vault_key.removeprefix(ACCOUNT_MARK))
    try:
        return AESGCM(kek).decrypt(unb64(wrapped.nonce), sealed, _key_aad(vault_id, key_epoch))
    except InvalidTag as error:
        raise WrongPassphrase from error


def is_secret_wrapped(wrapped: WrappedKey) -> bool:
    return wrapped.encrypted_vault_key.startswith(ACCOUNT_MARK)


def _key_aad(vault_id: str, key_epoch: int) -> bytes:
    return b"hapta-vault-key-v2" + uuid.UUID(vault_id).bytes + struct.pack(">Q", key_epoch)


# --- logs -------------------------------------------------------------------------------------------------------------


def padme(length: int) -> int:
    """The padded size of `length` bytes by PADMÉ: at most 12 % more, and only O(log log n) bits of the size leak."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    last_bits = exponent - exponent.bit_length()
    mask = (1 << last_bits) - 1
    return (length + mask) & ~mask


def log_aad(vault_id: str, log_id: str, haex_timestamp: str) -> bytes:
    """`"v2" || vaultId || id || haexTimestamp`: the first three have fixed widths, so no two tuples read the same."""
    return b"v2" + uuid.UUID(vault_id).bytes + uuid.UUID(log_id).bytes + haex_timestamp.encode()


class KeyRing:
    """The keys of one vault by epoch: seals under the newest, opens under whichever a log names.

    Args:
        vault_id: UUID text.
        keys: 32-byte key per epoch; at least one.
        random: where nonces come from.
    """

    def __init__(self, vault_id: str, keys: Mapping[int, bytes], random: Random = os.urandom) -> None:
        self.vault_id = vault_id
        self.keys = dict(keys)
        self._random = random

    @property
    def newest(self) -> int:
        return max(self.keys)

    def subkey(self, purpose: str, key_epoch: int = 0) -> bytes:
        """A key derived from a vault key for something else than logs (file chunk names, snapshots)."""
        return expand(self.keys[key_epoch], f"hapta {purpose}")

    def seal(self, entry: Entry, blob: bytes = b"", version: Literal[1, 2] = 2) -> SealedLog:
        """Seals one entry under the newest key. In v1 a blob must already stand in `new_value`."""
        nonce, epoch = self._random(NONCE_BYTES), self.newest
        cipher = AESGCM(self.keys[epoch])
        if version == 1:
            data = cipher.encrypt(nonce, msgspec.json.encode(entry), None)
            return SealedLog(entry.id, b64(data), b64(nonce), entry.haex_timestamp, epoch)
        data = cipher.encrypt(nonce, _pack_v2(entry, blob), log_aad(self.vault_id, entry.id, HIDDEN_STAMP))
        return SealedLog(entry.id, b64(data), b64(nonce), HIDDEN_STAMP, epoch)

    def open(self, log: SealedLog) -> tuple[Entry, bytes]:
        """The entry and its blob (empty when it has none).

        Raises:
            DecryptFailed: no key of that epoch, altered, moved to another vault or id, or not an entry.
        """
        key = self.keys.get(log.key_epoch)
        if key is None:
            raise DecryptFailed(f"No key for epoch {log.key_epoch}")
        cipher, nonce, data = AESGCM(key), unb64(log.nonce), unb64(log.encrypted_data)
        if len(nonce) != NONCE_BYTES:
            raise DecryptFailed("A nonce has 12 bytes")
        if log.id is not None:
            try:
                plain = cipher.decrypt(nonce, data, log_aad(self.vault_id, log.id, log.haex_timestamp))
            except InvalidTag:
                pass
            else:
                return _checked(_unpack_v2(plain), log)
        try:
            plain = cipher.decrypt(nonce, data, None)
        except InvalidTag as error:
            raise DecryptFailed from error
        return _decode(plain), b""


def _pack_v2(entry: Entry, blob: bytes) -> bytes:
    head = msgspec.json.encode(entry)
    size = V2_HEAD.size + len(head) + len(blob)
    return b"".join((V2_HEAD.pack(V2_MARK, len(head), len(blob)), head, blob, bytes(padme(size) - size)))


def _unpack_v2(plain: bytes) -> tuple[Entry, bytes]:
    if len(plain) < V2_HEAD.size:
        raise DecryptFailed("Too short")
    mark, head_size, blob_size = V2_HEAD.unpack_from(plain)
    start, end = V2_HEAD.size + head_size, V2_HEAD.size + head_size + blob_size
    if mark != V2_MARK or end > len(plain):
        raise DecryptFailed("Not a v2 log")
    return _decode(plain[V2_HEAD.size : start]), plain[start:end]


def _checked(opened: tuple[Entry, bytes], log: SealedLog) -> tuple[Entry, bytes]:
    if opened[0].id != log.id:
        raise DecryptFailed("The id inside is not the id outside")
    return opened


def _decode(plain: bytes) -> Entry:
    try:
        return msgspec.json.decode(plain, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecryptFailed("Not a log entry") from error
