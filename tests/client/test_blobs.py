"""Large files as encrypted blobs: every byte arrives, an upload goes on where it was cut off, and no server can slip in other bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.client import Hapta
from hapta.client.blobs import FROM_BYTES, PIECE_BYTES, Piece, name_of, open_piece, seal_piece
from hapta.client.envelope import KeyRing, padme
from hapta.client.errors import DecryptFailed, QuotaExceeded, ServerUnreachable
from hapta.client.files import CHUNKS, FILES, Folder
from tests.servers import HaptaServer

from .peer import KEY, VAULT, Peer, open_vault

NAME_KEY = bytes(32)
OTHER_VAULT = "22222222-2222-4222-8222-222222222222"
LARGE = os.urandom(2 * PIECE_BYTES + 12_345)


@pytest.fixture
def peer() -> Peer:
    return Peer(blobs=True)


@pytest.fixture
def device(peer: Peer, tmp_path: Path) -> Callable[[str], Folder]:
    """Opens a device's folder; the same name opens the same one again."""

    def open_one(name: str) -> Folder:
        vault = open_vault(peer, tmp_path, name)
        return vault.folder(tmp_path / f"folder-{name}", device_name=name)

    return open_one


async def test_a_large_file_goes_as_blobs_and_a_small_one_in_rows(device: Callable[[str], Folder], peer: Peer) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(LARGE)
    (a.path / "exactly").write_bytes(b"e" * FROM_BYTES)
    (a.path / "above").write_bytes(b"a" * (FROM_BYTES + 1))
    assert (await a.sync()).problems == []
    assert peer.blobs is not None
    assert len(peer.blobs) == 4
    assert sum(len(row["encryptedData"]) for row in peer.rows) < 600_000
    report = await b.sync()
    assert (report.problems, sorted(report.downloaded)) == ([], ["above", "exactly", "large"])
    assert (b.path / "large").read_bytes() == LARGE
    assert (b.path / "exactly").read_bytes() == b"e" * FROM_BYTES
    assert (b.path / "above").read_bytes() == b"a" * (FROM_BYTES + 1)
    put = len(peer.blobs_put)
    assert not (await b.sync()).changed
    assert not (await a.sync()).changed
    assert len(peer.blobs_put) == put


async def test_what_changed_in_a_large_file_is_all_that_is_sent_again(
    device: Callable[[str], Folder], peer: Peer
) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(LARGE)
    await a.sync()
    await b.sync()
    changed = LARGE[:PIECE_BYTES] + b"changed" + LARGE[PIECE_BYTES + 7 :]
    (b.path / "large").write_bytes(changed)
    (b.path / "copy").write_bytes(LARGE)
    await b.sync()
    assert len(peer.blobs_put) == 4
    await a.sync()
    assert (a.path / "large").read_bytes() == changed
    assert (a.path / "copy").read_bytes() == LARGE


async def test_an_upload_that_was_cut_off_goes_on_with_what_is_missing(
    device: Callable[[str], Folder], peer: Peer
) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(LARGE)
    puts = 0

    def cut(what: str, _: dict[str, Any]) -> httpx.Response | None:
        nonlocal puts
        puts += what == "PUT blob"
        if what == "PUT blob" and puts > 1:
            raise httpx.ReadError("gone")
        return None

    peer.before = cut
    with pytest.raises(ServerUnreachable):
        await a.sync()
    assert len(peer.blobs_put) == 1
    assert peer.rows == []  # rows come after what they name
    a.vault.close()
    peer.before = lambda what, _: None
    again = device("a")
    assert (await again.sync()).problems == []
    assert len(peer.blobs_put) == len(set(peer.blobs_put)) == 3
    await b.sync()
    assert (b.path / "large").read_bytes() == LARGE


