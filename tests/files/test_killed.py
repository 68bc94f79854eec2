"""kill -9 between each pair of steps: nothing that was acknowledged is missing, and nothing is left lying about."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from hapta.files.errors import FileNotFound, UploadNotFound
from hapta.testing.clock import FakeClock
from tests.files.house import ALICE, House, chunks_of, opened_house
from tests.files.killed_child import TUS_CONTENT
from tests.servers import REPOSITORY

pytestmark = pytest.mark.anyio


class Child:
    """See `killed_child`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.files.killed_child"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **given: Any) -> bool:
        """One run; whether it was killed before its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["killed"] or answer["status"] == 0, answer
        return answer["killed"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.close()


async def test_no_kill_loses_what_was_acknowledged_or_leaves_anything(
    migrated_url: str, tmp_path: Path, child: Child
) -> None:
    template = tmp_path / "template.db"
    if migrated_url.startswith("sqlite"):
        shutil.copyfile(tmp_path / "hapta.db", template)
    # Each step on the one engine; every third on the other, whose transactions are cut off by another hand but at the same places.
    stride = 1 if migrated_url.startswith("sqlite") else 3
    kill_at, killed = 0, True
    while killed:
        kill_at += stride
        folder = tmp_path / f"run-{kill_at}"
        folder.mkdir()
        url = migrated_url
        if url.startswith("sqlite"):
            shutil.copyfile(template, folder / "hapta.db")
            url = f"sqlite:///{folder / 'hapta.db'}"
        killed = await anyio.to_thread.run_sync(lambda: child.run(url=url, folder=str(folder), kill_at=kill_at))  # noqa: B023
        await _judge(url, folder)
        shutil.rmtree(folder)
    assert kill_at > 25  # it did go through the steps


async def _judge(url: str, folder: Path) -> None:
    notes_file = folder / "notes"
    notes = [json.loads(line) for line in notes_file.read_text().splitlines()] if notes_file.exists() else []
    async with opened_house(url, folder) as house:
        await _go_on(house, notes)
    # Years later every hold and every unfinished upload is over, and all bytes are old.
    async with opened_house(url, folder, FakeClock()) as house:
        await house.files.upkeep.sweep()
        await house.files.upkeep.remove_orphans()
        await _acknowledged(house, notes)
        assert await house.verified(deep=True) == []
        assert await house.blobs.begun() == []
        usage = await house.files.service.usage(ALICE)
        assert len(await house.keys()) == usage.files
        await house.db.write(lambda tx: house.files.purge(tx, ALICE))
        await house.files.upkeep.sweep()
        assert await house.keys() == []


async def _go_on(house: House, notes: list[dict[str, Any]]) -> None:
    """The client of the resumable upload comes back."""
    begun = next((note["id"] for note in notes if note["what"] == "begun"), None)
    if begun is None:
        return
    state = await house.files.tus.state(ALICE, begun)
    reached = max([note["offset"] for note in notes if note["what"] == "reached"], default=0)
    assert state.offset >= reached
    if state.file_id is None:
        state = await house.files.tus.append(ALICE, begun, state.offset, chunks_of(TUS_CONTENT[state.offset :]))
    assert state.file_id == begun
    assert await house.content(await house.files.service.get_file(ALICE, begun)) == TUS_CONTENT


async def _acknowledged(house: House, notes: list[dict[str, Any]]) -> None:
    gone = {note["id"] for note in notes if note["what"] == "deleted"}
    # The request under way when the process died may or may not have come through; the one before it has.
    under_way = (
        {note["id"] for note in notes if note["what"] == "stored"}
        if notes and notes[-1]["what"] == "attached"
        else set[str]()
    )
    avatars = [note for note in notes if note["what"] == "avatar"]
    for note in [note for note in notes if note["what"] == "stored"]:
        try:
            file = await house.files.service.get_file(ALICE, note["id"])
        except FileNotFound:
            assert note["id"] in gone | under_way
            continue
        assert note["id"] not in gone
        assert file.sha256.hex() == note["sha256"]
    if avatars:
        listed, _ = await house.files.service.list_files(ALICE, "avatars", None, 10)
        assert len(listed) == 1
        assert listed[0].id >= avatars[-1]["id"]
    for note in notes:
        if note["what"] == "begun":
            with pytest.raises(UploadNotFound):
                await house.files.tus.state(ALICE, note["id"])
