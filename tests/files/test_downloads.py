"""Downloads: ranges, conditions, links, and headers that keep a browser from running what a stranger uploaded."""

from __future__ import annotations

import email
from email.policy import HTTP
from pathlib import Path
from typing import Any

import pytest

from hapta.http.ranges import http_date
from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta
from tests.files.house import PDF, SVG, picture, served, uploaded

pytestmark = pytest.mark.anyio
LARGE = b"".join([b"%07d\n" % n for n in range(60_000)])
"""More than is answered in one piece."""


def parts_of(answer: Any) -> list[tuple[str, bytes]]:
    raw = b"content-type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
    message = email.message_from_bytes(raw, policy=HTTP)
    return [(part["content-range"], part.get_payload(decode=True)) for part in message.iter_parts()]  # type: ignore[attr-defined]


async def test_ranges_give_exactly_what_was_asked_for(alice: Account) -> None:
    for content in (LARGE, b"0123456789"):
        size = len(content)
        path = f"/v1/uploads/{(await uploaded(alice, content))['id']}/download"
        whole = await alice.get(path)
        assert (whole.status_code, whole.content) == (200, content)
        assert whole.headers["accept-ranges"] == "bytes"
        assert int(whole.headers["content-length"]) == size
        for asked, start, end in (
            ("bytes=0-0", 0, 1), ("bytes=2-5", 2, 6), ("bytes=5-", 5, size), ("bytes=-4", size - 4, size),
            ("bytes=0-99999999", 0, size), (f"bytes=-{size * 2}", 0, size), ("BYTES = 3-4", 3, 5),
        ):  # fmt: skip
            part = await alice.get(path, headers={"range": asked})
            assert (part.status_code, part.content) == (206, content[start:end]), asked
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert int(part.headers["content-length"]) == end - start
        for asked in (f"bytes={size}-", "bytes=99999999-", "bytes=-0"):
            none = await alice.get(path, headers={"range": asked})
            assert (none.status_code, none.headers["content-range"]) == (416, f"bytes */{size}"), asked
        for asked in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=-", "bytes=", "bytes=0-" + ",0-" * 20):
            assert (await alice.get(path, headers={"range": asked})).content == content, asked
        several = await alice.get(path, headers={"range": "bytes=0-1, 4-5,-2,99999999-"})
        assert several.status_code == 206
        assert int(several.headers["content-length"]) == len(several.content)
        assert parts_of(several) == [
            (f"bytes 0-1/{size}", content[:2]),
            (f"bytes 4-5/{size}", content[4:6]),
            (f"bytes {size - 2}-{size - 1}/{size}", content[-2:]),
        ]


async def test_conditions_spare_what_the_client_has(alice: Account) -> None:
    file = await uploaded(alice, b"0123456789")
    path = f"/v1/uploads/{file['id']}/download"
    first = await alice.get(path)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    assert modified == http_date(file["updatedAt"])
    earlier, later = http_date(file["updatedAt"] - 5000), http_date(file["updatedAt"] + 5000)

    async def status(**headers: str) -> int:
        answer = await alice.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        if answer.status_code == 304:
            assert answer.content == b""
            assert answer.headers["etag"] == etag
        return answer.status_code

    assert await status(if_none_match=etag) == 304
    assert await status(if_none_match=f'"other", W/{etag}') == 304
    assert await status(if_none_match="*") == 304
    assert await status(if_none_match='"other"') == 200
    assert await status(if_none_match='"other"', if_modified_since=later) == 200  # tags alone count where there are any
    assert await status(if_modified_since=modified) == 304
    assert await status(if_modified_since=later) == 304
    assert await status(if_modified_since=earlier) == 200
    assert await status(if_modified_since="yesterday") == 200
    assert await status(range="bytes=0-1", if_range=etag) == 206
    assert await status(range="bytes=0-1", if_range=modified) == 206
    assert await status(range="bytes=0-1", if_range=f"W/{etag}") == 200
    assert await status(range="bytes=0-1", if_range='"other"') == 200
    assert await status(range="bytes=0-1", if_range=earlier) == 200


async def test_head_tells_all_but_the_bytes(alice: Account) -> None:
    for content in (LARGE, b"0123456789", b""):
        path = f"/v1/uploads/{(await uploaded(alice, content))['id']}/download"
        got, head = await alice.get(path), await alice.request("HEAD", path, headers={"range": "bytes=0-1"})
        assert (head.status_code, head.content) == (200, b"")
        differ = {"x-request-id", "server-timing"}
        assert {k: v for k, v in head.headers.items() if k not in differ} == {
            k: v for k, v in got.headers.items() if k not in differ
        }


