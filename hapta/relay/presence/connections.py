"""Machines that are connected: online from the first socket of a machine on any worker until the last one is gone.

Each worker writes down which machines it holds and says every few seconds, in one statement, that it is still there. What a
dead worker held is ended by whoever sweeps. Joins and leaves of many sockets are settled together, and under the lock of
their account's head, so that two workers never both think that the other one still holds a machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from hapta.db.database import Database, WriteTx
from hapta.kit.background import drained
from hapta.kit.clock import Clock
from hapta.relay.machines.service import activity
from hapta.relay.models import USERS, Event, ephemeral
from hapta.relay.ports import Teller
from hapta.relay.presence import store
from hapta.relay.presence.ports import Connection, Machines
from hapta.relay.presence.store import Key
from hapta.relay.updates import heads

RENEW_SECONDS = 20.0
DEAD_MS = 65_000
"""A worker that has not been heard of for so long is dead: it missed three turns."""
CHUNK = 200
MAX_ID = 128


class Connections:
    """The machine-scoped sockets of this worker.

    Args:
        on_dirty: called when there is something to settle.
        on_offline: called for each machine of which no socket is left.
    """

    def __init__(
        self,
        db: Database,
        updates: Teller,
        clock: Clock,
        machines: Machines,
        worker_id: str,
        on_dirty: Callable[[], None],
        on_offline: Callable[[str, str], None],
    ) -> None:
        self._db = db
        self._updates = updates
        self._clock = clock
        self._machines = machines
        self._worker_id = worker_id
        self._on_dirty = on_dirty
        self._on_offline = on_offline
        self._held: dict[Key, int] = {}
        self._dirty: set[Key] = set()
        self._turn = asyncio.Lock()

    # -- listeners of the hub: they never wait -----------------------------------------------------------------------------

    def joined(self, connection: Connection) -> None:
        """A socket has joined the hub."""
        key = _key(connection)
        if key is not None:
            self._held[key] = self._held.get(key, 0) + 1
            if self._held[key] == 1:
                self._settle_soon(key)

    def left(self, connection: Connection) -> None:
        """A socket has left the hub."""
        key = _key(connection)
        if key is None or key not in self._held:
            return
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
            self._settle_soon(key)

    def _settle_soon(self, *keys: Key) -> None:
        self._dirty.update(keys)
        self._on_dirty()

    # -- what is written and told ------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Writes down which machines came and went, and tells their accounts."""
        async with self._turn:
            await drained(self._dirty, CHUNK, self._settle)

    async def _settle(self, keys: list[Key]) -> None:
        here = [key for key in keys if key in self._held]
        gone = [key for key in keys if key not in self._held]
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> list[Key]:
            await heads.hold(tx, [account_id for account_id, _ in keys])
            if here:
                await store.put(tx, self._worker_id, here, now_ms)
                await self._machines.set_active(tx, here, now_ms, active=True)
            if not gone:
                return []
            await store.remove(tx, self._worker_id, gone)
            return await self._ended(tx, gone, now_ms)

        offline = await self._db.write(body)
        for account_id, machine_id in offline:
            self._on_offline(account_id, machine_id)
        await self._updates.tell(*_told(here, now_ms, online=True), *_told(offline, now_ms, online=False))

    async def _ended(self, tx: WriteTx, gone: list[Key], now_ms: int) -> list[Key]:
        """Marks those inactive that nobody holds any more."""
        elsewhere = await store.connected(tx, gone, now_ms - DEAD_MS)
        offline = [key for key in gone if key not in elsewhere]
        if offline:
            await self._machines.set_active(tx, offline, now_ms, active=False)
        return offline

    async def renew(self) -> None:
        """This worker is still there."""
        async with self._turn:
            expected = len(self._held.keys() - self._dirty)
            if not expected:
                return
            now_ms = self._clock.now_ms()
            held = await self._db.write(lambda tx: store.renew(tx, self._worker_id, now_ms), single=True)
            if held < expected:  # somebody took this worker for dead
                self._settle_soon(*self._held)

    async def sweep(self) -> int:
        """Ends what dead workers held; how many machines went offline by it."""
        total = 0
        while True:
            now_ms = self._clock.now_ms()

            async def body(tx: WriteTx, now_ms: int = now_ms) -> tuple[int, list[Key]]:
                stale = sorted(await store.remove_stale(tx, now_ms - DEAD_MS, CHUNK))
                await heads.hold(tx, [account_id for account_id, _ in stale])
                return len(stale), await self._ended(tx, stale, now_ms)

            found, offline = await self._db.write(body)
            total += len(offline)
            if offline:
                await self._updates.tell(*_told(offline, now_ms, online=False))
            if not found:
                return total

    async def release(self) -> None:
        """Lets go of every machine: this worker ends."""
        self._dirty.update(self._held)
        self._held.clear()
        await self.settle()


def _key(connection: Connection) -> Key | None:
    scope = connection.scope
    machine_id = scope.machine_id
    # Ids come from a query string: what no machine can be called is nobody's machine.
    if scope.kind != "machine-scoped" or not 0 < len(machine_id) <= MAX_ID or "\0" in machine_id:
        return None
    return connection.account_id, machine_id


def _told(machines: Iterable[Key], at_ms: int, *, online: bool) -> list[Event]:
    """Both families' words for it (contract relay, section 13)."""
    events: list[Event] = []
    for account_id, machine_id in machines:
        status: dict[str, object] = {
            "type": "machine-status",
            "id": machine_id,
            "machineId": machine_id,
            "online": online,
            "timestamp": at_ms,
        }
        events.append(ephemeral(account_id, status, USERS))
        events.append(activity(account_id, machine_id, at_ms, active=online))
    return events