async def test_a_full_quota_is_told_and_the_file_goes_when_there_is_room(
    device: Callable[[str], Folder], peer: Peer
) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(LARGE)
    full = httpx.Response(413, json={"error": "full", "code": "quota_exceeded"})
    peer.before = lambda what, _: full if what == "PUT blob" else None
    with pytest.raises(QuotaExceeded):
        await a.sync()
    peer.before = lambda what, _: None
    await a.sync()
    await b.sync()
    assert (b.path / "large").read_bytes() == LARGE


async def test_a_file_that_is_edited_before_it_was_sent_goes_as_it_is_then(
    device: Callable[[str], Folder], peer: Peer
) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "small").write_bytes(b"x")
    await a.sync()  # from now on the device knows that the server has blobs
    (a.path / "large").write_bytes(LARGE)
    await a.collect()
    newer = os.urandom(PIECE_BYTES)
    (a.path / "large").write_bytes(newer)
    assert (await a.sync()).problems == []
    assert (await b.sync()).problems == []
    assert (b.path / "large").read_bytes() == newer


async def test_both_sides_of_a_conflict_are_kept(device: Callable[[str], Folder], peer: Peer) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    b.path.mkdir()
    mine, yours = os.urandom(FROM_BYTES + 10), os.urandom(FROM_BYTES + 20)
    (a.path / "large").write_bytes(mine)
    (b.path / "large").write_bytes(yours)
    for folder in (a, b, a, b, a):
        assert (await folder.sync()).problems == []
    for folder in (a, b):
        contents = {path.read_bytes() for path in folder.path.glob("large*")}
        assert contents == {mine, yours}


@pytest.mark.parametrize("how", ["altered", "swapped", "shorter", "empty", "gone"])
async def test_a_server_that_gives_other_bytes_is_not_believed(
    device: Callable[[str], Folder], peer: Peer, how: str
) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(LARGE)
    await a.sync()
    assert peer.blobs is not None
    honest = dict(peer.blobs)
    names = sorted(honest)
    match how:
        case "altered":
            peer.blobs[names[0]] = bytes([honest[names[0]][0] ^ 1]) + honest[names[0]][1:]
        case "swapped":
            peer.blobs[names[0]] = honest[names[1]]
        case "shorter":
            peer.blobs[names[0]] = honest[names[0]][:-1]
        case "empty":
            peer.blobs[names[0]] = b""
        case _:
            del peer.blobs[names[0]]
    report = await b.sync()
    assert len(report.problems) == 1
    assert report.problems[0].startswith("large: ")
    assert not (b.path / "large").exists()
    peer.blobs.update(honest)
    assert (await b.sync()).problems == []
    assert (b.path / "large").read_bytes() == LARGE


async def test_a_server_without_blobs_gets_rows_and_they_are_read_when_it_has_them(
    device: Callable[[str], Folder], peer: Peer
) -> None:
    peer.blobs = None
    a = device("a")
    a.path.mkdir()
    (a.path / "old").write_bytes(LARGE)
    await a.sync()
    assert sum(len(row["encryptedData"]) for row in peer.rows) > len(LARGE)
    a.vault.close()
    peer.blobs = {}
    a, b = device("a"), device("b")
    (a.path / "new").write_bytes(LARGE[::-1])
    assert (await a.sync()).problems == []
    assert (await b.sync()).problems == []
    assert ((b.path / "old").read_bytes(), (b.path / "new").read_bytes()) == (LARGE, LARGE[::-1])
    assert len(peer.blobs) == 3


async def test_a_restored_server_gets_again_what_it_lost(device: Callable[[str], Folder], peer: Peer) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(LARGE)
    await a.sync()
    assert peer.blobs is not None
    peer.blobs.clear()
    peer.restore(0)
    await a.sync()
    await a.sync()
    assert len(peer.blobs) == 3
    assert (await b.sync()).problems == []
    assert (b.path / "large").read_bytes() == LARGE


# --- the seal ---


