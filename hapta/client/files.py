"""A folder of real files as rows of a vault: table `files` names them, table `chunks` holds their bytes.

A file above `blobs.FROM_BYTES` lies on the server as blobs where it has them, and its rows in `chunks` say which.

One file is one register, keyed by its relative path; the last writer by stamp wins. Each version carries the stamps of
the versions it was made from, so a device can tell "newer than mine" from "made without knowing mine"; in the second
case the device that wrote the losing version keeps it as a conflict copy. Invariants: no byte that a user wrote is lost
by a sync; nothing outside the folder is read or written.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hapta.client.blobs import FROM_BYTES, PIECE_BYTES, FolderBlobs, name_of
from hapta.client.errors import FolderMissing, UnsafePath
from hapta.client.hlc import Stamp
from hapta.client.paths import MARKER, Root, check_path, conflict_name, printable
from hapta.client.store import LocalFile

if TYPE_CHECKING:
    from hapta.client.vault import SyncReport, Vault

FILES, CHUNKS = "files", "chunks"
CHUNK_BYTES = 512 * 1024
"""Plain bytes in a chunk; sealed, padded and in base64 it stays below the server's 1 MiB for a log."""
FRESH_NS = 50_000_000
"""A file younger than this when we looked may change again without its time changing."""

GROUP_BYTES = 8 * 1024 * 1024
Candidate = tuple[str, str, LocalFile | None, int]
"""A file that looks changed: path, name on disk, what was known of it, size."""


class Version(msgspec.Struct, frozen=True):
    """One version of a file: the value of its register."""

    size: int
    mode: int
    sha256: str
    chunks: list[str]
    seen: list[str] = []
    """Stamps of the versions it was made from: the newest of each device."""


class Deletion(msgspec.Struct, frozen=True):
    """What travels with a file's delete."""

    seen: list[str] = []


@dataclass(slots=True)
class FolderReport:
    """What one sync of a folder did; paths are relative."""

    uploaded: list[str] = field(default_factory=list[str])
    downloaded: list[str] = field(default_factory=list[str])
    deleted_here: list[str] = field(default_factory=list[str])
    deleted_there: list[str] = field(default_factory=list[str])
    conflicts: list[str] = field(default_factory=list[str])
    """Conflict copies made by this device."""
    problems: list[str] = field(default_factory=list[str])
    """What could not be synced, a sentence each."""
    bytes_read: int = 0
    bytes_written: int = 0
    logs_pushed: int = 0
    logs_pulled: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.uploaded or self.downloaded or self.deleted_here or self.deleted_there or self.conflicts)


