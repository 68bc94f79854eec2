"""A folder as a store. What is written goes to a file of its own first, and one rename makes it the object.

    objects/<shard>/<key>    whole objects; the shard is made of the key's folder, so an account's files lie together
    incoming/<shard>/<key>   uploads in pieces, as far as they have come
    temp/                    puts under way; never read

All of it is done by threads of the store's own, one trip to them for each megabyte or so, and nothing on the event loop but
small reads that need no disk (`disk_cached`). With `sync` = full a file is flushed before it gets its name, and the folder
after; a deletion is not flushed, so after a power cut something deleted may be there again as an orphan, which a sweep finds.
Invariant: a file below `objects` is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from hapta.blobs import disk_files
from hapta.blobs.blobs import BlobMissing, Blobs, BlobsAway, Opened, Stat, UploadBusy, WrongOffset, checked_key
from hapta.blobs.disk_cached import CachedReads
from hapta.kit.ids import Ids

T = TypeVar("T")
FLUSH_BYTES = 1024 * 1024
"""So much is gathered before a thread writes it: the way to a thread and back costs more than a system call."""

_log = structlog.stdlib.get_logger("hapta.blobs")


class DiskBlobs(Blobs):
    """An open folder. Made by `open_disk`.

    Args:
        root: the folder; everything below it lies in one file system.
        sync: whether files and folders are flushed to the disk before a call comes back.
        threads: how many of them work for this store.
        ids: names of files under way, unlike those of any other process.
    """

    def __init__(self, root: Path, ids: Ids, *, sync: Literal["full", "none"] = "full", threads: int = 8) -> None:
        self._cached = CachedReads()
        self._tree = disk_files.Tree(root, sync == "full")
        self._ids = ids
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blobs")

    # -- objects ----------------------------------------------------------------------------------------------------------

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        writer = disk_files.Put(self._tree, checked_key(key), self._ids.uuid())
        try:
            rest = await self._written(writer, chunks)
            return await self._run(writer.finish, rest)
        except BaseException:
            await self._to_its_end(writer.abandon)
            raise

    def at_once(self, key: str, start: int = 0, end: int | None = None) -> tuple[int, bytes] | None:
        return self._cached.read(key, start, end)

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Opened:
        cached = self.at_once(key, start, end)
        if cached is not None:
            size, content = cached
            return Opened(size, _Chunks(self, None, [content]))
        path = self._tree.object(checked_key(key))
        opened = await self._opened(path, start, end)
        self._cached.was_read(key, path)
        return opened

    async def stat(self, key: str) -> Stat | None:
        return await self._run(self._tree.stat, checked_key(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._tree.delete, [checked_key(key) for key in keys])
        for key in keys:
            self._cached.forget(key)

    async def listed(self, prefix: str, after: str = "", limit: int = 1000) -> list[Stat]:
        folder = prefix.rstrip("/")
        if folder:
            checked_key(folder)
        return await self._run(self._tree.listed, "objects", folder, after, limit)

    # -- uploads in pieces ------------------------------------------------------------------------------------------------

    async def append(self, key: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        writer = disk_files.Append(self._tree, checked_key(key), offset)
        try:
            await self._run(writer.open)
            try:
                rest = await self._written(writer, chunks)
            except BaseException:
                await self._to_its_end(writer.keep)
                raise
            return await self._run(writer.finish, rest)
        finally:
            await self._to_its_end(writer.close)

    async def appended(self, key: str) -> int:
        return await self._run(self._tree.appended, checked_key(key))

    async def read_appended(self, key: str) -> Opened:
        return await self._opened(self._tree.incoming(checked_key(key)), 0, None)

    async def complete(self, key: str) -> int:
        return await self._run(self._tree.complete, checked_key(key))

    async def discard(self, key: str) -> None:
        await self._run(self._tree.discard, checked_key(key))

    async def begun(self, after: str = "", limit: int = 1000) -> list[Stat]:
        return await self._run(self._tree.listed, "incoming", "", after, limit)

    # -- further ----------------------------------------------------------------------------------------------------------

    async def tidy(self, before_ms: int) -> int:
        return await self._run(self._tree.tidy, before_ms)

    async def check(self) -> None:
        self._cached.works = await self._run(self._tree.check, self._ids.uuid())

    async def begin(self) -> None:
        """Makes the folder where there is none."""
        await self._run(self._tree.begin)

    async def close(self) -> None:
        """Lets what the threads do come to its end."""
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)

    # -- threads ----------------------------------------------------------------------------------------------------------

    async def _opened(self, path: str, start: int, end: int | None) -> Opened:
        reading = disk_files.Reading(self._tree, path, start, end)
        try:
            await self._run(reading.open)
        except BaseException:
            await self._to_its_end(reading.close)
            raise
        return Opened(reading.size, _Chunks(self, reading, reading.first()))

    async def read_on(self, reading: disk_files.Reading) -> list[bytes]:
        """The next pieces of a file; empty at its end, where it is closed."""
        return await self._run(reading.more)

    async def end_reading(self, reading: disk_files.Reading) -> None:
        """Closes a file that was not read to its end."""
        if reading.is_open:
            await self._to_its_end(reading.close)

    async def _written(self, writer: disk_files.Put | disk_files.Append, chunks: AsyncIterator[bytes]) -> list[bytes]:
        """Writes most of `chunks`, and gives what is left for the last trip to a thread."""
        gathered: list[bytes] = []
        size = 0
        async for chunk in chunks:
            gathered.append(chunk)
            size += len(chunk)
            if size >= FLUSH_BYTES:
                full, gathered, size = gathered, [], 0
                await self._run(writer.write, full)
        return gathered

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        """Does something on a thread. Comes back, also when it is cancelled, only after the thread has ended its part: a file
        must not be closed while another thread writes to it.

        Raises:
            BlobsAway: the disk is full, read-only, broken or not there.
        """
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        except RuntimeError as error:  # the pool was shut down
            raise BlobsAway from error
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # seen: there is nobody to tell
            raise
        except disk_files.Missing as error:
            raise BlobMissing from error
        except disk_files.Busy as error:
            raise UploadBusy from error
        except disk_files.Elsewhere as error:
            raise WrongOffset(error.size) from error
        except OSError as error:
            _log.warning("the disk refused", work=getattr(work, "__name__", ""), error=os.strerror(error.errno or 0))
            raise BlobsAway from error

    async def _to_its_end(self, work: Callable[[], None]) -> None:
        """Cleans up on a thread; what the disk says about that changes nothing, and neither does a cancellation."""
        cleaning = asyncio.ensure_future(self._run(work))
        cancelled = False
        while not cleaning.done():
            try:
                await asyncio.wait([cleaning])
            except asyncio.CancelledError:
                cancelled = True
        cleaning.exception()
        if cancelled:
            raise asyncio.CancelledError


class _Chunks:
    """The chunks of one file. The file is closed at its end, by `aclose`, or when nobody holds this any more."""

    __slots__ = ("_blobs", "_reading", "_ready")

    def __init__(self, blobs: DiskBlobs, reading: disk_files.Reading | None, ready: list[bytes]) -> None:
        self._blobs = blobs
        self._reading = reading
        self._ready = ready  # the last one first

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._ready:
            if self._reading is None or not self._reading.is_open:
                raise StopAsyncIteration
            self._ready = await self._blobs.read_on(self._reading)
            if not self._ready:
                raise StopAsyncIteration
        return self._ready.pop()

    async def aclose(self) -> None:
        self._ready = []
        if self._reading is not None:
            await self._blobs.end_reading(self._reading)


async def open_disk(root: Path, ids: Ids, *, sync: Literal["full", "none"] = "full", threads: int = 8) -> DiskBlobs:
    """Opens a folder as a store, and makes it where there is none.

    Raises:
        BlobsAway: it cannot be made or written.
    """
    blobs = DiskBlobs(root, ids, sync=sync, threads=threads)
    try:
        await blobs.begin()
        await blobs.check()
    except BaseException:
        await blobs.close()
        raise
    return blobs
