"""Large files reach the disk while they come, not all at once at their end."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hapta.blobs.disk_ahead import STEP_BYTES
from hapta.blobs.disk_files import Append, Put, Tree

MIB = 1024 * 1024
CACHESTAT = 451
"""The number of cachestat(2), by which Linux from 6.5 on tells how much of a file only lies in memory."""


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writing", "evicted", "recently_evicted")]


def unbegun_bytes(path: Path) -> int:
    """How much of a file the disk has not begun with."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        span, state = _Range(0, 0), _State()
        if libc.syscall(CACHESTAT, file.fileno(), ctypes.byref(span), ctypes.byref(state), 0) != 0:
            if ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                pytest.skip("this kernel does not tell")
            raise OSError(ctypes.get_errno(), "cachestat")
    return state.dirty * os.sysconf("SC_PAGESIZE")


def tree(root: Path, *, flush: bool) -> Tree:
    made = Tree(root, flush)
    made.begin()
    return made


def put(root: Path, *, flush: bool) -> tuple[Put, Path]:
    return Put(tree(root, flush=flush), "a/b", "name"), root / "temp" / "name"


def append(root: Path, *, flush: bool) -> tuple[Append, Path]:
    writer = Append(tree(root, flush=flush), "a/b", 0)
    writer.open()
    (path,) = (root / "incoming").glob("*/a/b")
    return writer, path


@pytest.mark.parametrize("begin", [put, append])
def test_a_large_file_is_flushed_ahead_of_its_end(
    tmp_path: Path, begin: Callable[..., tuple[Put | Append, Path]]
) -> None:
    writer, path = begin(tmp_path, flush=True)
    for number in range(20):
        writer.write([bytes([number]) * MIB])
    assert unbegun_bytes(path) <= 20 * MIB - 2 * STEP_BYTES
    assert writer.finish([b"end"]) == 20 * MIB + 3
    writer.close()


@pytest.mark.parametrize("begin", [put, append])
def test_without_a_flush_nothing_is_flushed_ahead(
    tmp_path: Path, begin: Callable[..., tuple[Put | Append, Path]]
) -> None:
    writer, path = begin(tmp_path, flush=False)
    for _ in range(20):
        writer.write([b"x" * MIB])
    unbegun = unbegun_bytes(path)
    writer.close()
    if not unbegun:
        pytest.skip("the folder of this test lies in memory")
    assert unbegun > 20 * MIB - 2 * STEP_BYTES
