"""Files that were looked up a moment ago, so that one that is asked for again and again costs no statement each time.

Who asks was verified before, and finds nothing here but files of his own: a row is kept by account and id. Rows never change, they
come and go. Invariant: once a deletion is acknowledged, nobody finds the file here. What this process deletes is dropped when that is
committed; another process beside it (the command line) is believed to have changed nothing for `BELIEVED_SECONDS`. With several
workers, which do not hear of each other's deletions in time, nothing is kept.
"""

from __future__ import annotations

from typing import Final

from hapta.db.database import Database
from hapta.files.models import File
from hapta.kit.clock import Clock

BELIEVED_SECONDS: Final = 1.0
"""As long as sessions are believed that another process may have ended, or less."""
MOST_FILES: Final = 1024
"""At some 1.5 KB each."""
SHUT_SECONDS: Final = 60.0
"""The transaction that deletes an account is over by then."""


class RecentFiles:
    """The files of this process that were looked up last.

    Args:
        db: where they are. Several workers need PostgreSQL, so that with SQLite this process is the only one that serves.
        clock: its monotonic side says how long a row is believed.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._works = db.engine == "sqlite"
        self._monotonic = clock.monotonic
        self._kept: dict[tuple[str, str], tuple[File, float]] = {}
        self._shut: dict[str, float] = {}  # accounts that are being deleted, and until when nothing of them is told
        self._sweep_at = 0.0
        self.epoch = 0
        """Raised by every drop. What was read before a rise is not kept after it."""

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, user_id: str, file_id: str) -> File | None:
        """A file of the account, if it was looked up a moment ago."""
        kept = self._kept.get((user_id, file_id))
        if kept is None:
            return None
        file, until = kept
        return file if self._monotonic() < until and user_id not in self._shut else None

    def put(self, file: File, epoch: int) -> None:
        """Keeps what was read.

        Args:
            epoch: as it was before the reading began.
        """
        if not self._works or epoch != self.epoch:
            return
        now = self._monotonic()
        self._sweep(now)
        kept, key = self._kept, (file.user_id, file.id)
        kept.pop(key, None)  # the newest one stands last
        kept[key] = file, now + BELIEVED_SECONDS
        if len(kept) > MOST_FILES:
            del kept[next(iter(kept))]

    def drop(self, user_id: str) -> None:
        """Forgets the files of an account. To be called when one of them may have been deleted, before that is acknowledged."""
        self.epoch += 1
        for key in [key for key in self._kept if key[0] == user_id]:
            del self._kept[key]

    def shut(self, user_id: str) -> None:
        """The account is being deleted, by a transaction of which only the beginning is told here. May be called on any thread."""
        if self._works:
            now = self._monotonic()
            self._shut[user_id] = now + SHUT_SECONDS
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        if self._shut and now >= self._sweep_at:
            self._sweep_at = now + BELIEVED_SECONDS
            for user_id, until in list(self._shut.items()):
                if until <= now:
                    self._shut.pop(user_id, None)
