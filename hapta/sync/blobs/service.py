"""The rules of encrypted blobs (contract sync, section 10.12). The bytes go to a store, the row to the database, in two phases:

    a note that an object may come  ->  its bytes, hashed on their way  ->  the blob's row, in place of the note

Whatever is cut off in between leaves a note, and with it a sweep finds the object. Each upload has an object of its own, so
that taking one away can never hit what another upload has just been acknowledged. A blob is seen by way of its live vault
only, and only its own account's.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import structlog

from hapta.blobs.blobs import BlobMissing, Blobs, Opened
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError
from hapta.kit.ids import Ids
from hapta.settings import SyncSettings
from hapta.sync import store as streams
from hapta.sync.blobs import store
from hapta.sync.blobs.models import Blob
from hapta.sync.errors import (
    AccountGone,
    BlobGivenUp,
    BlobNotFound,
    HashMismatch,
    PushTooLarge,
    QuotaExceeded,
    VaultNotFound,
)
from hapta.sync.models import LOG_OVERHEAD_BYTES, Stream, Vault, find_uuid
from hapta.sync.quota import Quota

FOLDER = "sync"
"""Of all objects of sync in the store: `sync/<account>/<upload>`."""
OVERHEAD_BYTES = LOG_OVERHEAD_BYTES
"""What the quota counts for a blob beside its bytes."""

_log = structlog.stdlib.get_logger("hapta.sync.blobs")


@dataclass(frozen=True, slots=True)
class Room:
    """What an upload may bring: the rest of the quota (None: any), as it was when the upload began."""

    object_key: str
    bytes: int | None


class VaultBlobs:
    """The blobs of all vaults.

    Args:
        blobs: the store.
        changed: called after objects were queued for removal.
        quota: of accounts.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        blobs: Blobs,
        settings: SyncSettings,
        changed: Callable[[], None],
        quota: Quota,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._blobs = blobs
        self._settings = settings
        self._changed = changed
        self._quota = quota

    # -- writing ----------------------------------------------------------------------------------------------------------

    async def put(
        self, user_id: str, vault_id: str, digest: bytes, chunks: AsyncIterator[bytes], declared: int | None = None
    ) -> tuple[bool, int]:
        """Stores a blob whose SHA-256 is `digest`. One that is there already is left as it is, and nothing is read.

        Args:
            declared: how many bytes the sender says it will send; a quota that they do not fit is found out at once.

        Returns:
            (whether it was stored now, its size in bytes).

        Raises:
            VaultNotFound: no such vault of this account.
            HashMismatch, PushTooLarge, QuotaExceeded: nothing was stored.
            BlobsAway, BlobGivenUp: nothing was stored; try again.
        """
        found = self._vault_id(vault_id)
        begun = await self._begin(user_id, found, digest, declared)
        if isinstance(begun, Blob):
            return False, begun.size
        try:
            size = await self._blobs.put(begun.object_key, self._verified(chunks, digest, begun.bytes))
            stored = await self._commit(user_id, found, digest, size, begun.object_key)
        except BaseException:
            await self._give_up(begun.object_key)
            raise
        if not stored:
            self._changed()
        return stored, size

    async def delete(self, user_id: str, vault_id: str, digest: bytes) -> None:
        """Removes a blob; nobody can begin to read it any more, and its object goes soon.

        Raises:
            BlobNotFound: no such blob of this account.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise BlobNotFound
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            stream, vault = await _locked(tx, user_id, found)
            blob = None if vault is None else await store.in_vault(tx, user_id, vault.vault_no, digest)
            if stream is None or vault is None or blob is None:
                raise BlobNotFound
            await store.remove(tx, blob)
            await store.doom(tx, user_id, blob.object_key, now_ms)
            await _count(tx, stream, vault, -(blob.size + OVERHEAD_BYTES))

        await self._db.write(body)
        self._changed()

    # -- reading ----------------------------------------------------------------------------------------------------------

    async def find(self, user_id: str, vault_id: str, digest: bytes) -> Blob:
        """What is known of a blob.

        Raises:
            BlobNotFound: no such blob of this account.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise BlobNotFound
        blob = await self._db.read(lambda tx: store.find(tx, user_id, found, digest), snapshot=False)
        if blob is None:
            raise BlobNotFound
        return blob

    async def open(self, blob: Blob, start: int, end: int) -> Opened:
        """The bytes of a blob from `start` up to, not including, `end`.

        Raises:
            BlobNotFound: it was deleted meanwhile, or the store has lost it; then clients hear that it is missing.
        """
        try:
            return await self._blobs.get(blob.object_key, start, None if end >= blob.size else end)
        except BlobMissing:
            now_ms = self._clock.now_ms()
            if await self._db.write(lambda tx: store.set_lost(tx, [blob.object_key], now_ms)):
                _log.error("the store has lost a blob", object_key=blob.object_key)
            raise BlobNotFound from None

    async def missing(self, user_id: str, vault_id: str, hashes: Sequence[bytes]) -> list[bytes]:
        """Those of `hashes` that the vault does not have, each once, in the order given.

        Raises:
            VaultNotFound: no such vault of this account.
        """
        found = self._vault_id(vault_id)

        async def body(tx: ReadTx) -> set[bytes]:
            vault = await streams.find_vault(tx, user_id, found)
            if vault is None:
                raise VaultNotFound
            return await store.stored(tx, user_id, vault.vault_no, hashes)

        there = await self._db.read(body)
        return [each for each in dict.fromkeys(hashes) if each not in there]

    # -- the two phases ---------------------------------------------------------------------------------------------------

    async def _begin(self, user_id: str, vault_id: str, digest: bytes, declared: int | None) -> Blob | Room:
        """Notes that an object may come. The blob itself when there is one."""
        object_key, now_ms = f"{FOLDER}/{user_id}/{self._ids.uuid()}", self._clock.now_ms()

        async def body(tx: WriteTx) -> Blob | Room:
            stream = await streams.find_stream(tx, user_id)
            vault = await streams.find_vault(tx, user_id, vault_id)
            if stream is None or vault is None:
                raise VaultNotFound
            blob = await store.in_vault(tx, user_id, vault.vault_no, digest)
            if blob is not None and blob.lost_at is None:
                return blob
            room = await self._room(tx, stream)
            if room is not None and blob is None:
                self._fits(stream, declared or 0, room)
            await store.begin(tx, user_id, object_key, now_ms)
            return Room(object_key, room if blob is None else None)

        return await self._db.write(body)

    async def _verified(self, chunks: AsyncIterator[bytes], digest: bytes, room: int | None) -> AsyncGenerator[bytes]:
        """The chunks as they come. Ends with an error when they are too many, or not what their hash says."""
        hashing, size = hashlib.sha256(), 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self._settings.max_blob_bytes:
                raise PushTooLarge(limits={"maxBlobBytes": self._settings.max_blob_bytes})
            if room is not None and size + OVERHEAD_BYTES > room:
                raise QuotaExceeded
            hashing.update(chunk)
            yield chunk
        if hashing.digest() != digest:
            raise HashMismatch

    async def _commit(self, user_id: str, vault_id: str, digest: bytes, size: int, object_key: str) -> bool:
        """Puts the blob's row in place of the note; False when another upload of it was faster."""
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> bool | None:
            stream, vault = await _locked(tx, user_id, vault_id)
            if stream is not None and stream.kind == "gone":
                raise AccountGone
            if stream is None or vault is None:
                raise VaultNotFound
            if not await store.end(tx, object_key):
                await store.doom(tx, user_id, object_key, now_ms)  # what came after the removal
                return None
            blob = await store.in_vault(tx, user_id, vault.vault_no, digest)
            if blob is None:
                room = await self._room(tx, stream)
                if room is not None:
                    self._fits(stream, size, room)
                await store.add(tx, user_id, vault.vault_no, digest, size, object_key, now_ms)
                await _count(tx, stream, vault, size + OVERHEAD_BYTES)
                return True
            if blob.lost_at is not None:
                await store.move(tx, blob, object_key)
                await store.doom(tx, user_id, blob.object_key, now_ms)
                return True
            await store.doom(tx, user_id, object_key, now_ms)
            return False

        stored = await self._db.write(body)
        if stored is None:
            raise BlobGivenUp
        return stored

    async def _give_up(self, object_key: str) -> None:
        """Turns the note into an order to remove the object. Where it is no note any more, the blob was stored after all: the
        commit had come through, and only the word of it was lost."""
        try:
            if await self._db.write(lambda tx: store.give_up(tx, object_key)):
                self._changed()
        except HaptaError as error:  # what went wrong before this is what the client must hear; a sweep finds the note
            _log.info("an upload was cut off, and a sweep will remove what it left", error=str(error))

    # -- quota ------------------------------------------------------------------------------------------------------------

    async def _room(self, tx: ReadTx, stream: Stream) -> int | None:
        maximum = self._quota.maximum(stream)
        return maximum - await self._quota.used(tx, stream) if maximum else None

    def _fits(self, stream: Stream, size: int, room: int) -> None:
        if size + OVERHEAD_BYTES > room:
            maximum = self._quota.maximum(stream)
            used = maximum - room
            raise QuotaExceeded(quota={"maxBytes": maximum, "usedBytes": used, "neededBytes": size + OVERHEAD_BYTES})

    @staticmethod
    def _vault_id(vault_id: str) -> str:
        found = find_uuid(vault_id)
        if found is None:
            raise VaultNotFound
        return found


async def _locked(tx: WriteTx, user_id: str, vault_id: str) -> tuple[Stream | None, Vault | None]:
    """The stream, locked, and its live vault."""
    stream = (await streams.lock_streams(tx, [user_id])).get(user_id)
    return stream, None if stream is None else await streams.find_vault(tx, user_id, vault_id)


async def _count(tx: WriteTx, stream: Stream, vault: Vault, size: int) -> None:
    await streams.save_streams(tx, [stream._replace(bytes=stream.bytes + size)])
    await streams.save_vaults(tx, [vault._replace(bytes=vault.bytes + size)])
