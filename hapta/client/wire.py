"""What travels between client and server, as the client reads it. Unknown members are ignored, optional ones default,
so that servers that speak only the base protocol can be used too (docs/sync.md)."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec

_HEX = "[0-9a-fA-F]"
UuidText = Annotated[
    str, msgspec.Meta(pattern=f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$", max_length=36)
]
"""Ids of the server that become names of files here, so they must be nothing else."""


class Wire(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all wire types: immutable, camelCase outside."""


class User(Wire, frozen=True):
    id: str
    email: str
    created_at: str = ""


class Session(Wire, frozen=True):
    """The answer to a registration or a login."""

    user: User
    token: str


class Prelogin(Wire, frozen=True):
    """How an account turns its password into secrets; no salt means: it sends the password itself."""

    salt: str | None = None


class VaultKey(Wire, frozen=True):
    """A wrapped vault key."""

    vault_id: UuidText
    encrypted_vault_key: str
    salt: str
    nonce: str
    created_at: str = ""
    key_epoch: int = 0
    version: int = 1


class VaultKeyAnswer(Wire, frozen=True):
    vault_key: VaultKey
    keys: list[VaultKey] = []
    """All epochs, when the server keeps epochs."""

    @property
    def all(self) -> list[VaultKey]:
        return self.keys or [self.vault_key]


class VaultInfo(Wire, frozen=True):
    """One vault of the account."""

    vault_id: UuidText
    encrypted_vault_name: str | None = None
    vault_name_nonce: str | None = None
    created_at: str = ""
    log_count: int = 0
    bytes: int = 0
    head: int = 0
    last_push_at: str | None = None


class VaultList(Wire, frozen=True):
    vaults: list[VaultInfo]


class PushedLog(Wire, frozen=True):
    id: str
    sequence: int
    haex_timestamp: str
    created_at: str = ""
    duplicate: bool = False


class PushAnswer(Wire, frozen=True):
    logs: list[PushedLog]
    count: int = 0
    head: int = 0
    epoch: str = ""
    chain: str | None = None


class PulledLog(Wire, frozen=True):
    id: str
    encrypted_data: str
    nonce: str
    haex_timestamp: str
    sequence: int
    created_at: str = ""
    key_epoch: int = 0
    dedupe_key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None
    """The client's own id as 32 hex digits, when it gave one."""

    @property
    def client_id(self) -> str | None:
        """The id under which its client sealed it."""
        return None if self.dedupe_key is None else str(uuid.UUID(hex=self.dedupe_key))


class PullAnswer(Wire, frozen=True):
    logs: list[PulledLog]
    has_more: bool
    last_sequence: int | None = None
    head: int = 0
    epoch: str = ""
    chain: str | None = None


class SnapshotPart(Wire, frozen=True):
    encrypted_data: str
    nonce: str


class SnapshotInfo(Wire, frozen=True):
    snapshot_id: UuidText
    upto_sequence: int
    key_epoch: int = 0
    chain: str | None = None
    epoch: str = ""
    parts: list[SnapshotPart] = []


class Health(Wire, frozen=True):
    features: list[str] = []


class Missing(Wire, frozen=True):
    missing: list[str]
