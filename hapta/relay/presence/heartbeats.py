"""Heartbeats: what sessions and machines say of themselves every few seconds.

Each one is told at once, and only now and then written: a thing's row says when it was last heard of, give or take half a
minute. So a heartbeat usually costs no statement (contract relay, section 15: at most one write in 30 s, gathered for 5 s).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.machines.service import activity as machine_activity
from hapta.relay.ports import Teller
from hapta.relay.presence.ports import Machines, Sessions
from hapta.relay.sessions.service import activity as session_activity
from hapta.settings.relay import RelaySettings

Kind = Literal["session", "machine"]
Key = tuple[Kind, str, str]
"""Kind, account and id."""

STALE_MS = 10 * 60 * 1000
"""A heartbeat that is older says nothing (contract relay, section 14.3)."""
WRITE_MS = 30_000
KNOWN_MS = 5 * 60 * 1000
"""So long it is believed that a thing exists."""
UNKNOWN_MS = 5_000
"""So long it is believed that it does not: clients may beat before they have made it."""
MAX_REMEMBERED = 50_000
CHUNK = 500


class _Thing:
    __slots__ = ("believed_until", "exists", "written_at")

    def __init__(self, believed_until: int, *, exists: bool) -> None:
        self.exists = exists
        self.believed_until = believed_until
        self.written_at = 0


class Heartbeats:
    """The heartbeats that this worker hears."""

    def __init__(
        self,
        db: Database,
        updates: Teller,
        clock: Clock,
        settings: RelaySettings,
        sessions: Sessions,
        machines: Machines,
    ) -> None:
        self._db = db
        self._updates = updates
        self._clock = clock
        self._sessions = sessions
        self._machines = machines
        # Well within the time after which a silent thing counts as inactive.
        self._write_ms = min(WRITE_MS, int(settings.presence_timeout_seconds * 1000 / 4))
        self._things: OrderedDict[Key, _Thing] = OrderedDict()
        self._pending: dict[Key, int] = {}

    async def session(self, account_id: str, session_id: str, time_ms: float, *, thinking: bool) -> None:
        """A session is alive.

        Args:
            time_ms: when, by its own clock; what lies ahead counts as now.

        Raises:
            Unavailable: it is not known yet whether there is such a session, and that could not be looked up.
        """
        if self._sessions.ended_recently(account_id, session_id):
            return
        at_ms = await self._heard("session", account_id, session_id, time_ms)
        if at_ms is not None:
            await self._updates.tell(
                session_activity(account_id, session_id, active=True, active_at=at_ms, thinking=thinking)
            )

    async def machine(self, account_id: str, machine_id: str, time_ms: float) -> None:
        """As `session`, for a machine."""
        at_ms = await self._heard("machine", account_id, machine_id, time_ms)
        if at_ms is not None:
            await self._updates.tell(machine_activity(account_id, machine_id, at_ms, active=True))

    async def _heard(self, kind: Kind, account_id: str, thing_id: str, time_ms: float) -> int | None:
        """When it was alive; None when that says nothing."""
        now_ms = self._clock.now_ms()
        at_ms = int(min(time_ms, now_ms))
        if at_ms < now_ms - STALE_MS:
            return None
        key = (kind, account_id, thing_id)
        thing = self._things.get(key)
        if thing is None or thing.believed_until <= now_ms:
            thing = await self._look_up(key, now_ms)
        if not thing.exists:
            return None
        if now_ms - thing.written_at >= self._write_ms:
            thing.written_at = now_ms
            self._pending[key] = at_ms
        elif key in self._pending:
            self._pending[key] = max(at_ms, self._pending[key])
        return at_ms

    async def _look_up(self, key: Key, now_ms: int) -> _Thing:
        kind, account_id, thing_id = key

        async def body(tx: ReadTx) -> bool:
            noun = self._sessions if kind == "session" else self._machines
            return await noun.owned(tx, account_id, thing_id)

        exists = await self._db.read(body, snapshot=False)
        thing = _Thing(now_ms + (KNOWN_MS if exists else UNKNOWN_MS), exists=exists)
        before = self._things.pop(key, None)
        if before is not None:
            thing.written_at = before.written_at
        self._things[key] = thing
        if len(self._things) > MAX_REMEMBERED:
            self._things.popitem(last=False)
        return thing

    def forget_machine(self, account_id: str, machine_id: str) -> None:
        """Its last socket closed: heartbeats that were heard before say nothing, and the next one is written at once."""
        key: Key = ("machine", account_id, machine_id)
        self._pending.pop(key, None)
        if key in self._things:
            self._things[key].written_at = 0

    async def flush(self) -> None:
        """Writes what has gathered."""
        pending, self._pending = self._pending, {}
        # In order, so that no two workers wait for each other's rows.
        left = sorted(pending.items())
        try:
            while left:
                chunk = left[:CHUNK]
                await self._db.write(lambda tx, chunk=chunk: self._write(tx, chunk))
                left = left[CHUNK:]
        except BaseException:
            for key, at_ms in left:
                self._pending.setdefault(key, at_ms)
            raise

    async def _write(self, tx: WriteTx, beats: list[tuple[Key, int]]) -> None:
        machines = [(key[1], key[2], at_ms) for key, at_ms in beats if key[0] == "machine"]
        sessions = [
            (key[1], key[2], at_ms)
            for key, at_ms in beats
            if key[0] == "session" and not self._sessions.ended_recently(key[1], key[2])
        ]
        if machines:
            await self._machines.mark_alive(tx, machines)
        if sessions:
            await self._sessions.mark_alive(tx, sessions)
