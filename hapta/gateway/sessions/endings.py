"""News of sessions between workers: what ended and what rolled. Hints only; the table is the truth and is polled besides.

Each ending is told to the listeners of this worker once, however often and by whatever way it is heard of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.gateway.sessions.memory import Memory
from hapta.kit.clock import Clock

CHANNEL = "gateway.sessions"

OnEnded = Callable[[Sequence[str]], None]

_log = structlog.stdlib.get_logger("hapta.gateway.sessions")


class Endings:
    """Tells and hears of endings.

    Args:
        memory: what is forgotten with them.
    """

    def __init__(self, bus: Bus, clock: Clock, memory: Memory) -> None:
        self._bus = bus
        self._clock = clock
        self._memory = memory
        self._told: dict[str, int] = {}
        self._listeners: list[OnEnded] = []
        self._unsubscribe: Callable[[], None] | None = None
        self.count = 0
        """Sessions whose end this worker has heard of."""

    def listen(self, listener: OnEnded) -> None:
        """Calls `listener` on the event loop with the ids of sessions that have ended."""
        self._listeners.append(listener)

    async def open(self) -> None:
        """Listens to other workers."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._hear, self._memory.clear)

    def close(self) -> None:
        """Stops listening."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def announce(self, session_ids: Sequence[str]) -> None:
        """These have ended: here at once, and elsewhere by the bus."""
        if session_ids:
            self.take_in(session_ids)
            await self._bus.publish(CHANNEL, msgspec.json.encode({"ended": session_ids}))

    async def rolled(self, session_id: str) -> None:
        """It lives on, but what is remembered of it must be looked up anew."""
        self._memory.drop(session_id)
        await self._bus.publish(CHANNEL, msgspec.json.encode({"rolled": [session_id]}))

    def take_in(self, session_ids: Iterable[str]) -> None:
        """Hears of endings, by whatever way."""
        now = self._clock.now_ms()
        news = [session_id for session_id in session_ids if session_id not in self._told]
        for session_id in news:
            self._told[session_id] = now
            self._memory.drop(session_id)
        if news:
            self.count += len(news)
            for listener in self._listeners:
                listener(news)

    def forget_told(self, before: int) -> None:
        """Endings from before that instant are not heard of again."""
        self._told = {session_id: at for session_id, at in self._told.items() if at >= before}

    def _hear(self, message: bytes) -> None:
        try:
            notice = msgspec.json.decode(message, type=dict[str, list[str]])
        except msgspec.DecodeError:
            _log.warning("an unreadable message; all that is known of sessions is forgotten", channel=CHANNEL)
            self._memory.clear()
            return
        self.take_in(notice.get("ended", ()))
        for session_id in notice.get("rolled", ()):
            self._memory.drop(session_id)
