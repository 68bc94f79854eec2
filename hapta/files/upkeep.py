"""What is done again and again: removals, holds and uploads that are over, and bytes that belong to nobody.

Every step may be cut off at any point and is done again: a row goes only when the bytes that it stands for are gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hapta.blobs.blobs import Blobs, Stat
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.files import records, store
from hapta.files.counts import Counts
from hapta.files.holds import Holds
from hapta.kit.background import Routine, in_batches, in_turn, run_all
from hapta.kit.clock import Clock
from hapta.settings import FilesSettings

FOLDERS = ("files", "attachments", "incoming", "quarantine")
"""Where this feature's bytes lie; the second part of every key is the account."""
_BATCH = 200
_PAGE = 500


class Upkeep:
    """Cleans up.

    Args:
        run: whether this process does the cleaning; its holds are renewed in any case.
    """

    def __init__(
        self,
        db: Database,
        blobs: Blobs,
        clock: Clock,
        settings: FilesSettings,
        holds: Holds,
        counts: Counts,
        *,
        run: bool,
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._settings = settings
        self._counts = counts
        self._sweeper = Routine("files", self.sweep, settings.sweep_seconds, at_once=True)
        self._routines = [Routine("file holds", holds.renew, settings.lease_seconds / 4)]
        if run:
            orphans = Routine("file orphans", self.remove_orphans, settings.orphan_seconds)
            self._routines += [self._sweeper, orphans]

    async def run(self) -> None:
        """Works until cancelled."""
        await run_all(self._routines)

    def wake(self) -> None:
        """There are bytes to remove."""
        self._sweeper.wake()

    async def sweep(self) -> None:
        """One round of cleaning up."""
        await in_turn(
            {
                "file holds that are over": lambda: in_batches(self._drop_lapsed),
                "uploads that are over": lambda: in_batches(self._drop_expired),
                "quarantine that is over": lambda: in_batches(self._drop_quarantined),
                "bytes to remove": lambda: in_batches(self._remove),
            }
        )()

    async def remove_orphans(self) -> int:
        """Looks through the whole store for bytes that no row knows, and removes them; how many."""
        found = 0
        for folder in FOLDERS:
            found += await self._each_page(folder, self._remove_unknown)
        found += await self._discard_unknown()
        self._counts.orphans += found
        return found

    async def orphans_in(self, folder: str, after: str) -> tuple[list[Stat], list[Stat]]:
        """A page of a folder, and which of it is old enough and belongs to nobody."""
        page = await self._blobs.listed(folder, after, _PAGE)
        return page, await self._unknown(page)

    async def _drop_lapsed(self) -> int:
        now = self._clock.now_ms()
        return await self._db.write(lambda tx: store.drop_lapsed(tx, now, _BATCH))

    async def _drop_expired(self) -> int:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> int:
            over = await records.take_expired(tx, now, _BATCH)
            for upload in over:
                if upload.file_id is None:
                    is_tus = upload.kind == "tus"
                    await store.remove_later(tx, upload.user_id, upload.blob_key, now, unfinished=is_tus)
            return len(over)

        return await self._db.write(body)

    async def _drop_quarantined(self) -> int:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> int:
            over = await records.take_over_quarantined(tx, now, _BATCH)
            for file in over:
                await store.remove_later(tx, file.user_id, file.blob_key, now)
            return len(over)

        return await self._db.write(body)

    async def _remove(self) -> int:
        now = self._clock.now_ms()
        due = await self._db.read(lambda tx: store.due_removals(tx, now, _BATCH), snapshot=False)
        if not due:
            return 0
        for _, key, unfinished in due:
            if unfinished:
                await self._blobs.discard(key)
        await self._blobs.delete([key for _, key, _ in due])
        await self._db.write(lambda tx: store.removed(tx, [(user_id, key) for user_id, key, _ in due]))
        self._counts.removed += len(due)
        return len(due)

    async def _each_page(self, folder: str, work: Callable[[Sequence[Stat]], Awaitable[int]]) -> int:
        found, after = 0, ""
        while page := await self._blobs.listed(folder, after, _PAGE):
            found += await work(page)
            after = page[-1].key
        return found

    async def _remove_unknown(self, page: Sequence[Stat]) -> int:
        unknown = await self._unknown(page)
        if unknown:
            await self._blobs.delete([stat.key for stat in unknown])
        return len(unknown)

    async def _discard_unknown(self) -> int:
        found, after = 0, ""
        while page := await self._blobs.begun(after, _PAGE):
            ours = [stat for stat in page if stat.key.partition("/")[0] in FOLDERS]
            unknown = await self._unknown(ours)
            for stat in unknown:
                await self._blobs.discard(stat.key)
            found += len(unknown)
            after = page[-1].key
        return found

    async def _unknown(self, page: Sequence[Stat]) -> list[Stat]:
        # The rows are looked at after the store: a hold is there before its bytes.
        oldest = self._clock.now_ms() - self._settings.orphan_age_seconds * 1000
        old = [stat for stat in page if stat.modified_at < oldest]
        if not old:
            return []
        users = sorted({stat.key.split("/")[1] for stat in old})
        keys = [stat.key for stat in old]

        async def body(tx: ReadTx) -> set[str]:
            return await store.owned(tx, users, keys)

        known = await self._db.read(body)
        return [stat for stat in old if stat.key not in known]
