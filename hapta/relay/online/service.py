"""Who is online, as friends are told: `friend-status`, from an account's first app on any worker until its last one is gone.

An account is online while a user-scoped socket of it is open: a person's app, and not a daemon that runs day and night. Friends hear
of it if the account lets them see it (`showOnlineStatus`); who connects hears which friends are there. Only accounts that have friends
are written down, each by every worker that holds them, as `presence` does it with machines; what a dead worker held, a sweep ends.

A worker writes first and reads then who is there: of two friends who come at the same moment at least one sees the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from hapta.bus.bus import Bus
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.background import Routine, attempted, drained
from hapta.kit.clock import Clock, iso_ms
from hapta.relay.models import USERS, Event, Scope, ephemeral
from hapta.relay.online import store
from hapta.relay.online.store import Friendship
from hapta.relay.ports import Teller
from hapta.relay.updates import heads
from hapta.relay.updates.frames import Frame, event_frame

CHANNEL = "relay.friends"
"""New friends, told to whichever workers hold them."""
RENEW_SECONDS = 20.0
DEAD_MS = 65_000
"""A worker that has not been heard of for so long is dead: it missed three turns."""
SETTLE_SECONDS = 5.0
"""After a failure; otherwise sockets are settled as they come and go."""
CHUNK = 50
"""Accounts at a time; each may have a thousand friends."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[str]).decode


class Connection(Protocol):
    """As much of a socket as is needed here."""

    @property
    def account_id(self) -> str: ...

    @property
    def scope(self) -> Scope: ...

    def send(self, frame: Frame) -> None: ...


class Sockets(Protocol):
    """Of `updates.hub.Hub`."""

    worker_id: str

    def on_joined(self, listener: Callable[[Connection], None], /) -> None: ...

    def on_left(self, listener: Callable[[Connection], None], /) -> None: ...


