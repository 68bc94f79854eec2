"""The rules of push and pull, of vaults and of the quota. Knows no HTTP; opens the one transaction of each use case.

Invariant (docs/sync.md, NO-SKIP): rows, head, epoch and chain of an answer come from one snapshot, and a sequence number that a
reader can see has no smaller one that appears later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import cast

from hapta.db.database import Database, ReadTx, Row, WriteTx
from hapta.kit.clock import Clock
from hapta.settings import SyncSettings
from hapta.sync import records, store
from hapta.sync.devices import Devices
from hapta.sync.errors import PushTooLarge, SnapshotRequired, VaultNotFound
from hapta.sync.models import (
    EMPTY_CHAIN,
    LOG_OVERHEAD_BYTES,
    IncomingLog,
    Page,
    Push,
    Pushed,
    Vault,
    client_key,
    client_keys,
    content_key,
    find_uuid,
    measure,
    measure_all,
)
from hapta.sync.push import Committer
from hapta.sync.quota import Quota
from hapta.sync.realtime import Hub
from hapta.sync.streams import NoStream, Streams, find_stream

MAX_FIELD_CHARACTERS = 256
_Columns = tuple[str | None, str, str, str, int]
_NO_EPOCHS = frozenset[int]()
_NO_LOGS: tuple[tuple[str | None, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[int, ...]] = (
    (),
    (),
    (),
    (),
    (),
)
LARGE_PUSH_LOGS = 2_000
LARGE_PUSH_CHARACTERS = 2 * 1024 * 1024
"""Pushes beyond these are hashed on a thread: the largest ones would keep the event loop for a tenth of a second."""
_DIRECT_PAGES = 4
"""A page that cannot hold more than this many times `max_pull_bytes` is read without asking for sizes first."""


class SyncService:
    """Push, pull, vaults and quota of one worker."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        streams: Streams,
        committer: Committer,
        hub: Hub,
        devices: Devices,
        settings: SyncSettings,
        quota: Quota,
    ) -> None:
        self._db = db
        self._clock = clock
        self._streams = streams
        self._committer = committer
        self._hub = hub
        self._devices = devices
        self._settings = settings
        self._quota = quota

    # -- push ----------------------------------------------------------------------------------------------------------

    def push(
        self, user_id: str, vault_id: str, logs: Sequence[IncomingLog], device_id: str | None
    ) -> asyncio.Future[Pushed]:
        """Stores logs, each once; the future is done after the commit.

        Raises:
            PushTooLarge, QuotaExceeded, UnknownKeyEpoch: nothing was stored.
            Unavailable: nothing was stored, or (a lost connection at the commit) the retry will find it.
        """
        if len(logs) > LARGE_PUSH_LOGS or sum([len(log.encrypted_data) for log in logs]) > LARGE_PUSH_CHARACTERS:
            return asyncio.ensure_future(self._push_large(user_id, vault_id, logs, device_id))
        return self._submit(self.prepare(user_id, vault_id, logs, device_id))

    async def _push_large(
        self, user_id: str, vault_id: str, logs: Sequence[IncomingLog], device_id: str | None
    ) -> Pushed:
        return await self._submit(await asyncio.to_thread(self.prepare, user_id, vault_id, logs, device_id))

    def _submit(self, push: Push) -> asyncio.Future[Pushed]:
        if push.device_id is not None:
            self._devices.touch(push.stream_id, push.device_id)
        return self._committer.submit(push)

    def prepare(self, user_id: str, vault_id: str, logs: Sequence[IncomingLog], device_id: str | None) -> Push:
        """Measures and keys logs: all that can be done before the lock.

        Raises:
            PushTooLarge: a limit of section 2.6 of the contract.
        """
        if len(logs) == 1:
            return self._prepare_one(user_id, vault_id.lower(), logs[0], device_id)
        # By columns, as the rows are put together in the end: few Python steps for each log.
        ids, data, nonces, timestamps, epochs = zip(*map(_columns, logs), strict=True) if logs else _NO_LOGS
        data_sizes = measure_all(data)
        settings = self._settings
        if (
            len(data) > settings.max_logs_per_push
            or max(data_sizes, default=0) > settings.max_log_bytes
            or max(map(len, nonces + timestamps), default=0) > MAX_FIELD_CHARACTERS
        ):
            raise PushTooLarge(limits=self.limits())
        sizes = [size + nonce + LOG_OVERHEAD_BYTES for size, nonce in zip(data_sizes, measure_all(nonces), strict=True)]
        keys = _keys(ids, data, nonces, timestamps)
        used = frozenset(epochs) - {0} if any(epochs) else _NO_EPOCHS
        vault_id = vault_id.lower()
        return Push(user_id, vault_id, device_id, keys, data, nonces, timestamps, epochs, sizes, sum(sizes), used)

    def _prepare_one(self, user_id: str, vault_id: str, log: IncomingLog, device_id: str | None) -> Push:
        # Most pushes are of one log, and columns of one would cost three times as much.
        id_, data, nonce, timestamp, epoch = _columns(log)
        size = measure(data)
        if size > self._settings.max_log_bytes or max(len(nonce), len(timestamp)) > MAX_FIELD_CHARACTERS:
            raise PushTooLarge(limits=self.limits())
        size += measure(nonce) + LOG_OVERHEAD_BYTES
        key = content_key(timestamp, nonce, data) if id_ is None else client_key(id_)
        used = frozenset((epoch,)) if epoch else _NO_EPOCHS
        columns = (key,), (data,), (nonce,), (timestamp,), (epoch,), (size,)
        return Push(user_id, vault_id, device_id, *columns, size, used)

    def limits(self) -> dict[str, int]:
        """The limits of one push, as its 413 answer names them."""
        return {
            "maxLogsPerPush": self._settings.max_logs_per_push,
            "maxLogBytes": self._settings.max_log_bytes,
            "maxNonceCharacters": MAX_FIELD_CHARACTERS,
            "maxTimestampCharacters": MAX_FIELD_CHARACTERS,
        }

    # -- pull ----------------------------------------------------------------------------------------------------------

    async def pull(
        self,
        user_id: str,
        vault_id: str,
        *,
        after: int,
        limit: int,
        max_bytes: int | None = None,
        exclude_device_id: str | None = None,
        wait_ms: int = 0,
    ) -> Page:
        """The logs after a cursor, in order. With `wait_ms`, an empty page waits for news or until then.

        Raises:
            SnapshotRequired: logs after the cursor were compacted away.
        """
        vault_id = vault_id.lower()
        if not wait_ms:
            return await self._page(user_id, vault_id, after, limit, max_bytes, exclude_device_id)
        # The listener is there before the first look: what commits after the look is heard.
        with self._hub.listen(user_id, vault_id) as listener:
            deadline = self._clock.monotonic() + min(wait_ms, self._settings.max_wait_ms) / 1000
            while True:
                page = await self._page(user_id, vault_id, after, limit, max_bytes, exclude_device_id)
                if page.rows or page.has_more:
                    return page
                after = page.last_sequence
                if not await listener.wait(deadline - self._clock.monotonic()):
                    return page

    async def head(self, user_id: str, vault_id: str) -> Page:
        """Where a vault stands now, without logs."""
        return await self._streams.read(user_id, lambda tx: read_head(tx, user_id, vault_id))

    async def _page(
        self, user_id: str, vault_id: str, after: int, limit: int, max_bytes: int | None, exclude: str | None
    ) -> Page:
        most = min(max_bytes or self._settings.max_pull_bytes, self._settings.max_pull_bytes)
        limit = min(limit, self._settings.max_pull_limit)

        async def body(tx: ReadTx) -> Page:
            return await read_page(tx, user_id, vault_id, after, limit, most, exclude)

        return await self._streams.read(user_id, body)

    # -- vaults and quota ----------------------------------------------------------------------------------------------

    async def list_vaults(self, user_id: str) -> tuple[str, list[tuple[Vault, bool]]]:
        """The epoch, and all live vaults, each with whether it has a stored key."""

        async def body(tx: ReadTx) -> tuple[str, list[tuple[Vault, bool]]]:
            stream = await find_stream(tx, user_id)
            with_key = await records.vaults_with_key(tx, user_id)
            vaults = await store.list_vaults(tx, user_id)
            return stream.epoch, [(vault, vault.vault_id in with_key) for vault in vaults]

        return await self._streams.read(user_id, body)

    async def delete_vault(self, user_id: str, vault_id: str) -> str:
        """Removes a vault with its keys, logs and snapshots; invisible at once, its rows go later (`Upkeep`).

        Takes the head lock, so a push commits wholly before (and goes with the vault) or wholly after, into a fresh vault.

        Returns:
            The vault's id in canonical form.

        Raises:
            VaultNotFound: no such vault of this account.
        """
        found = find_uuid(vault_id)
        if found is None:
            raise VaultNotFound
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            stream = (await store.lock_streams(tx, [user_id])).get(user_id)
            vault = await store.find_vault(tx, user_id, found) if stream else None
            if stream is None or vault is None:
                raise VaultNotFound
            await records.delete_keys(tx, user_id, found)
            await store.mark_deleted(tx, user_id, [vault.vault_no], now_ms)
            await store.save_streams(
                tx, [stream._replace(bytes=stream.bytes - vault.bytes, logs=stream.logs - vault.logs)]
            )

        await self._db.write(body)
        return found

    async def quota(self, user_id: str) -> tuple[int, int, list[Vault]]:
        """(limit in bytes or 0 for none, bytes used, live vaults). With a limit, what other features keep is used as well."""

        async def body(tx: ReadTx) -> tuple[int, int, list[Vault]]:
            stream = await find_stream(tx, user_id)
            return self._quota.maximum(stream), await self._quota.used(tx, stream), await store.list_vaults(tx, user_id)

        return await self._streams.read(user_id, body)

    async def purge(self, tx: WriteTx, user_id: str) -> None:
        """Removes all that an account has here, inside the transaction that deletes it; rows go later (`Upkeep`)."""
        # Made when there was none: a request that began before must find a stream that takes nothing, and not make one.
        await self._streams.lock(tx, user_id)
        now_ms = self._clock.now_ms()
        vaults = await store.list_vaults(tx, user_id)
        await store.mark_deleted(tx, user_id, [vault.vault_no for vault in vaults], now_ms)
        await records.delete_account(tx, user_id)
        await store.mark_gone(tx, user_id, now_ms)


