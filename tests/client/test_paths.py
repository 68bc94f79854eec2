"""Which paths a peer may name, and that writing never leaves the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.client.errors import UnsafePath
from hapta.client.paths import MARKER, TEMP_PREFIX, Root, check_path, conflict_name

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//x",
    "a//b",
    "a/",
    "./a",
    "a\0b",
    "a/" + "x" * 256,
    "x/" * 3000 + "y",
    MARKER,
    f"a/{MARKER}",
    f"{TEMP_PREFIX}1",
    "cafe\u0301",
    "\udc80",
]
HOSTILE_ON_WINDOWS = ["..\\x", "C:\\x", "C:x", "con", "aux.txt", "NUL", "a?", "a.", "a ", "x/lpt1.md", "a\x01"]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_path(path, windows=False)


@pytest.mark.parametrize("path", HOSTILE_ON_WINDOWS)
def test_what_means_something_else_on_windows_is_refused_there(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_path(path, windows=True)


@pytest.mark.parametrize("path", ["a", "a/b.c", "...", ".hidden", "caf\u00e9/\u6f22", " a", "-rf", "a\\b", "a\nb"])
def test_unusual_but_honest_paths_are_allowed(path: str) -> None:
    assert "/".join(check_path(path, windows=False)) == path


@given(st.text(max_size=40))
def test_an_allowed_path_stays_below_the_folder(path: str) -> None:
    try:
        parts = check_path(path, windows=False)
    except UnsafePath:
        return
    root = "/srv/folder"
    assert os.path.normpath(f"{root}/{path}") == f"{root}/{'/'.join(parts)}"


def test_a_write_does_not_follow_a_link_out_of_the_folder(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (outside / "target").write_bytes(b"before")
    (inside / "file").symlink_to(outside / "target")
    root = Root(inside)
    with pytest.raises(OSError):
        root.write(("link", "x"), [b"evil"], 0o644)
    with pytest.raises(OSError):
        root.open(("file",))
    root.write(("file",), [b"new"], 0o644)
    assert (outside / "target").read_bytes() == b"before"
    assert sorted(os.listdir(outside)) == ["target"]
    assert (inside / "file").read_bytes() == b"new"
    assert not (inside / "file").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def broken() -> list[bytes]:
        raise OSError("the disk is gone")

    root = Root(tmp_path)
    with pytest.raises(OSError):
        root.write(("file",), (piece for _ in (1, 2) for piece in broken()), 0o600)
    assert root.write(("file",), [b"new"], 0o600, lambda: False) is None
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_removing_a_file_removes_directories_it_leaves_empty_but_not_the_root(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write(("a", "b", "c"), [b"1"], 0o4777)
    root.write(("a", "d"), [b"2"], 0o640)
    assert (tmp_path / "a/b/c").stat().st_mode & 0o7777 == 0o777
    root.remove(("a", "b", "c"))
    assert not (tmp_path / "a/b").exists()
    root.remove(("a", "d"))
    assert tmp_path.exists()
    assert os.listdir(tmp_path) == []


@given(st.text("ab.\u00e9\u6f22", min_size=1, max_size=120).filter(lambda name: name not in (".", "..")))
def test_conflict_names_are_allowed_free_and_keep_the_extension(name: str) -> None:
    taken = {f"d/{name}"}
    if len(name.encode()) > 255:
        return
    for _ in range(3):
        copy = conflict_name(f"d/{name}", "laptop", "2026-11-21 10.00.00", taken.__contains__)
        check_path(copy, windows=False)
        assert copy not in taken
        assert "conflict laptop" in copy
        taken.add(copy)
