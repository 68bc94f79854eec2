"""One who listens: a stream of server-sent events, or a connection of the socket protocol. There may be tens of thousands.

What can be written at once is written at once, past any queue and without waking a task. Only where the connection is slow do
events wait, and where too many wait, the stream ends: its client connects again, while one whose queue grew for ever would take the
server with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from hapta.gateway.models import NOBODY, Visitor
from hapta.gateway.realtime.topics import PING, Frame


class Line(Protocol):
    """The connection below a streamed answer (hapta.http.protocol)."""

    def push(self, chunk: bytes) -> bool: ...
    def abort(self) -> None: ...


class Seat(Protocol):
    """A place among the streams of an address and an identity (hapta.gateway.limits)."""

    def bind(self, visitor: Visitor) -> None: ...
    def close(self) -> None: ...


class Home(Protocol):
    """Where subscribers are kept."""

    def left(self, subscriber: Subscriber) -> None:
        """It is over for it: nothing more is sent to it."""

    def closed(self, subscriber: Subscriber) -> None:
        """Nobody reads it any more. Comes after `left`."""


class Subscriber:
    """What both kinds have in common. Iterated by one reader at a time.

    Args:
        limit: how many events may wait.
    """

    __slots__ = (
        "__weakref__",
        "_home",
        "_limit",
        "_queue",
        "_waiter",
        "address",
        "busy",
        "client_id",
        "ended",
        "names",
        "seat",
        "slot",
        "source",
        "topics",
        "visitor",
        "wants_oauth2",
    )

    def __init__(self, client_id: str, address: str, limit: int, home: Home) -> None:
        self.client_id = client_id
        self.address = address
        self.visitor: Visitor = NOBODY
        self.source: object | None = None
        """Where its topics are listened to; None before the first were submitted."""
        self.topics: tuple[str, ...] = ()
        self.names: Mapping[str, tuple[str, ...]] | None = None
        """By what PocketBase calls a topic, what the client does, where that is not the same."""
        self.wants_oauth2 = False
        self.ended = False
        self.slot = 0
        """In the wheel of heartbeats."""
        self.seat: Seat | None = None
        self.busy: asyncio.Lock | None = None
        """Held while its topics change; two submissions at a time would mix."""
        self._limit = limit
        self._home = home
        self._queue: deque[Frame] | None = None  # made when needed: an empty one costs 760 bytes
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, frame: Frame) -> bool:
        """Hands an event over; never waits.

        Returns:
            False when too many wait already: it has been ended.
        """
        if self.ended:
            return True
        if self._queue is None:
            self._queue = deque()
        elif len(self._queue) >= self._limit:
            self.end()
            return False
        self._queue.append(frame)
        self._wake()
        return True

    def end(self) -> None:
        """Ends it cleanly: what waits is dropped, and the stream says that it is over."""
        if not self.ended:
            self.ended = True
            self._queue = None
            self._wake()
            self._home.left(self)

    def beat(self) -> None:
        """Called once in every heartbeat."""

    async def aclose(self) -> None:
        """Nobody reads any more."""
        self.end()
        self._home.closed(self)

    async def next(self) -> Frame | None:
        """The next event, as soon as there is one; None when it is over."""
        while not self._queue:
            if self.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frame = self._queue.popleft()
        if not self._queue:
            self._queue = None
        return frame

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class EventStream(Subscriber):
    """A stream of server-sent events: the content of a streamed answer."""

    __slots__ = ("_line", "_strikes")

    def __init__(self, client_id: str, address: str, limit: int, home: Home) -> None:
        super().__init__(client_id, address, limit, home)
        self._line: Line | None = None
        self._strikes = 0

    def connected(self, line: Line) -> None:
        """Told by the edge which connection carries it."""
        self._line = line

    def gone(self) -> None:
        """Told by the edge that the client went away."""
        self._line = None
        self.end()

    def deliver(self, frame: Frame) -> bool:
        # Past the queue only while its reader waits for more: else this one would overtake what the reader holds.
        line = self._line
        if line is not None and self._idle() and line.push(frame.to(self.client_id)):
            return True
        return super().deliver(frame)

    def beat(self) -> None:
        """Sends a comment. A connection that took nothing for two heartbeats since its end is cut."""
        line = self._line
        if line is None:
            return
        if self.ended:
            self._strikes += 1
            if self._strikes > 2:
                line.abort()
        elif self._idle():
            line.push(PING)

    def _idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._queue

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        frame = await self.next()
        if frame is None:
            raise StopAsyncIteration
        return frame.to(self.client_id)


class Listener(Subscriber):
    """A connection of the socket protocol, which words events in its own way."""

    __slots__ = ()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Frame:
        frame = await self.next()
        if frame is None:
            raise StopAsyncIteration
        return frame


class Wheel:
    """Heartbeats of all by one timer: each is called once in a turn, and never many at a time.

    Args:
        turn_seconds: how long a turn takes.
    """

    SLOTS = 32

    def __init__(self, turn_seconds: float) -> None:
        self._step_seconds = turn_seconds / self.SLOTS
        self._slots: list[dict[Subscriber, None]] = [{} for _ in range(self.SLOTS)]
        self._next = 0
        self._at = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, subscriber: Subscriber) -> None:
        """From now on it beats."""
        subscriber.slot = self._next
        self._next = (self._next + 1) % self.SLOTS
        self._slots[subscriber.slot][subscriber] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._step_seconds, self._step)

    def remove(self, subscriber: Subscriber) -> None:
        """It does not any more."""
        self._slots[subscriber.slot].pop(subscriber, None)

    def stop(self) -> None:
        """Nothing beats any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for slot in self._slots:
            slot.clear()

    def _step(self) -> None:
        self._timer = None
        for subscriber in tuple(self._slots[self._at]):
            subscriber.beat()
        self._at = (self._at + 1) % self.SLOTS
        if any(self._slots):
            self._timer = asyncio.get_running_loop().call_later(self._step_seconds, self._step)


class Pump:
    """Sends events to many in slices, so that other requests come in between; in order for each of them."""

    SLICE = 250

    def __init__(self) -> None:
        self.delivered = 0
        self.dropped = 0
        """Streams that were ended because they were too slow."""
        self._work: deque[tuple[Frame, tuple[Subscriber, ...]]] = deque()
        self._at = 0
        self._scheduled = False

    def send(self, frame: Frame, to: Iterable[Subscriber]) -> None:
        """Hands an event to all of `to`: at once where they are few and nothing waits."""
        listeners = tuple(to)
        if not self._work and len(listeners) <= self.SLICE:
            self._slice(frame, listeners)
            return
        self._work.append((frame, listeners))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        frame, listeners = self._work[0]
        upto = self._at + self.SLICE
        self._slice(frame, listeners[self._at : upto])
        self._at = upto
        if upto >= len(listeners):
            self._work.popleft()
            self._at = 0
        self._scheduled = bool(self._work)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _slice(self, frame: Frame, listeners: tuple[Subscriber, ...]) -> None:
        for subscriber in listeners:
            if subscriber.deliver(frame):
                self.delivered += 1
            else:
                self.dropped += 1
