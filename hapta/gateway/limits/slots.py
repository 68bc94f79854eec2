"""What somebody may have at one time: streams by address and identity, uploads by session, logins all together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from hapta.gateway.errors import LimitReached, UpstreamAway
from hapta.gateway.models import Visitor
from hapta.kit.networks import network_of

RETRY_SECONDS = 5.0


class Slots:
    """At most `limit` at a time of each key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: dict[str, int] = {}

    def __len__(self) -> int:
        """How many are taken, of all keys."""
        return sum(self._taken.values())

    def of(self, key: str) -> int:
        """How many are taken of one key."""
        return self._taken.get(key, 0)

    def take(self, key: str) -> None:
        """Takes one; `give_back` must follow.

        Raises:
            LimitReached: all of this key are taken.
        """
        taken = self._taken.get(key, 0)
        if taken >= self.limit:
            raise LimitReached(retry_after_seconds=RETRY_SECONDS)
        self._taken[key] = taken + 1

    def give_back(self, key: str) -> None:
        left = self._taken.get(key, 0) - 1
        if left > 0:
            self._taken[key] = left
        else:
            self._taken.pop(key, None)

    @contextmanager
    def held(self, key: str) -> Generator[None]:
        """One, for as long as the context lasts.

        Raises:
            LimitReached: all of this key are taken.
        """
        self.take(key)
        try:
            yield
        finally:
            self.give_back(key)


class _CutOff(Protocol):
    @property
    def by(self) -> str: ...
    @property
    def who(self) -> str: ...


class Stream:
    """One stream or socket that somebody holds. Close it when it ends."""

    __slots__ = ("_end", "_streams", "network", "scope", "session_id")

    def __init__(self, streams: Streams, network: str, end: Callable[[], None] | None) -> None:
        self._streams = streams
        self._end = end
        self.network = network
        self.scope = ""
        self.session_id = ""

    def bind(self, visitor: Visitor) -> None:
        """Says whose it is from now on: a stream of PocketBase's protocol begins as nobody's.

        Raises:
            LimitReached: this record has too many already; the stream stays as it was.
        """
        self._streams.bind(self, visitor)

    def end(self) -> None:
        """Asks its owner to end it."""
        if self._end is not None:
            self._end()

    def close(self) -> None:
        """It has ended. May be called twice."""
        self._streams.close(self)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Streams:
    """Who holds how many streams and sockets on this worker."""

    def __init__(self, per_address: int, per_identity: int) -> None:
        self._addresses = Slots(per_address)
        self._identities = Slots(per_identity)
        self._open: set[Stream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, visitor: Visitor, address: str, end: Callable[[], None] | None = None) -> Stream:
        """Counts a new stream.

        Args:
            end: called when whoever holds it is cut off; it must not block.

        Raises:
            LimitReached: its address or its record has too many.
        """
        network = network_of(address)
        self._addresses.take(network)
        stream = Stream(self, network, end)
        try:
            self.bind(stream, visitor)
        except LimitReached:
            self._addresses.give_back(network)
            raise
        self._open.add(stream)
        return stream

    def bind(self, stream: Stream, visitor: Visitor) -> None:
        """See `Stream.bind`."""
        scope = "" if visitor.is_guest else visitor.scope
        if scope != stream.scope:
            if scope:
                self._identities.take(scope)
            if stream.scope:
                self._identities.give_back(stream.scope)
            stream.scope = scope
        stream.session_id = visitor.session_id

    def close(self, stream: Stream) -> None:
        """See `Stream.close`."""
        if stream not in self._open:
            return
        self._open.remove(stream)
        self._addresses.give_back(stream.network)
        if stream.scope:
            self._identities.give_back(stream.scope)

    def end(self, cut_off: _CutOff) -> None:
        """Ends the streams of somebody who was cut off."""
        who = cut_off.who
        for stream in list(self._open):
            if who in (stream.network, stream.scope, stream.session_id, f"{stream.network} {stream.scope}"):
                stream.end()


class Line:
    """At most `at_once` at a time, the others in a line of bounded length, for a bounded time.

    Each login costs PocketBase about a tenth of a second of a core: ten of them a second leave nothing for anybody else
    (contract gateway, B.4).
    """

    def __init__(self, at_once: int, max_waiting: int, max_wait_seconds: float) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._max_waiting = max_waiting
        self._max_wait_seconds = max_wait_seconds
        self.waiting = 0

    async def __aenter__(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # at once: it is free
            return
        if self.waiting >= self._max_waiting:
            raise UpstreamAway("Too many logins at a time.", retry_after_seconds=RETRY_SECONDS)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise UpstreamAway("Too many logins at a time.", retry_after_seconds=RETRY_SECONDS) from None
        finally:
            self.waiting -= 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.release()
