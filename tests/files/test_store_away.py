"""The store is away for a while: a clear 503, nothing half done, and all is well when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hapta.testing.server import TestHapta
from tests.files.house import PIECE, TUS, create_tus, picture, served, upload, uploaded
from tests.s3 import SeaweedServer, s3_settings
from tests.servers import Run

pytestmark = pytest.mark.anyio


@contextmanager
def folder_away(folder: Path) -> Iterator[None]:
    """In the place of the folder is a file, as when a disk has come loose."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_bytes(b"")
    yield
    folder.unlink()
    aside.rename(folder)


async def test_a_folder_that_is_away_is_told_and_comes_back(migrated_url: str, tmp_path: Path) -> None:
    async with served(migrated_url, tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        file = await uploaded(alice, b"hello")
        path = f"/v1/uploads/{file['id']}/download"
        tus = (await create_tus(alice, 5)).headers["location"]
        with folder_away(tmp_path / "blobs"):
            calls = [
                await upload(alice),
                await upload(alice, picture(), "image/png", path="/v1/uploads/avatar"),
                await alice.patch(tus, headers={**PIECE, "upload-offset": "0"}, content=b"hello"),
            ]
            for answer in calls:
                assert (answer.status_code, answer.json()["error"]) == (503, "The file storage is not available")
                assert int(answer.headers["retry-after"]) >= 1
            assert (await alice.get(path)).status_code in (404, 503)
            # What needs no bytes goes on; the bytes of what is deleted meanwhile go later.
            assert [one["id"] for one in (await alice.get("/v1/uploads")).json()["files"]] == [file["id"]]
            other = (await create_tus(alice, 5)).headers["location"]
            assert (await alice.delete(other, headers=TUS)).status_code == 204
        assert (await alice.get(path)).content == b"hello"
        assert (await upload(alice)).status_code == 200
        done = await alice.patch(tus, headers={**PIECE, "upload-offset": "0"}, content=b"hello")
        assert done.status_code == 204
        await _nothing_left(hapta)


async def _nothing_left(hapta: TestHapta) -> None:
    files = hapta.app.services.files
    assert files is not None
    await files.upkeep.sweep()
    assert await files.upkeep.remove_orphans() == 0


async def test_an_s3_service_that_is_away_is_told_and_comes_back(server_run: Run, tmp_path: Path) -> None:
    with SeaweedServer(server_run) as s3:
        store = s3_settings(s3.url)
        environ = {
            "HAPTA_BLOBS_URL": store.url,
            "HAPTA_BLOBS_ENDPOINT": store.endpoint,
            "HAPTA_BLOBS_ACCESS_KEY_ID": store.access_key_id,
            "HAPTA_BLOBS_SECRET_ACCESS_KEY": store.secret_access_key,
            "HAPTA_BLOBS_RETRIES": "0",
        }
        async with served(f"sqlite:///{tmp_path}/hapta.db", tmp_path, environ) as hapta:
            alice = await hapta.register("alice@example.org")
            file = await uploaded(alice, b"hello")
            s3.kill()
            away = await upload(alice)
            assert (away.status_code, away.json()["error"]) == (503, "The file storage is not available")
            assert (await alice.get(f"/v1/uploads/{file['id']}/download")).status_code == 503
            assert (await alice.delete(f"/v1/uploads/{file['id']}")).status_code == 200
            s3.start()
            again = await uploaded(alice, b"hello again")
            assert (await alice.get(f"/v1/uploads/{again['id']}/download")).content == b"hello again"
            await _nothing_left(hapta)
