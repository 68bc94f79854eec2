"""Row and bytes: what is cleaned up, what `hapta files verify` tells and mends, the shared quota, attachments."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hapta.blobs.blobs import BlobMissing
from hapta.db.database import ReadTx
from hapta.files import store
from hapta.files.errors import (
    FileNotFound,
    InvalidUpload,
    QuotaExceeded,
    SizeExceeded,
    TooManyFiles,
    UploadLost,
)
from hapta.files.models import Description
from hapta.testing.clock import FakeClock
from tests.files.house import ALICE, BOB, House, Sent, chunks_of, opened_house, picture, text

pytestmark = pytest.mark.anyio


async def test_what_belongs_together_verifies(house: House) -> None:
    service = house.files.service
    kept = await service.upload(ALICE, text())
    await service.avatar(BOB, Sent(picture(), Description("a.png", "image/png")))
    await house.files.attachments.put(BOB, "session", "a.enc", chunks_of(b"sealed"))
    gone = await service.upload(ALICE, text("gone"))
    await service.delete_file(ALICE, gone.id)
    await house.files.upkeep.sweep()
    assert await house.verified(deep=True) == []
    assert len(await house.keys()) == 3
    assert await house.content(kept) == b"hello"


async def test_bytes_without_a_file_and_files_without_bytes_are_found_and_mended(house: House) -> None:
    service = house.files.service
    kept, lost, changed = [await service.upload(ALICE, text(f"number {n}")) for n in range(3)]
    await house.files.attachments.put(BOB, "session", "a.enc", chunks_of(b"sealed"))
    attachment = next(key for key in await house.keys() if key.startswith("attachments/"))
    await house.blobs.delete([lost.blob_key, attachment])
    await house.blobs.put(changed.blob_key, chunks_of(b"NUMBER 2"))
    await house.blobs.put(f"files/{BOB}/{'0' * 32}", chunks_of(b"nobody's"))
    await house.blobs.append(f"files/{BOB}/{'1' * 32}", 0, chunks_of(b"nobody's piece"))
    await house.db.write(lambda tx: store.add_usage(tx, ALICE, 1000, 0))
    assert len(await house.verified()) == 4  # without --deep, changed bytes are not seen
    problems = await house.verified(deep=True)
    assert [problem.rpartition(": ")[2] for problem in problems] == [
        "its bytes are missing",
        "its bytes have changed",
        "its bytes are missing",
        "bytes that belong to nobody",
        "counted 1024 bytes, keeps 24",
    ]
    assert len(await house.verified(deep=True, mend=True)) == 5
    await house.files.upkeep.sweep()
    assert await house.verified(deep=True) == []
    assert await house.keys() == [kept.blob_key]
    assert await house.blobs.begun() == []
    assert await service.usage(ALICE) == (8, 1)
    with pytest.raises(FileNotFound):
        await service.get_file(ALICE, lost.id)


async def test_bytes_that_are_young_may_be_on_their_way(migrated_url: str, tmp_path: Path) -> None:
    async with opened_house(migrated_url, tmp_path) as house:
        await house.blobs.put(f"files/{BOB}/{'0' * 32}", chunks_of(b"nobody's"))
        assert await house.verified() == []
        assert await house.files.upkeep.remove_orphans() == 0
        assert len(await house.keys()) == 1


async def test_a_file_whose_bytes_are_gone_is_told_as_such(house: House) -> None:
    file = await house.files.service.upload(ALICE, text())
    await house.blobs.delete([file.blob_key])
    with pytest.raises(BlobMissing, match="File not found in storage"):
        await house.files.service.read(file)


async def test_an_upload_whose_hold_is_over_is_not_stored(house: House, clock: FakeClock) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Sent):
        async def chunks(self):  # type: ignore[no-untyped-def]
            yield b"hello"
            arrived.set()
            await go_on.wait()
            yield b"world"

    task = asyncio.create_task(house.files.service.upload(ALICE, Slow(b"", Description("a", "text/plain"))))
    await arrived.wait()
    clock.advance(seconds=100)
    await house.files.holds.renew()
    clock.advance(seconds=100)
    await house.files.upkeep.sweep()  # a renewed hold stays
    clock.advance(seconds=100)
    await house.files.upkeep.sweep()  # as that of a server that had died would go
    go_on.set()
    with pytest.raises(UploadLost):
        await task
    await house.files.upkeep.remove_orphans()
    assert await house.keys() == []
    assert await house.verified() == []


async def test_an_upload_that_fails_leaves_nothing(house: House) -> None:
    class Broken(Sent):
        async def chunks(self):  # type: ignore[no-untyped-def]
            yield b"x" * 100_000
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await house.files.service.upload(ALICE, Broken(b"", Description("a", "text/plain")))
    arrived = asyncio.Event()

    class Endless(Sent):
        async def chunks(self):  # type: ignore[no-untyped-def]
            yield b"x" * 100_000
            arrived.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(house.files.service.upload(ALICE, Endless(b"", Description("a", "text/plain"))))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await house.files.upkeep.sweep()
    assert await house.keys() == []
    assert house.files.holds.under_way == 0
    assert await house.db.read(store.waiting_removals) == 0


async def test_the_quota_counts_what_lies_elsewhere_and_holds_under_races(migrated_url: str, tmp_path: Path) -> None:
    elsewhere = 400

    async def used(tx: ReadTx, user_id: str) -> int:
        return elsewhere if user_id == ALICE else 0

    async def quota(tx: ReadTx, user_id: str) -> int:
        return 1000

    opening = opened_house(
        migrated_url, tmp_path, FakeClock(), used_elsewhere=used, quota_of=quota, max_uploads=50, max_files=8
    )
    async with opening as house:
        service = house.files.service
        results = await asyncio.gather(
            *[service.upload(ALICE, text("x" * 150)) for _ in range(12)], return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        assert len(refused) == 8
        assert {type(error) for error in refused} == {QuotaExceeded}
        assert (await service.usage(ALICE)).bytes == 600
        assert await house.db.read(lambda tx: house.files.used_by(tx, [ALICE])) == {ALICE: 600}
        with pytest.raises(QuotaExceeded) as told:
            await house.files.tus.create(ALICE, 1, "", Description("a", "text/plain"))
        assert told.value.details == {"quota": {"maxBytes": 1000, "usedBytes": 1000, "neededBytes": 1}}
        with pytest.raises(QuotaExceeded):
            await house.files.attachments.put(ALICE, "session", "a", chunks_of(b"x"))
        await house.files.tus.create(BOB, 600, "", Description("a", "text/plain"))
        with pytest.raises(QuotaExceeded):  # what is on its way counts
            await house.files.tus.create(BOB, 600, "", Description("a", "text/plain"))
        for _ in range(8):
            await service.upload(BOB, text("x"))
        with pytest.raises(TooManyFiles):
            await service.upload(BOB, text("x"))
        await house.files.upkeep.sweep()
        assert len(await house.keys()) == 12


async def test_attachments_are_opaque_bounded_and_go_with_their_session(house: House) -> None:
    attachments = house.files.attachments
    sealed = bytes(range(256)) * 100
    assert await attachments.put(ALICE, "s1", "a.enc", chunks_of(sealed), len(sealed)) == len(sealed)
    assert await attachments.put(ALICE, "s1", "b.enc", chunks_of(b"b")) == 1
    assert await attachments.put(ALICE, "s2", "a.enc", chunks_of(b"other")) == 5
    assert await attachments.put(ALICE, "s2", "a.enc", chunks_of(b"replaced")) == 8

    async def content(user_id: str, session_id: str, name: str) -> bytes:
        opened = await attachments.open(user_id, session_id, name)
        return b"".join([chunk async for chunk in opened.chunks])

    assert await content(ALICE, "s1", "a.enc") == sealed
    assert await content(ALICE, "s2", "a.enc") == b"replaced"
    for user_id, session_id, name in ((BOB, "s1", "a.enc"), (ALICE, "s3", "a.enc"), (ALICE, "s1", "c.enc")):
        with pytest.raises(FileNotFound):
            await attachments.open(user_id, session_id, name)
    for name in ("", "..", ".hidden", "a/b", "x" * 200, "ä"):
        with pytest.raises(InvalidUpload):
            await attachments.put(ALICE, "s1", name, chunks_of(b"x"))
    largest = 10 * 1024 * 1024
    with pytest.raises(SizeExceeded):
        await attachments.put(ALICE, "s1", "c.enc", chunks_of(b"x"), largest + 1)
    with pytest.raises(SizeExceeded):
        await attachments.put(ALICE, "s1", "c.enc", chunks_of(bytes(largest + 1)))
    await house.db.write(lambda tx: attachments.purge_session(tx, ALICE, "s1"))
    with pytest.raises(FileNotFound):
        await attachments.open(ALICE, "s1", "a.enc")
    assert await house.files.service.usage(ALICE) == (8, 1)
    await house.files.upkeep.sweep()
    assert len(await house.keys()) == 1
    assert await house.verified() == []


async def test_an_account_that_ends_leaves_no_byte(house: House) -> None:
    service = house.files.service
    await service.upload(ALICE, text())
    await house.files.attachments.put(ALICE, "s", "a", chunks_of(b"x"))
    begun = await house.files.tus.create(ALICE, 10, "", Description("a", "text/plain"))
    await house.files.tus.append(ALICE, begun.id, 0, chunks_of(b"hello"))
    kept = await service.upload(BOB, text())
    await house.db.write(lambda tx: house.files.purge(tx, ALICE))
    assert (await service.list_files(ALICE, None, None, 10))[0] == []
    await house.files.upkeep.sweep()
    assert await house.keys() == [kept.blob_key]
    assert await house.blobs.begun() == []
    assert await service.usage(ALICE) == (0, 0)
