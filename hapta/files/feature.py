"""The whole of files, put together: `app.py` opens it, serves its endpoints, and lets the other features use what they need of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hapta.blobs.blobs import Blobs
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.files import avatars, routes
from hapta.files.attachments import Attachments
from hapta.files.counts import Counts
from hapta.files.direct import DirectUploads
from hapta.files.holds import Holds
from hapta.files.images import Images
from hapta.files.intake import Intake, QuotaOf, UsedElsewhere
from hapta.files.scanner import Scanner
from hapta.files.service import FileService
from hapta.files.signed import Links
from hapta.files.tus import routes as tus_routes
from hapta.files.tus.service import TusService
from hapta.files.upkeep import Upkeep
from hapta.files.ways import Means
from hapta.http.api import Endpoint
from hapta.http.metrics import Metrics
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring
from hapta.settings import FilesSettings

Job = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Files:
    """The feature, open. `purge` belongs into account deletion, `used` into the quota of others, `jobs` run while it serves."""

    service: FileService
    attachments: Attachments
    tus: TusService
    direct: DirectUploads
    upkeep: Upkeep
    holds: Holds
    counts: Counts
    scanner: Scanner | None
    settings: FilesSettings
    ids: Ids

    def endpoints(self) -> list[Endpoint]:
        """Everything under `/v1/uploads`, and avatars for everybody."""
        return [
            *routes.routes(self.service, self.direct, self.ids),
            *tus_routes.routes(self.tus, self.settings),
            *avatars.routes(self.service, self.ids),
        ]

    @property
    def jobs(self) -> Mapping[str, Job]:
        """What works in the background."""
        return {"files": self.upkeep.run}

    async def purge(self, tx: WriteTx, user_id: str) -> None:
        """See `FileService.purge`."""
        await self.service.purge(tx, user_id)

    async def used_by(self, tx: ReadTx, user_ids: Sequence[str]) -> Mapping[str, int]:
        """See `FileService.used_by`."""
        return await self.service.used_by(tx, user_ids)

    def publish(self, metrics: Metrics) -> None:
        """Shows the numbers of this worker."""
        counts, scanner = self.counts, self.scanner
        labels = ("way", "outcome")
        metrics.counters("hapta_files_uploads", "Uploads that came to their end", labels, lambda: counts.uploads)
        metrics.gauge("hapta_files_arriving", "Uploads that are arriving now", lambda: self.holds.under_way)
        metrics.counter("hapta_files_received_bytes", "Bytes of stored files", lambda: counts.received_bytes)
        metrics.counter("hapta_files_sent_bytes", "Bytes of files handed out", lambda: counts.sent_bytes)
        metrics.counter("hapta_files_removed", "Objects removed from the store", lambda: counts.removed)
        metrics.counter("hapta_files_orphans", "Objects found without a row, and removed", lambda: counts.orphans)
        if scanner is not None:
            metrics.counter("hapta_files_unscanned", "Files accepted without a scan", lambda: scanner.unscanned)


@asynccontextmanager
async def open_files(
    db: Database,
    blobs: Blobs,
    clock: Clock,
    ids: Ids,
    settings: FilesSettings,
    keyring: Keyring,
    *,
    used_elsewhere: UsedElsewhere | None = None,
    quota_of: QuotaOf | None = None,
    run_upkeep: bool = True,
) -> AsyncGenerator[Files]:
    """Builds the feature over an open database and an open store.

    Args:
        used_elsewhere: what an account keeps in other parts of the server; None: nothing.
        quota_of: what it may keep in all of them together; None: no limit.
        run_upkeep: whether this process also cleans up.

    Raises:
        ValueError: the scanner's address cannot be used.
    """
    counts = Counts()
    images = Images(settings)
    scanner = Scanner(settings.scanner, settings.scanner_away, settings.scanner_seconds) if settings.scanner else None

    def removals_wait() -> None:
        upkeep.wake()

    holds = Holds(db, clock, settings.lease_seconds, settings.max_uploads, removals_wait)
    upkeep = Upkeep(db, blobs, clock, settings, holds, counts, run=run_upkeep)
    intake = Intake(
        db, blobs, clock, settings, images, scanner, counts, used_elsewhere or _none, quota_of or _none, removals_wait
    )
    means = Means(db, blobs, clock, ids, settings, intake, holds, counts, removals_wait)
    try:
        yield Files(
            FileService(means, images, Links(keyring, clock)),
            Attachments(means),
            TusService(means),
            DirectUploads(means),
            upkeep,
            holds,
            counts,
            scanner,
            settings,
            ids,
        )
    finally:
        images.close()


async def _none(tx: ReadTx, user_id: str) -> int:
    return 0
