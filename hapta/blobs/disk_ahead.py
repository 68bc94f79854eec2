"""Flushing ahead: the disk begins with what has come of a large file while more of it is still on its way.

Else the flush at the end waits for all of it at once, and every other flush to that disk waits behind it, the commits of the database
among them. sync_file_range(2) begins to write and makes nothing durable; nor does it take an error away from the flush at the end,
which tells it. Linux has it; elsewhere nothing is done ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

STEP_BYTES = 8 * 1024 * 1024
"""So much is begun with at a time; shorter files have the flush alone."""
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    import ctypes  # a megabyte of memory that only servers with large files need

    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found


class FlushAhead:
    """How far the disk has been told to write one file.

    Args:
        at: bytes that were there before.
    """

    def __init__(self, at: int = 0) -> None:
        self._begun = at

    def written(self, descriptor: int, size: int) -> None:
        """Says that the file has `size` bytes by now. May block while the disk takes no more; for threads only."""
        if size - self._begun >= STEP_BYTES:
            begin = _sync_file_range()
            if begin is not None:
                begin(descriptor, self._begun, size - self._begun, _WRITE)
            self._begun = size
