"""Wire types of sync: a promise to clients (docs/sync.md). Field names are camelCase on the wire.

Ciphertexts, nonces and salts are opaque strings: never decoded, never changed, never required to be base64.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from hapta.http.validate import SafeInt, Uuid, Wire

DeviceId = Annotated[str, Meta(min_length=1, max_length=64)]
KeyEpoch = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Opaque = Annotated[str, Meta(max_length=16_384)]
"""A wrapped key, salt, name or nonce: small ciphertexts beside the log."""


# -- push and pull -----------------------------------------------------------------------------------------------------


class PushLog(Wire, frozen=True, gc=False):
    encrypted_data: str
    nonce: str
    haex_timestamp: str
    id: Uuid | None = None
    """The client's name for this log: makes retries harmless also when it was encrypted again."""
    key_epoch: KeyEpoch = 0


class PushRequest(Wire, frozen=True):
    vault_id: Uuid
    logs: list[PushLog]
    device_id: DeviceId | None = None


class PushEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    id: str
    sequence: int
    haex_timestamp: str
    created_at: str
    duplicate: bool = False


class PushAnswer(Wire, frozen=True):
    message: str
    count: int
    inserted: int
    duplicates: int
    head: int
    epoch: str
    chain: str
    logs: list[PushEntry]


class PullRequest(Wire, frozen=True):
    vault_id: Uuid
    after_sequence: SafeInt = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    exclude_device_id: DeviceId | None = None
    max_bytes: Annotated[int, Meta(ge=1)] | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=55_000)] = 0


class PulledLog(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    id: str
    encrypted_data: str
    nonce: str
    haex_timestamp: str
    sequence: int
    created_at: str
    key_epoch: int = 0
    dedupe_key: str | None = None
    """32 hex digits of the UUID that its client gave; absent for logs without: their key is the hash of the content."""


class PullAnswer(Wire, frozen=True):
    logs: list[PulledLog]
    has_more: bool
    last_sequence: int
    head: int
    epoch: str
    chain: str


# -- vault keys and vaults ---------------------------------------------------------------------------------------------


class StoreVaultKey(Wire, frozen=True):
    vault_id: Uuid
    encrypted_vault_key: Opaque
    salt: Opaque
    nonce: Opaque
    key_epoch: KeyEpoch = 0
    encrypted_vault_name: Opaque | None = None
    vault_name_nonce: Opaque | None = None


class ReplaceVaultKey(Wire, frozen=True):
    encrypted_vault_key: Opaque
    salt: Opaque
    nonce: Opaque
    version: Annotated[int, Meta(ge=1)]
    """The version that the new key replaces."""
    key_epoch: KeyEpoch = 0


class RenameVault(Wire, frozen=True):
    encrypted_vault_name: Opaque
    vault_name_nonce: Opaque


class StoredVaultKey(Wire, frozen=True):
    id: str
    vault_id: str
    key_epoch: int
    version: int
    created_at: str


class VaultKeyStored(Wire, frozen=True):
    message: str
    vault_key: StoredVaultKey


class WrappedKey(Wire, frozen=True, omit_defaults=True):
    vault_id: str
    key_epoch: int
    version: int
    encrypted_vault_key: str
    salt: str
    nonce: str
    created_at: str
    updated_at: str
    encrypted_vault_name: str | None = None
    vault_name_nonce: str | None = None


class VaultKeyAnswer(WrappedKey, frozen=True, kw_only=True):
    """The key of the newest epoch at top level and under `vaultKey`; every epoch under `keys`."""

    vault_key: WrappedKey
    keys: list[WrappedKey]


class VaultKeyQuery(Wire, frozen=True):
    version: Annotated[int, Meta(ge=1)] | None = None
    key_epoch: KeyEpoch | None = None


class Message(Wire, frozen=True):
    message: str
    vault_id: str


class VaultEntry(Wire, frozen=True):
    vault_id: str
    created_at: str
    log_count: int
    bytes: int
    head: int
    chain: str
    last_push_at: str | None
    encrypted_vault_name: str | None
    vault_name_nonce: str | None
    has_key: bool


class VaultList(Wire, frozen=True):
    vaults: list[VaultEntry]
    epoch: str


# -- snapshots, acknowledgements, devices, quota -----------------------------------------------------------------------


class SnapshotPart(Wire, frozen=True, gc=False):
    encrypted_data: str
    nonce: str


class PutSnapshot(Wire, frozen=True):
    snapshot_id: Uuid
    upto_sequence: Annotated[int, Meta(ge=1)]
    parts: Annotated[list[SnapshotPart], Meta(min_length=1, max_length=1000)]
    key_epoch: KeyEpoch = 0
    device_id: DeviceId | None = None


class SnapshotStored(Wire, frozen=True):
    message: str
    vault_id: str
    snapshot_id: str
    upto_sequence: int
    chain: str
    created_at: str


class SnapshotAnswer(Wire, frozen=True):
    vault_id: str
    snapshot_id: str
    upto_sequence: int
    chain: str
    key_epoch: int
    created_at: str
    epoch: str
    parts: list[SnapshotPart]


class AckRequest(Wire, frozen=True):
    vault_id: Uuid
    device_id: DeviceId
    sequence: Annotated[int, Meta(ge=0)]


class AckAnswer(Wire, frozen=True):
    vault_id: str
    device_id: str
    sequence: int


class DeviceAck(Wire, frozen=True):
    vault_id: str
    sequence: int


class DeviceEntry(Wire, frozen=True):
    device_id: str
    first_seen_at: str
    last_seen_at: str
    acknowledged: list[DeviceAck]


class DeviceList(Wire, frozen=True):
    devices: list[DeviceEntry]


class DeviceRevoked(Wire, frozen=True):
    message: str
    device_id: str


class VaultBytes(Wire, frozen=True):
    vault_id: str
    bytes: int
    log_count: int


class QuotaAnswer(Wire, frozen=True):
    max_bytes: int
    """0: no limit."""
    used_bytes: int
    vaults: list[VaultBytes]


class ImportAnswer(Wire, frozen=True):
    message: str
    logs: int
    inserted: int
    duplicates: int
    vault_keys: int
    snapshots: int
    skipped: list[str]
    """What could not be taken over, one sentence each."""
