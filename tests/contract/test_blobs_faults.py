"""What the stores do when their writer is killed, when their disk is full or gone, and when their service is away or frozen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from anyio import to_thread
from structlog.testing import capture_logs

from hapta.blobs.blobs import Blobs, BlobsAway
from hapta.blobs.connect import open_blobs
from hapta.blobs.disk import open_disk
from hapta.blobs.presign import Credentials, presigned
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import BlobsSettings
from tests.s3 import SeaweedServer, s3_settings
from tests.servers import REPOSITORY, Run

MIB = 1024 * 1024


async def pieces(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part


async def in_process(*words: str) -> int:
    """What `blobs_child` prints."""
    done = await to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-m", "tests.contract.blobs_child", *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@asynccontextmanager
async def opened(settings: BlobsSettings, data: Path) -> AsyncIterator[Blobs]:
    blobs = await open_blobs(settings, data, SystemClock(), RandomIds())
    yield blobs
    await blobs.close()


# --- a folder ---


@pytest.mark.parametrize("what", ["put", "append"])
async def test_a_writer_killed_between_any_two_steps_leaves_one_of_the_two_states(tmp_path: Path, what: str) -> None:
    assert await in_process(what, str(tmp_path)) > 8  # so many steps there were to die at


async def test_a_full_disk_is_a_store_that_is_away(tmp_path: Path) -> None:
    await in_process("full", str(tmp_path))


async def test_a_folder_that_cannot_be_made_is_a_store_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"a file stands here")
    with pytest.raises(BlobsAway):
        await open_blobs(BlobsSettings(), tmp_path, SystemClock(), RandomIds())


async def test_no_file_stays_open_whatever_happens_to_a_transfer(tmp_path: Path) -> None:
    blobs = await open_disk(tmp_path, RandomIds(), threads=2)
    await blobs.put("files/one", pieces(b"x" * (4 * MIB)))

    async def stuck() -> AsyncGenerator[bytes]:
        yield b"x" * (2 * MIB)
        await asyncio.Event().wait()

    before = len(os.listdir("/proc/self/fd"))
    for turns in range(12):
        reading = asyncio.ensure_future(blobs.get("files/one"))
        putting = asyncio.ensure_future(blobs.put(f"files/put-{turns}", stuck()))
        appending = asyncio.ensure_future(blobs.append(f"files/append-{turns}", 0, stuck()))
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in (reading, putting, appending):
            task.cancel()
        await asyncio.gather(reading, putting, appending, return_exceptions=True)
        if not reading.cancelled():
            await reading.result().chunks.aclose()
        reading = putting = appending = None
    left = await blobs.get("files/one")
    await left.chunks.__anext__()
    await left.chunks.aclose()
    await left.chunks.aclose()
    await (await blobs.get("files/one")).chunks.aclose()
    abandoned = await blobs.get("files/one")
    del abandoned, left
    async with asyncio.timeout(120):  # what is left to the loop to close, it closes in a moment
        while len(os.listdir("/proc/self/fd")) != before or list((tmp_path / "temp").glob("*")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await blobs.close()
    with pytest.raises(BlobsAway):
        await blobs.stat("files/one")


async def test_what_killed_writers_left_is_tidied_by_its_age(tmp_path: Path) -> None:
    blobs = await open_disk(tmp_path, RandomIds())
    await blobs.check()
    for name, seconds in (("old", 1_000), ("new", 3_000)):
        (tmp_path / "temp" / name).write_bytes(b"half")
        os.utime(tmp_path / "temp" / name, (seconds, seconds))
    assert await blobs.tidy(2_000_000) == 1
    assert [path.name for path in (tmp_path / "temp").iterdir()] == ["new"]
    await blobs.close()


async def test_folders_that_are_empty_go_and_come_back_meanwhile(tmp_path: Path) -> None:
    blobs = await open_disk(tmp_path, RandomIds())

    async def come_and_go(number: int) -> None:
        for _ in range(30):
            await blobs.put(f"files/user/deep/{number}", pieces(b"x"))
            await blobs.delete([f"files/user/deep/{number}"])

    await asyncio.gather(*[come_and_go(number) for number in range(6)])
    assert not list((tmp_path / "objects").glob("*/*"))
    await blobs.close()


# --- memory ---


@pytest.mark.parametrize("kind", ["disk", "s3"])
async def test_the_memory_of_a_transfer_does_not_grow_with_the_object(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    settings = BlobsSettings() if kind == "disk" else s3_settings(request.getfixturevalue("s3_url"))
    grown = await in_process("memory", str(tmp_path), msgspec.json.encode(settings).decode(), "160")
    assert grown < (16 if kind == "disk" else 80) * MIB, grown


# --- an S3 service ---


@pytest.fixture(scope="module")
def own_s3(server_run: Run) -> Iterator[SeaweedServer]:
    with SeaweedServer(server_run) as server:
        yield server


CALLS: dict[str, Callable[[Blobs], Awaitable[object]]] = {
    "put": lambda blobs: blobs.put("files/two", pieces(b"two")),
    "large put": lambda blobs: blobs.put("files/two", pieces(b"x" * (9 * MIB))),
    "get": lambda blobs: blobs.get("files/one"),
    "range": lambda blobs: blobs.get("files/one", 1),
    "stat": lambda blobs: blobs.stat("files/one"),
    "delete": lambda blobs: blobs.delete(["files/one"]),
    "list": lambda blobs: blobs.listed(""),
    "append": lambda blobs: blobs.append("files/up", 3, pieces(b"two")),
    "appended": lambda blobs: blobs.appended("files/up"),
    "complete": lambda blobs: blobs.complete("files/up"),
    "discard": lambda blobs: blobs.discard("files/up"),
    "begun": lambda blobs: blobs.begun(),
    "check": lambda blobs: blobs.check(),
}


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_service_that_is_away_is_said_to_be_and_works_when_it_is_back(
    own_s3: SeaweedServer, tmp_path: Path, how: str
) -> None:
    patient = s3_settings(own_s3.url)
    settings = replace(patient, retries=1 if how == "killed" else 0, timeout_seconds=0.5)
    async with opened(patient, tmp_path) as calm:
        await calm.put("files/one", pieces(b"one"))
        await calm.append("files/up", 0, pieces(b"one"))
    async with opened(settings, tmp_path) as blobs:
        await to_thread.run_sync(own_s3.kill if how == "killed" else own_s3.pause)
        with capture_logs() as logs:
            results = await asyncio.gather(*[call(blobs) for call in CALLS.values()], return_exceptions=True)
        await to_thread.run_sync(own_s3.start if how == "killed" else own_s3.resume)
        assert {type(result) for result in results} == {BlobsAway}, dict(zip(CALLS, results, strict=True))
        assert logs
        assert settings.secret_access_key not in str(logs)
    async with opened(patient, tmp_path) as blobs:
        await blobs.check()
        assert await blobs.appended("files/up") == 3
        assert await blobs.append("files/up", 3, pieces(b"two")) == 6
        assert await blobs.complete("files/up") == 6
        assert await blobs.put("files/two", pieces(b"again")) == 5


async def test_a_wrong_key_is_a_store_that_is_away(s3_url: str, tmp_path: Path) -> None:
    settings = replace(s3_settings(s3_url), secret_access_key="not the secret of this key")
    async with opened(settings, tmp_path) as blobs:
        with pytest.raises(BlobsAway):
            await blobs.check()
        assert settings.secret_access_key not in repr(settings)
        assert settings.secret_access_key not in repr(vars(blobs))


async def test_pieces_that_a_crash_left_after_the_completion_count_for_nothing(s3_url: str, tmp_path: Path) -> None:
    settings = s3_settings(s3_url)
    async with opened(settings, tmp_path) as blobs:
        await blobs.append("files/one", 0, pieces(b"x" * (8 * MIB)))
        await blobs.append("files/one", 8 * MIB, pieces(b"end"))
        await blobs.complete("files/one")
        # As a process leaves it that was killed while it took the pieces away: the mark of the upload went first.
        credentials = Credentials(settings.access_key_id, settings.secret_access_key)
        piece = f"{settings.url.removeprefix('s3:/')}/incoming/files/one/p{0:020d}"
        url = settings.endpoint + piece
        now_ms = SystemClock().now_ms()
        url = presigned("PUT", url, credentials, settings.region, now_ms=now_ms, expires_seconds=60)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.put(url, content=b"stale")).status_code == 200
        assert await blobs.appended("files/one") == 0
        assert [each.key for each in await blobs.begun()] == ["files/one"]
        assert await blobs.complete("files/one") == 8 * MIB + 3
        assert await blobs.begun() == []
        assert (await blobs.get("files/one")).size == 8 * MIB + 3


async def test_a_client_with_a_presigned_address_may_do_that_one_thing(s3_url: str, tmp_path: Path) -> None:
    async with opened(s3_settings(s3_url), tmp_path) as blobs, httpx.AsyncClient(trust_env=False) as client:
        await blobs.put("files/one", pieces(b"0123456789"))
        reading = await blobs.signed("GET", "files/one", 60)
        writing = await blobs.signed("PUT", "files/two", 60, size=5, media_type="text/plain")
        assert reading is not None
        assert writing is not None
        answer = await client.get(reading.url, headers={"range": "bytes=2-4"})
        assert (answer.status_code, answer.content) == (206, b"234")
        assert (await client.put(reading.url, content=b"x")).status_code == 403
        assert (await client.get(reading.url.replace("files/one", "files/two"))).status_code == 403
        longer = await client.put(writing.url, content=b"longer", headers={"content-type": "text/plain"})
        other = await client.put(writing.url, content=b"hello", headers={"content-type": "text/html"})
        assert (longer.status_code, other.status_code) == (403, 403)
        assert await blobs.stat("files/two") is None
        assert (await client.put(writing.url, content=b"hello", headers=dict(writing.headers))).status_code == 200
        found = await blobs.stat("files/two")
        assert found is not None
        assert found.size == 5


async def test_a_disk_has_no_way_of_its_own_for_clients(tmp_path: Path) -> None:
    async with opened(BlobsSettings(), tmp_path) as blobs:
        assert await blobs.signed("GET", "files/one", 60) is None
