"""All that one identity listens to, over as few connections to PocketBase as will do: one for each thousand topics.

The set of a connection is never replaced, since PocketBase loses what happens in between. More topics, topics that nobody wants
any more, the end of a connection's life, another token: in each case a new connection takes over, and the old one is closed a
moment after the new one is confirmed (`overlap.py` drops what both bring). What comes while a change is under way is gathered for
the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import structlog

from hapta.gateway.changes.connection import MAX_TOPICS, Connection, Upstream
from hapta.gateway.errors import LimitReached
from hapta.gateway.models import GUEST
from hapta.gateway.realtime.overlap import Overlap
from hapta.gateway.realtime.subscriber import Subscriber
from hapta.gateway.upstream.sse import Event
from hapta.kit.background import ended as tasks_ended
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError

OVERLAP_SECONDS = 1.0
"""How long an old connection is read on: what was sent to it alone must have come by then."""
LIFE_SECONDS = 25 * 60.0
IDLE_SECONDS = 4 * 60.0
"""PocketBase ends a stream after 30 minutes, or 5 without an event."""
SPARE_TOPICS = 64
"""Topics that nobody wants any more are given up when they are more than that, and more than half."""
MAX_SHARDS = 64
MAX_TOPIC_BYTES = 16 * 1024 * 1024
"""Of all topics of one identity together; guests are one identity."""
GUESTS_SHARE = 4
"""Guests of one address may have this part of what all guests may."""
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

_log = structlog.stdlib.get_logger("hapta.gateway.realtime")

Receive = Callable[["Source", str, bytes], Awaitable[None]]


class Shard:
    """One connection and what it listens to."""

    __slots__ = ("connection", "last_event", "opened", "token", "topics")

    def __init__(self, connection: Connection, topics: frozenset[str], token: str, now: float) -> None:
        self.connection = connection
        self.topics = topics
        self.token = token
        self.opened = self.last_event = now


class Source:
    """One identity's topics.

    Args:
        scope: of the identity.
        token: finds PocketBase's token of somebody who listens now; empty for guests.
            Raises TokenRefused: nobody who listens has one.
        receive: is awaited with each event, once, in the order of its connection.
        resumed: called with subscribers who missed events, when they miss no more.
    """

    def __init__(
        self,
        scope: str,
        upstream: Upstream,
        clock: Clock,
        token: Callable[[Source], Awaitable[str]],
        receive: Receive,
        resumed: Callable[[Iterable[Subscriber]], None],
    ) -> None:
        self.scope = scope
        self.listeners: dict[str, dict[Subscriber, None]] = {}
        self._doubts = 0
        self._cleared = 0
        self._upstream = upstream
        self._clock = clock
        self._token = token
        self._receive = receive
        self._resumed = resumed
        self._shards: list[Shard] = []
        self._homes: dict[str, Shard] = {}
        self._overlap = Overlap()
        self._bytes = 0
        self._held: dict[str, tuple[int, int]] = {}
        """Of guests by address: how many topics they have, each as often as it is had, and how long these are."""
        self._missed: set[str] = set()
        self._settling: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def doubtful(self) -> bool:
        """Whether PocketBase may take its connections for a guest's: it drops an identity whose record's key has changed."""
        return self._doubts != self._cleared

    @property
    def connections(self) -> int:
        """How many connections to PocketBase it holds."""
        return len(self._shards)

    def subscribers(self) -> Iterator[Subscriber]:
        """Who listens to anything, newest listener of each topic first; some more than once."""
        for listeners in self.listeners.values():
            yield from reversed(listeners)

    def add(self, subscriber: Subscriber, topics: Iterable[str]) -> None:
        """Counts a listener in; `cover` has to follow.

        Raises:
            LimitReached: this identity, or among guests this address, has too many topics; nothing was added.
        """
        topics = [topic for topic in topics if subscriber not in self.listeners.get(topic, ())]
        more = [topic for topic in topics if topic not in self.listeners]
        size = self._bytes + sum(map(len, more))
        if len(self.listeners) + len(more) > MAX_SHARDS * MAX_TOPICS or size > MAX_TOPIC_BYTES:
            raise LimitReached("There are too many topics.")
        if self.scope == GUEST:
            count, held = self._held.get(subscriber.address, (0, 0))
            count, held = count + len(topics), held + sum(map(len, topics))
            if count * GUESTS_SHARE > MAX_SHARDS * MAX_TOPICS or held * GUESTS_SHARE > MAX_TOPIC_BYTES:
                raise LimitReached("There are too many topics.")
            self._held[subscriber.address] = count, held
        self._bytes = size
        for topic in topics:
            self.listeners.setdefault(topic, {})[subscriber] = None

    def remove(self, subscriber: Subscriber, topics: Iterable[str]) -> None:
        """Counts a listener out. PocketBase is told later, by `tidy`."""
        for topic in topics:
            listeners = self.listeners.get(topic)
            if listeners is None or listeners.pop(subscriber, self) is not None:
                continue
            if self.scope == GUEST:
                count, held = self._held.pop(subscriber.address)
                if count > 1:
                    self._held[subscriber.address] = count - 1, held - len(topic)
            if not listeners:
                del self.listeners[topic]
                self._bytes -= len(topic)

    async def cover(self, topics: Iterable[str]) -> None:
        """Returns when PocketBase tells of all these topics.

        Raises:
            UpstreamAway, UpstreamSlow, UpstreamBroken, TokenRefused: it does not.
        """
        topics = list(topics)
        while self.doubtful or any(topic not in self._homes for topic in topics if topic in self.listeners):
            if self._closed:
                return
            await self._settled()

    def tidy(self) -> None:
        """Called now and then: replaces connections near their end, and those that listen to much that nobody wants."""
        if self._settling is not None and not self._settling.done():
            return
        now = self._clock.monotonic()
        if any(self._is_due(shard, now) for shard in self._shards):
            self._recover()

    def doubt(self) -> None:
        """Says that it is doubtful: whoever needs it from now on waits until its connections are bound to the identity anew."""
        self._doubts += 1

    def renew(self) -> None:
        """As `doubt`, and does so at once for those who listen already."""
        self.doubt()
        if self._shards:
            self._recover()

    def bound_with(self, token: str) -> bool:
        """Whether a connection was bound to the identity with this very token of PocketBase."""
        return any(shard.token == token for shard in self._shards)

    async def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        await tasks_ended(self._settling, self._recovering, *self._closing)
        shards, self._shards = self._shards, []
        self._homes.clear()
        for shard in shards:
            await shard.connection.close()

    def _is_due(self, shard: Shard, now: float) -> bool:
        spare = sum(topic not in self.listeners for topic in shard.topics)
        return (
            now - shard.opened > LIFE_SECONDS
            or now - shard.last_event > IDLE_SECONDS
            or spare > max(SPARE_TOPICS, len(shard.topics) // 2)
            or spare == len(shard.topics)
        )

    async def _settled(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle(), name="gateway-topics")
            self._settling.add_done_callback(_heard)
        # Shielded: others wait for the same, and whoever goes away must not take it from them.
        await asyncio.shield(self._settling)

    async def _settle(self) -> None:
        """Opens what is missing, replaces what is due, until all is as it should be."""
        while True:
            now, doubts = self._clock.monotonic(), self._doubts
            for shard in [*self._shards]:
                if shard in self._shards and (doubts != self._cleared or self._is_due(shard, now)):
                    await self._replace(shard, ())
            self._cleared = doubts
            missing = [topic for topic in self.listeners if topic not in self._homes]
            while missing:
                host = min(self._shards, key=self._used, default=None)
                room = MAX_TOPICS - (0 if host is None else self._used(host))
                if not room:
                    host, room = None, MAX_TOPICS
                await self._replace(host, missing[:room])
                missing = [topic for topic in self.listeners if topic not in self._homes]
            if not self.doubtful:
                break
        missed = self._missed
        if missed:
            self._missed = set()
            self._resumed({who: None for topic in missed for who in self.listeners.get(topic, ())})

    def _used(self, shard: Shard) -> int:
        return sum(topic in self.listeners for topic in shard.topics)

    async def _replace(self, old: Shard | None, more: Iterable[str]) -> None:
        """A new connection for what the old one is still needed for and for more; None: beside the others."""
        kept = [] if old is None else [topic for topic in old.topics if topic in self.listeners]
        topics = frozenset((*kept, *more))
        if topics:
            token = await self._token(self)
            connection = Connection(self._upstream, tuple(topics), self._event, self._lost)
            if old is not None:
                self._overlap.begin()
            try:
                await connection.start(token)
            except BaseException:
                if old is not None:
                    self._overlap.end(connection)
                raise
            shard = Shard(connection, topics, token, self._clock.monotonic())
            self._shards.append(shard)
            for topic in topics:
                self._homes[topic] = shard
        if old is None:
            return
        if old in self._shards:
            self._shards.remove(old)
            for topic in old.topics:
                if self._homes.get(topic) is old:
                    del self._homes[topic]
        if topics:
            closing = asyncio.get_running_loop().create_task(self._retire(old.connection), name="gateway-topics-old")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        else:
            await old.connection.close()

    async def _retire(self, connection: Connection) -> None:
        try:
            await asyncio.sleep(OVERLAP_SECONDS)
        finally:
            await connection.close()
            self._overlap.end(connection)

    async def _event(self, connection: Connection, event: Event) -> None:
        now = self._clock.monotonic()
        for shard in self._shards:
            if shard.connection is connection:
                shard.last_event = now
        if event.name in self.listeners and self._overlap.is_new(connection, event.name, event.data, now):
            await self._receive(self, event.name, event.data)

    def _lost(self, connection: Connection) -> None:
        """A connection ended by itself. What happens until another one is confirmed is missed, and its listeners are told."""
        for shard in [*self._shards]:
            if shard.connection is connection:
                self._shards.remove(shard)
                for topic in shard.topics:
                    if self._homes.get(topic) is shard:
                        del self._homes[topic]
                self._missed.update(topic for topic in shard.topics if topic in self.listeners)
                _log.info("a stream of PocketBase was lost", scope=self.scope, topics=len(shard.topics))
                self._recover()

    def _recover(self) -> None:
        if not self._closed and (self._recovering is None or self._recovering.done()):
            self._recovering = asyncio.get_running_loop().create_task(self._until_settled(), name="gateway-topics-back")

    async def _until_settled(self) -> None:
        failures = 0
        while not self._closed:
            try:
                await self._settled()
                if not self._missed:
                    return
            except HaptaError as error:
                if failures == 0:
                    _log.warning("a stream of PocketBase cannot be had", scope=self.scope, error=str(error))
            await asyncio.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)])
            failures += 1


def _heard(task: asyncio.Task[None]) -> None:
    """Takes note of a failure that nobody may wait for any more."""
    if not task.cancelled():
        task.exception()
