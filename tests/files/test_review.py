"""What an account could do to the store beside its quota, and uploads that say one thing and do another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.files import intake
from hapta.files.errors import FileInfected, InvalidType, InvalidUpload
from hapta.files.models import Description
from hapta.files.verify import quarantined
from hapta.testing.clock import FakeClock
from tests.files.house import ALICE, House, Sent, chunks_of, opened_house
from tests.files.test_scanner import EVIL, Daemon, scanning
from tests.s3 import s3_settings

pytestmark = pytest.mark.anyio


async def test_an_upload_is_never_said_to_be_shorter_than_it_is(house: House) -> None:
    tus = house.files.tus
    upload = await tus.create(ALICE, None, "", Description("a.txt", "text/plain"))
    await tus.append(ALICE, upload.id, 0, chunks_of(b"0123456789"))
    with pytest.raises(InvalidUpload):
        await tus.append(ALICE, upload.id, 10, chunks_of(b""), length=5)
    done = await tus.append(ALICE, upload.id, 10, chunks_of(b"!"), length=11)
    assert done.file_id == upload.id


@pytest.fixture
async def s3_house(s3_url: str, migrated_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with opened_house(migrated_url, tmp_path, clock, store=s3_settings(s3_url), direct_seconds=600) as opened:
        yield opened


@pytest.mark.parametrize("content", [b"hello", b"%PDF-1.7"], ids=["kept", "refused"])
async def test_what_is_sent_again_to_an_address_goes_when_the_address_ends(
    s3_house: House, clock: FakeClock, content: bytes
) -> None:
    direct = s3_house.files.direct
    begun = await direct.begin(ALICE, Description("a.txt", "text/plain"), len(content))
    key = begun.upload.blob_key
    await s3_house.blobs.put(key, chunks_of(content))
    if content == b"hello":
        await direct.complete(ALICE, begun.upload.id)
    else:
        with pytest.raises(InvalidType):
            await direct.complete(ALICE, begun.upload.id)
    await s3_house.files.upkeep.sweep()
    await s3_house.blobs.put(key, chunks_of(content))  # the address is still good
    clock.advance(seconds=700)
    await s3_house.files.upkeep.sweep()
    assert await s3_house.blobs.stat(key) is None


async def test_what_the_scanner_finds_fills_the_store_no_further_than_so_far(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_QUARANTINED_BYTES", 40)
    async with scanning(migrated_url, tmp_path, Daemon()) as house:
        for _ in range(4):
            with pytest.raises(FileInfected):
                await house.files.service.upload(ALICE, Sent(EVIL, Description("a.txt", "text/plain")))
        await house.files.upkeep.sweep()
        assert len(await quarantined(house.db)) == len(await house.keys()) == 2
        assert await house.verified() == []
