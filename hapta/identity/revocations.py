"""Carries revocations to every worker within two seconds, whoever made them: another worker or a command beside the server.

The bus only hastens it. The truth is the table `auth_revocations`, read each second with an overlap, so that a transaction
which committed late is not skipped. While that cannot be read, no cached token is believed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.identity import session_store as store
from hapta.identity.models import Revocation
from hapta.identity.session_tokens import OVERLAP_MS
from hapta.identity.sessions import CHANNEL, SessionService
from hapta.kit.background import Routine, in_turn, run_all
from hapta.kit.clock import Clock

POLL_SECONDS = 1.0
TRUST_SECONDS = 2.0
LOOK_BACK_MS = 10_000
FLUSH_SECONDS = 10.0
SWEEP_SECONDS = 600.0

_log = structlog.get_logger("hapta.identity")


class RevocationWatch:
    """The background work of sessions in one worker: `open`, `run` until cancelled, `close`. It fails safe: nothing that was
    cached is believed without polls.

    Args:
        poll_seconds: the pause between two polls; more than `TRUST_SECONDS` would leave the cache unused.
    """

    def __init__(
        self, sessions: SessionService, db: Database, bus: Bus, clock: Clock, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._sessions = sessions
        self._db = db
        self._bus = bus
        self._clock = clock
        self._polled_at: int | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._routines = [
            Routine("revocations", self.poll_once, poll_seconds),
            Routine("last uses of sessions", sessions.flush_seen, FLUSH_SECONDS),
            Routine("successors of session keys", sessions.erase_successors, OVERLAP_MS / 1000),
            Routine("clean-up of sessions", in_turn(sessions.sweeps()), SWEEP_SECONDS),
        ]

    async def open(self) -> None:
        """Listens to the bus and reads the table once, after which cached tokens count."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._hear, self._sessions.cache.clear)
        await self._sessions.marks.load()
        await self.poll_once()

    async def run(self) -> None:
        """Polls, writes down last uses and sweeps, until cancelled."""
        await run_all(self._routines)

    async def close(self) -> None:
        """Stops listening."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def poll_once(self) -> None:
        """Applies what was revoked since the last successful poll.

        Raises:
            Unavailable: the table could not be read; what is cached stays believed until two seconds after the last
                poll that succeeded.
        """
        started = self._clock.monotonic()
        now = self._clock.now_ms()
        # `min`: a wall clock that was set back must not hide what is written now.
        since = min(now, self._polled_at if self._polled_at is not None else now) - LOOK_BACK_MS
        for revocation in await self._db.read(lambda tx: store.revocations_since(tx, since), snapshot=False):
            self._sessions.apply(revocation)
        self._polled_at = now
        self._sessions.forget_applied(since)
        self._sessions.cache.trust_until(started + TRUST_SECONDS)

    def _hear(self, message: bytes) -> None:
        try:
            revocations = msgspec.json.decode(message, type=list[Revocation])
        except msgspec.DecodeError:
            _log.warning("an unreadable message; all cached tokens are forgotten", channel=CHANNEL)
            self._sessions.cache.clear()
            return
        for revocation in revocations:
            self._sessions.apply(revocation)
