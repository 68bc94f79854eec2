"""One vault on this device: rows that are written locally at once and meet the other devices' writes on `sync`.

Flow of a sync: outbox -> push -> acknowledged; cursor -> pull -> open -> merge, one local transaction a page; then the
history check. Invariants: a write is never lost once `put` returned; the cursor moves only together with the rows it
stands for; what does not decrypt is set aside, never dropped and never in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hapta.client import history, snapshots
from hapta.client.api import HaptaApi
from hapta.client.envelope import Entry, KeyRing, SealedLog, b64, new_vault_key
from hapta.client.errors import (
    AlreadyThere,
    ClockDrift,
    DecryptFailed,
    HaptaApiError,
    HistoryForked,
    NotThere,
    PayloadTooLarge,
    QuotaExceeded,
    SnapshotRequired,
)
from hapta.client.hlc import HybridClock, Stamp, node_of
from hapta.client.keys import KeptKey, KeyAccess, decode_kept, encode_kept, keep
from hapta.client.rows import Row, cell_of, dedupe_of, row_key, row_name, sealed_of, to_json, value_of
from hapta.client.store import DELETED, Cell, Store, Waiting
from hapta.client.wire import PullAnswer, PulledLog, PushAnswer
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.ids import Ids, RandomIds

if TYPE_CHECKING:
    from hapta.client.files import Folder

PUSH_LOGS = 500
PUSH_BYTES = 8 * 1024 * 1024
PULL_LOGS = 1000
END = sys.maxsize
MAX_RESTARTS = 3
"""How often one sync believes a server that its epoch is a new one."""

Progress = Callable[[str, int, int], None]
"""Called with what is done (`push` or `pull`), how many logs so far, and how many are left as far as known."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one sync did."""

    pushed: int
    pulled: int
    changed: int
    """Registers that took a new value."""
    quarantined: int
    """Logs set aside because they do not decrypt; see `Vault.quarantine`."""


@dataclass(frozen=True, slots=True)
class VaultStatus:
    """Where this device stands."""

    vault_id: str
    device_id: str
    cursor: int
    outbox: int
    quarantined: int
    epoch: str
    key_epoch: int
    forked: bool
    resync: bool


