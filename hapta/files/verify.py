"""Holds rows and bytes against each other, and mends what can be mended; for `hapta files verify`.

Nothing is locked: what is being written or removed while it looks is looked at once more before it is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from hapta.blobs.blobs import Blobs
from hapta.db.database import Database, WriteTx
from hapta.files import records, store
from hapta.files.counts import Counts
from hapta.files.holds import Holds
from hapta.files.models import Attachment, File, Quarantined
from hapta.files.upkeep import FOLDERS, Upkeep
from hapta.kit.clock import Clock
from hapta.settings import FilesSettings

_PAGE = 500
MAX_PROBLEMS = 1000


@dataclass(slots=True)
class Report:
    """What was found."""

    files: int = 0
    attachments: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list[str])
    mended: int = 0

    def tell(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


class Verifier:
    """Looks through everything.

    Args:
        deep: whether all bytes are read and held against their hashes.
        mend: whether rows without bytes, bytes without rows and wrong counters are put right.
    """

    def __init__(
        self,
        db: Database,
        blobs: Blobs,
        clock: Clock,
        settings: FilesSettings,
        *,
        deep: bool = False,
        mend: bool = False,
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._deep = deep
        self._mend = mend
        counts = Counts()
        holds = Holds(db, clock, settings.lease_seconds, settings.max_uploads, _nobody)
        self._upkeep = Upkeep(db, blobs, clock, settings, holds, counts, run=False)

    async def run(self) -> Report:
        """Looks at every file, every attachment, every object and every counter."""
        report = Report()
        await self._files(report)
        await self._attachments(report)
        await self._objects(report)
        await self._counters(report)
        return report

    async def _files(self, report: Report) -> None:
        after = ("", "")
        while page := await self._db.read(lambda tx, after=after: store.all_files(tx, after, _PAGE)):
            for file in page:
                report.files += 1
                report.bytes += file.size
                problem = await self._wrong(file)
                if problem:
                    report.tell(f"file {file.id} of {file.user_id}: {problem}")
                    report.mended += await self._forget_file(file)
            after = (page[-1].user_id, page[-1].id)

    async def _attachments(self, report: Report) -> None:
        after = ("", "", "")
        while page := await self._db.read(lambda tx, after=after: records.all_attachments(tx, after, _PAGE)):
            for one in page:
                report.attachments += 1
                report.bytes += one.size
                stat = await self._blobs.stat(one.blob_key)
                if (stat is None or stat.size != one.size) and await self._still(one):
                    report.tell(f"attachment {one.name} of {one.user_id}: its bytes are missing")
                    report.mended += await self._forget_attachment(one)
            last = page[-1]
            after = (last.user_id, last.session_id, last.name)

    async def _wrong(self, file: File) -> str:
        stat = await self._blobs.stat(file.blob_key)
        if stat is None:
            wrong = "its bytes are missing"
        elif stat.size != file.size:
            wrong = f"{stat.size} bytes in place of {file.size}"
        elif self._deep and await self._hash(file.blob_key) != file.sha256:
            wrong = "its bytes have changed"
        else:
            return ""
        now = await self._db.read(lambda tx: store.find_file(tx, file.user_id, file.id), snapshot=False)
        return wrong if now is not None and now.blob_key == file.blob_key else ""

    async def _still(self, one: Attachment) -> bool:
        now = await self._db.read(
            lambda tx: records.find_attachment(tx, one.user_id, one.session_id, one.name), snapshot=False
        )
        return now is not None and now.blob_key == one.blob_key

    async def _hash(self, key: str) -> bytes:
        digest = hashlib.sha256()
        opened = await self._blobs.get(key)
        async with aclosing(opened.chunks):
            async for chunk in opened.chunks:
                digest.update(chunk)
        return digest.digest()

    async def _objects(self, report: Report) -> None:
        for folder in FOLDERS:
            async for key in self._orphans(folder):
                report.tell(f"{key}: bytes that belong to nobody")
        if self._mend:
            report.mended += await self._upkeep.remove_orphans()

    async def _orphans(self, folder: str) -> AsyncIterator[str]:
        after = ""
        while True:
            page, orphans = await self._upkeep.orphans_in(folder, after)
            for stat in orphans:
                yield stat.key
            if not page:
                return
            after = page[-1].key

    async def _counters(self, report: Report) -> None:
        after = ""
        while page := await self._db.read(lambda tx, after=after: store.counted(tx, after, _PAGE)):
            for user_id, counted_bytes, counted_files, real_bytes, real_files in page:
                if (counted_bytes, counted_files) != (real_bytes, real_files):
                    report.tell(f"account {user_id}: counted {counted_bytes} bytes, keeps {real_bytes}")
                    report.mended += await self._recount(user_id)
            after = page[-1][0]

    async def _forget_file(self, file: File) -> int:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            await store.lock_account(tx, file.user_id)
            if await store.delete_file(tx, file.user_id, file.id) is not None:
                await store.add_usage(tx, file.user_id, -file.size, -1)
                await store.remove_later(tx, file.user_id, file.blob_key, now)

        return await self._mended(body)

    async def _forget_attachment(self, one: Attachment) -> int:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            await store.lock_account(tx, one.user_id)
            if await records.delete_attachment(tx, one.user_id, one.session_id, one.name) is not None:
                await store.add_usage(tx, one.user_id, -one.size, -1)
                await store.remove_later(tx, one.user_id, one.blob_key, now)

        return await self._mended(body)

    async def _recount(self, user_id: str) -> int:
        async def body(tx: WriteTx) -> None:
            await store.lock_account(tx, user_id)
            await store.recount(tx, user_id)

        return await self._mended(body)

    async def _mended(self, body: Callable[[WriteTx], Awaitable[None]]) -> int:
        if not self._mend:
            return 0
        await self._db.write(body)
        return 1


async def quarantined(db: Database, limit: int = 1000) -> list[Quarantined]:
    """What the scanner found in the files of all accounts, the newest first."""
    return await db.read(lambda tx: records.list_quarantined(tx, limit), snapshot=False)


def _nobody() -> None:
    """Nobody waits for removals here."""