async def test_only_pictures_are_shown_and_nothing_runs(alice: Account) -> None:
    shown = {"image/png": picture("PNG"), "image/jpeg": picture("JPEG"), "image/gif": picture("GIF")}
    saved = {
        "image/svg+xml": SVG,
        "text/plain": b"hello",
        "text/markdown": b"<script>alert(1)</script>",
        "application/pdf": PDF,
        "application/json": b"{}",
    }
    for media_type, content in {**shown, **saved}.items():
        path = f"/v1/uploads/{(await uploaded(alice, content, media_type, 'x'))['id']}/download"
        headers = (await alice.get(path)).headers
        kind = "inline" if media_type in shown else "attachment"
        assert headers["content-disposition"].startswith(f"{kind};"), media_type
        assert headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert headers.get_list("x-content-type-options") == ["nosniff"]
        assert headers["content-type"].partition(";")[0] == media_type
        assert headers["cache-control"] == "private, no-cache"
        asked = (await alice.get(path, params={"download": "1"})).headers["content-disposition"]
        assert asked.startswith("attachment;")


async def test_a_link_opens_one_file_to_everybody_until_it_ends(migrated_url: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with served(migrated_url, tmp_path, clock=clock) as hapta:
        alice = await hapta.register("alice@example.org")
        file, other = await uploaded(alice, b"0123456789"), await uploaded(alice, b"another")
        made = (await alice.post(f"/v1/uploads/{file['id']}/link", json={"expiresIn": 60})).json()
        assert made["expiresAt"] == clock.now_ms() + 60_000
        assert alice.id not in made["url"]
        got = await hapta.http.get(made["url"], headers={"range": "bytes=2-3"})
        assert (got.status_code, got.content) == (206, b"23")
        assert "sandbox" in got.headers["content-security-policy"]
        token = made["url"].partition("token=")[2]
        moved = await hapta.http.get(f"/v1/uploads/{other['id']}/signed", params={"token": token})
        changed = [token[:-1] + ("A" if token[-1] != "A" else "B"), "", "x", token + "é", "A" * 400]
        answers = [await hapta.http.get(f"/v1/uploads/{file['id']}/signed", params={"token": t}) for t in changed]
        for answer in (moved, *answers):
            assert (answer.status_code, answer.json()["error"]) == (403, "The link is not valid, or no longer")
        clock.advance(seconds=61)
        assert (await hapta.http.get(made["url"])).status_code == 403
        longest = (await alice.post(f"/v1/uploads/{file['id']}/link", json={"expiresIn": 9_000_000})).json()
        assert longest["expiresAt"] == clock.now_ms() + 7 * 86_400_000
        assert (await alice.delete(f"/v1/uploads/{file['id']}")).status_code == 200
        assert (await hapta.http.get(longest["url"])).status_code == 404
        for wrong in ({"expiresIn": 0}, {"expiresIn": "x"}):
            assert (await alice.post(f"/v1/uploads/{other['id']}/link", json=wrong)).status_code == 400


async def test_no_account_reaches_the_files_of_another(alice: Account, bob: Account, hapta: TestHapta) -> None:
    secret = b"only alice may read this"
    file = await uploaded(alice, secret, reuseKey="mine")
    about, path = f"/v1/uploads/{file['id']}", f"/v1/uploads/{file['id']}/download"
    paths = [
        about,
        path,
        f"{path}?download=1",
        f"{about}/",
        f"/v1/uploads/{file['path']}",
        f"/v1/uploads/../uploads/{file['id']}",
    ]
    for asked in paths:
        answer = await bob.get(asked)
        assert answer.status_code == 404, asked
    assert (await bob.post(f"{about}/link", json={})).status_code == 404
    assert (await bob.delete(about)).status_code == 404
    assert (await hapta.http.get(path)).status_code == 401
    assert (await bob.get("/v1/uploads")).json() == {"files": []}
    assert (await bob.get("/v1/uploads", params={"cursor": "f" * 32})).json() == {"files": []}
    own = await uploaded(bob, b"bob's", reuseKey="mine")
    assert own["id"] != file["id"]
    # A link of bob's to his own file opens nothing of alice's.
    link = (await bob.post(f"/v1/uploads/{own['id']}/link", json={})).json()["url"]
    assert (await hapta.http.get(link.replace(own["id"], file["id"]))).status_code == 403
    assert (await alice.get(path)).content == secret