class Online:
    """The apps of this worker. Opened with the worker and closed after its sockets have left."""

    def __init__(self, db: Database, bus: Bus, updates: Teller, sockets: Sockets, clock: Clock) -> None:
        self._db = db
        self._bus = bus
        self._updates = updates
        self._clock = clock
        self._worker_id = sockets.worker_id
        self._held: dict[str, int] = {}
        self._written: set[str] = set()
        """Accounts that the database knows of this worker: those that have friends."""
        self._dirty: set[str] = set()
        self._fresh: dict[str, list[Connection]] = {}
        """Sockets that have not been told yet which friends are there."""
        self._turn = asyncio.Lock()
        self._settling: Routine | None = None
        self._routines: list[Routine] = []
        self._unsubscribe: Callable[[], None] | None = None
        sockets.on_joined(self._joined)
        sockets.on_left(self._left)

    async def start(self) -> None:
        """Begins to tell."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._receive)
        self._settling = Routine("friends who come and go", self.settle, SETTLE_SECONDS, at_once=True)
        self._routines = [self._settling, Routine("friends of this worker", self.renew, RENEW_SECONDS)]
        for routine in self._routines:
            routine.start()

    async def close(self) -> None:
        """Lets go of every account: this worker ends."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for routine in self._routines:
            await routine.stop()
        self._settling, self._routines = None, []
        self._dirty.update(self._written)
        self._held.clear()
        self._fresh.clear()
        await attempted("friends who come and go", self.settle)

    # -- listeners of the hub: they never wait -----------------------------------------------------------------------------

    def _joined(self, connection: Connection) -> None:
        if connection.scope.kind == "user-scoped":
            account_id = connection.account_id
            self._held[account_id] = self._held.get(account_id, 0) + 1
            self._fresh.setdefault(account_id, []).append(connection)
            self._settle_soon(account_id)

    def _left(self, connection: Connection) -> None:
        account_id = connection.account_id
        if connection.scope.kind != "user-scoped" or account_id not in self._held:
            return
        fresh = self._fresh.get(account_id, [])
        if connection in fresh:
            fresh.remove(connection)
        self._held[account_id] -= 1
        if not self._held[account_id]:
            del self._held[account_id]
            self._fresh.pop(account_id, None)
            self._settle_soon(account_id)

    def _settle_soon(self, *accounts: str) -> None:
        self._dirty.update(accounts)
        if self._settling is not None:
            self._settling.wake()

    # -- what is written and told ------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Writes down whose apps came and went, and tells their friends."""
        async with self._turn:
            await drained(self._dirty, CHUNK, self._settle)

    async def _settle(self, accounts: Sequence[str]) -> None:
        async def friends(tx: ReadTx) -> set[str]:
            return await store.with_friends(tx, accounts)

        befriended = await self._db.read(friends, snapshot=False)
        here = [account_id for account_id in accounts if account_id in self._held and account_id in befriended]
        gone = [account_id for account_id in accounts if account_id not in self._held and account_id in self._written]
        if not here and not gone:
            self._take_fresh(accounts)
            return
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> tuple[set[str], set[str]]:
            await heads.hold(tx, [*here, *gone])
            before = await store.online(tx, here, now_ms - DEAD_MS)
            if here:
                await store.put(tx, self._worker_id, here, now_ms)
            if gone:
                await store.remove(tx, self._worker_id, gone)
            return set(here) - before, set(gone) - await store.online(tx, gone, now_ms - DEAD_MS)

        came, left = await self._db.write(body)
        fresh = self._take_fresh(accounts)
        self._written.difference_update(gone)
        self._written.update(here)
        found = await self._friendships([*here, *left])
        told = _departures(found, dict.fromkeys(left, now_ms))
        for one in found:
            if not one.friend_online or one.account_id in left:
                continue
            if one.account_id in came and one.shows:
                told.append(_status(one.friend_id, one.account_id))
            if one.friend_shows:
                friend = _status(one.account_id, one.friend_id)
                if one.account_id in came:
                    told.append(friend)
                else:
                    for connection in fresh.get(one.account_id, ()):
                        connection.send(event_frame(friend))
        await self._updates.tell(*told)

    def _take_fresh(self, accounts: Sequence[str]) -> dict[str, list[Connection]]:
        return {account_id: self._fresh.pop(account_id) for account_id in accounts if account_id in self._fresh}

    async def _friendships(self, accounts: Sequence[str]) -> list[Friendship]:
        after_ms = self._clock.now_ms() - DEAD_MS

        async def body(tx: ReadTx) -> list[Friendship]:
            return await store.friendships(tx, accounts, after_ms)

        return await self._db.read(body, snapshot=False) if accounts else []

    async def renew(self) -> None:
        """This worker is still there."""
        async with self._turn:
            expected = len(self._written - self._dirty)
            if not expected:
                return
            now_ms = self._clock.now_ms()
            held = await self._db.write(lambda tx: store.renew(tx, self._worker_id, now_ms), single=True)
            if held < expected:  # somebody took this worker for dead
                self._settle_soon(*self._written)

    async def sweep(self) -> int:
        """Ends what dead workers held; how many accounts went offline by it. For any worker, from time to time."""
        total = 0
        while True:
            now_ms = self._clock.now_ms()

            async def body(tx: WriteTx, now_ms: int = now_ms) -> tuple[int, dict[str, int]]:
                stale = await store.remove_stale(tx, now_ms - DEAD_MS, CHUNK)
                elsewhere = await store.online(tx, list(stale), now_ms - DEAD_MS)
                return len(stale), {account_id: at for account_id, at in stale.items() if account_id not in elsewhere}

            found, left = await self._db.write(body)
            total += len(left)
            await self._updates.tell(*_departures(await self._friendships(list(left)), left))
            if not found:
                return total

    # -- what changes between friends --------------------------------------------------------------------------------------

    async def befriended(self, one: str, other: str) -> None:
        """Two have become friends: whoever is there is now seen by the other."""
        await self._bus.publish(CHANNEL, _encode((one, other)))  # they may be the first friends of each other
        for friendship in await self._friendships([one, other]):
            pair = (friendship.account_id, friendship.friend_id)
            if pair in ((one, other), (other, one)) and friendship.friend_shows and friendship.friend_online:
                await self._updates.tell(_status(*pair))

    def _receive(self, message: bytes) -> None:
        try:
            accounts = _decode(message)
        except msgspec.DecodeError:  # another version of the server speaks on this bus
            return
        self._settle_soon(*[account_id for account_id in accounts if account_id in self._held])

    async def shown(self, account_id: str, *, shows: bool) -> None:
        """An account lets its friends see from now on whether it is online, or does so no more."""
        now_ms = self._clock.now_ms()

        async def body(tx: ReadTx) -> bool:
            return bool(await store.online(tx, [account_id], now_ms - DEAD_MS))

        if await self._db.read(body, snapshot=False):
            found = await self._friendships([account_id])
            # Who hides does not say either when they were seen last.
            told = [_status(one.friend_id, account_id, online=shows) for one in found if one.friend_online]
            await self._updates.tell(*told)


def _departures(found: Iterable[Friendship], left: Mapping[str, int]) -> list[Event]:
    """What friends who are there are told of accounts that are so no more since an instant each."""
    return [
        _status(one.friend_id, one.account_id, left_at=left[one.account_id])
        for one in found
        if one.account_id in left and one.shows and one.friend_online
    ]


def _status(to: str, about: str, *, online: bool = True, left_at: int | None = None) -> Event:
    """What an account's apps are told about a friend (contract relay-native, section 3.6).

    Args:
        left_at: when the friend was there last, in Unix ms; None: the friend is there, or hides.
    """
    body: dict[str, object] = {"type": "friend-status", "userId": about, "isOnline": online and left_at is None}
    if left_at is not None:
        body["lastSeen"] = iso_ms(left_at)
    return ephemeral(to, body, USERS)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
