"""Export and import: everything an account has here, as NDJSON, to be taken to another server.

Both stream with bounded memory: the export reads page by page, each page one snapshot, and the import hands batches to the same
committer that pushes use. Importing twice is harmless, since logs keep their dedupe keys; sequence numbers are the target's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.http.validate import Uuid
from hapta.kit.clock import Clock, Instants, iso_ms
from hapta.kit.errors import Unavailable
from hapta.sync import records, store
from hapta.sync.errors import BadImport, PushTooLarge, SnapshotExists, VaultKeyExists
from hapta.sync.keys import KeyMaterial, VaultKeys
from hapta.sync.models import EMPTY_CHAIN, Push, Pushed, Snapshot, Vault
from hapta.sync.push import Committer
from hapta.sync.schemas import DeviceId, KeyEpoch, Opaque
from hapta.sync.service import MAX_FIELD_CHARACTERS, SyncService, read_page
from hapta.sync.snapshots import MAX_NONCE_CHARACTERS, MAX_PART_BYTES, Snapshots
from hapta.sync.streams import Streams, find_stream

FORMAT = "hapta-export"
VERSION = 1
PAGE_LOGS = 500
PAGE_BYTES = 4 * 1024 * 1024
MAX_LINE_BYTES = 2 * MAX_PART_BYTES
MAX_SNAPSHOT_BYTES = 64 * 1024 * 1024
MAX_EMPTY_LINES = 100
"""More are no export, and cost the event loop a step each: a few compressed kilobytes can hold millions."""
MAX_SKIPPED = 1000
"""Sentences about what was left out; of more the answer tells the number."""
BATCH_LOGS = 1000
BATCH_BYTES = 8 * 1024 * 1024


class _Line(msgspec.Struct, frozen=True, rename="camel", tag_field="type", omit_defaults=True):
    pass


class Header(_Line, frozen=True, tag="export"):
    format: str
    version: int
    epoch: str
    exported_at: str


class VaultLine(_Line, frozen=True, tag="vault"):
    vault_id: Uuid
    created_at: str
    compacted: bool = False
    """Older logs are only in the snapshot."""
    encrypted_vault_name: Opaque | None = None
    vault_name_nonce: Opaque | None = None


class KeyLine(_Line, frozen=True, tag="vaultKey"):
    vault_id: Uuid
    key_epoch: KeyEpoch
    encrypted_vault_key: Opaque
    salt: Opaque
    nonce: Opaque
    created_at: str


class LogLine(_Line, frozen=True, tag="log", gc=False):
    vault_id: Uuid
    sequence: int
    encrypted_data: str
    nonce: str
    haex_timestamp: str
    created_at: str
    id: Uuid | None = None
    device_id: DeviceId | None = None
    key_epoch: KeyEpoch = 0


class SnapshotLine(_Line, frozen=True, tag="snapshot"):
    vault_id: Uuid
    snapshot_id: Uuid
    upto_sequence: int
    parts: Annotated[int, Meta(ge=1, le=1000)]
    created_at: str
    key_epoch: KeyEpoch = 0


class PartLine(_Line, frozen=True, tag="snapshotPart"):
    encrypted_data: str
    nonce: str


class End(_Line, frozen=True, tag="end"):
    """The last line: without it the export is incomplete."""

    vaults: int
    logs: int


Line = Header | VaultLine | KeyLine | LogLine | SnapshotLine | PartLine | End
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Exporter:
    """Writes exports."""

    def __init__(self, db: Database, clock: Clock, streams: Streams) -> None:
        self._db = db
        self._clock = clock
        self._streams = streams

    async def lines(self, user_id: str) -> AsyncIterator[bytes]:
        """The export of one account, some lines at a time."""

        async def begin(tx: ReadTx) -> tuple[str, list[Vault]]:
            return (await find_stream(tx, user_id)).epoch, await store.list_vaults(tx, user_id)

        epoch, vaults = await self._streams.read(user_id, begin)
        yield _line(Header(FORMAT, VERSION, epoch, iso_ms(self._clock.now_ms())))
        logs = 0
        for vault in vaults:
            async for count, lines in self._vault(user_id, vault):
                logs += count
                yield lines
        yield _line(End(len(vaults), logs))

    async def _vault(self, user_id: str, vault: Vault) -> AsyncIterator[tuple[int, bytes]]:
        async def begin(tx: ReadTx) -> tuple[list[bytes], list[Snapshot]]:
            keys = await records.list_keys(tx, user_id, vault.vault_id)
            lines = [
                _line(
                    KeyLine(
                        key.vault_id,
                        key.key_epoch,
                        key.encrypted_vault_key,
                        key.salt,
                        key.nonce,
                        iso_ms(key.created_at),
                    )
                )
                for key in keys
            ]
            return lines, await records.list_snapshots(tx, user_id, vault.vault_no)

        keys, snapshots = await self._db.read(begin)
        compacted = vault.dropped_upto > 0
        head = VaultLine(vault.vault_id, iso_ms(vault.created_at), compacted, vault.encrypted_name, vault.name_nonce)
        yield 0, b"".join([_line(head), *keys])
        snapshot = snapshots[0] if snapshots else None
        cursor = vault.dropped_upto
        while True:
            # The snapshot stands right behind the logs that it covers: a new place for it can be told from that.
            if snapshot is not None and cursor >= snapshot.upto_sequence:
                async for lines in self._snapshot(user_id, vault.vault_id, snapshot):
                    yield 0, lines
                snapshot = None
            after = cursor
            page = await self._db.read(
                lambda tx, after=after: read_page(tx, user_id, vault.vault_id, after, PAGE_LOGS, PAGE_BYTES, None)
            )
            rows = page.rows
            if snapshot is not None:
                upto = snapshot.upto_sequence
                rows = [row for row in rows if row[0] <= upto]
            instants = Instants()
            lines = [
                _line(
                    LogLine(
                        vault.vault_id,
                        sequence,
                        data,
                        nonce,
                        stamp,
                        instants.text(created_at),
                        str(UUID(bytes=key[1:])) if key[0] else None,
                        device_id,
                        key_epoch,
                    )
                )
                for sequence, data, nonce, stamp, created_at, key_epoch, device_id, _, key in rows
            ]
            if lines:
                yield len(lines), b"".join(lines)
            if snapshot is not None and (len(rows) < len(page.rows) or not page.has_more):
                cursor = snapshot.upto_sequence
                continue
            cursor = page.last_sequence
            if not page.has_more:
                return

    async def _snapshot(self, user_id: str, vault_id: str, snapshot: Snapshot) -> AsyncIterator[bytes]:
        async def part(tx: ReadTx, number: int) -> tuple[str, str] | None:
            row = await records.snapshot_part(tx, user_id, snapshot.vault_no, snapshot.snapshot_id, number)
            return None if row is None else (row[0], row[1])

        yield _line(
            SnapshotLine(
                vault_id,
                snapshot.snapshot_id,
                snapshot.upto_sequence,
                snapshot.parts,
                iso_ms(snapshot.created_at),
                snapshot.key_epoch,
            )
        )
        for number in range(snapshot.parts):
            found = await self._db.read(lambda tx, number=number: part(tx, number))
            if found is None:
                raise Unavailable("The snapshot was replaced during the export")
            yield _line(PartLine(*found))


@dataclass(slots=True)
class ImportResult:
    logs: int = 0
    inserted: int = 0
    vault_keys: int = 0
    snapshots: int = 0
    skipped: list[str] = field(default_factory=lambda: list[str]())


class Importer:
    """Takes exports in."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        streams: Streams,
        sync: SyncService,
        keys: VaultKeys,
        snapshots: Snapshots,
        committer: Committer,
    ) -> None:
        self.db = db
        self.clock = clock
        self.streams = streams
        self.sync = sync
        self.keys = keys
        self.snapshots = snapshots
        self.committer = committer

    async def take(self, user_id: str, chunks: AsyncIterable[bytes]) -> ImportResult:
        """Imports an export. What was stored before an error stays; importing again goes on from there.

        Raises:
            BadImport: a line is no export line, too long, or the last line is missing. `line` says which.
            QuotaExceeded, PushTooLarge, UnknownKeyEpoch, Unavailable: as for a push.
        """
        run = _Import(self, user_id)
        number = empty = 0
        async for raw in _split_lines(chunks):
            number += 1
            if raw.strip():
                await run.take(_read_line(raw, number), number)
                continue
            empty += 1
            if empty > MAX_EMPTY_LINES:
                raise BadImport("The import has too many empty lines", line=number)
        await run.finish()
        return run.result


