"""What an account may keep and what it keeps, for every feature that counts against the same quota."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from hapta.db.database import ReadTx
from hapta.kit.clock import Clock
from hapta.sync import store
from hapta.sync.models import Stream

UsedElsewhere = Callable[[ReadTx, Sequence[str]], Awaitable[Mapping[str, int]]]
"""`(tx, user_ids)`: bytes that other features keep for accounts; an account without any may be left out."""

REMEMBERED_SECONDS = 5.0
"""For so long a push may build on what was known of other features: so much can be overstepped, and no more."""
MAX_REMEMBERED = 10_000


class Quota:
    """The quota of accounts, in all features together.

    Args:
        default_bytes: of accounts without a quota of their own; 0 for none.
    """

    def __init__(self, default_bytes: int, used_elsewhere: UsedElsewhere, clock: Clock) -> None:
        self._default_bytes = default_bytes
        self._used_elsewhere = used_elsewhere
        self._clock = clock
        self._known: dict[str, tuple[int, float]] = {}

    def maximum(self, stream: Stream | None) -> int:
        """The bytes that an account may keep; 0 for no limit."""
        return maximum_of(stream, self._default_bytes)

    async def elsewhere(self, tx: ReadTx, streams: Iterable[Stream]) -> dict[str, int]:
        """What other features keep for those of these accounts that have a quota."""
        limited = [stream.id for stream in streams if self.maximum(stream)]
        if not limited:
            return {}
        found = await self._used_elsewhere(tx, limited)
        return {stream_id: found.get(stream_id, 0) for stream_id in limited}

    async def used(self, tx: ReadTx, stream: Stream) -> int:
        """What the account keeps in all features, as far as it has a quota."""
        return stream.bytes + (await self.elsewhere(tx, [stream])).get(stream.id, 0)

    def remember(self, elsewhere: Mapping[str, int]) -> None:
        """Keeps what a transaction read, for `remembered`."""
        if len(self._known) + len(elsewhere) > MAX_REMEMBERED:
            self._known.clear()
        now = self._clock.monotonic()
        self._known.update({stream_id: (size, now) for stream_id, size in elsewhere.items()})

    def remembered(self, streams: Iterable[Stream]) -> dict[str, int] | None:
        """What was read a moment ago; None when it must be read anew for one of them."""
        since = self._clock.monotonic() - REMEMBERED_SECONDS
        found: dict[str, int] = {}
        for stream in streams:
            if self.maximum(stream):
                size, at = self._known.get(stream.id, (0, since - 1))
                if at < since:
                    return None
                found[stream.id] = size
        return found


async def quota_of(tx: ReadTx, user_id: str, default_bytes: int) -> int:
    """The bytes that an account may keep; 0 for no limit.

    Args:
        default_bytes: of accounts without a quota of their own.
    """
    return maximum_of(await store.find_stream(tx, user_id), default_bytes)


async def used_by(tx: ReadTx, user_id: str) -> int:
    """The bytes that sync keeps for an account: logs, snapshots and blobs of its live vaults."""
    stream = await store.find_stream(tx, user_id)
    return 0 if stream is None else stream.bytes


def maximum_of(stream: Stream | None, default_bytes: int) -> int:
    """The quota that a head row says, or the server's own."""
    return default_bytes if stream is None or stream.quota_bytes is None else stream.quota_bytes


async def nothing_elsewhere(tx: ReadTx, user_ids: Sequence[str]) -> Mapping[str, int]:
    """What other features keep where there are none."""
    return {}
