"""Carries revocations to every worker within two seconds, whoever made them: another worker or a command beside the server.

The bus only hastens it. The truth is the table `auth_revocations`, read each second with an overlap, so that a transaction
which committed late is not skipped. While that cannot be read, no cached token is believed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.identity import session_store as store
from hapta.identity.models import Revocation
from hapta.identity.session_tokens import OVERLAP_MS
from hapta.identity.sessions import CHANNEL, SessionService
from hapta.kit.clock import Clock

POLL_SECONDS = 1.0
TRUST_SECONDS = 2.0
LOOK_BACK_MS = 10_000
FLUSH_SECONDS = 10.0
SWEEP_SECONDS = 600.0

_log = structlog.get_logger("hapta.identity")


class RevocationWatch:
    """The background work of sessions in one worker: `open`, `run` until cancelled, `close`.

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
        self._poll_seconds = poll_seconds
        self._polled_at: int | None = None
        self._unsubscribe: Callable[[], None] | None = None

    async def open(self) -> None:
        """Listens to the bus and reads the table once, after which cached tokens count."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._hear, self._sessions.cache.clear)
        await self._sessions.marks.load()
        await self.poll_once()

    async def run(self) -> None:
        """Polls, writes down last uses and sweeps, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_forever(self.poll_once, self._poll_seconds))
            tasks.create_task(_forever(self._sessions.flush_seen, FLUSH_SECONDS))
            tasks.create_task(_forever(self._sessions.erase_successors, OVERLAP_MS / 1000))
            tasks.create_task(_forever(self._sessions.sweep, SWEEP_SECONDS))

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


async def _forever(work: Callable[[], Awaitable[object]], every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await work()
        except Exception:
            # A boundary: this loop must outlive whatever befalls the database. It fails safe, since nothing cached is
            # believed without polls.
            _log.exception(
                "background work of sessions failed and will be tried again", work=getattr(work, "__name__", "")
            )
