"""Small reads where a call to a thread would cost more than the read: of what is in memory already, and only of that.

Linux answers a read with RWF_NOWAIT (preadv2(2)) from its page cache or not at all, so that the event loop may ask; looking up a
path has no such promise, so that is done here only after a thread has read the file a moment ago. What is asked for yet again is
kept, a few files of it. Invariant: an answer is of the file that has the path now; whatever is unusual is `None`, and goes the
usual way.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

MOST_BYTES = 256 * 1024
"""So much is copied at most: some 40 µs."""
MOST_FILES = 1024
"""So many paths are remembered, at some 200 bytes each."""
MOST_KEPT_BYTES = 2 * 1024 * 1024
"""Of all contents that are kept."""
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)  # elsewhere than on Linux there is none


def are_known(descriptor: int) -> bool:
    """Whether a file system knows this kind of read; those over the network and in memory do not.

    Args:
        descriptor: of an open file that holds some bytes.
    """
    if not _NOWAIT:
        return False
    try:
        os.preadv(descriptor, [bytearray(1)], 0, _NOWAIT)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return True


class _Kept(NamedTuple):
    """The whole of a file, and the state in which it was read."""

    state: tuple[int, int, int, int]
    content: bytes


class CachedReads:
    """The files of one store that were read last, by their keys. Off until `works` is set."""

    def __init__(self) -> None:
        self.works = False
        self._recent: dict[str, str] = {}  # where each of them lies
        self._kept: dict[str, _Kept] = {}
        self.kept_bytes = 0

    def was_read(self, key: str, path: str) -> None:
        """A thread has just read some of the file of this key, which lies there."""
        if self.works:
            recent = self._recent
            recent.pop(key, None)
            recent[key] = path
            if len(recent) > MOST_FILES:
                self.forget(next(iter(recent)))

    def forget(self, key: str) -> None:
        """Nothing more of this file is read here, until a thread has read it again."""
        self._recent.pop(key, None)
        self._drop(key)

    def read(self, key: str, start: int, end: int | None) -> tuple[int, bytes] | None:
        """The size of a file, and its bytes from `start` up to, not including, `end`.

        None: it is not in memory, or was not read lately, or there is more of it than is read here, or it is not there.
        """
        path = self._recent.get(key)
        if path is None:
            return None
        start = max(start, 0)
        try:
            kept = self._kept.get(key)
            if kept is None or kept.state != _state(os.stat(path)):
                return self._read(key, path, start, end)
        except OSError:  # not in memory, deleted, or what a thread will find out
            self.forget(key)
            return None
        size = len(kept.content)
        if start >= (size if end is None else end):
            return None
        self._kept[key] = self._kept.pop(key)  # the one that was asked for last goes last
        return size, kept.content[start:end]

    def _read(self, key: str, path: str, start: int, end: int | None) -> tuple[int, bytes] | None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            size = found.st_size
            wanted = (size if end is None else min(end, size)) - start
            if not 0 < wanted <= MOST_BYTES:
                return None
            buffer = bytearray(wanted)
            if os.preadv(descriptor, [buffer], start, _NOWAIT) < wanted:
                return None
        finally:
            os.close(descriptor)
        content = bytes(buffer)
        if wanted == size:
            self._keep(key, _Kept(_state(found), content))
        return size, content

    def _keep(self, key: str, kept: _Kept) -> None:
        self._drop(key)
        self._kept[key] = kept
        self.kept_bytes += len(kept.content)
        while self.kept_bytes > MOST_KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.kept_bytes -= len(kept.content)


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when another file takes a path; objects are not written to once they are there."""
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
