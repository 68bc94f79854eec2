"""Checks all that the server promises about its logs, without any key: numbers without gaps, chains that match, counters that
are right, and contents that match where the dedupe key is made of them. Reads in chunks, so it works beside a running server
and needs one bit of memory for each log of one account.

A stream is read again under its head: what was pushed meanwhile is beyond the head that was noted first, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hapta.db.database import Database, ReadTx
from hapta.sync import inspection, store
from hapta.sync.models import Stream, Vault, content_key_of_bytes, extend_chain

CHUNK = 2_000
CONTENT_BYTES = 8 * 1024 * 1024
"""Of logs that are read at once to be hashed."""
MAX_PROBLEMS = 1_000

_Row = tuple[int, bytes, int, bytes, int]
"""(sequence, dedupe key, counted size, chain, measured size)."""


@dataclass(slots=True)
class Report:
    """What was looked at, and a sentence for each thing that is wrong."""

    streams: int = 0
    vaults: int = 0
    logs: int = 0
    problems: list[str] = field(default_factory=lambda: list[str]())

    def note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


async def verify(db: Database) -> Report:
    """Checks every stream. A stream that changes its shape meanwhile (a vault deleted, logs removed) is looked at again.

    Raises:
        Unavailable: the database is away.
    """
    report = Report()
    after = ""
    while True:
        ids = await db.read(lambda tx, after=after: store.stream_ids(tx, after, 500))
        for stream_id in ids:
            await _verify_stream(db, stream_id, report)
        if len(ids) < 500:
            return report
        after = ids[-1]


async def _verify_stream(db: Database, stream_id: str, report: Report) -> None:
    found = Report()
    for _ in range(5):
        found = Report()
        before = await db.read(lambda tx: inspection.shape(tx, stream_id))
        if before is None:
            return
        await _Check(db, before, found).run()
        after = await db.read(lambda tx: inspection.shape(tx, stream_id))
        if after is not None and not before.changed_in(after):
            break
    report.streams += 1
    report.vaults += found.vaults
    report.logs += found.logs
    for problem in found.problems:
        report.note(problem)


class _Check:
    """One look at one stream, up to the heads that `shape` holds."""

    def __init__(self, db: Database, shape: inspection.Shape, report: Report) -> None:
        self._db = db
        self._stream: Stream = shape.stream
        self._shape = shape
        self._report = report
        self._seen = bytearray(self._stream.last_sequence // 8 + 1)

    def _note(self, problem: str) -> None:
        self._report.note(f"account {self._stream.id}: {problem}")

    async def run(self) -> None:
        live_logs = live_bytes = rows = 0
        for vault in self._shape.vaults:
            logs, size = await self._live(vault)
            others = self._shape.other_bytes.get(vault.vault_no, 0)
            if vault.logs != logs:
                self._note(f"vault {vault.vault_id} counts {vault.logs} logs and has {logs}")
            if vault.bytes != size + others:
                self._note(f"vault {vault.vault_id} counts {vault.bytes} bytes and has {size + others}")
            live_logs, live_bytes, rows = live_logs + logs, live_bytes + size + others, rows + logs
        for vault_no in self._shape.deleted:
            rows += await self._deleted(vault_no)
        stream = self._stream
        if stream.kind != "gone":
            if stream.logs != live_logs:
                self._note(f"the account counts {stream.logs} logs and has {live_logs}")
            if stream.bytes != live_bytes:
                self._note(f"the account counts {stream.bytes} bytes and has {live_bytes}")
        missing = stream.last_sequence - rows - stream.removed
        if missing:
            self._note(f"{missing} of {stream.last_sequence} sequence numbers are unaccounted for")
        self._report.vaults += len(self._shape.vaults)
        self._report.logs += live_logs

    async def _live(self, vault: Vault) -> tuple[int, int]:
        chain, sequence, logs, size = vault.base_chain, vault.removed_upto, 0, 0
        while True:
            rows = await self._rows(vault.vault_no, sequence, vault.head)
            for sequence, key, row_size, stored_chain, measured in rows:
                chain = extend_chain(chain, key, sequence)
                if chain != stored_chain:
                    self._note(f"vault {vault.vault_id}: the chain breaks at sequence {sequence}")
                    chain = stored_chain  # tell of each break once
                if row_size != measured:
                    self._note(f"vault {vault.vault_id}: the log {sequence} is {measured} bytes, not {row_size}")
                self._mark(sequence)
                logs += 1
                size += row_size
            await self._contents(vault, rows)
            if len(rows) < CHUNK:
                break
        if chain != vault.chain:
            self._note(f"vault {vault.vault_id}: the chain at its head does not match its logs")
        if sequence != vault.head:
            self._note(f"vault {vault.vault_id}: the head is {vault.head}, the last log {sequence}")
        beyond = await self._db.read(lambda tx: inspection.rows_outside(tx, self._stream.id, vault))
        if beyond:
            self._note(f"vault {vault.vault_id}: {beyond} logs stand before the removed range")
        return logs, size

    async def _contents(self, vault: Vault, rows: Sequence[_Row]) -> None:
        """Compares logs without a client's id with the key that their content once gave: a changed byte shows here."""
        for first, last in _runs([(row[0], row[4]) for row in rows if row[1][:1] == b"\0"]):
            found = await self._db.read(
                lambda tx, first=first, last=last: inspection.contents(tx, self._stream.id, vault.vault_no, first, last)
            )
            for sequence, key, stamp, nonce, data in found:
                if content_key_of_bytes(stamp, nonce, data) != key:
                    self._note(
                        f"vault {vault.vault_id}: the content of the log {sequence} does not match its dedupe key"
                    )

    async def _deleted(self, vault_no: int) -> int:
        sequence = count = 0
        while True:
            rows = await self._rows(vault_no, sequence, self._stream.last_sequence)
            for sequence, *_ in rows:
                self._mark(sequence)
            count += len(rows)
            if len(rows) < CHUNK:
                return count

    async def _rows(self, vault_no: int, after: int, upto: int) -> list[_Row]:
        async def body(tx: ReadTx) -> list[_Row]:
            return await inspection.rows(tx, self._stream.id, vault_no, after, upto, CHUNK)

        return await self._db.read(body)

    def _mark(self, sequence: int) -> None:
        if not 0 < sequence <= self._stream.last_sequence:
            self._note(f"sequence {sequence} is beyond the head {self._stream.last_sequence}")
            return
        index, bit = sequence >> 3, 1 << (sequence & 7)
        if self._seen[index] & bit:
            self._note(f"sequence {sequence} was given out twice")
        self._seen[index] |= bit


def _runs(logs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first, last) of the ranges in which (sequence, size) in order fit into `CONTENT_BYTES`; a larger log stands alone."""
    first = last = total = 0
    for sequence, size in logs:
        if total and total + size > CONTENT_BYTES:
            yield first, last
            total = 0
        first = first if total else sequence
        last, total = sequence, total + size
    if total:
        yield first, last
