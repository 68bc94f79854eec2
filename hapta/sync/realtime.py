"""Realtime hints: "this vault has a new head, pull". One hub for each worker; the bus carries hints between workers.

Nothing is ever lost by a hint that is: a subscriber is registered before its head is read, hints of one vault melt into the one
with the larger head, and after a gap of the bus every subscribed head is read again. A socket that is idle costs neither a task
nor a queue; a send never happens on the path of a push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Protocol

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database, ReadTx
from hapta.kit.access import Caller, Verifier
from hapta.kit.background import ended
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unavailable
from hapta.sync import store
from hapta.sync.models import Pushed

CHANNEL = "sync.hints"
RECHECK_CHUNK = 500
MAX_WAITERS_PER_ACCOUNT = 100

_log = structlog.stdlib.get_logger("hapta.sync.realtime")


class Hint(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A vault's head moved. `device_id` is the device that moved it, None when several did or it gave none."""

    user_id: str
    vault_id: str
    head: int
    device_id: str | None = None


class Subscriber(Protocol):
    """Who wants to hear of a vault. `hear` must not block and must not raise."""

    user_id: str
    vault_id: str
    told: int
    """The head that it knows of; hints up to here are no news."""

    def hear(self, head: int, device_id: str | None) -> None: ...


class Connection(Protocol):
    """A socket as the hub sees it."""

    caller: Caller

    def end(self, code: int, reason: str) -> None:
        """Closes soon; does not wait."""
        ...

    def tick(self) -> None:
        """Called about once a second: pings, idle time, the token's end."""
        ...


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Hint]).decode


class Hub:
    """Subscriptions of this worker, and the way of hints from a commit to them."""

    def __init__(self, bus: Bus, db: Database, clock: Clock) -> None:
        self._bus = bus
        self._db = db
        self.clock = clock
        self._subscribers: dict[tuple[str, str], set[Subscriber]] = {}
        self._connections: dict[str, set[Connection]] = {}
        self._waiting: dict[str, int] = {}
        self._rechecking: asyncio.Task[None] | None = None
        self._dirty = False
        self._ticker: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self.closing = False

    async def start(self) -> None:
        """Begins to hear hints and to keep time."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._receive, self.recheck)
        self._ticker = asyncio.create_task(self._keep_time())

    def stop_waiting(self) -> None:
        """Ends long polls with what they have; new ones answer at once. The first step of an orderly stop."""
        self.closing = True
        for subscriber in self._all_subscribers():
            if isinstance(subscriber, Listener):
                subscriber.stop()

    async def close(self) -> None:
        """Ends long polls with what they have and closes every socket with 1012."""
        self.stop_waiting()
        if self._unsubscribe is not None:
            self._unsubscribe()
        await ended(self._ticker, self._rechecking)
        for connection in self._all_connections():
            connection.end(1012, "server is stopping")

    # -- from the commit to the subscribers ------------------------------------------------------------------------------

    async def announce(self, pushed: Sequence[Pushed]) -> None:
        """Tells every worker of new heads; called after the commit."""
        if self._unsubscribe is not None and not self.closing and self._bus.is_alone(CHANNEL):
            # Nobody else hears it, and whoever listens from now on looks for himself first.
            pushed = [push for push in pushed if (push.stream_id, push.vault_id) in self._subscribers]
            if not pushed:
                return
        heads: dict[tuple[str, str], Hint] = {}
        for push in pushed:
            at = (push.stream_id, push.vault_id)
            earlier = heads.get(at)
            device = push.device_id if earlier is None or earlier.device_id == push.device_id else None
            heads[at] = Hint(*at, push.head, device)
        await self._bus.publish(CHANNEL, _encode(list(heads.values())))

    def _receive(self, message: bytes) -> None:
        try:
            hints = _decode(message)
        except msgspec.DecodeError:  # another version of the server speaks on this bus
            _log.warning("unreadable hint")
            self.recheck()
            return
        for hint in hints:
            subscribers = self._subscribers.get((hint.user_id, hint.vault_id))
            if subscribers:
                for subscriber in subscribers:
                    if hint.head > subscriber.told:
                        subscriber.hear(hint.head, hint.device_id)

    def recheck(self) -> None:
        """Reads every subscribed head again: hints may have been lost."""
        self._dirty = True
        if self._rechecking is None and not self.closing:
            self._rechecking = asyncio.get_running_loop().create_task(self._recheck())

    async def _recheck(self) -> None:
        try:
            while self._dirty:
                self._dirty = False
                keys = list(self._subscribers)
                for start in range(0, len(keys), RECHECK_CHUNK):
                    heads = await self.heads(keys[start : start + RECHECK_CHUNK])
                    for at, (head, _) in heads.items():
                        for subscriber in self._subscribers.get(at, ()):
                            if head > subscriber.told:
                                subscriber.hear(head, None)
        except Unavailable:
            self._dirty = True  # the ticker tries again
        finally:
            self._rechecking = None

    async def heads(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, str]]:
        """(head, epoch) of vaults by (user, vault id); head 0 for those that are not there."""
        users = sorted({user_id for user_id, _ in keys})
        vault_ids = sorted({vault_id for _, vault_id in keys})

        async def body(tx: ReadTx) -> dict[tuple[str, str], tuple[int, str]]:
            vaults = await store.live_vaults(tx, users, vault_ids)
            epochs = await store.epochs(tx, users)
            return {at: (vaults[at].head if at in vaults else 0, epochs[at[0]]) for at in keys if at[0] in epochs}

        return await self._db.read(body)

    # -- registers -------------------------------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber) -> None:
        self._subscribers.setdefault((subscriber.user_id, subscriber.vault_id), set()).add(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        at = (subscriber.user_id, subscriber.vault_id)
        subscribers = self._subscribers.get(at)
        if subscribers is not None:
            subscribers.discard(subscriber)
            if not subscribers:
                del self._subscribers[at]

    def connect(self, connection: Connection) -> None:
        self._connections.setdefault(connection.caller.user_id, set()).add(connection)

    def disconnect(self, connection: Connection) -> None:
        user_id = connection.caller.user_id
        connections = self._connections.get(user_id)
        if connections is not None:
            connections.discard(connection)
            if not connections:
                del self._connections[user_id]

    def connections_of(self, user_id: str) -> int:
        """How many sockets of this account are open on this worker."""
        return len(self._connections.get(user_id, ()))

    @property
    def socket_count(self) -> int:
        """How many sockets are open on this worker."""
        return sum(map(len, self._connections.values()))

    def on_revoked(self, user_id: str, session_id: str | None) -> None:
        """Ends the sockets and long polls of a session, or with None of the whole account."""
        for connection in list(self._connections.get(user_id, ())):
            if session_id is None or connection.caller.session_id == session_id:
                connection.end(4401, "token was revoked")
        if user_id in self._waiting:
            for subscriber in self._all_subscribers():
                if isinstance(subscriber, Listener) and subscriber.user_id == user_id:
                    subscriber.stop()  # the next request shows whether its token still counts

    # -- long polls ------------------------------------------------------------------------------------------------------

    def listen(self, user_id: str, vault_id: str) -> Listener:
        """A context in which hints of a vault are heard; see `Listener.wait`."""
        return Listener(self, user_id, vault_id)

    def begin_wait(self, user_id: str) -> bool:
        """Counts a long poll; False when the account has too many, or the server stops."""
        count = self._waiting.get(user_id, 0)
        if self.closing or count >= MAX_WAITERS_PER_ACCOUNT:
            return False
        self._waiting[user_id] = count + 1
        return True

    def is_waiting(self, user_id: str) -> bool:
        """Whether a long poll of this account is under way on this worker."""
        return user_id in self._waiting

    def end_wait(self, user_id: str) -> None:
        count = self._waiting[user_id] - 1
        if count:
            self._waiting[user_id] = count
        else:
            del self._waiting[user_id]

    # -- time ------------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tick()

    def tick(self) -> None:
        """One step of the only timer: all sockets' pings and ends, and heads while the bus is away."""
        for connection in self._all_connections():
            connection.tick()
        if self._dirty or not self._bus.healthy:
            self.recheck()

    def _all_connections(self) -> list[Connection]:
        return [connection for connections in self._connections.values() for connection in connections]

    def _all_subscribers(self) -> list[Subscriber]:
        return [subscriber for subscribers in self._subscribers.values() for subscriber in subscribers]


