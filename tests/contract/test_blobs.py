"""One suite for every store of bytes: a folder, and a bucket of a real S3 service."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hapta.blobs.blobs import BlobMissing, Blobs, BlobsAway, Chunks, UploadBusy, WrongOffset
from hapta.blobs.connect import BadBlobsUrl, open_blobs
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import BlobsSettings
from tests.s3 import s3_settings

MIB = 1024 * 1024
Open = Callable[[], Awaitable[Blobs]]


class SenderFailed(Exception):
    """What a sender's stream ends with."""


async def pieces(*parts: bytes, fail: bool = False) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part
    if fail:
        raise SenderFailed


async def whole(chunks: Chunks) -> bytes:
    return b"".join([chunk async for chunk in chunks])


@pytest.fixture(params=["disk", "s3"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the same store again and again, as workers do."""
    opened: list[Blobs] = []
    settings = BlobsSettings()
    if request.param == "s3":
        settings = s3_settings(request.getfixturevalue("s3_url"))

    async def open_one() -> Blobs:
        opened.append(await open_blobs(settings, tmp_path, SystemClock(), RandomIds()))
        return opened[-1]

    yield open_one
    for one in opened:
        await one.close()


@pytest.fixture
async def blobs(open_store: Open) -> Blobs:
    return await open_store()


# --- objects ---


@pytest.mark.parametrize(
    "parts", [(), (b"",), (b"a",), (b"a" * 70_000, b"b" * 70_000)], ids=["none", "empty", "1", "2"]
)
async def test_what_was_put_is_read_back(blobs: Blobs, parts: tuple[bytes, ...]) -> None:
    before = time.time_ns() // 1_000_000
    assert await blobs.put("files/one", pieces(*parts)) == len(b"".join(parts))
    opened = await blobs.get("files/one")
    assert opened.size == len(b"".join(parts))
    assert await whole(opened.chunks) == b"".join(parts)
    found = await blobs.stat("files/one")
    assert found is not None
    assert (found.key, found.size) == ("files/one", opened.size)
    assert before - 2_000 <= found.modified_at <= time.time_ns() // 1_000_000 + 2_000


async def test_a_large_object_goes_through_in_small_chunks(blobs: Blobs) -> None:
    block = bytes(range(256)) * 256
    blocks = 20 * MIB // len(block) + 1  # more than one part of a multipart upload, and not a whole number of them
    expected = hashlib.sha256(block * blocks).hexdigest()
    assert await blobs.put("files/large", pieces(*[block] * blocks)) == len(block) * blocks
    opened = await blobs.get("files/large")
    digest, largest = hashlib.sha256(), 0
    async for chunk in opened.chunks:
        digest.update(chunk)
        largest = max(largest, len(chunk))
    assert digest.hexdigest() == expected
    assert largest <= 256 * 1024


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 1), (9, 10), (9, None), (10, None), (11, None), (3, 7), (3, 100), (5, 5), (7, 3), (0, 0)],
)
async def test_a_range_is_what_python_says_of_a_slice(blobs: Blobs, start: int, end: int | None) -> None:
    await blobs.put("files/digits", pieces(b"0123456789"))
    opened = await blobs.get("files/digits", start, end)
    assert opened.size == 10
    assert await whole(opened.chunks) == b"0123456789"[start:end]


async def test_what_can_be_had_at_once_is_what_a_read_gives(blobs: Blobs) -> None:
    for content in (b"0123456789", b"another, longer"):
        await blobs.put("files/one", pieces(content))
        for start, end in ((0, None), (0, len(content)), (2, 7)):
            assert await whole((await blobs.get("files/one", start, end)).chunks) == content[start:end]
            assert blobs.at_once("files/one", start, end) in (None, (len(content), content[start:end]))
    await blobs.delete(["files/one"])
    assert blobs.at_once("files/one") is None
    assert blobs.at_once("files/never") is None


async def test_what_is_read_again_and_again_is_what_is_there_now(blobs: Blobs) -> None:
    for content in (b"0123456789", b"another, longer", b"x" * 300_000, b""):
        await blobs.put("files/one", pieces(content))
        for start, end in (
            (0, None),
            (0, None),
            (0, len(content)),
            (3, 7),
            (-2, 4),
            (2, 1000),
            (7, 3),
            (400_000, None),
        ):
            opened = await blobs.get("files/one", start, end)
            assert opened.size == len(content)
            assert await whole(opened.chunks) == content[max(start, 0) : end]
            again = await blobs.get("files/one", start, end)
            await again.chunks.aclose()
            assert await whole(again.chunks) == b""
    await blobs.delete(["files/one"])
    for _ in range(2):
        with pytest.raises(BlobMissing):
            await blobs.get("files/one")


async def test_a_range_of_a_large_object(blobs: Blobs) -> None:
    content = bytes(range(256)) * 8192
    await blobs.put("files/large", pieces(content))
    opened = await blobs.get("files/large", 1_000_001, 1_900_003)
    assert await whole(opened.chunks) == content[1_000_001:1_900_003]


async def test_a_second_put_takes_the_place_of_the_first(blobs: Blobs) -> None:
    await blobs.put("files/one", pieces(b"first, and longer"))
    reading = await blobs.get("files/one")
    await blobs.put("files/one", pieces(b"second"))
    await reading.chunks.aclose()
    assert await whole((await blobs.get("files/one")).chunks) == b"second"


@pytest.mark.parametrize("size", [10, 20 * MIB], ids=["small", "large"])
async def test_a_put_whose_sender_fails_leaves_nothing(blobs: Blobs, size: int) -> None:
    with pytest.raises(SenderFailed):
        await blobs.put("files/one", pieces(*[b"x" * min(size, MIB)] * max(1, size // MIB), fail=True))
    assert await blobs.stat("files/one") is None
    assert await blobs.listed("") == []
    await blobs.put("files/one", pieces(b"kept"))
    with pytest.raises(SenderFailed):
        await blobs.put("files/one", pieces(b"x", fail=True))
    assert await whole((await blobs.get("files/one")).chunks) == b"kept"


async def test_a_cancelled_put_leaves_nothing(blobs: Blobs) -> None:
    sent = asyncio.Event()

    async def stuck() -> AsyncGenerator[bytes]:
        for _ in range(10):
            yield b"x" * MIB
        sent.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(blobs.put("files/one", stuck()))
    await sent.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await blobs.stat("files/one") is None
    assert await blobs.listed("") == []


async def test_what_is_not_there_is_missing(blobs: Blobs) -> None:
    assert await blobs.stat("files/none") is None
    for start in (0, 5):
        with pytest.raises(BlobMissing):
            await blobs.get("files/none", start)
    await blobs.delete(["files/none"])
    await blobs.delete([])
    await blobs.put("files/one", pieces(b"one"))
    await blobs.delete(["files/none", "files/one"])
    assert await blobs.stat("files/one") is None


async def test_many_objects_are_deleted_at_once(blobs: Blobs) -> None:
    await asyncio.gather(*[blobs.put(f"files/u/{number:02}", pieces(b"x")) for number in range(30)])
    await blobs.delete([f"files/u/{number:02}" for number in range(29)])
    assert [each.key for each in await blobs.listed("")] == ["files/u/29"]


async def test_what_is_deleted_while_it_is_read_gives_no_wrong_bytes(blobs: Blobs) -> None:
    content = bytes(range(256)) * (6 * MIB // 256)
    await blobs.put("files/one", pieces(content))
    opened = await blobs.get("files/one")
    first = await opened.chunks.__anext__()
    await blobs.delete(["files/one"])
    try:
        rest = await whole(opened.chunks)
    except (BlobMissing, BlobsAway):
        rest = b""
    assert content.startswith(first + rest)
    with pytest.raises(BlobMissing):
        await blobs.get("files/one")


# --- keys and lists ---

HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "../up",
    "a/../b",
    "a/..",
    ".",
    "..",
    ".hidden",
    "a/.hidden",
    "a//b",
    "a/",
    "/a",
    "a\\b",
    "a b",
    "a\0b",
    "a\n",
    "ä",
    "a%2fb",
    "a?b",
    "x" * 129,
    "/".join("abcdefghi"),
]


@pytest.mark.parametrize("key", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_key_that_is_not_one_of_ours_is_refused_by_every_call(blobs: Blobs, key: str) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: blobs.put(key, pieces(b"x")),
        lambda: blobs.get(key),
        lambda: blobs.stat(key),
        lambda: blobs.delete([key]),
        lambda: blobs.append(key, 0, pieces(b"x")),
        lambda: blobs.appended(key),
        lambda: blobs.read_appended(key),
        lambda: blobs.complete(key),
        lambda: blobs.discard(key),
        lambda: blobs.signed("GET", key, 60),
    ]
    for call in calls[: 9 if type(blobs).__name__ == "DiskBlobs" else 10]:
        with pytest.raises(ValueError, match="not a key"):
            await call()
    assert await blobs.listed("") == []


async def test_a_list_is_in_order_and_goes_on_where_it_ended(blobs: Blobs) -> None:
    keys = sorted(f"{kind}/u{user}/{name:03}" for kind in ("files", "sync") for user in range(3) for name in range(4))
    await asyncio.gather(*[blobs.put(key, pieces(b"x" * len(key))) for key in keys])
    assert [each.key for each in await blobs.listed("")] == keys
    assert {each.size for each in await blobs.listed("files/u1")} == {12}
    assert [each.key for each in await blobs.listed("files/u1/")] == keys[4:8]
    assert await blobs.listed("files/u") == []
    assert await blobs.listed("none/at/all") == []
    for limit in (1, 5, 24):
        found: list[str] = []
        while page := await blobs.listed("", found[-1] if found else "", limit):
            assert len(page) <= limit
            found += [each.key for each in page]
        assert found == keys
    assert [each.key for each in await blobs.listed("sync", "sync/u1/001", 3)] == keys[18:21]
    assert [each.key for each in await blobs.listed("sync", "sync/u1/0015", 1)] == keys[18:19]


# --- uploads in pieces ---


async def test_an_upload_in_pieces_becomes_an_object_when_it_is_complete(blobs: Blobs) -> None:
    assert await blobs.appended("files/one") == 0
    assert await blobs.append("files/one", 0, pieces(b"one", b"two")) == 6
    assert await blobs.append("files/one", 6, pieces()) == 6
    assert await blobs.append("files/one", 6, pieces(b"three")) == 11
    assert await blobs.appended("files/one") == 11
    opened = await blobs.read_appended("files/one")
    assert (opened.size, await whole(opened.chunks)) == (11, b"onetwothree")
    assert await blobs.stat("files/one") is None
    assert await blobs.listed("") == []
    assert [(each.key, each.size) for each in await blobs.begun()] == [("files/one", 11)]
    assert await blobs.complete("files/one") == 11
    assert await whole((await blobs.get("files/one")).chunks) == b"onetwothree"
    assert await blobs.begun() == []
    assert await blobs.appended("files/one") == 0
    assert await blobs.complete("files/one") == 11
    assert [each.key for each in await blobs.listed("")] == ["files/one"]


async def test_an_upload_of_nothing_becomes_an_empty_object(blobs: Blobs) -> None:
    assert await blobs.append("files/one", 0, pieces()) == 0
    assert [(each.key, each.size) for each in await blobs.begun()] == [("files/one", 0)]
    assert await blobs.append("files/one", 0, pieces(b"")) == 0
    assert await blobs.complete("files/one") == 0
    assert (await blobs.get("files/one")).size == 0


async def test_a_piece_elsewhere_than_at_the_end_is_refused(blobs: Blobs) -> None:
    with pytest.raises(WrongOffset) as refused:
        await blobs.append("files/one", 5, pieces(b"x"))
    assert refused.value.size == 0
    assert await blobs.begun() == []
    await blobs.append("files/one", 0, pieces(b"12345"))
    for offset in (0, 4, 6):
        with pytest.raises(WrongOffset) as refused:
            await blobs.append("files/one", offset, pieces(b"x"))
        assert refused.value.size == 5
    assert await whole((await blobs.read_appended("files/one")).chunks) == b"12345"


async def test_what_never_began_cannot_be_completed_or_read(blobs: Blobs) -> None:
    with pytest.raises(BlobMissing):
        await blobs.complete("files/one")
    with pytest.raises(BlobMissing):
        await blobs.read_appended("files/one")
    await blobs.discard("files/one")


async def test_a_discarded_upload_can_begin_anew(blobs: Blobs) -> None:
    await blobs.append("files/one", 0, pieces(b"old" * 10))
    await blobs.discard("files/one")
    assert (await blobs.appended("files/one"), await blobs.begun()) == (0, [])
    assert await blobs.append("files/one", 0, pieces(b"new")) == 3
    assert await blobs.complete("files/one") == 3
    assert await whole((await blobs.get("files/one")).chunks) == b"new"


async def test_a_piece_that_breaks_off_is_gone_on_with_where_it_ended(blobs: Blobs) -> None:
    content = bytes(range(256)) * (9 * MIB // 256)
    with pytest.raises(SenderFailed):
        await blobs.append("files/one", 0, pieces(content[:MIB], content[MIB : 9 * MIB - 7], fail=True))
    kept = await blobs.appended("files/one")
    assert 0 <= kept <= 9 * MIB - 7
    assert await whole((await blobs.read_appended("files/one")).chunks) == content[:kept]
    assert await blobs.append("files/one", kept, pieces(content[kept:])) == len(content)
    await blobs.complete("files/one")
    assert await whole((await blobs.get("files/one")).chunks) == content


async def test_of_many_senders_of_one_piece_one_wins(open_store: Open) -> None:
    stores = [await open_store(), await open_store()]

    async def send(number: int) -> int:
        return await stores[number % 2].append("files/one", 0, pieces(bytes([number]) * (number + 1)))

    answers = await asyncio.gather(*[send(number) for number in range(12)], return_exceptions=True)
    won = [number for number, answer in enumerate(answers) if answer == number + 1]
    assert len(won) == 1
    assert all(isinstance(answer, (WrongOffset, UploadBusy)) for answer in answers if not isinstance(answer, int))
    assert await stores[0].complete("files/one") == won[0] + 1
    assert await whole((await stores[0].get("files/one")).chunks) == bytes(won) * (won[0] + 1)


async def test_many_puts_of_one_key_leave_one_of_them_whole(open_store: Open) -> None:
    stores = [await open_store(), await open_store()]
    contents = [bytes([number]) * (MIB + number) for number in range(8)]
    sizes = await asyncio.gather(
        *[stores[number % 2].put("files/one", pieces(content)) for number, content in enumerate(contents)]
    )
    assert sizes == [len(content) for content in contents]
    assert await whole((await stores[0].get("files/one")).chunks) in contents
    assert len(await stores[0].listed("")) == 1


async def test_uploads_that_have_begun_are_listed_page_by_page(blobs: Blobs) -> None:
    keys = [f"files/u{number}/{number:02}" for number in range(5)]
    for key in keys:
        await blobs.append(key, 0, pieces(b"xy"))
        await blobs.append(key, 2, pieces(b"z"))
    found: list[str] = []
    while page := await blobs.begun(found[-1] if found else "", 2):
        assert len(page) <= 2
        assert all(each.size == 3 and each.modified_at > 0 for each in page)
        found += [each.key for each in page]
    assert found == keys


async def test_a_store_that_is_there_says_so(blobs: Blobs) -> None:
    await blobs.check()
    assert await blobs.listed("") == []
    assert await blobs.begun() == []
    assert await blobs.tidy(time.time_ns() // 1_000_000) == 0


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://host/x", ""),
        ("disk", ""),
        ("disk:relative", ""),
        ("disk://host/x", ""),
        ("s3:///prefix", ""),
        ("s3://bucket/../x", ""),
        ("s3://key:secret@bucket/x", ""),
        ("s3://bucket", "a key without its secret"),
    ],
    ids=range(8),
)
async def test_a_setting_that_names_no_store_is_refused(tmp_path: Path, url: str, key: str) -> None:
    with pytest.raises(BadBlobsUrl):
        await open_blobs(BlobsSettings(url=url, access_key_id=key), tmp_path, SystemClock(), RandomIds())
