"""Wrapped vault keys: stored once for each key epoch, replaced by version, renamed, read. The server cannot open them.

Two devices that act at once must not lock each other out: storing and replacing say who came first, by the unique key and by
the version, and a key that was replaced stays readable for a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.sync import records, store
from hapta.sync.errors import TooManyKeyEpochs, VaultKeyChanged, VaultKeyExists, VaultKeyNotFound
from hapta.sync.models import Vault, VaultKey, find_uuid
from hapta.sync.streams import Streams

REPLACED_READABLE_MS = 24 * 3600 * 1000
MAX_KEY_EPOCHS = 1000
"""Of one vault. Keys are outside of the quota, so that a full account can still rotate; this is what bounds them."""


class KeyMaterial(NamedTuple):
    """A wrapped key as clients send it: three opaque strings."""

    encrypted_vault_key: str
    salt: str
    nonce: str


class RewrappedKey(NamedTuple):
    """A vault key that was wrapped again under a new password."""

    vault_id: str
    key_epoch: int
    version: int
    """The version that it replaces."""
    material: KeyMaterial


class VaultKeys:
    """The wrapped keys of all accounts."""

    def __init__(self, db: Database, clock: Clock, ids: Ids, streams: Streams) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._streams = streams

    async def store(
        self, user_id: str, vault_id: str, key_epoch: int, material: KeyMaterial, name: tuple[str, str] | None
    ) -> VaultKey:
        """Stores the wrapped key of one epoch; the vault comes into being when it was not there.

        Args:
            name: (encrypted name, its nonce).

        Raises:
            VaultKeyExists: there is one for this vault and epoch, also when it is the same.
            TooManyVaults, TooManyKeyEpochs: nothing was stored.
        """
        now_ms = self._clock.now_ms()
        key = VaultKey(vault_id.lower(), key_epoch, self._ids.uuid(), 1, *material, now_ms, now_ms)

        async def body(tx: WriteTx) -> None:
            stream, vault = await self._streams.vault(tx, await self._streams.lock(tx, user_id), key.vault_id)
            if not await records.add_key(tx, stream.id, key):
                raise VaultKeyExists
            if await records.count_keys(tx, stream.id, key.vault_id) > MAX_KEY_EPOCHS:
                raise TooManyKeyEpochs(limits={"maxKeyEpochs": MAX_KEY_EPOCHS})
            if name is not None:
                await records.name_vault(tx, stream.id, vault.vault_no, *name)

        await self._db.write(body)
        return key

    async def get(self, user_id: str, vault_id: str) -> tuple[Vault, list[VaultKey]]:
        """The vault and its wrapped keys, by epoch.

        Raises:
            VaultKeyNotFound: none, somebody else's, or `vault_id` is no UUID.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise VaultKeyNotFound

        async def body(tx: ReadTx) -> tuple[Vault, list[VaultKey]]:
            vault = await store.find_vault(tx, user_id, found)
            keys = await records.list_keys(tx, user_id, found)
            if vault is None or not keys:
                raise VaultKeyNotFound
            return vault, keys

        return await self._db.read(body)

    async def get_version(
        self, user_id: str, vault_id: str, key_epoch: int | None, version: int
    ) -> tuple[Vault, VaultKey]:
        """One version of a wrapped key: the current one, or one that was replaced within a day.

        Args:
            key_epoch: the newest one when None.

        Raises:
            VaultKeyNotFound: no such key or version, or it was replaced too long ago.
        """
        vault, keys = await self.get(user_id, vault_id)
        current = next((key for key in reversed(keys) if key_epoch in (None, key.key_epoch)), None)
        if current is None:
            raise VaultKeyNotFound
        if current.version == version:
            return vault, current
        since_ms = self._clock.now_ms() - REPLACED_READABLE_MS
        replaced = await self._db.read(
            lambda tx: records.find_replaced_key(tx, user_id, current.vault_id, current.key_epoch, version, since_ms)
        )
        if replaced is None:
            raise VaultKeyNotFound
        return vault, replaced

    async def replace(
        self, user_id: str, vault_id: str, key_epoch: int, version: int, material: KeyMaterial
    ) -> VaultKey:
        """Puts a newly wrapped key in place of `version`.

        Raises:
            VaultKeyNotFound: no key for this vault and epoch.
            VaultKeyChanged: another version is stored now.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise VaultKeyNotFound
        rewrapped = RewrappedKey(found, key_epoch, version, material)
        return (await self._db.write(lambda tx: self.rewrap(tx, user_id, [rewrapped])))[0]

    async def rewrap(self, tx: WriteTx, user_id: str, keys: Sequence[RewrappedKey]) -> list[VaultKey]:
        """Replaces wrapped keys inside a transaction of the caller's (a change of the password): all of them or, by the
        error it raises, none.

        Raises:
            VaultKeyNotFound, VaultKeyChanged: as `replace`.
        """
        now_ms = self._clock.now_ms()
        await self._streams.lock(tx, user_id)
        result: list[VaultKey] = []
        for key in keys:
            replaced = await records.replace_key(
                tx, user_id, key.vault_id, key.key_epoch, key.version, key.material, now_ms
            )
            stored = await records.list_keys(tx, user_id, key.vault_id)
            current = next((one for one in stored if one.key_epoch == key.key_epoch), None)
            if current is None:
                raise VaultKeyNotFound
            if not replaced:
                raise VaultKeyChanged(version=current.version, vaultId=key.vault_id)
            result.append(current)
        return result

    async def rename(self, user_id: str, vault_id: str, name: str, nonce: str) -> str:
        """Gives a vault that has a key another encrypted name; the vault's id in canonical form.

        Raises:
            VaultKeyNotFound: as `get`.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise VaultKeyNotFound

        async def body(tx: WriteTx) -> None:
            vault = await store.find_vault(tx, user_id, found)
            if vault is None or not await records.list_keys(tx, user_id, found):
                raise VaultKeyNotFound
            await records.name_vault(tx, user_id, vault.vault_no, name, nonce)

        await self._db.write(body)
        return found