class Listener:
    """One long poll. Hints between two waits are not lost."""

    def __init__(self, hub: Hub, user_id: str, vault_id: str) -> None:
        self._hub = hub
        self.user_id = user_id
        self.vault_id = vault_id
        self.told = 0
        self._heard = asyncio.Event()
        self._stopped = False
        self._counted = False

    def __enter__(self) -> Listener:
        self._counted = self._hub.begin_wait(self.user_id)
        self._stopped = not self._counted
        if self._counted:
            self._hub.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._counted:
            self._hub.remove(self)
            self._hub.end_wait(self.user_id)

    def hear(self, head: int, device_id: str | None) -> None:
        # The largest head heard becomes `told`, so that a recheck does not wake the poll again for nothing.
        self.told = max(self.told, head)
        self._heard.set()

    def stop(self) -> None:
        """Ends the wait now, and every later one at once."""
        self._stopped = True
        self._heard.set()

    async def wait(self, seconds: float) -> bool:
        """Waits for a hint; False when there was none in time or the poll should end."""
        if self._stopped or seconds <= 0:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            return False
        self._heard.clear()
        return not self._stopped


async def verified(verifier: Verifier, token: str) -> Caller | None:
    """The caller of a token, or None when it does not count.

    Raises:
        Unavailable: the session could not be looked up.
    """
    caller = verifier.cached(token)
    if caller is not None:
        return caller
    try:
        return await verifier.verify(token)
    except Unavailable:
        raise
    except HaptaError:
        return None


InlineLogs = Callable[[str, str, int], Awaitable["tuple[bytes, int] | None"]]
"""`(user_id, vault_id, after)`: logs after a cursor as JSON, with the last sequence; None when they are too many to carry."""

__all__ = ["CHANNEL", "Connection", "Hint", "Hub", "InlineLogs", "Listener", "Subscriber", "verified"]
