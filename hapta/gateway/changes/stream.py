"""One of the two streams of changes: connects, comes back, and takes a new connection before the old one is given up.

It says when it is confirmed and when it is lost, and since when and until when it surely missed nothing; what follows from that for
the cache is decided in `service.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from hapta.gateway.changes.canary import CANARY
from hapta.gateway.changes.connection import MAX_TOPICS, Connection, Upstream
from hapta.gateway.errors import UpstreamBroken
from hapta.gateway.upstream.sse import Event
from hapta.kit.background import ended as tasks_ended
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError

ONLY_IDS = "?options=%7B%22query%22%3A%7B%22fields%22%3A%22id%22%7D%7D"
"""`{"query":{"fields":"id"}}`: a change says which record, and nothing of what it holds."""
CANARY_TOPIC = f"{CANARY}/*{ONLY_IDS}"
LIFE_SECONDS = 25 * 60.0
"""PocketBase ends a stream after 30 minutes."""
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)

_log = structlog.stdlib.get_logger("hapta.gateway.changes")


class _Record(msgspec.Struct):
    id: str


class _Change(msgspec.Struct):
    action: str
    record: _Record


_decode = msgspec.json.Decoder(_Change).decode


class ChangeStream:
    """Keeps itself connected from `start` to `stop`.

    Args:
        name: of the stream, in logs and reasons.
        token: the superuser's token.
        topics: what to listen to now, without the canary.
        first_life_seconds: life of the first connection; what sets the two streams apart.
        changed: told of each change with the collection's id, the record's id and the action.
        beat: told of each echo of the canary.
        confirmed, lost: told what became of this stream.
    """

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        clock: Clock,
        token: Callable[[], Awaitable[str]],
        topics: Callable[[], Sequence[str]],
        first_life_seconds: float,
        *,
        changed: Callable[[str, str, str], None],
        beat: Callable[[], None],
        confirmed: Callable[[ChangeStream], None],
        lost: Callable[[ChangeStream, str], None],
    ) -> None:
        self.name = name
        self.live = False
        self.since = 0.0
        """Since when (monotonic) it has listened without a break."""
        self._upstream = upstream
        self._clock = clock
        self._token = token
        self._topics = topics
        self._first_life_seconds = first_life_seconds
        self._changed = changed
        self._beat = beat
        self._confirmed = confirmed
        self._lost = lost
        self._proofs: dict[Connection, float] = {}
        self._covered: frozenset[str] = frozenset()
        self._turn = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def proved(self) -> float:
        """When (monotonic) it was last seen alive in all its parts."""
        return min(self._proofs.values(), default=0.0)

    def start(self) -> None:
        """Connects in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"gateway-changes-{self.name}")

    async def stop(self) -> None:
        """Closes all connections; nobody is told."""
        self.live = False
        await tasks_ended(self._task)
        connections, self._proofs = [*self._proofs], {}
        for connection in connections:
            await connection.close()

    def refresh(self) -> None:
        """Looks again at what to listen to."""
        self._turn.set()

    def covers(self, topics: Sequence[str]) -> bool:
        """Whether it listens to all of these."""
        return self._covered.issuperset(topics)

    def give_up(self, reason: str) -> None:
        """Takes the stream for lost, and connects anew."""
        if self.live:
            self.live = False
            self._lost(self, reason)
        self._turn.set()

    async def _run(self) -> None:
        failures = 0
        life = self._first_life_seconds
        while True:
            self._turn.clear()
            try:
                await self._renew()
            except HaptaError as error:
                if failures == 0:
                    _log.warning("the stream of changes is away", stream=self.name, error=str(error))
                pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                failures += 1
            else:
                failures, pause, life = 0, life, LIFE_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._turn.wait()
            except TimeoutError:
                continue
            if failures:  # woken by a change of topics while PocketBase is away: the pause still holds
                await asyncio.sleep(pause)

    async def _renew(self) -> None:
        """Opens connections for all topics, and closes the ones before. Between the two both listen."""
        topics = self._topics()
        token = await self._token()
        share = MAX_TOPICS - 1
        parts = [topics[at : at + share] for at in range(0, len(topics), share)] or [()]
        opened: list[Connection] = []
        try:
            for part in parts:
                connection = Connection(self._upstream, (*part, CANARY_TOPIC), self._receive, self._ended)
                opened.append(connection)
                await connection.start(token)
        except BaseException:
            for connection in opened:
                await connection.close()
            raise
        now = self._clock.monotonic()
        before, self._proofs = [*self._proofs], dict.fromkeys(opened, now)
        self._covered = frozenset(topics)
        if not self.live:
            self.since = now
        self.live = True
        self._confirmed(self)
        for connection in before:
            await connection.close()
        if not all(connection.open for connection in opened):
            self.give_up("closed")
            raise UpstreamBroken

    async def _receive(self, connection: Connection, event: Event) -> None:
        collection, _, _ = event.name.partition("/")
        if collection == CANARY:
            if connection in self._proofs:
                self._proofs[connection] = self._clock.monotonic()
                self._beat()
            return
        try:
            change = _decode(event.data)
        except msgspec.DecodeError:
            return
        self._changed(collection, change.record.id, change.action)

    def _ended(self, connection: Connection) -> None:
        if connection in self._proofs:
            self.give_up("closed")