def test_equal_pieces_are_equal_blobs_on_every_device_and_nowhere_else() -> None:
    ring, same = KeyRing(VAULT, {0: KEY}), KeyRing(VAULT, {0: KEY})
    plain = os.urandom(5000)
    name = name_of(NAME_KEY, plain)
    sealed = seal_piece(ring, name, plain, 0)
    assert seal_piece(same, name, plain, 0) == sealed
    assert seal_piece(KeyRing(OTHER_VAULT, {0: KEY}), name, plain, 0) != sealed
    assert seal_piece(KeyRing(VAULT, {0: KEY[::-1]}), name, plain, 0) != sealed
    assert seal_piece(KeyRing(VAULT, {0: KEY, 1: KEY[::-1]}), name, plain, 1) != sealed
    assert plain[:32] not in sealed
    assert open_piece(ring, NAME_KEY, name, sealed, 0) == plain


@pytest.mark.parametrize("size", [0, 1, 255, 5000, 100_000])
def test_the_size_of_a_piece_is_padded(size: int) -> None:
    ring = KeyRing(VAULT, {0: KEY})
    plain = b"p" * size
    name = name_of(NAME_KEY, plain)
    sealed = seal_piece(ring, name, plain, 0)
    assert len(sealed) == padme(size + 8) + 16
    assert open_piece(ring, NAME_KEY, name, sealed, 0) == plain


def test_a_piece_opens_only_where_it_belongs() -> None:
    ring = KeyRing(VAULT, {0: KEY})
    plain, other = b"plain", b"other"
    name = name_of(NAME_KEY, plain)
    sealed = seal_piece(ring, name, plain, 0)
    forged = seal_piece(ring, name, other, 0)  # by a holder of the key, under a name that is not its own
    attempts: list[tuple[KeyRing, str, bytes, int]] = [
        (ring, name_of(NAME_KEY, other), sealed, 0),
        (KeyRing(OTHER_VAULT, {0: KEY}), name, sealed, 0),
        (KeyRing(VAULT, {0: KEY[::-1]}), name, sealed, 0),
        (ring, name, sealed, 1),
        (ring, name, sealed[:-1], 0),
        (ring, name, b"", 0),
        (ring, name, forged, 0),
    ]
    for keys, called, content, epoch in attempts:
        with pytest.raises(DecryptFailed):
            open_piece(keys, NAME_KEY, called, content, epoch)


async def test_a_row_of_a_piece_that_is_none_is_a_part_that_has_not_arrived(
    device: Callable[[str], Folder], peer: Peer
) -> None:
    a, b = device("a"), device("b")
    a.path.mkdir()
    (a.path / "large").write_bytes(b"x" * (FROM_BYTES + 1))
    await a.sync()
    version = (a.vault.get(FILES, "large") or {})["meta"]
    for row in ({"hash": 5}, "no piece", Piece("0" * 64, 0).hash):
        a.vault.put(CHUNKS, version["chunks"][0], {"blob": row})
        await a.vault.sync()
        report = await b.sync()
        assert report.problems == ["large: 1 parts of it have not arrived"]


# --- the real server ---


async def test_a_large_file_goes_through_a_real_server(new_hapta: Callable[..., HaptaServer], tmp_path: Path) -> None:
    server = new_hapta(env={"HAPTA_RATELIMIT_ENABLED": "false"})
    server.start()
    homes = [Hapta(server.url, state_dir=tmp_path / name) for name in "ab"]
    a, b = homes
    await a.register("ada@example.org", "correct horse battery staple")
    first = (await a.create_vault("files")).folder(tmp_path / "folder-a")
    first.path.mkdir()
    (first.path / "large").write_bytes(LARGE)
    assert (await first.sync()).problems == []
    used = (await a.api.quota())["usedBytes"]
    assert len(LARGE) < used < len(LARGE) * 1.3
    assert list((server.data / "blobs" / "objects").rglob("*-*-*"))
    await b.login("ada@example.org", "correct horse battery staple")
    second = (await b.open_vault("files")).folder(tmp_path / "folder-b")
    assert (await second.sync()).problems == []
    assert (second.path / "large").read_bytes() == LARGE
    for home in homes:
        await home.close()