_columns: Callable[[IncomingLog], _Columns] = attrgetter("id", "encrypted_data", "nonce", "haex_timestamp", "key_epoch")


def _keys(
    ids: Sequence[str | None], data: Sequence[str], nonces: Sequence[str], timestamps: Sequence[str]
) -> Sequence[bytes]:
    """The dedupe keys of logs as they are stored."""
    if None not in ids:
        return client_keys(cast(Sequence[str], ids))
    return [
        content_key(timestamp, nonce, ciphertext) if id_ is None else client_key(id_)
        for id_, ciphertext, nonce, timestamp in zip(ids, data, nonces, timestamps, strict=True)
    ]


async def read_page(
    tx: ReadTx, stream_id: str, vault_id: str, after: int, limit: int, max_bytes: int, exclude_device_id: str | None
) -> Page:
    """One page of a pull, from the snapshot of `tx`.

    Raises:
        NoStream: the account has no stream yet.
        SnapshotRequired: logs after the cursor were compacted away.
    """
    found = await store.pull_head(tx, stream_id, vault_id)
    if found is None:
        raise NoStream
    _, epoch, vault_no, head, chain, dropped_upto, largest = found
    cursor = max(after, 0)
    if vault_no is None:
        return Page((), False, cursor, 0, epoch, EMPTY_CHAIN)
    if cursor < dropped_upto:
        raise SnapshotRequired(uptoSequence=dropped_upto)
    if cursor >= head:
        return Page((), False, cursor, head, epoch, chain)
    count = limit
    if (limit + 1) * largest > _DIRECT_PAGES * max_bytes:
        count = await _fitting(tx, stream_id, vault_no, cursor, limit, max_bytes)
    rows: Sequence[Row] = await store.pull_rows(tx, stream_id, vault_no, cursor, count + 1)
    has_more = len(rows) > count
    if has_more:
        rows = rows[:count]
    fitting = _prefix([row[7] for row in rows], max_bytes)
    if fitting < len(rows):
        rows, has_more = rows[:fitting], True
    last = rows[-1][0] if rows else cursor
    if exclude_device_id is not None:
        # Logs without a device are kept, and the cursor moves past what is left out.
        rows = [row for row in rows if row[6] != exclude_device_id]
    return Page(rows, has_more, last, head, epoch, chain)


async def read_head(tx: ReadTx, stream_id: str, vault_id: str) -> Page:
    """An empty page at the vault's head.

    Raises:
        NoStream: the account has no stream yet.
    """
    found = await store.pull_head(tx, stream_id, vault_id)
    if found is None:
        raise NoStream
    head = found[3] or 0
    return Page((), False, head, head, found[1], found[4] or EMPTY_CHAIN)


async def _fitting(tx: ReadTx, stream_id: str, vault_no: int, after: int, limit: int, max_bytes: int) -> int:
    """How many logs to read so that a page of large ones does not fill the memory."""
    sizes = await store.pull_sizes(tx, stream_id, vault_no, after, limit)
    return max(1, _prefix([size for _, size in sizes], max_bytes))


def _prefix(sizes: Sequence[int], most: int) -> int:
    """How many of `sizes`, from the start, fit into `most`; at least one."""
    if sum(sizes) <= most:
        return len(sizes)
    return max(1, next(index for index, total in enumerate(accumulate(sizes)) if total > most))
