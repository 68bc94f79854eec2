"""Small reads on the event loop: of what a thread has read before and the system still has in memory, and of nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from hapta.blobs.blobs import BlobMissing, Blobs
from hapta.blobs.disk import open_disk
from hapta.blobs.disk_cached import MOST_BYTES, MOST_FILES, MOST_KEPT_BYTES, CachedReads, are_known
from hapta.kit.ids import RandomIds

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file with `CONTENT`, where the system knows reads that do not wait."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not are_known(descriptor):
            pytest.skip("this file system cannot tell what it has in memory")
    finally:
        os.close(descriptor)
    return str(path)


@pytest.fixture
def reads() -> CachedReads:
    made = CachedReads()
    made.works = True
    return made


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 102_400), (5, 9), (-3, 4), (102_399, 200_000)])
def test_what_was_read_before_is_read_at_once(file: str, reads: CachedReads, start: int, end: int | None) -> None:
    assert reads.read(file, start, end) is None
    reads.was_read(file, file)
    for asked in ((start, end), (0, None), (start, end)):
        assert reads.read(file, *asked) == (len(CONTENT), CONTENT[max(asked[0], 0) : asked[1]])


def test_where_the_file_system_cannot_tell_nothing_is_read_at_once(file: str, reads: CachedReads) -> None:
    reads.works = False
    reads.was_read(file, file)
    assert reads.read(file, 0, None) is None


def test_what_is_large_or_empty_or_beyond_the_end_goes_by_a_thread(file: str, reads: CachedReads) -> None:
    reads.was_read(file, file)
    assert reads.read(file, len(CONTENT), None) is None
    assert reads.read(file, 9, 3) is None
    assert reads.read(file, 0, None) == (len(CONTENT), CONTENT)
    assert reads.read(file, len(CONTENT), None) is None
    assert reads.read(file, 9, 3) is None
    os.truncate(file, MOST_BYTES + 1)
    assert reads.read(file, 0, None) is None
    assert reads.read(file, 0, 2) == (MOST_BYTES + 1, CONTENT[:2])
    os.truncate(file, 0)
    assert reads.read(file, 0, None) is None


def test_what_was_deleted_is_not_looked_for_again(file: str, reads: CachedReads) -> None:
    reads.was_read(file, file)
    os.unlink(file)
    assert reads.read(file, 0, None) is None
    Path(file).write_bytes(b"anew")
    assert reads.read(file, 0, None) is None


def test_the_files_that_were_read_longest_ago_are_forgotten(file: str, reads: CachedReads) -> None:
    reads.was_read(file, file)
    for number in range(MOST_FILES - 1):
        reads.was_read(f"none/{number}", f"/none/{number}")
    reads.was_read(file, file)
    reads.was_read("none/more", "/none/more")
    assert reads.read(file, 0, 1) is not None
    for number in range(MOST_FILES - 2):
        reads.was_read(f"others/{number}", f"/others/{number}")
    assert reads.read(file, 0, 1) is not None
    reads.was_read("others/more", "/others/more")
    assert reads.read(file, 0, 1) is None


def test_another_file_of_this_name_is_what_is_read_from_then_on(file: str, reads: CachedReads, tmp_path: Path) -> None:
    reads.was_read(file, file)
    for number in range(3):
        other = bytes([number]) * len(CONTENT)
        (tmp_path / "other").write_bytes(other)
        os.replace(tmp_path / "other", file)
        assert reads.read(file, 0, None) == (len(CONTENT), other)
        assert reads.read(file, 0, None) == (len(CONTENT), other)
        assert reads.read(file, 5, 9) == (len(CONTENT), other[5:9])


def test_what_is_kept_has_a_bound(file: str, reads: CachedReads, tmp_path: Path) -> None:
    size = MOST_BYTES - 1
    paths = [str(tmp_path / f"{number}") for number in range(3 * MOST_KEPT_BYTES // size)]
    for path in [*paths, file]:
        if path != file:
            Path(path).write_bytes(bytes(size))
        reads.was_read(path, path)
        content = reads.read(path, 0, None)
        assert content is not None
        assert reads.kept_bytes <= MOST_KEPT_BYTES
    assert reads.kept_bytes > MOST_KEPT_BYTES - 2 * size
    for path in [*paths, file]:
        reads.forget(path)
    assert reads.kept_bytes == 0


async def test_what_can_be_had_at_once_is_what_a_read_would_give(file: str, tmp_path: Path) -> None:
    blobs = await open_disk(tmp_path / "store", RandomIds())
    try:
        await blobs.put("files/one", _pieces(CONTENT))
        assert blobs.at_once("files/one") is None
        assert await _read(blobs) == CONTENT
        for start, end in ((0, None), (0, len(CONTENT)), (7, 90), (0, None)):
            assert blobs.at_once("files/one", start, end) == (len(CONTENT), CONTENT[start:end])
        await blobs.put("files/one", _pieces(b"another"))
        assert blobs.at_once("files/one") == (7, b"another")
        await blobs.delete(["files/one"])
        assert blobs.at_once("files/one") is None
        with pytest.raises(BlobMissing):
            await blobs.get("files/one")
        for strange in ("../one", "", "files/../one"):
            assert blobs.at_once(strange) is None
    finally:
        await blobs.close()


async def test_what_another_process_deletes_is_not_given_from_memory(file: str, tmp_path: Path) -> None:
    blobs, other = [await open_disk(tmp_path / "store", RandomIds()) for _ in range(2)]
    try:
        await blobs.put("files/one", _pieces(CONTENT))
        assert await _read(blobs) == CONTENT
        assert blobs.at_once("files/one") is not None
        await other.delete(["files/one"])
        assert blobs.at_once("files/one") is None
        await other.put("files/one", _pieces(b"anew"))
        assert blobs.at_once("files/one") is None
        assert await _read(blobs) == b"anew"
    finally:
        await blobs.close()
        await other.close()


async def test_what_the_system_gave_up_is_read_from_the_disk_again(file: str, tmp_path: Path) -> None:
    blobs = await open_disk(tmp_path / "store", RandomIds())
    try:
        await blobs.put("files/one", _pieces(CONTENT))
        for _ in range(3):
            assert await _read(blobs) == CONTENT
            for path in (tmp_path / "store" / "objects").rglob("one"):
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
    finally:
        await blobs.close()


async def _read(blobs: Blobs) -> bytes:
    return b"".join([chunk async for chunk in (await blobs.get("files/one")).chunks])


async def _pieces(content: bytes) -> AsyncGenerator[bytes]:
    yield content
