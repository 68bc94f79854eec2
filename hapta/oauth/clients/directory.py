"""`ClientDirectory`: who is this client? Asked by every request of OAuth, so it answers from memory.

What it remembers is at most a second old, so that a change reaches every worker within two, also without the bus; the bus only
hastens it. Unknown ids are remembered like known ones, which keeps them from being told apart by the clock.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.kit.clock import Clock
from hapta.oauth.clients import store
from hapta.oauth.clients.models import Entry
from hapta.oauth.models import Client

CHANNEL = "oauth.clients"
TTL_SECONDS = 1.0
MAX_CACHED = 10_000
MAX_ID_CHARACTERS = 512
USED_GRAIN_MS = 60_000


class Documents(Protocol):
    """Clients whose id is the address of their metadata (`registration.documents.ClientDocuments`)."""

    async def find(self, client_id: str) -> Client | None: ...


class _Known(NamedTuple):
    entry: Entry | None
    until: float


class ClientDirectory:
    """Finds clients.

    Args:
        documents: for client ids that are addresses; None: those are unknown like any other.
        ttl_seconds: how long an answer is believed.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        clock: Clock,
        *,
        documents: Documents | None = None,
        ttl_seconds: float = TTL_SECONDS,
        max_cached: int = MAX_CACHED,
    ) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._documents = documents
        self._ttl_seconds = ttl_seconds
        self._max_cached = max_cached
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[Entry | None]] = {}
        self._epoch = 0
        self._used: dict[str, int] = {}
        self._unsubscribe: Callable[[], None] | None = None

    async def open(self) -> None:
        """Listens for changes by other workers."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._hear, self.clear)

    async def close(self) -> None:
        """Stops listening and writes down last uses."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self.flush_used()

    async def find(self, client_id: str) -> Client | None:
        """The client with this id, None when there is none.

        Raises:
            Unavailable: it could not be looked up.
        """
        entry = await self.find_entry(client_id)
        return None if entry is None else entry.client

    async def find_entry(self, client_id: str) -> Entry | None:
        """The client with its live secrets, for those who authenticate it. Expired ones may still be among them."""
        known = self._known.get(client_id)
        if known is not None and self._clock.monotonic() < known.until:
            return known.entry
        if not client_id or len(client_id) > MAX_ID_CHARACTERS or "\0" in client_id:
            return None
        lookup = self._lookups.get(client_id)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(client_id))
            self._lookups[client_id] = lookup
            lookup.add_done_callback(lambda done: self._looked_up(client_id, done))
        # Shielded: one caller that goes away must not take the answer from the others.
        return await asyncio.shield(lookup)

    def _looked_up(self, client_id: str, lookup: asyncio.Task[Entry | None]) -> None:
        if self._lookups.get(client_id) is lookup:
            del self._lookups[client_id]
        if not lookup.cancelled():
            lookup.exception()  # marks it as seen, when every caller has gone

    async def _look_up(self, client_id: str) -> Entry | None:
        epoch = self._epoch
        # The instant before the read: what is read is at least that young.
        until = self._clock.monotonic() + self._ttl_seconds
        now = self._clock.now_ms()
        entry = await self._db.read(lambda tx: store.find_entry(tx, client_id, now))
        if entry is None and self._documents is not None and client_id.startswith("https://"):
            client = await self._documents.find(client_id)
            entry = None if client is None else Entry(client)
        if epoch == self._epoch:  # else something changed while we read, and what we read may be older than it
            self._known[client_id] = _Known(entry, until)
            self._known.move_to_end(client_id)
            if len(self._known) > self._max_cached:
                self._known.popitem(last=False)
        return entry

    async def changed(self, client_id: str) -> None:
        """A client was changed, and that is committed: every worker forgets it."""
        self.forget(client_id)
        await self._bus.publish(CHANNEL, client_id.encode())

    def forget(self, client_id: str) -> None:
        """Drops what this worker remembers of a client."""
        self._epoch += 1
        self._known.pop(client_id, None)
        self._lookups.pop(client_id, None)

    def clear(self) -> None:
        """Drops everything."""
        self._epoch += 1
        self._known.clear()
        self._lookups.clear()

    def _hear(self, message: bytes) -> None:
        self.forget(message.decode("utf-8", "replace"))

    # --- last use ---

    def note_used(self, client: Client) -> None:
        """Remembers that a client authenticated or got a token; written down by `flush_used`."""
        now = self._clock.now_ms()
        if client.source != "document" and now - (client.last_used_at or 0) >= USED_GRAIN_MS:
            self._used[client.client_id] = now

    async def flush_used(self) -> None:
        """Writes down, in one transaction, when clients were last used: a job for every ten seconds or so."""
        if not self._used:
            return
        used, self._used = self._used, {}
        # Sorted, so that two workers take the row locks in the same order.
        await self._db.write(lambda tx: store.touch(tx, sorted(used.items())))