class Vault:
    """One vault, opened. Made by `Hapta.create_vault` and `Hapta.open_vault`.

    Args:
        api: the server.
        store: this vault's local database.
        ring: the vault's keys.
        access: how to open and wrap further keys (rotation, keys that other devices added).
        device_id: this device's UUID.
        envelope_version: 2, or 1 to be read by clients of the base protocol.
        use_exclusion: leave out what this device pushed when pulling, once it has everything else.
    """

    def __init__(
        self,
        api: HaptaApi,
        store: Store,
        ring: KeyRing,
        access: KeyAccess,
        *,
        device_id: str,
        clock: Clock | None = None,
        ids: Ids | None = None,
        envelope_version: Literal[1, 2] = 2,
        use_exclusion: bool = True,
    ) -> None:
        self.api = api
        self.store = store
        self.ring = ring
        self.device_id = device_id
        self.on_progress: Progress | None = None
        self.access = access
        """How to open and wrap further keys; replaced when the password changes."""
        self._ids = ids or RandomIds()
        self._version: Literal[1, 2] = envelope_version
        self._use_exclusion = use_exclusion
        self._turn = asyncio.Lock()
        self._hlc = HybridClock(clock or SystemClock(), node_of(device_id), int(store.get("hlc", "0")))

    @property
    def id(self) -> str:
        return self.ring.vault_id

    @property
    def node(self) -> int:
        """This device's id in stamps."""
        return self._hlc.node

    @property
    def cursor(self) -> int:
        return int(self.store.get("cursor", "0"))

    def close(self) -> None:
        self.store.close()

    # --- reading and writing rows: local, immediate, offline ---

    def get(self, table: str, row: Row) -> dict[str, Any] | None:
        """The columns of a row, or None when it does not exist or was deleted."""
        cells = self.store.row(table, row_key(row))
        columns = {name: value_of(cell) for name, cell in cells.items() if name != DELETED}
        return columns or None

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """All rows of a table by key: the id as given to `put`, or canonical JSON for keys of several columns."""
        found: dict[str, dict[str, Any]] = {}
        for key in self.store.rows(table):
            columns = self.get(table, msgspec.json.decode(key))
            if columns is not None:
                found[row_name(key)] = columns
        return found

    def stamp(self, table: str, row: Row, column: str = DELETED) -> Stamp | None:
        """When a column was last written; without a column, when the row was deleted."""
        cell = self.store.cell(table, row_key(row), column)
        return None if cell is None else Stamp.from_key(cell.stamp)

    def put(self, table: str, row: Row, columns: Mapping[str, Any]) -> Stamp:
        """Writes columns of a row here and queues them for the server.

        Args:
            table: any name.
            row: the row's id, or a mapping when its key has several columns.
            columns: JSON values, or bytes (up to about 700 KB a value, by the server's limit of a log).

        Returns:
            The stamp all these writes share.
        """
        if not columns or DELETED in columns:
            raise ValueError("name at least one column; a column's name is not empty")
        key = row_key(row)
        with self.store.transaction():
            kind = "UPDATE" if self.store.row(table, key).keys() - {DELETED} else "INSERT"
            stamp = self._next_stamp(table, key, columns)
            for column, value in columns.items():
                text, blob = (None, bytes(value)) if isinstance(value, bytes | bytearray) else (to_json(value), None)
                self._write(Cell(table, key, column, stamp.key, self._ids.uuid(), text, blob), kind)
        return stamp

    def delete(self, table: str, row: Row, note: Any = None) -> Stamp:
        """Deletes a row: a write of its own that hides every column written before it.

        Args:
            note: a JSON value that travels with the delete, for instance why.
        """
        key = row_key(row)
        with self.store.transaction():
            stamp = self._next_stamp(table, key, {})
            text = None if note is None else to_json(note)
            self._write(Cell(table, key, DELETED, stamp.key, self._ids.uuid(), text, None), "DELETE")
        return stamp

    def deletion_note(self, table: str, row: Row) -> Any:
        cell = self.store.cell(table, row_key(row), DELETED)
        return None if cell is None or cell.value is None else msgspec.json.decode(cell.value)

    @contextlib.contextmanager
    def batch(self) -> Generator[None]:
        """Puts and deletes inside become durable together: all or none, and much faster than one by one."""
        with self.store.transaction():
            yield

    def _next_stamp(self, table: str, key: str, columns: Mapping[str, Any]) -> Stamp:
        stamp = self._hlc.new()
        cells = self.store.row(table, key)
        replaced = [cell.stamp for name, cell in cells.items() if name == DELETED or not columns or name in columns]
        # A device with a fast clock may have written what we replace "in the future". Whoever writes has seen that
        # value, so the new write outranks it; only this register follows the other clock, ours stays as it is.
        if replaced and max(replaced) >= stamp.key:
            stamp = Stamp(Stamp.from_key(max(replaced)).time + 1, self._hlc.node)
        self.store.set(hlc=self._hlc.last)
        return stamp

    def _write(self, cell: Cell, kind: str) -> None:
        self.store.merge(cell)
        self.store.enqueue(self._seal(cell, kind))

    def _seal(self, cell: Cell, kind: str) -> SealedLog:
        value, blob = cell.value, cell.blob or b""
        text = None if value is None else f'{{"value":{value}}}'
        if cell.blob is not None:
            text = '{"bytes":true}' if self._version == 2 else f'{{"base64":"{b64(blob)}"}}'
        entry = Entry(
            id=cell.log_id,
            haex_timestamp=str(Stamp.from_key(cell.stamp)),
            table_name=cell.table,
            row_pks=cell.row,
            op_type=kind,
            column_name=None if cell.column == DELETED else cell.column,
            new_value=text,
        )
        return self.ring.seal(entry, blob, self._version)

    def folder(self, path: str | os.PathLike[str], *, device_name: str = "") -> Folder:
        """A folder of real files kept in this vault.

        Args:
            path: the folder; made by the first sync when it does not exist.
            device_name: how conflict copies name this device; its short id by default.
        """
        from hapta.client.files import Folder

        return Folder(self, path, device_name=device_name)

    # --- with the server ---

    async def sync(self) -> SyncReport:
        """Pushes what waits, pulls what is new, checks the history.

        Raises:
            ServerUnreachable: offline; nothing is lost, call again later.
            HistoryForked: the server's history is not the one this device saw.
            QuotaExceeded: the account is full; what others wrote was pulled all the same.
        """
        async with self._turn:
            try:
                return await self._sync()
            except HistoryForked:
                self.store.set(forked=1)
                raise

    async def _sync(self) -> SyncReport:
        full: QuotaExceeded | None = None
        pushed = 0
        try:
            pushed = await self._push()
        except QuotaExceeded as error:
            full = error
        pulled, changed = await self._pull()
        if full is None and self.store.outbox_size():
            pushed += await self._push()
        await self._acknowledge_reading()
        if full is not None:
            raise full
        return SyncReport(pushed, pulled, changed, len(self.store.quarantined()))

    async def _push(self) -> int:
        limit, pushed, keys_restored = PUSH_LOGS, 0, False
        while waiting := await asyncio.to_thread(self.store.waiting, limit, PUSH_BYTES):
            positions = [entry.position for entry in waiting]
            self.store.mark_attempted(positions)
            try:
                answer = await self.api.push(self.id, [entry.log for entry in waiting], self.device_id)
            except PayloadTooLarge as error:
                # Refused whole, so these are not there; but what an earlier try sent without an answer still may be.
                self.store.mark_attempted((each.position for each in waiting if not each.attempted), attempted=False)
                if isinstance(error, QuotaExceeded) or len(waiting) == 1:
                    raise
                limit = len(waiting) // 2
                continue
            except HaptaApiError as error:
                if error.api_code != "unknown_key_epoch" or keys_restored:
                    raise
                keys_restored = True
                await self._restore_keys()
                continue
            await asyncio.to_thread(self._settle, waiting, answer)
            pushed += len(waiting)
            self._report("push", pushed, self.store.outbox_size())
        return pushed

    def _settle(self, waiting: list[Waiting], answer: PushAnswer) -> None:
        if len(answer.logs) != len(waiting):
            raise HaptaApiError(200, "bad_answer", "The server acknowledged another number of logs than were sent")
        acknowledged = [
            (entry.log.id or "", stored.sequence, dedupe_of(entry.log))
            for entry, stored in zip(waiting, answer.logs, strict=True)
        ]
        with self.store.transaction():
            self.store.acknowledge(acknowledged)

    async def _pull(self) -> tuple[int, int]:
        pulled = changed = restarts = 0
        snapshot_at = -1
        while True:
            after = self.cursor
            exclude = self.device_id if self._may_exclude() else None
            try:
                page = await self.api.pull(self.id, after, limit=PULL_LOGS, exclude_device=exclude)
            except SnapshotRequired:
                if snapshot_at >= after:
                    raise
                snapshot_at = await self._load_snapshot()
                continue
            if self._is_new_epoch(page.epoch):
                restarts += 1
                if restarts > MAX_RESTARTS:
                    raise HistoryForked("The server changes its epoch with every answer")
                self.store.start_over(page.epoch)
                await self._restore_keys()
                continue
            await self._learn_keys(page)
            changed += await asyncio.to_thread(self._apply, page, after, exclude is None)
            pulled += len(page.logs)
            self._report("pull", pulled, max(0, page.head - self.cursor) if page.has_more else 0)
            if not page.has_more:
                break
        if self.store.get("resync") == "1":
            await asyncio.to_thread(self._queue_again)
        return pulled, changed

    def _may_exclude(self) -> bool:
        # Without a finished first sync our own older logs may be news to us (a reinstalled device), and what was sent
        # without an answer has a place in the chain that only the server knows.
        return self._use_exclusion and self.store.get("first_sync_done") == "1" and not self.store.unsettled()

    def _is_new_epoch(self, epoch: str) -> bool:
        known = self.store.get("epoch")
        if not known and epoch:
            self.store.set(epoch=epoch)
        return bool(known) and bool(epoch) and known != epoch

    def _apply(self, page: PullAnswer, after: int, complete: bool) -> int:
        """Merges one page and moves the cursor, in one transaction."""
        opened = [(log, self._open(log)) for log in page.logs]
        changed = 0
        with self.store.transaction():
            chain, last = self._check_history(page, after)
            resync = self.store.get("resync") == "1"
            for log, cell in opened:
                if isinstance(cell, str):
                    self.store.set_aside(log.sequence, sealed_of(log), cell)
                else:
                    changed += self._merge(cell)
                    if resync:
                        self.store.see([cell.log_id])
            self.store.acknowledge(
                (log.client_id, log.sequence, history.key_of(log)) for log in page.logs if log.client_id is not None
            )
            self.store.set(cursor=last, chain=chain.hex(), chained=int(page.chain is not None), hlc=self._hlc.last)
            if complete and not page.has_more:
                self.store.set(first_sync_done=1)
            self.store.forget_own(last)
        return changed

    def _merge(self, cell: Cell) -> bool:
        # A stamp far ahead of our clock is merged like any other (all devices must end up equal); only our own clock
        # refuses to follow it.
        with contextlib.suppress(ClockDrift):
            self._hlc.receive(Stamp.from_key(cell.stamp))
        return self.store.merge(cell)

    def _check_history(self, page: PullAnswer, after: int) -> tuple[bytes, int]:
        """The chain and the cursor after this page.

        Raises:
            HistoryForked: they do not follow from what we saw before.
        """
        sequences = [after, *(log.sequence for log in page.logs)]
        if any(first >= second for first, second in itertools.pairwise(sequences)):
            raise HistoryForked("The server sent logs out of order")
        last = max(sequences[-1], page.last_sequence or 0)
        own = dict(self.store.own_between(after, last if page.has_more else END))
        keys = own | {log.sequence: history.key_of(log) for log in page.logs}
        chain = history.extend(bytes.fromhex(self.store.get("chain")) or history.EMPTY_CHAIN, sorted(keys.items()))
        if page.chain is None and self.store.get("chained") == "1":
            raise HistoryForked("The server stopped proving its history")
        if page.chain is not None and not page.has_more and chain != bytes.fromhex(page.chain):
            raise HistoryForked
        return chain, last

    def _open(self, log: PulledLog) -> Cell | str:
        """The write a log carries, or why it cannot be read."""
        try:
            entry, blob = self.ring.open(sealed_of(log))
            return cell_of(entry, blob)
        except (DecryptFailed, ValueError) as error:
            return str(error) or type(error).__name__

    def _queue_again(self) -> None:
        """After a new epoch: everything that the server does not have (any more) goes into the outbox again."""
        with self.store.transaction():
            for table, row, column in self.store.unseen_cells():
                cell = self.store.cell(table, row, column)
                if cell is not None:
                    self.store.enqueue(self._seal(cell, "DELETE" if column == DELETED else "INSERT"))
            self.store.set(resync=0)
            self.store.clear_seen()

    async def _acknowledge_reading(self) -> None:
        cursor = self.cursor
        if cursor == int(self.store.get("acknowledged", "0")):
            return
        # The vault has no log there yet, or the account more devices than are kept: then nobody waits for this one's word.
        with contextlib.suppress(NotThere, PayloadTooLarge):
            await self.api.acknowledge(self.id, self.device_id, cursor)
        self.store.set(acknowledged=cursor)

    # --- keys ---

    async def rotate_key(self) -> int:
        """Writes from now on under a new key; older logs stay readable with the older ones.

        Returns:
            The new key epoch.

        Raises:
            AlreadyThere: another device rotated at this moment; its key is loaded, and rotating again is possible.
        """
        epoch, key = self.ring.newest + 1, new_vault_key()
        wrapped = await asyncio.to_thread(self.access.wrap, key, self.id, epoch)
        try:
            await self.api.store_vault_key(self.id, wrapped, epoch)
        except AlreadyThere:
            await self.refresh_keys()
            raise
        kept = decode_kept(self.store.get("keys"))
        kept.append(KeptKey(epoch, wrapped.encrypted_vault_key, wrapped.salt, wrapped.nonce))
        self.store.set(keys=encode_kept(kept))
        self.ring.keys[epoch] = key
        return epoch

    async def refresh_keys(self) -> None:
        """Fetches the vault's wrapped keys and opens those that are new; then tries the quarantine again."""
        answer = await self.api.vault_key(self.id)
        for key in keep(answer.all):
            if key.key_epoch not in self.ring.keys:
                opened = await asyncio.to_thread(self.access.unwrap, key.wrapped, self.id, key.key_epoch)
                self.ring.keys[key.key_epoch] = opened
        self.store.set(keys=encode_kept(keep(answer.all)))
        await asyncio.to_thread(self.retry_quarantine)

    async def _learn_keys(self, page: PullAnswer) -> None:
        if any(log.key_epoch not in self.ring.keys for log in page.logs):
            with contextlib.suppress(NotThere):
                await self.refresh_keys()

    async def _restore_keys(self) -> None:
        """A restored server may have lost our wrapped keys; without them other devices could not open the vault."""
        for key in decode_kept(self.store.get("keys")):
            with contextlib.suppress(AlreadyThere):
                await self.api.store_vault_key(self.id, key.wrapped, key.key_epoch)

    # --- snapshots ---

    async def create_snapshot(self) -> int:
        """Uploads the merged state, sealed; new devices load it instead of all logs, and the server may compact.

        Returns:
            The sequence up to which it stands for the logs.
        """
        await self.sync()
        async with self._turn:
            body, upto = await asyncio.to_thread(snapshots.build, self, self._ids.uuid())
            await self.api.put_snapshot(self.id, body)
            return upto

    async def _load_snapshot(self) -> int:
        info = await self.api.snapshot(self.id)
        if info.key_epoch not in self.ring.keys:
            await self.refresh_keys()
        return await asyncio.to_thread(snapshots.load, self, info)

    async def load_snapshot(self) -> int:
        """Starts a new device from the newest snapshot instead of the first log; 0 when the server has none."""
        async with self._turn:
            try:
                return await self._load_snapshot()
            except NotThere:
                return 0

    def merge_all(self, cells: list[Cell]) -> None:
        """Merges registers of a snapshot; only inside a transaction of the store."""
        for cell in cells:
            self._merge(cell)
        if self.store.get("resync") == "1":
            self.store.see(cell.log_id for cell in cells)

    # --- state ---

    def status(self) -> VaultStatus:
        return VaultStatus(
            vault_id=self.id,
            device_id=self.device_id,
            cursor=self.cursor,
            outbox=self.store.outbox_size(),
            quarantined=len(self.store.quarantined()),
            epoch=self.store.get("epoch"),
            key_epoch=self.ring.newest,
            forked=self.store.get("forked") == "1",
            resync=self.store.get("resync") == "1",
        )

    def quarantine(self) -> list[tuple[int, str]]:
        """Sequences of the logs that could not be read, and why."""
        return [(sequence, reason) for sequence, _, reason in self.store.quarantined()]

    def retry_quarantine(self) -> int:
        """Tries again what could not be read, for instance after a missing key came; how many are readable now."""
        released = 0
        for sequence, log, _ in self.store.quarantined():
            try:
                cell = cell_of(*self.ring.open(log))
            except (DecryptFailed, ValueError):
                continue
            with self.store.transaction():
                self._merge(cell)
                self.store.release(sequence)
            released += 1
        return released

    async def resync(self) -> SyncReport:
        """Forgets the cursor and reads everything again, then pushes what the server lacks. Local rows stay."""
        async with self._turn:
            self.store.start_over("")
        return await self.sync()

    def _report(self, what: str, done: int, left: int) -> None:
        if self.on_progress is not None:
            self.on_progress(what, done, left)
