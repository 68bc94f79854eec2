"""Programs that the tests of stores run as processes of their own: writers that die between two steps, and transfers whose
memory is measured."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from hapta.blobs.blobs import Blobs, BlobsAway
from hapta.blobs.connect import open_blobs
from hapta.blobs.disk import open_disk
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import BlobsSettings

OLD, NEW = b"old" * 100_000, b"new" * 500_000
STEPS = ("open", "mkdir", "writev", "fsync", "rename", "unlink", "rmdir")
MIB = 1024 * 1024


async def pieces(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def read(blobs: Blobs, key: str) -> bytes:
    return b"".join([chunk async for chunk in (await blobs.get(key)).chunks])


def killed_at(step: int, work: Callable[[], Awaitable[None]]) -> bool:
    """Does `work` in a process that kills itself right before its system call number `step`; whether it came to its end."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **named: Any) -> Any:
                nonlocal count
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return real(*args, **named)

            return call

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        asyncio.run(_as_coroutine(work))
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


async def _as_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def put(root: Path) -> int:
    """Puts that die: what is there before or after them is whole, and what was acknowledged is there."""
    step = 0
    while True:
        store = root / f"put-{step}"

        async def prepare(store: Path = store) -> None:
            await (await open_disk(store, RandomIds())).put("files/old", pieces(OLD))

        async def die(store: Path = store) -> None:
            blobs = await open_disk(store, RandomIds())
            await blobs.put("files/old", pieces(NEW[:MIB], NEW[MIB:]))
            await blobs.put("files/u/fresh", pieces(NEW))
            await blobs.delete(["files/old"])

        async def look(store: Path = store) -> list[bytes | None]:
            blobs = await open_disk(store, RandomIds())
            await blobs.tidy(2**62)
            assert not list((store / "temp").glob("*"))
            return [await read(blobs, key) if await blobs.stat(key) else None for key in ("files/old", "files/u/fresh")]

        asyncio.run(prepare())
        done = killed_at(step, die)
        old, fresh = asyncio.run(look())
        assert (old, fresh) in ([(None, NEW)] if done else [(OLD, None), (NEW, None), (NEW, NEW), (None, NEW)]), step
        if done:
            return step
        step += 1


def append(root: Path) -> int:
    """Uploads in pieces that die: what was acknowledged is kept, and the upload can be gone on with to its end."""
    step = 0
    while True:
        store, told = root / f"append-{step}", root / f"told-{step}"

        async def die(store: Path = store, told: Path = told) -> None:
            blobs = await open_disk(store, RandomIds())
            for offset, part in ((0, NEW[:MIB]), (MIB, NEW[MIB:])):
                size = await blobs.append("files/u/one", offset, pieces(part))
                told.write_text(str(size))
            await blobs.complete("files/u/one")
            told.write_text("complete")

        async def look(store: Path = store, told: Path = told) -> None:
            blobs = await open_disk(store, RandomIds())
            heard = told.read_text() if told.exists() else ""
            at = await blobs.appended("files/u/one")
            if await blobs.stat("files/u/one") is None:
                assert heard != "complete"
                assert at >= int(heard or 0)
                await blobs.append("files/u/one", at, pieces(NEW[at:]))
            assert await blobs.complete("files/u/one") == len(NEW)
            assert await read(blobs, "files/u/one") == NEW
            assert await blobs.begun() == []

        done = killed_at(step, die)
        asyncio.run(look())
        if done:
            return step
        step += 1


def full(root: Path) -> int:
    """A disk on which no file may grow beyond a megabyte: it is away, keeps what it had, and leaves nothing behind."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))

    async def work() -> None:
        blobs = await open_disk(root / "full", RandomIds())
        await blobs.put("files/one", pieces(OLD))
        for _ in range(2):
            try:
                await blobs.put("files/one", pieces(NEW, NEW))
            except BlobsAway:
                continue
            raise AssertionError("the disk was not full")
        assert await read(blobs, "files/one") == OLD
        assert not list((root / "full" / "temp").glob("*"))

    asyncio.run(work())
    return 0


def memory(settings: BlobsSettings, data: Path, blocks: int) -> int:
    """Puts and reads a large object; how much more memory that took at most, in bytes."""
    block = os.urandom(MIB)

    async def sent() -> AsyncGenerator[bytes]:
        for _ in range(blocks):
            for at in range(0, MIB, 64 * 1024):
                yield block[at : at + 64 * 1024]

    async def work() -> int:
        blobs = await open_blobs(settings, data, SystemClock(), RandomIds())
        await blobs.put("files/small", pieces(b"x"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert await blobs.put("files/large", sent()) == blocks * MIB
        digest = hashlib.sha256()
        async for chunk in (await blobs.get("files/large")).chunks:
            digest.update(chunk)
        expected = hashlib.sha256()
        for _ in range(blocks):
            expected.update(block)
        assert digest.digest() == expected.digest()
        await blobs.delete(["files/large"])
        await blobs.close()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024

    return asyncio.run(work())


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "memory":
        print(memory(msgspec.json.decode(sys.argv[3], type=BlobsSettings), folder, int(sys.argv[4])))
    else:
        print({"put": put, "append": append, "full": full}[what](folder))
