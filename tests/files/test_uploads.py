"""Uploads as the clients make them (contract relay, section 10): answers, limits, names, reuse keys, lists, avatars."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hapta.testing.server import Account, TestHapta
from tests.files.house import PDF, SVG, picture, served, upload, uploaded

pytestmark = pytest.mark.anyio


async def test_an_upload_answers_with_all_that_is_known_of_the_file(alice: Account) -> None:
    content = picture("JPEG", (640, 480))
    answer = await upload(alice, content, "image/jpeg", "holiday.jpg", category="documents")
    body = answer.json()
    file = body["file"]
    assert (answer.status_code, body["success"]) == (200, True)
    assert file.keys() == {
        "id", "path", "originalName", "contentType", "size", "width", "height", "thumbhash", "createdAt", "updatedAt"
    }  # fmt: skip
    assert file["path"] == f"documents/{alice.id}/{file['id']}.jpg"
    assert (file["originalName"], file["contentType"], file["size"]) == ("holiday.jpg", "image/jpeg", len(content))
    assert (file["width"], file["height"]) == (640, 480)
    again = (await alice.get(f"/v1/uploads/{file['id']}")).json()
    assert again == {"file": file, "url": f"/v1/uploads/{file['id']}/download"}
    loaded = await alice.get(again["url"])
    assert (loaded.content, loaded.headers["content-type"]) == (content, "image/jpeg")


TYPES = [
    (picture("GIF"), "image/gif", "gif"),
    (picture("WEBP"), "image/webp", "webp"),
    (picture("PNG"), "image/png", "png"),
    (SVG, "image/svg+xml", "svg"),
    (PDF, "application/pdf", "pdf"),
    (b"hello", "text/plain;charset=utf-8", "txt"),
    (b'{"a": 1}', "application/json", "json"),
    (b"# Title\n\n<div align=center>", "text/markdown; variant=GFM", "md"),
    (b"", "text/plain", "txt"),
]


async def test_all_types_of_the_contract_are_taken(alice: Account) -> None:
    for content, media_type, extension in TYPES:
        file = await uploaded(alice, content, media_type)
        assert file["path"].endswith(f".{extension}")
        assert file["contentType"] == media_type.partition(";")[0]
        assert (await alice.get(f"/v1/uploads/{file['id']}/download")).content == content


async def test_what_is_no_upload_is_told_why(alice: Account) -> None:
    async def refused(**request: Any) -> tuple[int, Any, Any]:
        answer = await alice.post("/v1/uploads", **request)
        return answer.status_code, answer.json()["success"], answer.json()["code"]

    missing = (400, False, "missing-file")
    assert await refused(json={"file": "x"}) == missing
    assert await refused(data={"category": "files"}, files={"other": b"x"}) == missing
    assert await refused(files={"file": (None, b"no file, but a text")}) == missing
    form = {"content-type": "multipart/form-data; boundary=B"}
    assert await refused(headers=form, content=b"--B--\r\n") == missing
    assert await refused(headers=form, content=b"nonsense") == (400, False, "invalid-upload")
    assert await refused(headers={"content-type": "multipart/form-data"}, content=b"x") == (
        400,
        False,
        "invalid-upload",
    )
    cut = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nhel'
    assert await refused(headers=form, content=cut) == (400, False, "invalid-upload")
    two = [("file", ("a.txt", b"x", "text/plain")), ("file", ("b.txt", b"y", "text/plain"))]
    assert await refused(files=two) == (400, False, "invalid-upload")
    assert (await alice.get("/v1/uploads")).json() == {"files": []}


async def test_nobody_waits_for_what_follows_the_form(alice: Account) -> None:
    async def endless() -> Any:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nhi'
        yield b"\r\n--B--\r\n"
        while True:
            yield b"x" * 1000

    form = {"content-type": "multipart/form-data; boundary=B"}
    answer = await alice.post("/v1/uploads", headers=form, content=endless())
    assert (answer.status_code, answer.json()["file"]["size"]) == (200, 2)


async def test_an_unknown_category_reaches_no_path(alice: Account) -> None:
    for category in ("../../etc", "avatar", "files/x", "FILES", "null", "\u202efiles"):
        answer = await upload(alice, category=category)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-category"), category
    assert (await alice.get("/v1/uploads")).json() == {"files": []}


async def test_each_category_has_its_limit_wherever_it_stands_in_the_form(migrated_url: str, tmp_path: Path) -> None:
    limits = {
        "HAPTA_FILES_MAX_AVATAR_BYTES": "2000",
        "HAPTA_FILES_MAX_DOCUMENT_BYTES": "10000",
        "HAPTA_FILES_MAX_FILE_BYTES": "300000",
    }
    async with served(migrated_url, tmp_path, limits) as hapta:
        alice = await hapta.register("alice@example.org")
        assert (await upload(alice, b"x" * 10_000, category="documents")).status_code == 200
        for size, category in ((10_001, "documents"), (300_001, "files"), (900_000, "files")):
            answer = await upload(alice, b"x" * size, category=category)
            assert (answer.status_code, answer.json()["code"]) == (400, "size-exceeded"), (size, category)
        # Behind the file, where only the end of the body tells it; without Content-Length, where nothing tells it before.
        part = b'--B\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        head = b'; filename="a"\r\nContent-Type: text/plain'
        body = part % (b"file", head, b"x" * 10_001) + part % (b"category", b"", b"documents") + b"--B--\r\n"

        async def pieces() -> Any:
            for start in range(0, len(body), 4000):
                yield body[start : start + 4000]

        form = {"content-type": "multipart/form-data; boundary=B"}
        answer = await alice.post("/v1/uploads", headers=form, content=pieces())
        assert (answer.status_code, answer.json()["code"]) == (400, "size-exceeded")
        avatar = await upload(alice, b"\x89PNG\r\n\x1a\n" + bytes(3000), "image/png", path="/v1/uploads/avatar")
        assert (avatar.status_code, avatar.json()["code"]) == (400, "size-exceeded")
        assert len((await alice.get("/v1/uploads")).json()["files"]) == 1


NAMES = {
    "../../etc/passwd": "passwd",
    "C:\\Windows\\x.txt": "x.txt",
    "a\u202etxt.exe": "a_txt.exe",
    "..": "file",
    "x" * 400 + ".txt": "x" * 196 + ".txt",
    "ünï ✓.txt": "ünï ✓.txt",
}


async def test_names_are_cleaned_and_come_back_in_headers_that_hold_them(alice: Account) -> None:
    for sent, kept in NAMES.items():
        file = await uploaded(alice, b"hello", "text/plain", sent)
        assert file["originalName"] == kept
        disposition = (await alice.get(f"/v1/uploads/{file['id']}/download")).headers["content-disposition"]
        assert disposition.startswith('attachment; filename="')
        assert not set(disposition) & set("\r\n\0")


async def test_a_reuse_key_gives_the_file_that_has_it_and_stores_nothing(alice: Account, hapta: TestHapta) -> None:
    first = await uploaded(alice, b"first", reuseKey="logo")
    second = await uploaded(alice, b"second", name="other.txt", reuseKey="logo")
    assert second == first
    # Behind the file it is known too late to spare the bytes; nothing of them stays.
    form = {"content-type": "multipart/form-data; boundary=B"}
    part = b'--B\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    head = b'; filename="a"\r\nContent-Type: text/plain'
    body = part % (b"file", head, b"third") + part % (b"reuseKey", b"", b"logo") + b"--B--\r\n"
    assert (await alice.post("/v1/uploads", headers=form, content=body)).json()["file"] == first
    assert (await alice.get(f"/v1/uploads/{first['id']}/download")).content == b"first"
    assert await used(hapta, alice) == (5, 1)


async def used(hapta: TestHapta, account: Account) -> tuple[int, int]:
    files = hapta.app.services.files
    assert files is not None
    usage = await files.service.usage(account.id)
    return usage.bytes, usage.files


async def test_of_many_uploads_of_one_reuse_key_at_once_one_becomes_the_file(migrated_url: str, tmp_path: Path) -> None:
    async with served(migrated_url, tmp_path, {"HAPTA_FILES_MAX_UPLOADS": "50"}) as hapta:
        alice = await hapta.register("alice@example.org")
        answers = await asyncio.gather(
            *[upload(alice, f"number {n}".encode(), reuseKey="one") for n in range(12)],
            *[upload(alice, f"other {n}".encode(), reuseKey=f"key {n}") for n in range(4)],
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["file"]["id"] for answer in answers[:12]}) == 1
        assert (await used(hapta, alice))[1] == 5


async def test_more_uploads_at_a_time_than_allowed_are_told_to_wait(migrated_url: str, tmp_path: Path) -> None:
    async with served(migrated_url, tmp_path, {"HAPTA_FILES_MAX_UPLOADS": "1"}) as hapta:
        alice = await hapta.register("alice@example.org")
        bob = await hapta.register("bob@example.org")
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> Any:
            yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: text/plain\r\n\r\n'
            yield b"x" * 5000
            arrived.set()
            await go_on.wait()
            yield b"\r\n--B--\r\n"

        form = {"content-type": "multipart/form-data; boundary=B"}
        first = asyncio.create_task(alice.post("/v1/uploads", headers=form, content=slow()))
        await arrived.wait()
        answer = await upload(alice)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert (await upload(bob)).status_code == 200
        go_on.set()
        assert (await first).status_code == 200
        assert (await upload(alice)).status_code == 200


async def test_lists_are_newest_first_with_cursors_that_work_and_a_category(alice: Account) -> None:
    ids = [(await uploaded(alice, name=f"{n}.txt", category="documents" if n % 2 else "files"))["id"] for n in range(7)]
    newest = ids[::-1]

    async def pages(limit: int, **query: str) -> list[list[str]]:
        found: list[list[str]] = []
        while True:
            body = (await alice.get("/v1/uploads", params={"limit": str(limit), **query})).json()
            found.append([file["id"] for file in body["files"]])
            if "nextCursor" not in body:
                return found
            query["cursor"] = body["nextCursor"]

    assert await pages(3) == [newest[:3], newest[3:6], newest[6:]]
    assert await pages(7) == [newest]
    assert await pages(2, category="documents") == [ids[5:2:-2], ids[1:2]]
    assert await pages(50, category="avatars") == [[]]
    # A cursor outlives its file.
    first = (await alice.get("/v1/uploads", params={"limit": "2"})).json()
    assert (await alice.delete(f"/v1/uploads/{first['nextCursor']}")).json() == {"success": True}
    rest = (await alice.get("/v1/uploads", params={"cursor": first["nextCursor"]})).json()
    assert [file["id"] for file in rest["files"]] == newest[2:]
    for query in ({"limit": "0"}, {"limit": "201"}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "'" * 32}):
        assert (await alice.get("/v1/uploads", params=query)).status_code == 400, query


async def test_a_deleted_file_is_gone_at_once_and_its_bytes_soon(alice: Account, hapta: TestHapta) -> None:
    file = await uploaded(alice, b"hello")
    assert (await alice.delete(f"/v1/uploads/{file['id']}")).json() == {"success": True}
    for answer in (
        await alice.get(f"/v1/uploads/{file['id']}"),
        await alice.get(f"/v1/uploads/{file['id']}/download"),
        await alice.delete(f"/v1/uploads/{file['id']}"),
        await alice.post(f"/v1/uploads/{file['id']}/link", json={}),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"] == "File not found"
    assert await used(hapta, alice) == (0, 0)


async def test_an_avatar_is_made_anew_square_upright_and_without_what_came_along(
    alice: Account, hapta: TestHapta
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010F] = "a camera that tells where it was"
    sent = picture("JPEG", (900, 600), exif=exif.tobytes(), comment=b"secret place")
    answer = await upload(alice, sent, "image/jpeg", "me.jpg", "/v1/uploads/avatar")
    avatar = answer.json()["avatar"]
    assert avatar.keys() == {"id", "path", "contentType", "size", "width", "height", "thumbhash"}
    assert avatar["path"] == f"avatars/{alice.id}/{avatar['id']}.jpg"
    assert (avatar["width"], avatar["height"]) == (512, 512)
    content = (await alice.get(f"/v1/uploads/{avatar['id']}/download")).content
    assert len(content) == avatar["size"]
    assert b"secret place" not in content
    assert b"a camera" not in content
    image = Image.open(io.BytesIO(content))
    assert image.size == (512, 512)
    assert not dict(image.getexif())
    # What was its left half is its upper half now.
    rgb = image.convert("RGB")
    assert sum(rgb.getpixel((256, 60))) < 60  # type: ignore[arg-type]
    assert sum(rgb.getpixel((256, 450))) > 250  # type: ignore[arg-type]
    after = await upload(alice, picture("PNG", (64, 80), (1, 2, 3, 90)), "image/png", "b.png", "/v1/uploads/avatar")
    second = after.json()["avatar"]
    assert (second["contentType"], second["width"], second["height"]) == ("image/png", 64, 64)
    listed = (await alice.get("/v1/uploads", params={"category": "avatars"})).json()["files"]
    assert [file["id"] for file in listed] == [second["id"]]
    assert await used(hapta, alice) == (second["size"], 1)


NO_PICTURES = [
    (SVG, "image/svg+xml"),
    (b"hello", "text/plain"),
    (picture("PNG"), "image/jpeg"),
    (picture("PNG")[:60], "image/png"),
    (b"GIF89a=1;alert(1)//", "image/gif"),
]


async def test_what_is_no_picture_is_no_avatar_and_the_one_before_stays(alice: Account) -> None:
    path = "/v1/uploads/avatar"
    first = (await upload(alice, picture("PNG"), "image/png", path=path)).json()["avatar"]
    for content, media_type in NO_PICTURES:
        answer = await upload(alice, content, media_type, path=path, category="files", reuseKey="x")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-type"), media_type
    listed = (await alice.get("/v1/uploads")).json()["files"]
    assert [file["id"] for file in listed] == [first["id"]]


async def test_the_account_takes_its_files_with_it(alice: Account, hapta: TestHapta) -> None:
    file = await uploaded(alice, b"hello")
    link = (await alice.post(f"/v1/uploads/{file['id']}/link", json={})).json()["url"]
    assert (await hapta.http.get(link)).content == b"hello"
    answer = await alice.request("DELETE", "/auth/account", json={"password": alice.password})
    assert answer.status_code == 200, answer.text
    assert (await hapta.http.get(link)).status_code == 404
    assert await used(hapta, alice) == (0, 0)
