"""Folders: every byte arrives, concurrent edits are both kept, and no peer writes outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hapta.client.errors import FolderMissing
from hapta.client.files import CHUNK_BYTES, FILES, Folder
from hapta.client.paths import MARKER

from .peer import Peer, open_vault
from .test_paths import HOSTILE


class Devices:
    """Some devices with a folder each, on one peer."""

    def __init__(self, home: Path, names: str) -> None:
        self.home, self.peer = home, Peer()
        self.folders = {name: self.open(name) for name in names}

    def open(self, name: str) -> Folder:
        vault = open_vault(self.peer, self.home, name)
        return vault.folder(self.home / f"folder-{name}", device_name=name)

    async def sync(self, names: str) -> None:
        for name in names:
            report = await self.folders[name].sync()
            assert report.problems == []

    def path(self, device: str, name: str) -> Path:
        path = self.folders[device].path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def tree(self, device: str) -> dict[str, bytes]:
        root = self.folders[device].path
        found = (path for path in root.rglob("*") if path.is_file() and path.name != MARKER)
        return {str(path.relative_to(root)): path.read_bytes() for path in found}


async def test_files_of_every_kind_arrive_with_their_bytes_and_modes(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    contents = {
        "empty": b"",
        "all bytes.bin": bytes(range(256)) * 10,
        "deep/er/caf\u00e9 \u6f22\U0001f600.txt": "\u00fcber".encode("utf-16"),
        "exactly one chunk": os.urandom(CHUNK_BYTES),
        "several chunks": os.urandom(2 * CHUNK_BYTES + 1),
        "line\nbreak": b"x",
        "-rf": b"y",
        ".hidden": b"z",
    }
    for name, content in contents.items():
        devices.path("a", name).write_bytes(content)
    devices.path("a", ".hidden").chmod(0o700)
    await devices.sync("ab")
    assert devices.tree("b") == contents
    assert devices.path("b", ".hidden").stat().st_mode & 0o777 == 0o700
    devices.path("b", ".hidden").chmod(0o640)
    await devices.sync("ba")
    assert devices.path("a", ".hidden").stat().st_mode & 0o777 == 0o640
    assert not [name for name in devices.tree("a") if "conflict" in name]


async def test_a_sync_without_changes_sends_and_writes_nothing(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "x").write_bytes(b"1")
    await devices.sync("abab")
    before = len(devices.peer.rows)
    for folder in devices.folders.values():
        assert not (await folder.sync()).changed
    assert len(devices.peer.rows) == before


async def test_equal_chunks_are_sent_once(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    block = os.urandom(CHUNK_BYTES)
    devices.path("a", "one").write_bytes(block * 3)
    devices.path("a", "two").write_bytes(block)
    await devices.sync("ab")
    assert len(devices.peer.rows) == 3
    assert devices.tree("b") == devices.tree("a")


async def test_concurrent_edits_are_both_kept_and_all_devices_end_equal(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "abc")
    devices.path("a", "dir/note.md").write_bytes(b"base")
    await devices.sync("abc")
    for name in "abc":
        devices.path(name, "dir/note.md").write_bytes(f"by {name}".encode())
    await devices.sync("abcabcabc")
    trees = [devices.tree(name) for name in "abc"]
    assert trees[0] == trees[1] == trees[2]
    assert sorted(trees[0].values()) == [b"by a", b"by b", b"by c"]
    copies = [name for name in trees[0] if "conflict" in name]
    assert len(copies) == 2
    assert all(name.startswith("dir/note (conflict ") and name.endswith(").md") for name in copies)


async def test_an_edit_made_knowing_the_other_is_no_conflict_even_when_steps_were_missed(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "x").write_bytes(b"1")
    await devices.sync("ab")
    for turn in range(3):
        devices.path("b", "x").write_bytes(f"b{turn}".encode())
        await devices.sync("b")
    await devices.sync("ab")
    assert devices.tree("a") == devices.tree("b") == {"x": b"b2"}


async def test_the_same_edit_on_both_is_no_conflict(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    for name in "ab":
        devices.path(name, "x").write_bytes(b"same")
    await devices.sync("abab")
    assert devices.tree("a") == devices.tree("b") == {"x": b"same"}


async def test_deletes_travel_and_a_file_can_come_back(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "d/x").write_bytes(b"1")
    await devices.sync("ab")
    devices.path("b", "d/x").unlink()
    await devices.sync("ba")
    assert devices.tree("a") == {}
    assert not (devices.folders["a"].path / "d").exists()
    devices.path("a", "d/x").write_bytes(b"again")
    await devices.sync("ab")
    assert devices.tree("b") == {"d/x": b"again"}


@pytest.mark.parametrize("order", ["edit first", "delete first"])
async def test_an_edit_and_a_delete_at_once_never_lose_the_edit(tmp_path: Path, order: str) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "x").write_bytes(b"base")
    await devices.sync("ab")
    devices.path("a", "x").write_bytes(b"edited")
    devices.path("b", "x").unlink()
    await devices.sync("abab" if order == "edit first" else "baba")
    assert devices.tree("a") == devices.tree("b")
    assert list(devices.tree("a").values()) == [b"edited"]


async def test_an_edit_made_while_a_newer_version_arrives_is_not_overwritten(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "x").write_bytes(b"base")
    await devices.sync("ab")
    devices.path("a", "x").write_bytes(b"by a")
    await devices.sync("a")
    folder = devices.folders["b"]
    sync = folder.vault.sync

    async def edit_then_sync() -> object:
        folder.vault.sync = sync
        devices.path("b", "x").write_bytes(b"by b, just now")
        return await sync()

    folder.vault.sync = edit_then_sync  # pyright: ignore[reportAttributeAccessIssue]
    await devices.sync("bab")
    assert devices.tree("a") == devices.tree("b")
    assert sorted(devices.tree("a").values()) == [b"by a", b"by b, just now"]


async def test_links_are_neither_followed_nor_deleted_elsewhere(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    outside = tmp_path / "secret"
    outside.write_bytes(b"outside")
    devices.path("a", "x").write_bytes(b"1")
    await devices.sync("ab")
    devices.path("a", "x").unlink()
    devices.path("a", "x").symlink_to(outside)
    report = await devices.folders["a"].sync()
    assert report.problems == ["x: links are not synced"]
    devices.path("b", "x").write_bytes(b"2")
    await devices.sync("b")
    await devices.folders["a"].sync()
    assert outside.read_bytes() == b"outside"
    assert devices.tree("b") == {"x": b"2"}


@pytest.mark.parametrize("path", [path for path in HOSTILE if path != "\udc80"])
async def test_a_hostile_peers_path_is_reported_and_never_written(tmp_path: Path, path: str) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "good").write_bytes(b"evil")
    await devices.sync("a")
    hostile = devices.folders["a"].vault
    row = hostile.get(FILES, "good")
    assert row is not None
    hostile.put(FILES, path, row)
    await hostile.sync()
    before = set(os.listdir(tmp_path))
    report = await devices.folders["b"].sync()
    assert len(report.problems) == 1
    assert devices.tree("b") == {"good": b"evil"}
    assert set(os.listdir(tmp_path)) - before <= {"folder-b"}


@pytest.mark.parametrize(
    "meta",
    [None, 7, {}, {"size": "1"}, {"size": 1, "mode": 0o644, "sha256": "00", "chunks": ["nowhere"]}],
)
async def test_an_entry_that_makes_no_sense_is_a_problem_and_harms_nothing(tmp_path: Path, meta: object) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "good").write_bytes(b"1")
    await devices.sync("a")
    devices.folders["a"].vault.put(FILES, "bad", {"meta": meta})
    await devices.folders["a"].vault.sync()
    report = await devices.folders["b"].sync()
    assert len(report.problems) == 1
    assert devices.tree("b") == {"good": b"1"}


async def test_parts_that_do_not_add_up_never_become_a_file(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "x").write_bytes(b"1")
    await devices.sync("a")
    vault = devices.folders["a"].vault
    meta = (vault.get(FILES, "x") or {})["meta"]
    vault.put(FILES, "x", {"meta": {**meta, "sha256": "0" * 64}})
    await vault.sync()
    report = await devices.folders["b"].sync()
    assert len(report.problems) == 1
    assert devices.tree("b") == {}


async def test_a_folder_that_vanished_is_not_a_folder_whose_files_were_deleted(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "x").write_bytes(b"1")
    await devices.sync("ab")
    devices.folders["a"].path.rename(tmp_path / "unmounted")
    with pytest.raises(FolderMissing):
        await devices.folders["a"].sync()
    devices.folders["a"].path.mkdir()
    with pytest.raises(FolderMissing):
        await devices.folders["a"].sync()
    await devices.sync("b")
    assert devices.tree("b") == {"x": b"1"}


async def test_a_folder_belongs_to_one_vault(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "a")
    await devices.sync("a")
    devices.path("a", MARKER).write_text("22222222-2222-4222-8222-222222222222")
    with pytest.raises(FolderMissing):
        await devices.folders["a"].sync()


async def test_names_that_differ_only_in_their_unicode_form_are_one_file(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "ab")
    devices.path("a", "cafe\u0301").write_bytes(b"1")
    await devices.sync("ab")
    assert devices.tree("b") == {"caf\u00e9": b"1"}
    devices.path("b", "caf\u00e9").write_bytes(b"2")
    await devices.sync("ba")
    assert devices.tree("a") == {"cafe\u0301": b"2"}


async def test_a_name_that_is_no_text_is_told_and_left_alone(tmp_path: Path) -> None:
    devices = Devices(tmp_path, "a")
    root = devices.folders["a"].path
    root.mkdir()
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(b"1")
    report = await devices.folders["a"].sync()
    assert len(report.problems) == 1
    report.problems[0].encode()