class Folder:
    """A folder kept in a vault. Made by `Vault.folder`.

    Args:
        vault: the opened vault; one folder belongs to it on this device.
        path: the folder.
        device_name: how conflict copies name this device.
    """

    def __init__(self, vault: Vault, path: str | os.PathLike[str], *, device_name: str = "") -> None:
        self.vault = vault
        self.path = Path(path).absolute()
        self.device_name = _safe_label(device_name) or vault.device_id[-8:]
        self.on_progress: Callable[[str, str], None] | None = None
        """Called with `read` or `write` and a path, from a worker thread."""
        self._root = Root(self.path)
        self._name_key = vault.ring.subkey("file chunks")
        self._blobs = FolderBlobs(vault, CHUNKS, self._name_key, self._open_path)

    async def sync(self) -> FolderReport:
        """Brings folder and vault together in both directions.

        Raises:
            FolderMissing: the folder or its marker is gone although files were synced before.
            ServerUnreachable: offline; local changes are kept in the outbox.
        """
        report = FolderReport()
        await asyncio.to_thread(self._prepare)
        await self._blobs.learn()
        await asyncio.to_thread(self._collect, report)
        await self._blobs.send(self._pieces_of)  # before the rows that name them: who reads those finds what they name
        _count(report, await self.vault.sync())
        try:
            await asyncio.to_thread(self._lay_out, report)
        except asyncio.CancelledError:
            self._blobs.stop()
            raise
        await self._blobs.send(self._pieces_of)
        if self.vault.store.outbox_size():
            _count(report, await self.vault.sync())
        report.problems = sorted(set(report.problems))
        return report

    async def collect(self) -> FolderReport:
        """Takes local changes into the outbox without talking to the server: what `sync` does first."""
        report = FolderReport()
        await asyncio.to_thread(self._prepare)
        await asyncio.to_thread(self._collect, report)
        return report

    def fingerprint(self) -> int:
        """A number that changes when the folder's files do; for systems without notices of changes."""
        states: list[tuple[str, int, int]] = []
        with contextlib.suppress(OSError, UnsafePath):
            states = [(path, state.st_size, state.st_mtime_ns) for path, state in self._root.files(lambda _: None)]
        return hash(tuple(sorted(states)))

    async def watch(self, on_sync: Callable[[FolderReport | Exception], None], stop: asyncio.Event) -> None:
        """Syncs on every local change and every hint of the server until `stop` is set; see `live.watch_folder`."""
        from hapta.client.live import watch_folder

        await watch_folder(self, on_sync, stop)

    # --- folder -> vault ---

    def _prepare(self) -> None:
        marker = self.path / MARKER
        known = self.vault.store.get("folder")
        if known and known != str(self.path):
            raise FolderMissing(f"This vault is synced with {known} on this device")
        if known and self.vault.store.files() and not marker.exists():
            raise FolderMissing(f"{self.path}: the folder or its marker {MARKER} is missing; nothing was deleted")
        self.path.mkdir(parents=True, exist_ok=True)
        if marker.exists():
            if marker.read_text("utf-8").strip() != self.vault.id:
                raise FolderMissing(f"{self.path} is synced with another vault")
        else:
            marker.write_text(self.vault.id + "\n", "utf-8")
        self.vault.store.set(folder=str(self.path))

    def _collect(self, report: FolderReport) -> None:
        known = self.vault.store.files()
        found: set[str] = set()
        changed: list[Candidate] = []
        for disk, state in self._root.files(report.problems.append):
            path = unicodedata.normalize("NFC", disk)
            if disk == MARKER:
                continue
            try:
                check_path(path)
            except UnsafePath as error:
                report.problems.append(f"{printable(disk)}: {error.message}")
                continue
            base = known.get(path)
            if path in found or (base is not None and base.disk != disk and self._stat(base.disk) is not None):
                report.problems.append(f"{printable(disk)}: another file has the same name in Unicode's normal form")
                continue
            found.add(path)
            if base is None or disk != base.disk or not _same_state(base, state):
                changed.append((path, disk, base, state.st_size))
        for group in _groups(changed):
            # Small files share a transaction; one that is large on its own is taken piece by piece.
            with self.vault.batch() if len(group) > 1 else contextlib.nullcontext():
                for path, disk, base, _ in group:
                    self._take(path, disk, base, report)
        for path in sorted(known.keys() - found):
            self._take_deletion(known[path], report)

    def _take(self, path: str, disk: str, base: LocalFile | None, report: FolderReport) -> bool:
        """Takes one local file into the vault if its content or mode is new; True when it still is what `base` says."""
        try:
            read = self._read(disk, report)
        except OSError as error:
            report.problems.append(f"{printable(disk)}: {error.strerror}")
            return False
        if read is None:
            report.problems.append(f"{printable(disk)}: changing while it was read; the next sync takes it")
            return False
        version, state = read
        current = self._current(path)
        if base is not None and (base.sha256, base.mode) == (version.sha256, version.mode):
            self._remember(path, disk, Stamp.from_key(base.stamp), version, state, base.seen)
            return True
        if base is None and current is not None and _content(current[0]) == _content(version):
            # The same file came here by another way: nothing to say, only to remember.
            self._remember(path, disk, current[1], version, state, _encode_seen(current[0].seen))
            return False
        seen = [] if base is None else _merged_seen(base)
        if base is None:
            tombstone = self.vault.stamp(FILES, path)
            seen = [] if tombstone is None or current is not None else self._deletion_seen(path, tombstone)
        with self.vault.batch():
            version = replace_seen(version, seen)
            stamp = self.vault.put(FILES, path, {"meta": msgspec.to_builtins(version)})
            self._remember(path, disk, stamp, version, state, _encode_seen(seen))
            if self._blobs.holds_any(version.chunks):
                self._blobs.note([path])
        report.uploaded.append(path)
        return False

    def _take_deletion(self, base: LocalFile, report: FolderReport) -> None:
        state = self._stat(base.disk)
        if state is not None and not stat.S_ISDIR(state.st_mode):
            return  # it became a link or a pipe: not synced, but not deleted either
        current = self._current(base.path)
        with self.vault.batch():
            self.vault.store.drop_file(base.path)
            if current is None or current[1].key != base.stamp:
                return  # changed elsewhere meanwhile: the newer version comes back when the folder is laid out
            self.vault.delete(FILES, base.path, note={"seen": _merged_seen(base)})
        report.deleted_there.append(base.path)

    def _read(self, disk: str, report: FolderReport) -> tuple[Version, os.stat_result] | None:
        """Reads a file into chunk rows; None when it changed under our hands or is no regular file."""
        if self.on_progress is not None:
            self.on_progress("read", disk)
        descriptor = self._root.open(tuple(disk.split("/")))
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                return None
            digest, names, size = hashlib.sha256(), list[str](), 0
            as_blobs = before.st_size > FROM_BYTES and self._blobs.offered
            while piece := _read_full(file.fileno(), PIECE_BYTES if as_blobs else CHUNK_BYTES):
                digest.update(piece)
                size += len(piece)
                names.append(self._blobs.name(piece) if as_blobs else self._store_chunk(piece))
            after = os.fstat(file.fileno())
        report.bytes_read += size
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
            return None
        return Version(size, after.st_mode & 0o777, digest.hexdigest(), names), after

    def _store_chunk(self, piece: bytes) -> str:
        # Named by a keyed hash: equal chunks are stored once, and nobody without the key can tell what they hold.
        name = name_of(self._name_key, piece)
        if self.vault.stamp(CHUNKS, name, "data") is None:
            self.vault.put(CHUNKS, name, {"data": piece})
        return name

    # --- vault -> folder ---

    def _lay_out(self, report: FolderReport) -> None:
        known = self.vault.store.files()
        for path in sorted(known.keys() | set(self.vault.rows(FILES))):
            try:
                check_path(path)
                self._lay_out_one(path, known.get(path), report)
            except UnsafePath as error:
                report.problems.append(f"{printable(path)}: {error.message}")
            except OSError as error:
                reason = "a link or a file stands where a directory is needed" if _is_blocked(error) else error.strerror
                report.problems.append(f"{printable(path)}: {reason}")

    def _lay_out_one(self, path: str, base: LocalFile | None, report: FolderReport) -> None:
        current = self._current(path)
        if base is not None and current is not None and current[1].key == base.stamp:
            return
        if base is None and current is None:
            return
        if self._edited_meanwhile(path, base, report):
            return
        if current is None:
            if base is not None:
                self._remove(path, base, report)
            return
        version, stamp = current
        if base is not None and _content(version) == (base.sha256, base.mode):
            adopted = replace(base, stamp=stamp.key, seen=_encode_seen(version.seen))
            self.vault.store.save_file(adopted)
            return
        missing = self._blobs.absent(version.chunks)
        if missing:
            report.problems.append(f"{printable(path)}: {len(missing)} parts of it have not arrived")
            return
        if base is not None and base.sha256 != version.sha256 and self._lost(base, version.seen, stamp):
            self._keep_copy(base, report)
        self._write(path, base, version, stamp, report)

    def _edited_meanwhile(self, path: str, base: LocalFile | None, report: FolderReport) -> bool:
        """Takes an edit made since the scan, before anything is laid over it; True when there was one."""
        disk = path if base is None else base.disk
        state = self._stat(disk)
        if state is None or stat.S_ISDIR(state.st_mode):
            return False
        if base is not None and _same_state(base, state):
            return False
        return not self._take(path, disk, base, report)

    def _remove(self, path: str, base: LocalFile, report: FolderReport) -> None:
        tombstone = self.vault.stamp(FILES, path)
        note = self.vault.deletion_note(FILES, path)
        seen = _deletion(note).seen
        if tombstone is not None and self._lost(base, seen, tombstone):
            self._keep_copy(base, report)
        self._root.remove(tuple(base.disk.split("/")))
        self.vault.store.drop_file(path)
        report.deleted_here.append(path)

    def _write(self, path: str, base: LocalFile | None, version: Version, stamp: Stamp, report: FolderReport) -> None:
        if self.on_progress is not None:
            self.on_progress("write", path)
        disk = path if base is None else base.disk
        parts = tuple(disk.split("/"))
        expected = self._stat(disk)

        def untouched() -> bool:
            now = self._stat(disk)
            return _identity(now) == _identity(expected)

        state = self._root.write(parts, self._content(version), version.mode, untouched)
        if state is None:
            report.problems.append(f"{printable(path)}: edited at this moment; the next sync takes it")
            return
        self._remember(path, disk, stamp, version, state, _encode_seen(version.seen))
        report.bytes_written += version.size
        report.downloaded.append(path)

    def _content(self, version: Version) -> Iterator[bytes]:
        """The bytes of a version, checked against its hash at the end, before the file is put in place."""
        digest = hashlib.sha256()
        for name in version.chunks:
            row = self.vault.get(CHUNKS, name) or {}
            piece = row.get("data")
            if not isinstance(piece, bytes):
                piece = self._blobs.fetch(name)
            digest.update(piece)
            yield piece
        if digest.hexdigest() != version.sha256:
            raise OSError(errno.EIO, "its parts do not add up to the file that was named")

    def _open_path(self, path: str) -> int:
        base = self.vault.store.files().get(path)
        return self._root.open(tuple((path if base is None else base.disk).split("/")))

    def _pieces_of(self, path: str) -> list[str]:
        """The names of the pieces of a file as it is in the vault."""
        try:
            current = self._current(path)
        except UnsafePath:
            return []
        return [] if current is None else current[0].chunks

    # --- conflicts ---

    def _lost(self, base: LocalFile, winner_seen: list[str], winner: Stamp) -> bool:
        """Whether the local version is ours and the winner was made without knowing it."""
        ours = Stamp.from_key(base.stamp)
        if ours.node != self._node:
            return False
        known = [Stamp.parse(text) for text in winner_seen] + [winner]
        return not any(stamp.node == ours.node and stamp.time >= ours.time for stamp in known)

    def _keep_copy(self, base: LocalFile, report: FolderReport) -> None:
        """Keeps the losing version as a file of its own, here and, by the vault, on every device."""
        when = datetime.fromtimestamp(Stamp.from_key(base.stamp).unix_seconds, UTC)
        names = set(self.vault.rows(FILES))
        copy = conflict_name(
            base.path,
            self.device_name,
            f"{when:%Y-%m-%d %H.%M.%S}",
            lambda name: name in names or self._stat(name) is not None,
        )
        with os.fdopen(self._root.open(tuple(base.disk.split("/"))), "rb") as source:
            pieces = iter(lambda: source.read(CHUNK_BYTES), b"")
            self._root.write(check_path(copy), pieces, base.mode)
        self._take(copy, copy, None, report)
        report.conflicts.append(copy)

    # --- helpers ---

    @property
    def _node(self) -> int:
        return self.vault.node

    def _current(self, path: str) -> tuple[Version, Stamp] | None:
        """The version in the vault and its stamp, or None when there is none."""
        row = self.vault.get(FILES, path)
        stamp = self.vault.stamp(FILES, path, "meta")
        if row is None or stamp is None:
            return None
        try:
            return msgspec.convert(row.get("meta"), Version), stamp
        except msgspec.ValidationError as error:
            raise UnsafePath("Its entry in the vault is not one of a file") from error

    def _deletion_seen(self, path: str, tombstone: Stamp) -> list[str]:
        return newest_of_each([*_deletion(self.vault.deletion_note(FILES, path)).seen, str(tombstone)])

    def _stat(self, disk: str) -> os.stat_result | None:
        return self._root.stat(tuple(disk.split("/")))

    def _remember(self, path: str, disk: str, stamp: Stamp, version: Version, state: os.stat_result, seen: str) -> None:
        fresh = time.time_ns() - state.st_mtime_ns < FRESH_NS
        self.vault.store.save_file(
            LocalFile(
                path=path,
                disk=disk,
                stamp=stamp.key,
                size=state.st_size,
                mtime_ns=0 if fresh else state.st_mtime_ns,
                inode=state.st_ino,
                mode=version.mode,
                sha256=version.sha256,
                seen=seen,
            )
        )


