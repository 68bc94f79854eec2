"""A vault's local state: one SQLite file with the merged rows, the outbox, the cursor and the clock.

Merge rule: every (table, row, column) is a register that keeps the write with the highest stamp; a delete is a write to
the row itself and hides every column written before it. Both are maxima, so the order of arrival does not matter.
Invariants: whatever changes together is written in one transaction, so a kill at any point leaves a state that was true;
ciphertexts stay in the outbox, unchanged, until the server has acknowledged them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from hapta.client.envelope import SealedLog

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE cells(
    tbl TEXT NOT NULL, row TEXT NOT NULL, col TEXT NOT NULL, -- col '' is the row's delete
    stamp TEXT NOT NULL, log_id TEXT NOT NULL, value TEXT, blob BLOB,
    PRIMARY KEY (tbl, row, col));
CREATE INDEX cells_by_log ON cells(log_id);
CREATE TABLE outbox(
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, encrypted_data TEXT NOT NULL,
    nonce TEXT NOT NULL, haex_timestamp TEXT NOT NULL, key_epoch INTEGER NOT NULL, attempted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE own(sequence INTEGER PRIMARY KEY, dedupe BLOB NOT NULL);
CREATE TABLE seen(log_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE quarantine(
    sequence INTEGER PRIMARY KEY, id TEXT, encrypted_data TEXT NOT NULL, nonce TEXT NOT NULL,
    haex_timestamp TEXT NOT NULL, key_epoch INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE files(
    path TEXT PRIMARY KEY, disk TEXT NOT NULL, stamp TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, mode INTEGER NOT NULL, sha256 TEXT NOT NULL, seen TEXT NOT NULL) WITHOUT ROWID;
"""
DELETED = ""
"""The column name under which a row's delete is kept."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One register: who wrote it last, and what. `value` is JSON text, `blob` bytes; a delete may carry a note."""

    table: str
    row: str
    column: str
    stamp: str
    log_id: str
    value: str | None
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An outbox entry: sealed once, sent as often as needed."""

    position: int
    log: SealedLog
    attempted: bool


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file of the synced folder as it was when it was last equal to a version in the vault."""

    path: str
    disk: str
    """Its name on this disk; differs from `path` where the disk spells accents in another way."""
    stamp: str
    """The version's stamp: what the next local edit is based on."""
    size: int
    mtime_ns: int
    """0 when the file was too fresh to tell later changes by its time."""
    inode: int
    mode: int
    sha256: str
    seen: str
    """Stamps of the versions that this one was made from, as a JSON list."""


