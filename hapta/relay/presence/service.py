"""Presence of one worker: heartbeats and sockets, what is written of them, and the sweep that ends what has gone silent."""

from __future__ import annotations

from hapta.db.database import Database, WriteTx
from hapta.kit.background import Routine, attempted
from hapta.kit.clock import Clock
from hapta.relay.machines.service import activity as machine_activity
from hapta.relay.ports import Teller
from hapta.relay.presence import store
from hapta.relay.presence.connections import DEAD_MS, RENEW_SECONDS, Connections
from hapta.relay.presence.heartbeats import Heartbeats
from hapta.relay.presence.ports import Machines, Sessions, Sockets
from hapta.relay.sessions.service import activity as session_activity
from hapta.settings.relay import RelaySettings

FLUSH_SECONDS = 5.0
SETTLE_SECONDS = 5.0
"""After a failure; otherwise sockets are settled as they come and go."""
SWEEP_SECONDS = 30.0
CHUNK = 200

Silent = list[tuple[str, str, int]]


class Presence:
    """Opened with the worker and closed after its sockets have left."""

    def __init__(
        self,
        db: Database,
        updates: Teller,
        sockets: Sockets,
        clock: Clock,
        settings: RelaySettings,
        sessions: Sessions,
        machines: Machines,
    ) -> None:
        self._db = db
        self._updates = updates
        self._clock = clock
        self._settings = settings
        self._sessions = sessions
        self._machines = machines
        self.heartbeats = Heartbeats(db, updates, clock, settings, sessions, machines)
        self._settling: Routine | None = None
        self._routines: list[Routine] = []
        self.connections = Connections(
            db, updates, clock, machines, sockets.worker_id, self._wake, self.heartbeats.forget_machine
        )
        sockets.on_joined(self.connections.joined)
        sockets.on_left(self.connections.left)

    def start(self) -> None:
        """Begins to write what is heard."""
        self._settling = Routine("machine sockets", self.connections.settle, SETTLE_SECONDS, at_once=True)
        self._routines = [
            self._settling,
            Routine("heartbeats", self.heartbeats.flush, FLUSH_SECONDS),
            Routine("presence of this worker", self.connections.renew, RENEW_SECONDS),
        ]
        for routine in self._routines:
            routine.start()

    def _wake(self) -> None:
        if self._settling is not None:
            self._settling.wake()

    async def close(self) -> None:
        """Writes what is left, and that this worker holds no machine any more."""
        for routine in self._routines:
            await routine.stop()
        self._settling, self._routines = None, []
        await attempted("heartbeats", self.heartbeats.flush)
        await attempted("machine sockets", self.connections.release)

    # -- upkeep ------------------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Ends what dead workers held, and marks inactive what has been silent. For any worker, from time to time."""
        await self.connections.sweep()
        await self._sweep_machines()
        await self._sweep_sessions()

    def _before_ms(self) -> int:
        return self._clock.now_ms() - int(self._settings.presence_timeout_seconds * 1000)

    async def _sweep_sessions(self) -> None:
        while True:
            silent = await self._db.write(lambda tx: self._sessions.mark_silent(tx, self._before_ms(), CHUNK))
            await self._updates.tell(
                *[
                    session_activity(account_id, session_id, active=False, active_at=at_ms)
                    for account_id, session_id, at_ms in silent
                ]
            )
            if len(silent) < CHUNK:
                return

    async def _sweep_machines(self) -> None:
        while True:
            found, silent = await self._db.write(self._mark_silent_machines)
            await self._updates.tell(
                *[
                    machine_activity(account_id, machine_id, at_ms, active=False)
                    for account_id, machine_id, at_ms in silent
                ]
            )
            if found < CHUNK:
                return

    async def _mark_silent_machines(self, tx: WriteTx) -> tuple[int, Silent]:
        found = await self._machines.silent(tx, self._before_ms(), CHUNK)
        if not found:
            return 0, []
        keys = sorted((account_id, machine_id) for account_id, machine_id, _ in found)
        now_ms = self._clock.now_ms()
        connected = await store.connected(tx, keys, now_ms - DEAD_MS)
        # A socket that is open is a sign of life, even if nothing is said over it.
        await self._machines.set_active(tx, [key for key in keys if key in connected], now_ms, active=True)
        await self._machines.set_active(tx, [key for key in keys if key not in connected], 0, active=False)
        return len(found), [one for one in found if one[:2] not in connected]


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes all of an account."""
    await store.purge(tx, account_id)
