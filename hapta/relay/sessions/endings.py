"""Sessions that ended a moment ago, as all workers know it: heartbeats that come late do not bring them back in anybody's app.

What is in the rows is kept right by the database (`store.mark_alive`); this is for what is only told. So it lives in memory, and a
word on the bus that gets lost costs one wrong sign of life.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.kit.clock import Clock
from hapta.relay.sessions.models import ENDED_MS

CHANNEL = "relay.endings"
MAX_ENDED = 10_000
_log = structlog.get_logger("hapta.relay.sessions")


class _Word(msgspec.Struct, frozen=True, array_like=True):
    account_id: str
    session_id: str
    ended: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Word).decode


class Endings:
    """The latest endings."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._ended: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begins to hear the other workers."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._receive)

    def close(self) -> None:
        """Hears them no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()

    async def ended(self, account_id: str, session_id: str) -> None:
        """A session has ended."""
        await self._note(_Word(account_id, session_id, True))

    async def resumed(self, account_id: str, session_id: str) -> None:
        """Its agent is back: heartbeats count at once."""
        await self._note(_Word(account_id, session_id, False))

    def is_recent(self, account_id: str, session_id: str) -> bool:
        """Whether a session ended within the last minute, and has not come back."""
        ended_at = self._ended.get((account_id, session_id))
        if ended_at is None:
            return False
        if ended_at > self._clock.now_ms() - ENDED_MS:
            return True
        del self._ended[account_id, session_id]
        return False

    async def _note(self, word: _Word) -> None:
        self._keep(word)
        await self._bus.publish(CHANNEL, _encode(word))

    def _receive(self, message: bytes) -> None:
        try:
            self._keep(_decode(message))
        except msgspec.DecodeError:  # another version of the server speaks on this bus
            _log.warning("unreadable word of another worker")

    def _keep(self, word: _Word) -> None:
        key = (word.account_id, word.session_id)
        if not word.ended:
            self._ended.pop(key, None)
            return
        self._ended[key] = self._clock.now_ms()  # by this worker's clock, which is the one that it is compared with
        self._ended.move_to_end(key)
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