class Store:
    """The local database of one vault. Methods are small and synchronous; a lock lets worker threads share it.

    Args:
        path: the SQLite file; its directory is made with mode 0700, the file gets 0600.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        private_dir(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.RLock()
        self._depth = 0
        # Autocommit mode: transactions are opened by `transaction` alone, never by the driver's own idea.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._migrate()

    def _migrate(self) -> None:
        with self.transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise RuntimeError(f"{self.path} was written by a newer version of Hapta")
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        """Everything inside is written together or not at all; nested uses join the outer one."""
        with self._lock:
            if self._depth:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            else:
                self._db.execute("COMMIT")
            finally:
                self._depth = 0

    # --- small values ---

    def get(self, key: str, default: str = "") -> str:
        with self._lock:
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if found is None else str(found[0])

    def set(self, **values: str | int) -> None:
        with self.transaction():
            self._db.executemany(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [(key, str(value)) for key, value in values.items()],
            )

    # --- merged rows ---

    def cell(self, table: str, row: str, column: str) -> Cell | None:
        with self._lock:
            found = self._db.execute(
                "SELECT tbl, row, col, stamp, log_id, value, blob FROM cells WHERE tbl = ? AND row = ? AND col = ?",
                (table, row, column),
            ).fetchone()
        return None if found is None else Cell(*found)

    def row(self, table: str, row: str) -> dict[str, Cell]:
        """The visible columns of a row, and its delete under `DELETED` when it has one."""
        with self._lock:
            found = self._db.execute(
                "SELECT tbl, row, col, stamp, log_id, value, blob FROM cells WHERE tbl = ? AND row = ?", (table, row)
            ).fetchall()
        return {cell.column: cell for cell in (Cell(*values) for values in found)}

    def rows(self, table: str) -> list[str]:
        """Keys of the rows that have at least one visible column."""
        with self._lock:
            found = self._db.execute(
                "SELECT DISTINCT row FROM cells WHERE tbl = ? AND col <> '' ORDER BY row", (table,)
            ).fetchall()
        return [str(values[0]) for values in found]

    def tables(self) -> list[str]:
        with self._lock:
            found = self._db.execute("SELECT DISTINCT tbl FROM cells WHERE col <> '' ORDER BY tbl").fetchall()
        return [str(values[0]) for values in found]

    def cells(self) -> Iterator[Cell]:
        """Every register, deletes too, in a stable order; for snapshots and re-pushing."""
        with self._lock:
            keys = self._db.execute("SELECT tbl, row, col FROM cells ORDER BY tbl, row, col").fetchall()
        for table, row, column in keys:
            cell = self.cell(table, row, column)
            if cell is not None:
                yield cell

    def merge(self, cell: Cell) -> bool:
        """Applies one write; True when it won."""
        with self.transaction():
            deleted = self.cell(cell.table, cell.row, DELETED)
            if deleted is not None and deleted.stamp >= cell.stamp:
                return False
            current = deleted if cell.column == DELETED else self.cell(cell.table, cell.row, cell.column)
            if current is not None and current.stamp >= cell.stamp:
                return False
            self._db.execute(
                "INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tbl, row, col) DO UPDATE SET"
                " stamp = excluded.stamp, log_id = excluded.log_id, value = excluded.value, blob = excluded.blob",
                (cell.table, cell.row, cell.column, cell.stamp, cell.log_id, cell.value, cell.blob),
            )
            if cell.column == DELETED:
                # What the delete outranks can never be seen again: later writes bring their own values.
                self._db.execute(
                    "DELETE FROM cells WHERE tbl = ? AND row = ? AND col <> '' AND stamp < ?",
                    (cell.table, cell.row, cell.stamp),
                )
            return True

    # --- outbox ---

    def enqueue(self, log: SealedLog) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO outbox(id, encrypted_data, nonce, haex_timestamp, key_epoch) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO NOTHING",
                (log.id, log.encrypted_data, log.nonce, log.haex_timestamp, log.key_epoch),
            )

    def waiting(self, limit: int, max_bytes: int) -> list[Waiting]:
        """The oldest outbox entries, up to `limit` and about `max_bytes`, at least one when there is one."""
        with self._lock:
            cursor = self._db.execute(
                "SELECT position, id, encrypted_data, nonce, haex_timestamp, key_epoch, attempted FROM outbox"
                " ORDER BY position LIMIT ?",
                (limit,),
            )
            taken: list[Waiting] = []
            total = 0
            for position, *fields, attempted in cursor:
                total += len(fields[1])
                if taken and total > max_bytes:
                    break
                taken.append(Waiting(position, SealedLog(*fields), bool(attempted)))
        return taken

    def mark_attempted(self, positions: Iterable[int], attempted: bool = True) -> None:
        """Remembers that these may have reached the server although no answer came back."""
        with self.transaction():
            self._db.executemany(
                "UPDATE outbox SET attempted = ? WHERE position = ?", [(int(attempted), each) for each in positions]
            )

    def acknowledge(self, entries: Iterable[tuple[str, int, bytes]]) -> None:
        """Takes acknowledged logs out of the outbox: (id, the server's sequence, dedupe key)."""
        cursor = int(self.get("cursor", "0"))
        with self.transaction():
            for log_id, sequence, dedupe in entries:
                self._db.execute("DELETE FROM outbox WHERE id = ?", (log_id,))
                if sequence > cursor:
                    self._db.execute("INSERT OR REPLACE INTO own VALUES (?, ?)", (sequence, dedupe))

    def outbox_size(self) -> int:
        return self._count("SELECT count(*) FROM outbox")

    def unsettled(self) -> int:
        """Outbox entries that the server may already have."""
        return self._count("SELECT count(*) FROM outbox WHERE attempted = 1")

    def in_outbox(self, log_id: str) -> bool:
        return self._count("SELECT count(*) FROM outbox WHERE id = ?", log_id) > 0

    # --- history ---

    def own_between(self, after: int, upto: int) -> list[tuple[int, bytes]]:
        """Our acknowledged logs with `after < sequence <= upto`: pulls may leave them out, the chain does not."""
        with self._lock:
            return self._db.execute(
                "SELECT sequence, dedupe FROM own WHERE sequence > ? AND sequence <= ? ORDER BY sequence", (after, upto)
            ).fetchall()

    def forget_own(self, upto: int) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM own WHERE sequence <= ?", (upto,))

    def start_over(self, epoch: str) -> None:
        """A new server epoch: keep the data, forget what was known about the server (docs/sync.md, restore)."""
        with self.transaction():
            self._db.execute("DELETE FROM own")
            self._db.execute("DELETE FROM seen")
            self._db.execute("DELETE FROM quarantine")
            self.set(cursor=0, chain="", chained=0, epoch=epoch, first_sync_done=0, forked=0, resync=1)

    def see(self, log_ids: Iterable[str]) -> None:
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", [(log_id,) for log_id in log_ids])

    def unseen_cells(self) -> list[tuple[str, str, str]]:
        """Registers whose log the server does not have any more."""
        with self._lock:
            return self._db.execute(
                "SELECT tbl, row, col FROM cells c WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.log_id = c.log_id)"
                " AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.id = c.log_id) ORDER BY stamp, tbl, row, col"
            ).fetchall()

    def clear_seen(self) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM seen")

    # --- quarantine ---

    def set_aside(self, sequence: int, log: SealedLog, reason: str) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)",
                (sequence, log.id, log.encrypted_data, log.nonce, log.haex_timestamp, log.key_epoch, reason),
            )

    def quarantined(self) -> list[tuple[int, SealedLog, str]]:
        with self._lock:
            found = self._db.execute(
                "SELECT sequence, id, encrypted_data, nonce, haex_timestamp, key_epoch, reason FROM quarantine"
                " ORDER BY sequence"
            ).fetchall()
        return [(sequence, SealedLog(*fields), reason) for sequence, *fields, reason in found]

    def release(self, sequence: int) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM quarantine WHERE sequence = ?", (sequence,))

    # --- folder ---

    def files(self) -> dict[str, LocalFile]:
        """What the synced folder held when it was last in step, by path."""
        with self._lock:
            found = self._db.execute(
                "SELECT path, disk, stamp, size, mtime_ns, inode, mode, sha256, seen FROM files ORDER BY path"
            ).fetchall()
        return {str(values[0]): LocalFile(*values) for values in found}

    def save_file(self, file: LocalFile) -> None:
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(file))

    def drop_file(self, path: str) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM files WHERE path = ?", (path,))

    def _count(self, statement: str, *values: object) -> int:
        with self._lock:
            return int(self._db.execute(statement, values).fetchone()[0])


def private_dir(path: Path) -> None:
    """Makes a directory (and its missing parents) that only its owner may enter."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(path, 0o700)
