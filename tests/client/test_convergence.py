"""Whatever devices do at once, offline, and with wrong clocks: once all have synced, all hold the same.

Runs on the peer in memory: each example is a server's whole life. The same story on a real server is in test_stories.py.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hapta.client import ServerUnreachable
from hapta.client.files import Folder

from .peer import Peer, open_vault
from .test_hlc import HandClock

DEVICES = "abc"
device = st.sampled_from(DEVICES)
row_steps = st.one_of(
    st.tuples(st.just("put"), device, st.sampled_from("12"), st.sampled_from("xy"), st.integers(0, 9)),
    st.tuples(st.just("delete"), device, st.sampled_from("12")),
    st.tuples(st.just("sync"), device),
    st.tuples(st.just("lose answer"), device),
    st.tuples(st.just("clock"), device, st.floats(-100_000, 100_000)),
    st.tuples(st.just("restore"), st.integers(0, 5)),
    st.tuples(st.just("restart"), device),
)
file_steps = st.one_of(
    st.tuples(st.just("write"), device, st.sampled_from(["x", "d/x"]), st.binary(max_size=3)),
    st.tuples(st.just("remove"), device, st.sampled_from(["x", "d/x"])),
    st.tuples(st.just("sync"), device),
)
QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(st.lists(row_steps, max_size=30))
def test_rows_converge(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_live_with_rows(Path(home), steps))


async def _live_with_rows(home: Path, steps: list[tuple[Any, ...]]) -> None:
    peer = Peer()
    clocks = {name: HandClock() for name in DEVICES}
    vaults = {name: open_vault(peer, home, name, clocks[name]) for name in DEVICES}
    for what, *details in steps:
        if what == "put":
            name, row, column, value = details
            vaults[name].put("t", row, {column: value})
            assert (vaults[name].get("t", row) or {})[column] == value
        elif what == "delete":
            vaults[details[0]].delete("t", details[1])
            assert vaults[details[0]].get("t", details[1]) is None
        elif what == "clock":
            clocks[details[0]].seconds += details[1]
        elif what == "restore":
            peer.restore(details[0])
        elif what == "restart":
            vaults[details[0]].close()
            vaults[details[0]] = open_vault(peer, home, details[0], clocks[details[0]])
        elif what == "lose answer":
            await _sync_losing_the_answer(peer, vaults[details[0]])
        else:
            await vaults[details[0]].sync()
    for name in DEVICES * 3:
        await vaults[name].sync()
    states = [vaults[name].rows("t") for name in DEVICES]
    assert states[0] == states[1] == states[2]
    newcomer = open_vault(peer, home, "newcomer")
    await newcomer.sync()
    assert newcomer.rows("t") == states[0]
    for vault in (*vaults.values(), newcomer):
        assert vault.status().outbox == 0
        vault.close()


async def _sync_losing_the_answer(peer: Peer, vault: Any) -> None:
    def lose(path: str, _: dict[str, Any]) -> None:
        if path == "/sync/push":
            raise httpx.ReadTimeout("lost")

    peer.after = lose
    try:
        await vault.sync()
    except ServerUnreachable:
        pass
    finally:
        peer.after = lambda path, body: None


@QUICK
@given(st.lists(file_steps, max_size=20))
def test_folders_converge_and_keep_every_last_edit(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_live_with_files(Path(home), steps))


async def _live_with_files(home: Path, steps: list[tuple[Any, ...]]) -> None:
    peer = Peer()
    folders: dict[str, Folder] = {}
    for name in DEVICES:
        folders[name] = open_vault(peer, home, name).folder(home / f"folder-{name}", device_name=name)
        folders[name].path.mkdir()
    for what, name, *details in steps:
        path = folders[name].path / (details[0] if details else "")
        if what == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(details[1])
        elif what == "remove":
            path.unlink(missing_ok=True)
        else:
            await folders[name].sync()
    held = {content for name in DEVICES for content in _tree(folders[name].path).values()}
    ever = {details[1] for what, _, *details in steps if what == "write"}
    for name in DEVICES * 4:
        report = await folders[name].sync()
        assert report.problems == []
    trees = [_tree(folders[name].path) for name in DEVICES]
    assert trees[0] == trees[1] == trees[2]
    assert set(trees[0].values()) <= ever
    removed = any(what == "remove" for what, *_ in steps)
    synced = any(what == "sync" for what, *_ in steps)
    if not removed and not synced:
        # Nobody knew of anybody: then nothing that anybody held at the end may be missing.
        assert held <= set(trees[0].values())
    for folder in folders.values():
        folder.vault.close()


def _tree(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".hapta"))
    return {str(path.relative_to(root)): path.read_bytes() for path in found}