def _groups(candidates: list[Candidate]) -> Iterator[list[Candidate]]:
    """Cuts candidates into groups of at most 64 files and `GROUP_BYTES` together."""
    group: list[Candidate] = []
    size = 0
    for candidate in candidates:
        if group and (len(group) == 64 or size + candidate[3] > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(candidate)
        size += candidate[3]
    if group:
        yield group


def newest_of_each(stamps: list[str]) -> list[str]:
    """The newest stamp of every device among `stamps`."""
    newest: dict[int, Stamp] = {}
    for text in stamps:
        with contextlib.suppress(ValueError):
            stamp = Stamp.parse(text)
            newest[stamp.node] = max(stamp, newest.get(stamp.node, stamp))
    return [str(newest[node]) for node in sorted(newest)]


def replace_seen(version: Version, seen: list[str]) -> Version:
    return msgspec.structs.replace(version, seen=seen)


def _merged_seen(base: LocalFile) -> list[str]:
    """What an edit of `base` has seen: what base had seen, and base itself."""
    return newest_of_each([*msgspec.json.decode(base.seen, type=list[str]), str(Stamp.from_key(base.stamp))])


def _encode_seen(seen: list[str]) -> str:
    return msgspec.json.encode(seen).decode()


def _deletion(note: object) -> Deletion:
    try:
        return msgspec.convert(note or {}, Deletion)
    except msgspec.ValidationError:
        return Deletion()


def _content(version: Version) -> tuple[str, int]:
    return version.sha256, version.mode


def _same_state(base: LocalFile, state: os.stat_result) -> bool:
    return (base.size, base.mtime_ns, base.inode, base.mode) == (
        state.st_size,
        state.st_mtime_ns,
        state.st_ino,
        state.st_mode & 0o777,
    ) and stat.S_ISREG(state.st_mode)


def _identity(state: os.stat_result | None) -> tuple[int, int, int] | None:
    return None if state is None else (state.st_ino, state.st_size, state.st_mtime_ns)


def _read_full(descriptor: int, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file: chunk borders must not depend on how reads fall."""
    pieces: list[bytes] = []
    while size:
        piece = os.read(descriptor, size)
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _is_blocked(error: OSError) -> bool:
    return error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST)


def _safe_label(name: str) -> str:
    return "".join(each for each in name if each.isalnum() or each in "-_ ")[:32].strip()


def _count(report: FolderReport, sync: SyncReport) -> None:
    report.logs_pushed += sync.pushed
    report.logs_pulled += sync.pulled
    if sync.quarantined:
        report.problems.append(f"{sync.quarantined} logs could not be decrypted and were set aside")
