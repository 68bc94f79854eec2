"""Straight to the S3 store and back, with a plain HTTP client: what arrives there is judged before it counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.testing.server import Account, TestHapta
from tests.files.house import PDF, SVG, create_tus, picture, served, upload, uploaded
from tests.s3 import s3_settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hapta(s3_url: str, tmp_path: Path) -> AsyncIterator[TestHapta]:
    store = s3_settings(s3_url)
    environ = {
        "HAPTA_BLOBS_URL": store.url,
        "HAPTA_BLOBS_ENDPOINT": store.endpoint,
        "HAPTA_BLOBS_ACCESS_KEY_ID": store.access_key_id,
        "HAPTA_BLOBS_SECRET_ACCESS_KEY": store.secret_access_key,
        "HAPTA_FILES_DOWNLOAD_REDIRECT": "true",
    }
    async with served(f"sqlite:///{tmp_path}/hapta.db", tmp_path, environ) as server:
        yield server


@pytest.fixture
async def s3() -> AsyncIterator[httpx.AsyncClient]:
    """Knows nothing of us."""
    async with httpx.AsyncClient() as client:
        yield client


async def begun(account: Account, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    body = {"filename": "a/../x.bin", "size": len(content), "contentType": media_type, **more}
    answer = await account.post("/v1/uploads/direct", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def put(s3: httpx.AsyncClient, way: dict[str, Any], content: bytes) -> int:
    return (await s3.request(way["method"], way["url"], headers=way["headers"], content=content)).status_code


async def test_a_direct_upload_becomes_a_file_when_it_was_judged(alice: Account, s3: httpx.AsyncClient) -> None:
    content = picture("JPEG", (300, 200))
    way = await begun(alice, content, "image/jpeg", category="documents")
    done = f"/v1/uploads/direct/{way['id']}/complete"
    early = await alice.post(done)
    assert (early.status_code, early.json()["code"]) == (400, "missing-file")
    assert await put(s3, way, content) == 200
    file = (await alice.post(done)).json()["file"]
    assert (file["originalName"], file["contentType"], file["width"]) == ("x.bin", "image/jpeg", 300)
    assert (await alice.post(done)).json()["file"] == file
    # Whoever keeps the address changes nothing of what was judged.
    await put(s3, way, b"\0" * len(content))
    away = await alice.get(f"/v1/uploads/{file['id']}/download")
    assert away.status_code == 307
    got = await s3.get(away.headers["location"])
    assert (got.status_code, got.content, got.headers["content-type"]) == (200, content, "image/jpeg")
    part = await s3.get(away.headers["location"], headers={"range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, content[:2])


async def test_what_is_sent_to_the_store_is_no_file_unless_it_may_be_one(
    alice: Account, s3: httpx.AsyncClient, hapta: TestHapta
) -> None:
    for content, media_type in ((PDF, "image/png"), (b"<html>", "text/plain")):
        way = await begun(alice, content, media_type)
        assert await put(s3, way, content) == 200
        answer = await alice.post(f"/v1/uploads/direct/{way['id']}/complete")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-type")
        assert (await alice.post(f"/v1/uploads/direct/{way['id']}/complete")).status_code == 404
    assert (await alice.get("/v1/uploads")).json() == {"files": []}
    files = hapta.app.services.files
    assert files is not None
    await files.upkeep.sweep()
    assert await hapta.http.get("/healthz")
    for body in (
        {"filename": "x", "size": 0, "contentType": "text/plain"},
        {"filename": "x", "size": 10**12, "contentType": "text/plain"},
        {"filename": "x", "size": 1, "contentType": "text/plain\r\nx: y"},
        {"filename": "x", "size": 1, "contentType": "text/plain", "category": "../x"},
        {"size": 1},
    ):
        assert (await alice.post("/v1/uploads/direct", json=body)).status_code == 400


async def test_the_address_takes_what_was_announced_and_nothing_else(alice: Account, s3: httpx.AsyncClient) -> None:
    way = await begun(alice, b"hello", "text/plain")
    named = {name: value for name, value in way["headers"].items() if name != "content-length"}
    assert (await s3.put(way["url"], headers=named, content=b"hello and much more")).status_code == 403
    assert (
        await s3.put(way["url"], headers={**named, "content-type": "text/html"}, content=b"hello")
    ).status_code == 403
    assert (
        await s3.put(way["url"].replace(way["id"], "0" * 32), headers=way["headers"], content=b"hello")
    ).status_code == 403
    assert (await s3.get(way["url"])).status_code == 403


async def test_nobody_else_completes_an_upload(alice: Account, bob: Account, s3: httpx.AsyncClient) -> None:
    way = await begun(alice, b"hello", "text/plain")
    assert await put(s3, way, b"hello") == 200
    assert (await bob.post(f"/v1/uploads/direct/{way['id']}/complete")).status_code == 404
    assert (await bob.get("/v1/uploads")).json() == {"files": []}
    assert (await alice.post(f"/v1/uploads/direct/{way['id']}/complete")).status_code == 200


async def test_the_other_ways_in_and_out_do_not_mind_the_store(alice: Account) -> None:
    text = b"".join([b"%07d\n" % n for n in range(100_000)])
    file = await uploaded(alice, text)
    path = f"/v1/uploads/{file['id']}/download"
    assert (await alice.get(path)).content == text  # no redirect: text is handed out by us, as an attachment
    part = await alice.get(path, headers={"range": "bytes=100000-299999"})
    assert (part.status_code, part.content) == (206, text[100_000:300_000])
    svg = await uploaded(alice, SVG, "image/svg+xml")
    assert (
        (await alice.get(f"/v1/uploads/{svg['id']}/download")).headers["content-disposition"].startswith("attachment")
    )
    avatar = (await upload(alice, picture(), "image/png", path="/v1/uploads/avatar")).json()["avatar"]
    assert (await alice.get(f"/v1/uploads/{avatar['id']}/download")).status_code == 307
    url = (await create_tus(alice, len(text))).headers["location"]
    piece = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
    sent = None
    for start in range(0, len(text), 300_000):
        sent = await alice.patch(
            url, headers={**piece, "upload-offset": str(start)}, content=text[start : start + 300_000]
        )
        assert sent.status_code == 204
    assert sent is not None
    assert (await alice.get(f"/v1/uploads/{sent.headers['hapta-file-id']}/download")).content == text


async def test_a_folder_has_no_direct_way(tmp_path: Path) -> None:
    async with served(f"sqlite:///{tmp_path / 'hapta.db'}", tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        body = {"filename": "x", "size": 5, "contentType": "text/plain"}
        answer = await alice.post("/v1/uploads/direct", json=body)
        assert (answer.status_code, answer.json()["error"]) == (404, "The file storage takes no direct uploads")
