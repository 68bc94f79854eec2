"""A process that works on files and is killed in the middle, again and again: once for each step between two of its effects.

It forks for each run, so that what it has imported is imported once. A run counts its calls of the database and of the store, and
kills itself before the one that it was told, which is after the one before it; what it had acknowledged by then stands in a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from hapta.blobs.blobs import Blobs
from hapta.db.database import Database
from hapta.files.models import Description
from tests.files.house import ALICE, House, Sent, chunks_of, opened_house, picture, text

EFFECTS = ("put", "append", "complete", "delete", "discard")
TUS_CONTENT = b"piece one, piece two"


class Fate:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def called(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return await call(*args, **kwargs)

        return called

    def over(self, db: Database, blobs: Blobs) -> None:
        """From now on every effect on them is a step."""
        db.write = self.around(db.write)  # type: ignore[method-assign]
        for name in EFFECTS:
            setattr(blobs, name, self.around(getattr(blobs, name)))


class Notes:
    """What was acknowledged, on disk before the next step."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, what: str, **more: Any) -> None:
        os.write(self._handle, json.dumps({"what": what, **more}).encode() + b"\n")


async def story(house: House, notes: Notes) -> None:
    """One of everything."""
    files = house.files
    first = await files.service.upload(ALICE, text("first"))
    notes.say("stored", id=first.id, sha256=first.sha256.hex())
    logo = await files.service.upload(ALICE, Sent(picture(), Description("a.png", "image/png", reuse_key="logo")))
    notes.say("stored", id=logo.id, sha256=logo.sha256.hex())
    again = await files.service.upload(ALICE, Sent(b"other", Description("b.txt", "text/plain", reuse_key="logo")))
    assert again.id == logo.id
    for _ in range(2):
        avatar = await files.service.avatar(ALICE, Sent(picture("JPEG"), Description("me.jpg", "image/jpeg")))
        notes.say("avatar", id=avatar.id, sha256=avatar.sha256.hex())
    upload = await files.tus.create(ALICE, len(TUS_CONTENT), "", Description("t.txt", "text/plain"))
    notes.say("begun", id=upload.id)
    state = await files.tus.append(ALICE, upload.id, 0, chunks_of(TUS_CONTENT[:9]))
    notes.say("reached", id=upload.id, offset=state.offset)
    state = await files.tus.append(ALICE, upload.id, 9, chunks_of(TUS_CONTENT[9:]))
    notes.say("stored", id=state.file_id, sha256=sha256(TUS_CONTENT).hexdigest())
    await files.attachments.put(ALICE, "session", "a.enc", chunks_of(b"sealed"))
    notes.say("attached")
    await files.service.delete_file(ALICE, first.id)
    notes.say("deleted", id=first.id)
    await files.upkeep.sweep()


async def run(url: str, folder: Path, kill_at: int) -> None:
    async with opened_house(url, folder) as house:
        Fate(kill_at).over(house.db, house.blobs)
        await story(house, Notes(folder / "notes"))


def main() -> None:
    for line in sys.stdin:
        given = json.loads(line)
        child = os.fork()
        if not child:
            asyncio.run(run(given["url"], Path(given["folder"]), given["kill_at"]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"killed": os.WIFSIGNALED(status), "status": status}), flush=True)


if __name__ == "__main__":
    main()
