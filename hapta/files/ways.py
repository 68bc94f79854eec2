"""What the ways in have in common: what each of them works with, and how an upload over several requests begins and is found.

How bytes become a file is `intake.py`; this is what comes before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hapta.blobs.blobs import Blobs
from hapta.db.database import Database, WriteTx
from hapta.files import records, store
from hapta.files.counts import Counts
from hapta.files.errors import TooManyUploads, UploadNotFound
from hapta.files.holds import Holds
from hapta.files.intake import Intake
from hapta.files.models import File, Upload, UploadKind
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.settings import FilesSettings


@dataclass(frozen=True, slots=True)
class Means:
    """What a way in works with.

    Args:
        removals_wait: called when there are bytes to remove.
    """

    db: Database
    blobs: Blobs
    clock: Clock
    ids: Ids
    settings: FilesSettings
    intake: Intake
    holds: Holds
    counts: Counts
    removals_wait: Callable[[], None]


class Way:
    """A way in."""

    def __init__(self, means: Means) -> None:
        self._db = means.db
        self._blobs = means.blobs
        self._clock = means.clock
        self._ids = means.ids
        self._settings = means.settings
        self._intake = means.intake
        self._holds = means.holds
        self._counts = means.counts
        self._removals_wait = means.removals_wait


class WayInSteps(Way):
    """A way in over several requests, with a row that stands for the file until it is there.

    Args:
        kind: of its rows.
    """

    def __init__(self, means: Means, kind: UploadKind) -> None:
        super().__init__(means)
        self._kind: UploadKind = kind

    async def _begin(self, upload: Upload) -> None:
        """Gives an upload its row.

        Raises:
            QuotaExceeded, TooManyFiles, TooManyUploads: with all that is coming already, it would not fit.
        """

        async def body(tx: WriteTx) -> None:
            await store.lock_account(tx, upload.user_id)
            count, coming = await records.unfinished(tx, upload.user_id, upload.created_at)
            if count >= self._settings.max_unfinished:
                raise TooManyUploads("There are too many unfinished uploads")
            await self._intake.require_room(tx, upload.user_id, coming + (upload.length or 0))
            await records.insert_upload(tx, upload)

        await self._db.write(body)

    async def _find(self, user_id: str, upload_id: str) -> Upload:
        """An upload of the account.

        Raises:
            UploadNotFound: it has none of that id, or it is over.
        """
        now = self._clock.now_ms()
        upload = await self._db.read(
            lambda tx: records.find_upload(tx, user_id, upload_id, self._kind, now), snapshot=False
        )
        if upload is None:
            raise UploadNotFound
        return upload

    async def _find_file(self, user_id: str, file_id: str) -> File:
        """The file that came of an upload.

        Raises:
            UploadNotFound: it was deleted since.
        """
        file = await self._db.read(lambda tx: store.find_file(tx, user_id, file_id), snapshot=False)
        if file is None:
            raise UploadNotFound
        return file
