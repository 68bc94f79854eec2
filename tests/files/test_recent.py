"""Files that are asked for again and again: no statement each time, and nothing of what is gone, changed or another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from hapta.db.database import WriteTx
from hapta.files.errors import FileNotFound
from hapta.files.models import Description, File
from hapta.files.recent import BELIEVED_SECONDS, MOST_FILES, SHUT_SECONDS, RecentFiles
from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta
from tests.files.house import ALICE, BOB, PDF, House, Sent, picture, served, upload, uploaded

pytestmark = pytest.mark.anyio
CONTENT = PDF + bytes(range(256)) * 390
"""Of a size that is answered in one piece, and no text."""


async def stored(house: House, content: bytes = CONTENT, user_id: str = ALICE) -> File:
    return await house.files.service.upload(user_id, Sent(content, Description("a.pdf", "application/pdf")))


async def forget_behind_its_back(house: House, file: File) -> None:
    """Deletes a row as another process does."""

    async def body(tx: WriteTx) -> None:
        await tx.execute(
            "DELETE FROM res_files WHERE user_id = :user_id AND id = :id", user_id=file.user_id, id=file.id
        )

    await house.db.write(body)


async def statements(house: House, file: File) -> int:
    """How many reads it takes to look a file up."""
    before = house.db.stats.reads
    assert await house.files.service.get_file(file.user_id, file.id) == file
    return house.db.stats.reads - before


async def is_there(house: House, file: File) -> bool:
    try:
        await house.files.service.get_file(file.user_id, file.id)
    except FileNotFound:
        return False
    return True


def row(number: int, user_id: str = ALICE) -> File:
    return File(user_id, f"{number:032x}", "k", "files", "n", "text/plain", 1, b"", None, None, None, None, 0, 0)


# -- rows ----------------------------------------------------------------------------------------------------------------


async def test_a_row_is_read_once_a_second_and_with_several_workers_each_time(house: House, clock: FakeClock) -> None:
    file = await stored(house)
    again = 0 if house.db.engine == "sqlite" else 1
    assert await statements(house, file) == 1
    assert await statements(house, file) == again
    clock.advance(seconds=BELIEVED_SECONDS)
    assert await statements(house, file) == 1
    assert await statements(house, file) == again


async def test_a_deletion_is_seen_at_once_here_and_within_a_second_if_another_process_made_it(
    house: House, clock: FakeClock
) -> None:
    one, other = await stored(house), await stored(house)
    assert await is_there(house, one)
    assert await is_there(house, other)
    await house.files.service.delete_file(ALICE, one.id)
    assert not await is_there(house, one)
    assert await statements(house, other) == 1  # nothing of the account is believed any more
    await forget_behind_its_back(house, other)
    assert await is_there(house, other) == (house.db.engine == "sqlite")
    clock.advance(seconds=BELIEVED_SECONDS)
    assert not await is_there(house, other)


async def test_what_one_account_has_looked_up_is_not_there_for_another(house: House) -> None:
    file = await stored(house)
    for _ in range(2):
        assert await is_there(house, file)
        assert not await is_there(house, file._replace(user_id=BOB))


async def test_while_an_account_is_deleted_its_files_are_looked_up_each_time(house: House, clock: FakeClock) -> None:
    file, of_bob = await stored(house), await stored(house, user_id=BOB)
    again = 0 if house.db.engine == "sqlite" else 1

    async def purge(tx: WriteTx) -> None:
        await house.files.purge(tx, ALICE)
        raise TimeoutError

    assert await statements(house, file) == 1
    with pytest.raises(TimeoutError):
        await house.db.write(purge)
    assert [await statements(house, file) for _ in range(2)] == [1, 1]
    assert [await statements(house, of_bob) for _ in range(2)] == [1, again]
    clock.advance(seconds=SHUT_SECONDS)
    assert [await statements(house, of_bob) for _ in range(2)] == [1, again]
    assert [await statements(house, file) for _ in range(2)] == [1, again]
    await house.db.write(lambda tx: house.files.purge(tx, ALICE))
    assert not await is_there(house, file)


async def test_what_was_read_before_a_deletion_is_not_kept_after_it(house: House, clock: FakeClock) -> None:
    recent = RecentFiles(house.db, clock)
    epoch = recent.epoch
    recent.drop(ALICE)
    recent.put(row(1), epoch)
    assert recent.get(ALICE, row(1).id) is None
    recent.put(row(1), recent.epoch)
    assert recent.get(ALICE, row(1).id) == (row(1) if house.db.engine == "sqlite" else None)


async def test_what_is_kept_of_rows_has_a_bound(house: House, clock: FakeClock) -> None:
    recent = RecentFiles(house.db, clock)
    for number in range(MOST_FILES + 5):
        recent.put(row(number), recent.epoch)
        recent.put(row(0), recent.epoch)
    keeps = house.db.engine == "sqlite"
    assert len(recent) == (MOST_FILES if keeps else 0)
    assert (recent.get(ALICE, row(0).id) is not None) == keeps  # the one that was read last stays
    assert recent.get(ALICE, row(1).id) is None
    recent.put(row(1, BOB), recent.epoch)
    recent.drop(ALICE)
    assert len(recent) == (1 if keeps else 0)


# -- whole answers ---------------------------------------------------------------------------------------------------------


async def test_what_comes_from_memory_is_answered_as_what_comes_from_the_disk(alice: Account, hapta: TestHapta) -> None:
    path = f"/v1/uploads/{(await uploaded(alice, CONTENT, 'application/pdf', 'a.pdf'))['id']}/download"
    first = await alice.get(path)
    differ = {"x-request-id", "server-timing", "ratelimit"}
    sent = hapta.app.services.files.counts.sent_bytes
    for _ in range(3):
        again = await alice.get(path, headers={"accept-encoding": "gzip, zstd"})
        assert (again.status_code, again.content) == (200, CONTENT)
        assert {k: v for k, v in again.headers.items() if k not in differ} == {
            k: v for k, v in first.headers.items() if k not in differ
        }
    assert hapta.app.services.files.counts.sent_bytes == sent + 3 * len(CONTENT)
    head = await alice.request("HEAD", path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for asked in ({"if-none-match": etag}, {"if-modified-since": modified}):
        none = await alice.get(path, headers=asked)
        assert (none.status_code, none.content, none.headers["etag"]) == (304, b"", etag)
    part = await alice.get(path, headers={"range": "bytes=5-8", "if-range": etag})
    assert (part.status_code, part.content) == (206, CONTENT[5:9])
    assert part.headers["content-range"] == f"bytes 5-8/{len(CONTENT)}"
    assert (await alice.get(path, headers={"range": f"bytes={len(CONTENT)}-"})).status_code == 416
    assert (await alice.get(path, headers={"if-none-match": '"other"'})).content == CONTENT
    assert (await alice.get(path, params={"download": "1"})).headers["content-disposition"].startswith("attachment;")


async def test_what_is_gone_is_not_given_from_memory(
    alice: Account, bob: Account, hapta: TestHapta, tmp_path: Path
) -> None:
    files = [await uploaded(alice, CONTENT + bytes([number]), "application/pdf") for number in range(3)]
    paths = [f"/v1/uploads/{file['id']}/download" for file in files]
    for path in paths * 3:
        assert (await alice.get(path)).status_code == 200
    assert (await bob.get(paths[0])).status_code == 404
    assert (await hapta.http.get(paths[0])).status_code == 401
    assert (await alice.delete(f"/v1/uploads/{files[0]['id']}")).status_code == 200
    assert (await alice.get(paths[0])).status_code == 404
    assert (await alice.get(paths[1])).content == CONTENT + b"\1"
    # The bytes alone are gone, as by an accident: nothing pretends that they are there.
    [stored] = (tmp_path / "blobs" / "objects").rglob(files[2]["id"])
    stored.unlink()
    missing = await alice.get(paths[2])
    assert (missing.status_code, missing.json()["error"]) == (404, "File not found in storage")
    answer = await alice.request("DELETE", "/auth/account", json={"password": alice.password})
    assert answer.status_code == 200
    assert (await alice.get(paths[1])).status_code == 401


async def test_an_avatar_that_was_replaced_is_gone_at_once(alice: Account) -> None:
    before: dict[str, str] = {}
    for colour in ((200, 30, 90), (1, 200, 3), (4, 5, 200)):
        answer = await upload(alice, picture("PNG", colour=colour), "image/png", path="/v1/uploads/avatar")
        avatar = answer.json()["avatar"]
        path = f"/v1/uploads/{avatar['id']}/download"
        contents = [(await alice.get(path)).content for _ in range(3)]
        assert len(contents[0]) == avatar["size"]
        assert contents == [contents[0]] * 3
        if before:
            assert (await alice.get(before["path"])).status_code == 404
            assert before["content"] != contents[0].hex()
        before = {"path": path, "content": contents[0].hex()}


async def test_a_link_of_a_deleted_account_opens_nothing_from_memory(migrated_url: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with served(migrated_url, tmp_path, clock=clock) as hapta:
        alice = await hapta.register("alice@example.org")
        file = await uploaded(alice, CONTENT, "application/pdf")
        link = (await alice.post(f"/v1/uploads/{file['id']}/link", json={})).json()["url"]
        for _ in range(3):
            assert (await hapta.http.get(link)).content == CONTENT
        assert (await alice.request("DELETE", "/auth/account", json={"password": alice.password})).status_code == 200
        assert (await hapta.http.get(link)).status_code == 404  # though the clock stands still
        clock.advance(seconds=SHUT_SECONDS)
        assert (await hapta.http.get(link)).status_code == 404