def _read_line(raw: bytes, number: int) -> Line:
    """One line as a value that any database can hold.

    Raises:
        BadImport: it is none.
    """
    try:
        if not raw.isascii():
            raw.decode()  # the decoder below does not look at what it leaves out
        line = _decode(raw)
    except (
        ValueError,
        RecursionError,
    ):  # bad bytes, bad JSON, another shape; or nested deeper than the decoder follows
        raise BadImport(line=number) from None
    # The escape is the only way in. A backslash before it may make it harmless, but no export writes that either.
    if b"\\u0000" in raw:
        raise BadImport("Text must not contain the character U+0000", line=number)
    return line


class _Import:
    """One import under way."""

    def __init__(self, owner: Importer, user_id: str) -> None:
        self._owner = owner
        self._user_id = user_id
        self.result = ImportResult()
        self._run: list[LogLine] = []
        self._run_bytes = 0
        self._in_flight: list[asyncio.Future[Pushed]] = []
        self._in_flight_logs = 0
        self._in_flight_bytes = 0
        self._imported: dict[str, int] = {}
        self._snapshot: SnapshotLine | None = None
        self._parts: list[tuple[str, str]] = []
        self._parts_bytes = 0
        self._started = False
        self._ended = False
        self._untold = 0

    async def take(self, line: Line, number: int) -> None:
        if self._ended or self._started == isinstance(line, Header):
            raise BadImport(line=number)
        if (self._snapshot is not None) != isinstance(line, PartLine):
            raise BadImport(line=number)
        match line:
            case LogLine():
                await self._log(line)
            case PartLine():
                await self._part(line, number)
            case Header():
                if line.format != FORMAT or line.version != VERSION:
                    raise BadImport("This export has another format or version", line=number)
                self._started = True
            case VaultLine():
                await self._vault(line)
            case KeyLine():
                await self._key(line)
            case SnapshotLine():
                self._snapshot = line
            case End():
                self._ended = True

    async def finish(self) -> None:
        """Commits what is left.

        Raises:
            BadImport: the last line never came.
        """
        await self._settle()
        if not self._ended:
            raise BadImport("The export is incomplete: its last line is missing")
        if self._untold:
            self.result.skipped.append(f"and {self._untold} more")

    def _skip(self, what: str) -> None:
        if len(self.result.skipped) < MAX_SKIPPED:
            self.result.skipped.append(what)
        else:
            self._untold += 1

    async def _log(self, line: LogLine) -> None:
        if len(line.nonce) > MAX_FIELD_CHARACTERS or len(line.haex_timestamp) > MAX_FIELD_CHARACTERS:
            raise PushTooLarge(limits=self._owner.sync.limits())  # now: a batch of such lines would fill the memory
        first = self._run[0] if self._run else None
        if first is not None and (first.vault_id, first.device_id) != (line.vault_id, line.device_id):
            self._submit()
        self._run.append(line)
        self._run_bytes += len(line.encrypted_data)
        if len(self._run) >= BATCH_LOGS or self._run_bytes >= BATCH_BYTES:
            self._submit()
        if self._in_flight_logs >= BATCH_LOGS or self._in_flight_bytes >= BATCH_BYTES:
            await self._settle()

    def _submit(self) -> None:
        """Hands the logs of one vault and device over; the committer keeps the order and joins what waits."""
        if not self._run:
            return
        first = self._run[0]
        push: Push = self._owner.sync.prepare(self._user_id, first.vault_id, self._run, first.device_id)
        self._in_flight.append(self._owner.committer.submit(push))
        self._in_flight_logs += len(self._run)
        self._in_flight_bytes += self._run_bytes
        self._run, self._run_bytes = [], 0

    async def _settle(self) -> None:
        self._submit()
        waiting, self._in_flight = self._in_flight, []
        self._in_flight_logs = self._in_flight_bytes = 0
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            self.result.logs += len(outcome.entries)
            self.result.inserted += outcome.inserted
            self._imported[outcome.vault_id] = self._imported.get(outcome.vault_id, 0) + len(outcome.entries)

    async def _key(self, line: KeyLine) -> None:
        material = KeyMaterial(line.encrypted_vault_key, line.salt, line.nonce)
        try:
            await self._owner.keys.store(self._user_id, line.vault_id, line.key_epoch, material, None)
        except VaultKeyExists:
            _, stored = await self._owner.keys.get(self._user_id, line.vault_id)
            if not any(key.key_epoch == line.key_epoch and tuple(key[4:7]) == material for key in stored):
                self._skip(f"vault {line.vault_id}: another key is stored for epoch {line.key_epoch}; it was kept")
        else:
            self.result.vault_keys += 1

    async def _vault(self, line: VaultLine) -> None:
        await self._settle()
        vault_id, now_ms = line.vault_id.lower(), self._owner.clock.now_ms()

        async def body(tx: WriteTx) -> None:
            stream = await self._owner.streams.lock(tx, self._user_id)
            known = await store.find_vault(tx, self._user_id, vault_id)
            stream, vault = await self._owner.streams.vault(tx, stream, vault_id)
            if known is None and line.compacted:
                # A number for what is only in the snapshot, so that a new device is told to load it.
                number = stream.last_sequence + 1
                await store.save_streams(tx, [stream._replace(last_sequence=number)])
                await store.save_vaults(tx, [vault._replace(head=number)])
                await store.mark_dropped(tx, vault, number, now_ms)
                await store.remove_upto(tx, vault, number, EMPTY_CHAIN, numbers=1, logs=0, size=0)
            if line.encrypted_vault_name is not None and vault.encrypted_name is None:
                await records.name_vault(
                    tx, self._user_id, vault.vault_no, line.encrypted_vault_name, line.vault_name_nonce or ""
                )

        await self._owner.db.write(body)

    async def _part(self, line: PartLine, number: int) -> None:
        snapshot = self._snapshot
        if snapshot is None:
            raise BadImport(line=number)
        if len(line.nonce) > MAX_NONCE_CHARACTERS:
            raise BadImport("The nonce of a snapshot's part is too long", line=number)
        self._parts.append((line.encrypted_data, line.nonce))
        self._parts_bytes += len(line.encrypted_data)
        if self._parts_bytes > MAX_SNAPSHOT_BYTES:
            raise BadImport("The snapshot is too large", line=number)
        if len(self._parts) < snapshot.parts:
            return
        parts = self._parts
        self._snapshot, self._parts, self._parts_bytes = None, [], 0
        await self._settle()
        await self._store_snapshot(snapshot, parts)

    async def _store_snapshot(self, line: SnapshotLine, parts: list[tuple[str, str]]) -> None:
        vault_id = line.vault_id.lower()

        async def look(tx: ReadTx) -> tuple[Vault | None, list[Snapshot]]:
            vault = await store.find_vault(tx, self._user_id, vault_id)
            return vault, [] if vault is None else await records.list_snapshots(tx, self._user_id, vault.vault_no)

        vault, kept = await self._owner.db.read(look)
        if any(one.snapshot_id == line.snapshot_id.lower() for one in kept):
            return
        # It covers exactly the logs before it in the export; a vault with others is not what it describes.
        if vault is None or vault.logs != self._imported.get(vault_id, 0) or not vault.head:
            self._skip(f"vault {vault_id}: it has logs of its own, so the snapshot was left out")
            return
        try:
            await self._owner.snapshots.put(
                self._user_id, vault_id, line.snapshot_id, vault.head, parts, line.key_epoch, None
            )
        except SnapshotExists:
            return
        self.result.snapshots += 1


async def _split_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Lines without their line feed.

    Raises:
        BadImport: a line is longer than `MAX_LINE_BYTES`.
    """
    rest = bytearray()
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            rest += chunk[start:end]
            yield bytes(rest)
            rest.clear()
            start = end + 1
        rest += chunk[start:]
        if len(rest) > MAX_LINE_BYTES:
            raise BadImport("A line is too long")
    if rest:
        yield bytes(rest)


def _line(line: Line) -> bytes:
    return _encode(line) + b"\n"


__all__ = ["Exporter", "ImportResult", "Importer"]
