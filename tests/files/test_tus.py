"""Resumable uploads by the tus protocol 1.0: core, creation, checksum, termination, expiration."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta
from tests.files.house import PDF, PIECE, TUS, create_tus, picture, served, uploaded

pytestmark = pytest.mark.anyio


def metadata(**values: str) -> str:
    return ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in values.items())


async def begun(account: Account, length: int | None, **values: str) -> str:
    """The address of a new upload."""
    answer = await create_tus(account, length, metadata(**values))
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def piece(account: Account, url: str, offset: int, content: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await account.patch(url, headers={**PIECE, "upload-offset": str(offset), **named}, content=content)


async def state(account: Account, url: str) -> httpx.Response:
    return await account.request("HEAD", url, headers=TUS)


async def test_anybody_may_ask_what_the_server_speaks(hapta: TestHapta) -> None:
    answer = await hapta.http.request("OPTIONS", "/v1/uploads/tus")
    assert answer.status_code == 204
    assert answer.headers["tus-resumable"] == answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-max-size"] == str(100 * 1024 * 1024)
    assert {"creation", "checksum", "termination", "expiration"} <= set(answer.headers["tus-extension"].split(","))
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
    asked = {"origin": "https://app.example", "access-control-request-method": "PATCH"}
    preflight = await hapta.http.request("OPTIONS", "/v1/uploads/tus", headers=asked)
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    exposed = (await hapta.http.get("/healthz", headers=asked)).headers["access-control-expose-headers"].lower()
    assert {"location", "upload-offset", "tus-resumable"} <= {name.strip() for name in exposed.split(",")}


async def test_an_upload_in_pieces_becomes_a_file_like_any_other(alice: Account) -> None:
    content = picture("PNG", (300, 200))
    said = metadata(filename="../me.png", filetype="image/png", category="documents", other="x")
    answer = await create_tus(alice, len(content), said)
    url = answer.headers["location"]
    assert "upload-expires" in answer.headers
    offset, now = 0, answer
    while offset < len(content):
        answer = await piece(alice, url, offset, content[offset : offset + 400])
        assert (answer.status_code, answer.headers["tus-resumable"]) == (204, "1.0.0")
        offset = int(answer.headers["upload-offset"])
        now = await state(alice, url)
        assert now.headers["cache-control"] == "no-store"
        assert now.headers["upload-metadata"] == said
        assert (now.headers["upload-offset"], now.headers["upload-length"]) == (str(offset), str(len(content)))
    file_id = answer.headers["hapta-file-id"]
    assert now.headers["hapta-file-id"] == file_id
    file = (await alice.get(f"/v1/uploads/{file_id}")).json()["file"]
    assert (file["originalName"], file["path"]) == ("me.png", f"documents/{alice.id}/{file_id}.png")
    assert (file["width"], file["height"]) == (300, 200)
    assert (await alice.get(f"/v1/uploads/{file_id}/download")).content == content
    # An upload that is complete takes nothing more, and its end leaves the file.
    assert (await piece(alice, url, len(content), b"")).status_code == 204
    assert (await piece(alice, url, 0, b"x")).status_code == 409
    assert (await alice.delete(url, headers=TUS)).status_code == 204
    assert (await state(alice, url)).status_code == 404
    assert (await alice.get(f"/v1/uploads/{file_id}/download")).content == content


async def test_creation_may_bring_bytes_and_tell_the_length_later(alice: Account) -> None:
    said = metadata(filename="a.txt", filetype="text/plain")
    whole = {**PIECE, "upload-length": "5", "upload-metadata": said}
    answer = await alice.post("/v1/uploads/tus", headers=whole, content=b"hello")
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "5")
    assert (await alice.get(f"/v1/uploads/{answer.headers['hapta-file-id']}")).status_code == 200
    url = await begun(alice, None, filename="b.txt", filetype="text/plain")
    assert (await piece(alice, url, 0, b"hel")).headers["upload-offset"] == "3"
    assert (await state(alice, url)).headers["upload-defer-length"] == "1"
    assert (await piece(alice, url, 3, b"", upload_length="5")).status_code == 204
    assert (await piece(alice, url, 3, b"", upload_length="6")).status_code == 409
    done = await piece(alice, url, 3, b"lo")
    assert (await alice.get(f"/v1/uploads/{done.headers['hapta-file-id']}/download")).content == b"hello"
    nothing = await create_tus(alice, 0, metadata(filename="empty.txt"))
    assert (await alice.get(f"/v1/uploads/{nothing.headers['hapta-file-id']}/download")).content == b""


async def test_requests_that_are_not_tus_are_told_so(alice: Account) -> None:
    async def created(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await alice.post("/v1/uploads/tus", headers=named)).status_code

    other = await alice.post("/v1/uploads/tus", headers={"upload-length": "5", "tus-resumable": "0.2.2"})
    assert (other.status_code, other.headers["tus-version"]) == (412, "1.0.0")
    assert await created(upload_length="5") == 412
    speaks = {"tus_resumable": "1.0.0"}
    assert await created(**speaks) == 400
    assert await created(**speaks, upload_length="-5") == 400
    assert await created(**speaks, upload_length="x") == 400
    assert await created(**speaks, upload_length="5", upload_defer_length="1") == 400
    assert await created(**speaks, upload_defer_length="2") == 400
    assert await created(**speaks, upload_length="5", upload_metadata="filename %%%") == 400
    assert await created(**speaks, upload_length="5", upload_metadata="a YQ==,a YQ==") == 400
    assert await created(**speaks, upload_length="5", upload_metadata=metadata(category="../x")) == 400
    assert await created(**speaks, upload_length="999999999999") == 413
    assert (
        await created(**speaks, upload_length=str(6 * 1024 * 1024), upload_metadata=metadata(category="avatars")) == 400
    )
    url = await begun(alice, 5, filetype="text/plain")
    assert (await alice.patch(url, headers={**TUS, "upload-offset": "0"}, content=b"x")).status_code == 415
    assert (await alice.patch(url, headers=PIECE, content=b"x")).status_code == 400
    assert (await alice.patch(url, headers={**PIECE, "tus-resumable": "2"}, content=b"x")).status_code == 412
    wrong = await piece(alice, url, 3, b"x")
    assert (wrong.status_code, wrong.json()["offset"], wrong.headers["tus-resumable"]) == (409, 0, "1.0.0")
    assert (await piece(alice, url, 0, b"much too long")).status_code == 400
    assert (await piece(alice, "/v1/uploads/tus/" + "0" * 32, 0, b"x")).status_code == 404


async def test_a_wrong_checksum_leaves_no_trace(alice: Account) -> None:
    url = await begun(alice, 11, filetype="text/plain")

    def checksum(algorithm: str, content: bytes) -> str:
        return f"{algorithm} {b64encode(hashlib.new(algorithm, content).digest()).decode()}"

    for algorithm in ("sha1", "sha256"):
        wrong = await piece(alice, url, 0, b"hellO ", upload_checksum=checksum(algorithm, b"hello "))
        assert (wrong.status_code, wrong.json()["code"]) == (460, "checksum-mismatch")
        assert (await state(alice, url)).headers["upload-offset"] == "0"
    for bad in ("md5 AAAA", "sha1", "sha1 %%%", ""):
        assert (await piece(alice, url, 0, b"x", upload_checksum=bad)).status_code == 400, bad
    assert (await piece(alice, url, 0, b"hello ", upload_checksum=checksum("sha1", b"hello "))).status_code == 204
    done = await piece(alice, url, 6, b"world", upload_checksum=checksum("sha256", b"world"))
    assert (await alice.get(f"/v1/uploads/{done.headers['hapta-file-id']}/download")).content == b"hello world"


async def test_the_whole_is_judged_when_its_last_byte_is_there(alice: Account) -> None:
    for content, kind, code in (
        (PDF, "image/png", "invalid-type"),
        (b"hello", "application/json", "invalid-type"),
        (picture("PNG")[:80], "image/png", "invalid-type"),
        (b"x" * 5000 + b"\0", "text/plain", "invalid-type"),
    ):
        url = await begun(alice, len(content), filetype=kind)
        assert (await piece(alice, url, 0, content[:-1])).status_code == 204
        last = await piece(alice, url, len(content) - 1, content[-1:])
        assert (last.status_code, last.json()["code"]) == (400, code)
        assert (await state(alice, url)).status_code == 404
    assert (await alice.get("/v1/uploads")).json() == {"files": []}


async def test_a_reuse_key_counts_for_pieces_too(alice: Account) -> None:
    first = await uploaded(alice, b"hello", reuseKey="one")
    url = await begun(alice, 5, filetype="text/plain", reuseKey="one")
    assert (await piece(alice, url, 0, b"other")).headers["hapta-file-id"] == first["id"]
    assert len((await alice.get("/v1/uploads")).json()["files"]) == 1


async def test_nobody_else_reaches_an_upload(alice: Account, bob: Account, hapta: TestHapta) -> None:
    url = await begun(alice, 11, filetype="text/plain")
    assert (await piece(alice, url, 0, b"hello ")).status_code == 204
    assert (await state(bob, url)).status_code == 404
    assert (await piece(bob, url, 6, b"wurst")).status_code == 404
    assert (await bob.delete(url, headers=TUS)).status_code == 404
    assert (await hapta.http.request("HEAD", url, headers=TUS)).status_code == 401
    done = await piece(alice, url, 6, b"world")
    assert (await bob.get(f"/v1/uploads/{done.headers['hapta-file-id']}")).status_code == 404


async def test_methods_may_be_told_in_a_header(alice: Account) -> None:
    url = await begun(alice, 5, filetype="text/plain")

    async def told(method: str, **headers: str) -> int:
        return (
            await alice.post(url, headers={**PIECE, "x-http-method-override": method, **headers}, content=b"hel")
        ).status_code

    assert await told("PATCH", **{"upload-offset": "0"}) == 204
    assert await told("PUT") == 400
    assert await told("DELETE") == 204
    assert (await state(alice, url)).status_code == 404


async def test_of_two_pieces_at_once_one_waits_and_a_cut_one_keeps_what_came(alice: Account) -> None:
    url = await begun(alice, 300_000, filetype="text/plain")
    arrived = asyncio.Event()

    async def slow() -> Any:
        yield b"x" * 100_000
        arrived.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(piece(alice, url, 0, slow()))
    await arrived.wait()
    second = await piece(alice, url, 0, b"y")
    assert second.status_code in (409, 423)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    offset = int((await state(alice, url)).headers["upload-offset"])
    assert 0 <= offset <= 100_000
    done = await piece(alice, url, offset, b"x" * (300_000 - offset))
    content = (await alice.get(f"/v1/uploads/{done.headers['hapta-file-id']}/download")).content
    assert content == b"x" * 300_000


async def test_unfinished_uploads_end_and_are_counted(migrated_url: str, tmp_path: Path) -> None:
    clock = FakeClock()
    limits = {"HAPTA_FILES_MAX_UNFINISHED": "2", "HAPTA_FILES_UPLOAD_KEEP_SECONDS": "600"}
    async with served(migrated_url, tmp_path, limits, clock=clock) as hapta:
        alice = await hapta.register("alice@example.org")
        first, second = await begun(alice, 10), await begun(alice, 10)
        assert (await create_tus(alice, 10)).status_code == 429
        clock.advance(seconds=500)
        assert (await piece(alice, second, 0, b"hello")).status_code == 204
        clock.advance(seconds=200)
        assert (await state(alice, first)).status_code == 404
        assert (await piece(alice, first, 0, b"x")).status_code == 404
        assert (await state(alice, second)).headers["upload-offset"] == "5"
        files = hapta.app.services.files
        assert files is not None
        await files.upkeep.sweep()
        assert (await create_tus(alice, 10)).status_code == 201
