"""A scanner behind ClamAV's protocol: a small daemon that speaks it, on TCP and on a Unix socket."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hapta.files.errors import FileInfected, FileNotFound, ScannerAway
from hapta.files.models import Description
from hapta.files.scanner import Scanner
from hapta.files.verify import quarantined
from hapta.testing.clock import FakeClock
from tests.files.house import ALICE, House, Sent, chunks_of, opened_house, picture, served, text, upload

pytestmark = pytest.mark.anyio
EVIL = b"EVIL-TEST-FILE"


class Daemon:
    """Speaks `INSTREAM`, and finds `EVIL`."""

    def __init__(self, says: str = "") -> None:
        self.says = says
        self.scanned: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readexactly(10) == b"zINSTREAM\0"
            content = b""
            while size := struct.unpack(">I", await reader.readexactly(4))[0]:
                content += await reader.readexactly(size)
            self.scanned.append(len(content))
            answer = self.says or ("stream: Evil.Test FOUND" if EVIL in content else "stream: OK")
            if answer != "silence":
                writer.write(answer.encode() + b"\0")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scanning(url: str, folder: Path, daemon: Daemon, **settings: Any) -> AsyncGenerator[House]:
    server = await asyncio.start_server(daemon.serve, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, opened_house(url, folder, FakeClock(), scanner=address, **settings) as house:
        yield house


async def test_what_the_scanner_finds_is_kept_apart_and_told_to_operators_alone(
    migrated_url: str, tmp_path: Path
) -> None:
    daemon = Daemon()
    async with scanning(migrated_url, tmp_path, daemon, quarantine_seconds=60) as house:
        service = house.files.service
        clean = await service.upload(ALICE, text("x" * 200_000))
        with pytest.raises(FileInfected) as refused:
            await service.upload(
                ALICE, Sent(b"x" * 100_000 + EVIL, Description("virus.txt", "text/plain", reuse_key="k"))
            )
        assert "Evil" not in str(refused.value)
        assert daemon.scanned == [200_000, 100_000 + len(EVIL)]
        found = await quarantined(house.db)
        assert [(file.name, file.finding, file.size) for file in found] == [("virus.txt", "Evil.Test", 100_014)]
        with pytest.raises(FileNotFound):
            await service.get_file(ALICE, found[0].id)
        await house.files.upkeep.sweep()
        assert sorted(await house.keys()) == sorted([clean.blob_key, f"quarantine/{ALICE}/{found[0].id}"])
        assert (await service.usage(ALICE)).files == 1
        assert house.files.counts.uploads["multipart", "quarantined"] == 1
        assert isinstance(house.clock, FakeClock)
        house.clock.advance(seconds=61)
        await house.files.upkeep.sweep()
        assert await house.keys() == [clean.blob_key]
        assert await quarantined(house.db) == []


async def test_all_ways_in_are_scanned(migrated_url: str, tmp_path: Path) -> None:
    daemon = Daemon()
    async with scanning(migrated_url, tmp_path, daemon) as house:
        evil = picture("PNG") + EVIL
        with pytest.raises(FileInfected):
            await house.files.service.avatar(ALICE, Sent(evil, Description("a.png", "image/png")))
        said = Description("a.png", "image/png")
        begun = await house.files.tus.create(ALICE, len(evil), "", said)
        with pytest.raises(FileInfected):
            await house.files.tus.append(ALICE, begun.id, 0, chunks_of(evil))
        assert len(await quarantined(house.db)) == 2
        await house.files.upkeep.sweep()
        assert {key.partition("/")[0] for key in await house.keys()} == {"quarantine"}
        assert await house.blobs.begun() == []


@pytest.mark.parametrize("says", ["INSTREAM size limit exceeded. ERROR", "nonsense", "stream: OK but", "silence"])
async def test_an_answer_that_is_none_counts_as_away(migrated_url: str, tmp_path: Path, says: str) -> None:
    async with scanning(migrated_url, tmp_path, Daemon(says)) as house:
        with pytest.raises(ScannerAway):
            await house.files.service.upload(ALICE, text())
        await house.files.upkeep.sweep()
        assert await house.keys() == []


async def test_without_a_scanner_uploads_are_refused_or_taken_as_the_owner_wants(
    migrated_url: str, tmp_path: Path
) -> None:
    away = {"HAPTA_FILES_SCANNER": f"unix://{tmp_path}/nobody.sock"}
    async with served(migrated_url, tmp_path, away) as hapta:
        alice = await hapta.register("alice@example.org")
        answer = await upload(alice)
        assert (answer.status_code, answer.json()["error"]) == (503, "The scanner does not answer")
        assert "retry-after" in answer.headers
        assert (await alice.get("/v1/uploads")).json() == {"files": []}
    async with served(migrated_url, tmp_path, {**away, "HAPTA_FILES_SCANNER_AWAY": "accept"}) as hapta:
        alice = await hapta.login("alice@example.org")
        assert (await upload(alice)).status_code == 200
        assert hapta.app.services.files is not None
        assert hapta.app.services.files.scanner is not None
        assert hapta.app.services.files.scanner.unscanned == 1


async def test_a_unix_socket_does_as_well(tmp_path: Path) -> None:
    daemon = Daemon()
    path = tmp_path / "clamd.sock"
    async with await asyncio.start_unix_server(daemon.serve, path):
        scanner = Scanner(f"unix://{path}", "refuse", 10)
        for content, expected in ((b"hello", None), (EVIL, "Evil.Test"), (b"", None)):
            scan = await scanner.begin()
            await scan.feed(content)
            assert await scan.verdict() == expected
            scan.close()


@pytest.mark.parametrize("address", ["localhost:3310", "tcp://localhost", "http://localhost:1", "unix://"])
def test_an_address_of_another_form_does_not_start(address: str) -> None:
    with pytest.raises(ValueError, match="neither tcp"):
        Scanner(address, "refuse", 1)
