"""The system calls of a store in a folder: everything here blocks and runs on a thread of `DiskBlobs`.

The order of the calls is what makes a crash harmless: contents, their flush, the name, the flush of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from hapta.blobs import disk_cached
from hapta.blobs.blobs import Stat
from hapta.blobs.disk_ahead import FlushAhead

READ_BYTES = 256 * 1024
READ_AT_ONCE = 4
"""Pieces of `READ_BYTES` that one trip to a thread reads."""
MAX_VECTOR = 512
"""Pieces that one system call writes; the least that systems promise is 1024 (IOV_MAX)."""
SHARDS = tuple(f"{number:02x}" for number in range(256))
MARK = "this-is-a-store-of-hapta"
"""A file in the folder. Where it is missing, what is missing beside it is not gone but away: a disk that is not mounted."""
TRIES = 20
"""How often a folder is made again that somebody else removes at this moment because it is empty."""


class Missing(Exception):
    """There is no such file."""


class Busy(Exception):
    """Another piece is being written to this file."""


class Elsewhere(Exception):
    """A piece begins elsewhere than the file ends."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Tree:
    """The folders and their rules; shared by all threads, and by all processes that use the same folder."""

    def __init__(self, root: Path, flush: bool) -> None:
        self.root = str(root.absolute())
        self.flush = flush

    def begin(self) -> None:
        """Makes the folder where there is none."""
        os.makedirs(f"{self.root}/temp", 0o700, exist_ok=True)
        os.close(os.open(f"{self.root}/{MARK}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.flush_folder(self.root)

    def is_there(self) -> None:
        """To be asked before something counts as missing."""
        if not os.path.exists(f"{self.root}/{MARK}"):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def object(self, key: str) -> str:
        return self._path("objects", key)

    def incoming(self, key: str) -> str:
        return self._path("incoming", key)

    def temp(self, name: str) -> str:
        return f"{self.root}/temp/{name}"

    def _path(self, kind: str, key: str) -> str:
        return f"{self.root}/{kind}/{shard_of(key)}/{key}"

    # -- names ------------------------------------------------------------------------------------------------------------

    def named(self, source: str, target: str) -> None:
        """Gives a finished file its place, for good once this comes back."""
        self.in_folder(target, lambda: os.rename(source, target))
        self.flush_folder(os.path.dirname(target))

    def in_folder(self, path: str, work: Callable[[], object]) -> None:
        """Does what needs the folder of `path`, which is made when it is not there."""
        for _ in range(TRIES):
            try:
                work()
            except FileNotFoundError:
                self._make_folder(os.path.dirname(path))
            else:
                return
        raise OSError(errno.EAGAIN, "the folder goes as often as it is made")

    def _make_folder(self, folder: str) -> None:
        self.is_there()
        wanted = [folder]
        while wanted:
            try:
                os.mkdir(wanted[-1], 0o700)
            except FileNotFoundError:
                wanted.append(os.path.dirname(wanted[-1]))
                continue
            except FileExistsError:
                pass  # somebody else made it, and may not have flushed it yet
            self.flush_folder(os.path.dirname(wanted.pop()))

    def flush_folder(self, folder: str) -> None:
        if not self.flush:
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return  # removed meanwhile, and with it what was to last
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def flush_file(self, descriptor: int) -> None:
        if self.flush:
            os.fsync(descriptor)

    # -- objects ----------------------------------------------------------------------------------------------------------

    def stat(self, key: str) -> Stat | None:
        try:
            found = os.stat(self.object(key))
        except (FileNotFoundError, NotADirectoryError):
            self.is_there()
            return None
        return Stat(key, found.st_size, found.st_mtime_ns // 1_000_000)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._remove(self.object(key))

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            self.is_there()
            return
        shards = f"{self.root}/objects", f"{self.root}/incoming"
        folder = os.path.dirname(path)
        while os.path.dirname(folder) not in shards:
            try:
                os.rmdir(folder)
            except OSError:
                return  # not empty any more, which is the usual case
            folder = os.path.dirname(folder)

    # -- uploads in pieces ------------------------------------------------------------------------------------------------

    def appended(self, key: str) -> int:
        try:
            descriptor = os.open(self.incoming(key), os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            self.is_there()
            return 0
        try:
            # A writer that was killed left what it had written to the system, but perhaps not to the disk.
            self.flush_file(descriptor)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def complete(self, key: str) -> int:
        source, target = self.incoming(key), self.object(key)
        try:
            descriptor = os.open(source, os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return self._completed_before(key)
        try:
            lock(descriptor)
            if not is_at(descriptor, source):
                return self._completed_before(key)
            self.flush_file(descriptor)
            size = os.fstat(descriptor).st_size
            try:
                self.named(source, target)
            except OSError:
                if os.path.exists(source):
                    raise
                return self._completed_before(key)
        finally:
            os.close(descriptor)
        self.flush_folder(os.path.dirname(source))
        return size

    def _completed_before(self, key: str) -> int:
        found = self.stat(key)
        if found is None:
            raise Missing
        # Whoever did it may have been killed before the folder was flushed.
        self.flush_folder(os.path.dirname(self.object(key)))
        return found.size

    def discard(self, key: str) -> None:
        self._remove(self.incoming(key))

    # -- lists ------------------------------------------------------------------------------------------------------------

    def listed(self, kind: str, folder: str, after: str, limit: int) -> list[Stat]:
        """Files below a folder of keys, in the order of their keys."""
        self.is_there()
        walks = [_walk(f"{self.root}/{kind}/{shard}", folder, after) for shard in SHARDS]
        found: list[Stat] = []
        for key in heapq.merge(*walks):
            if len(found) >= limit:
                break
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                state = os.stat(self._path(kind, key))
                found.append(Stat(key, state.st_size, state.st_mtime_ns // 1_000_000))
        return found

    # -- further ----------------------------------------------------------------------------------------------------------

    def tidy(self, before_ms: int) -> int:
        removed = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{self.root}/temp") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime_ns // 1_000_000 < before_ms:
                        removed += self._tidied(entry.path)
        return removed

    @staticmethod
    def _tidied(path: str) -> bool:
        """Removes a file that nobody writes to."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            os.unlink(path)
            return True
        finally:
            os.close(descriptor)

    def check(self, name: str) -> bool:
        """Writes, reads and removes a file; whether the file system knows reads of what is in memory."""
        path = self.temp(name)
        descriptor = self.create(path)
        try:
            os.write(descriptor, b"check")
            if os.pread(descriptor, 5, 0) != b"check":
                raise OSError(errno.EIO, "the disk does not give back what it took")
            return disk_cached.are_known(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(path)

    def create(self, path: str) -> int:
        """Makes a new file, and opens it."""
        descriptors: list[int] = []
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.in_folder(path, lambda: descriptors.append(os.open(path, flags, 0o600)))
        return descriptors[0]


class _File:
    """An open file that is closed once."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._closing = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._descriptor is not None

    @property
    def descriptor(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._descriptor

    def close(self) -> None:
        with self._closing:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class Put(_File):
    """One object on its way: a file in `temp` until `finish` gives it its name."""

    def __init__(self, tree: Tree, key: str, name: str) -> None:
        super().__init__()
        self._tree = tree
        self._target = tree.object(key)
        self._path = tree.temp(name)
        self._size = 0
        self._ahead = FlushAhead()
        self._named = False

    def write(self, pieces: Sequence[bytes]) -> None:
        if self._descriptor is None:
            self._descriptor = self._tree.create(self._path)
            lock(self._descriptor)  # a clock that is wrong must not make this look like something left behind
        self._size += write_all(self._descriptor, pieces)
        if self._tree.flush:
            self._ahead.written(self._descriptor, self._size)

    def finish(self, pieces: Sequence[bytes]) -> int:
        self.write(pieces)
        self._tree.flush_file(self.descriptor)
        self._tree.named(self._path, self._target)
        self._named = True
        self.close()
        return self._size

    def abandon(self) -> None:
        """Removes what was written, unless it has its name already."""
        self.close()
        if not self._named:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


class Append(_File):
    """One piece of an upload. The lock on the file keeps other pieces out, of this process and of others."""

    def __init__(self, tree: Tree, key: str, offset: int) -> None:
        super().__init__()
        self._tree = tree
        self._path = tree.incoming(key)
        self._size = offset
        self._ahead = FlushAhead(offset)

    def open(self) -> None:
        fresh = False
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._tree.is_there()
            if self._size:
                raise Elsewhere(0) from None
            try:
                self._descriptor = self._tree.create(self._path)
            except FileExistsError:
                raise Busy from None
            fresh = True
        lock(self._descriptor)
        if not is_at(self._descriptor, self._path):
            raise Busy  # completed or discarded since it was opened
        size = os.fstat(self._descriptor).st_size
        if size != self._size:
            raise Elsewhere(size)
        if fresh:
            self._tree.flush_folder(os.path.dirname(self._path))
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def write(self, pieces: Sequence[bytes]) -> None:
        self._size += write_all(self.descriptor, pieces)
        if self._tree.flush:
            self._ahead.written(self.descriptor, self._size)

    def finish(self, pieces: Sequence[bytes]) -> int:
        self.write(pieces)
        self._tree.flush_file(self.descriptor)
        return self._size

    def keep(self) -> None:
        """Makes durable what came of a piece that broke off."""
        if self._descriptor is not None:
            self._tree.flush_file(self._descriptor)


class Reading(_File):
    """One file being read. A short one is read and closed at once."""

    def __init__(self, tree: Tree, path: str, start: int, end: int | None) -> None:
        super().__init__()
        self._tree = tree
        self._path = path
        self._at = max(start, 0)
        self._end = end
        self._pieces: list[bytes] = []
        self.size = 0

    def open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._tree.is_there()
            raise Missing from None
        self.size = os.fstat(self._descriptor).st_size
        self._end = self.size if self._end is None else min(self._end, self.size)
        self._pieces = self.more()

    def first(self) -> list[bytes]:
        """What `open` has read, last piece first."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def more(self) -> list[bytes]:
        """The next pieces, the last one first; the file is closed once there are no further ones."""
        pieces: list[bytes] = []
        end = self.size if self._end is None else self._end
        while self._at < end and len(pieces) < READ_AT_ONCE:
            piece = os.pread(self.descriptor, min(READ_BYTES, end - self._at), self._at)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than it was")
            pieces.append(piece)
            self._at += len(piece)
        if self._at >= end:
            self.close()
        pieces.reverse()
        return pieces


def shard_of(key: str) -> str:
    """The shard of a key: of its folder, so that what lies in one folder of keys lies in one folder of the disk."""
    return blake2b(key.rpartition("/")[0].encode(), digest_size=1).hexdigest()


def lock(descriptor: int) -> None:
    """Keeps every other holder of this file out until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy from None


def is_at(descriptor: int, path: str) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_all(descriptor: int, pieces: Sequence[bytes]) -> int:
    """Writes all the pieces where the file stands; how many bytes."""
    total = sum(map(len, pieces))
    for at in range(0, len(pieces), MAX_VECTOR):
        group = pieces[at : at + MAX_VECTOR]
        size = sum(map(len, group))
        written = os.writev(descriptor, group)
        if written < size:  # a disk that is nearly full, or a signal
            rest = memoryview(b"".join(group))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    return total


def _walk(base: str, folder: str, after: str) -> Iterator[str]:
    """Keys of the files below `base/folder` that are greater than `after`, in order."""
    try:
        with os.scandir(f"{base}/{folder}" if folder else base) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    # A folder sorts by what all keys below it begin with.
    lead = f"{folder}/" if folder else ""
    for name, is_folder in sorted(found, key=lambda each: each[0] + "/" if each[1] else each[0]):
        key = lead + name
        if is_folder:
            below = key + "/"
            if below > after or after.startswith(below):
                yield from _walk(base, key, after)
        elif key > after:
            yield key
