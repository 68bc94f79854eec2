"""What a client missed while it was away: `request-updates-since`, and the tombstones of what was deleted meanwhile.

A client keeps, for each kind of thing, the number of the last update that it has seen. Rows know the number of their last change
and deletions leave tombstones, so the answer is complete, or it is refused and the client fetches everything anew: it is
never silently short. Something merely inactive is never told as deleted (contract relay, section 14.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.payloads import payload
from hapta.relay.updates import heads
from hapta.relay.updates.tombstones import store as tombstones
from hapta.relay.updates.tombstones.store import Kind, bury
from hapta.settings.relay import RelaySettings

LIMITS: Final[Mapping[Kind, int]] = {"session": 100, "machine": 50, "artifact": 100}
"""Entries of each kind. A client that gets as many fetches everything (contract relay-native, section 3.9)."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of one answer; what is more is cheaper to fetch page by page."""
PAGE: Final = 20
"""Rows that are read at once: with values of full size still no more than some megabytes."""
AT_ONCE: Final = 4
"""Answers that one worker puts together at a time."""
SWEEP_BATCH: Final = 500
_DAY_MS = 86_400_000
_MAX_SEQ = 2**53 - 1
_encode = msgspec.json.Encoder().encode

__all__ = ["Change", "ChangedSince", "Kind", "Since", "bury", "events"]


class Change(NamedTuple):
    """How a thing is now, and the number of its last change.

    Args:
        at_ms: when it changed, Unix ms.
        body: of an update that tells it to somebody who knows it already: `{"t": ..., ...}`.
        new: of an update that tells it to somebody who does not.
        created_seq: number of the update that told its creation.
    """

    seq: int
    at_ms: int
    body: Mapping[str, object]
    new: Mapping[str, object]
    created_seq: int


ChangedSince = Callable[[ReadTx, str, int, int], Awaitable[Sequence[Change]]]
"""`(tx, account_id, seq, limit)`: the account's things of one kind whose last change has a number above `seq`, by that number."""


class Missed(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of an answer: an update with a name for its kind. `data` and `body` are the same: clients read either."""

    id: str
    type: str
    data: Mapping[str, object]
    body: Mapping[str, object]
    seq: int
    created_at: int


class _Seqs(msgspec.Struct, frozen=True):
    sessions: float
    machines: float
    artifacts: float


class _TooMuch(Exception):
    """It would not fit into an answer."""


class _Horizon(Exception):
    """Nobody can tell any more what happened since."""


class Since:
    """Answers clients that were away.

    Args:
        sources: how to ask each noun what has changed.
    """

    def __init__(
        self, db: Database, clock: Clock, settings: RelaySettings, sources: Mapping[Kind, ChangedSince]
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._sources = sources
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def answer(self, account_id: str, after: Mapping[Kind, int]) -> Ack:
        """The acknowledgement of `request-updates-since`.

        Args:
            after: the last number that the client knows, for each kind.
        """
        async with self._turns:
            try:
                found = await self._db.read(lambda tx: self._read(tx, account_id, after))
            except _TooMuch:
                return {"success": False, "error": "Too many changes"}
            except _Horizon:
                return {"success": False, "error": "Unknown sequence number"}
        counts: dict[str, int] = {}
        entries: list[Missed] = []
        for kind in LIMITS:
            changed, deleted = found[kind]
            counts[f"{kind}s"] = len(changed)
            counts[f"deleted{kind.capitalize()}s"] = len(deleted)
            entries += [_entry(change, after[kind]) for change in (*changed, *deleted)]
        entries.sort(key=lambda entry: entry.seq)
        return {"success": True, "updates": entries, "counts": counts}

    async def _read(
        self, tx: ReadTx, account_id: str, after: Mapping[Kind, int]
    ) -> dict[Kind, tuple[list[Change], list[Change]]]:
        head = (await heads.seqs(tx, [account_id]))[account_id]
        horizons = await tombstones.horizons(tx, account_id)
        if any(seq > head or seq < horizons.get(kind, 0) for kind, seq in after.items()):
            raise _Horizon
        budget = _Budget()
        result: dict[Kind, tuple[list[Change], list[Change]]] = {}
        for kind, limit in LIMITS.items():
            deleted = await _buried(tx, account_id, kind, after[kind], limit)
            changed = await self._changed(tx, account_id, kind, after[kind], budget)
            result[kind] = changed, deleted
        return result

    async def _changed(self, tx: ReadTx, account_id: str, kind: Kind, after: int, budget: _Budget) -> list[Change]:
        changes: list[Change] = []
        limit = LIMITS[kind]
        while len(changes) < limit:
            page = await self._sources[kind](tx, account_id, after, min(PAGE, limit - len(changes)))
            budget.spend(page)
            changes += page
            if len(page) < PAGE:
                break
            after = page[-1].seq
        return changes

    async def sweep(self) -> int:
        """Removes old tombstones; how many kinds of how many accounts had some, added up."""
        return await in_batches(self._sweep_batch)

    async def _sweep_batch(self) -> int:
        cutoff_ms = self._clock.now_ms() - self._settings.tombstone_days * _DAY_MS
        return await self._db.write(lambda tx: tombstones.forget_before(tx, cutoff_ms, SWEEP_BATCH))


class _Budget:
    """What is left of the size of an answer."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_BYTES

    def spend(self, changes: Sequence[Change]) -> None:
        # Each body stands in the answer twice.
        self._left -= 2 * len(_encode([change.body for change in changes]))
        if self._left < 0:
            raise _TooMuch


def _entry(change: Change, known_seq: int) -> Missed:
    body = change.new if change.created_seq > known_seq else change.body
    return Missed(f"since-{change.seq}", str(body["t"]), body, body, change.seq, change.at_ms)


async def _buried(tx: ReadTx, account_id: str, kind: Kind, after: int, limit: int) -> list[Change]:
    rows = await tombstones.after(tx, account_id, kind, after, limit + 1)
    if len(rows) > limit:
        raise _TooMuch  # a page of deletions would be taken for all of them
    told = [(seq, at_ms, _deletion(kind, thing_id)) for seq, thing_id, at_ms in rows]
    return [Change(seq, at_ms, body, body, seq) for seq, at_ms, body in told]


def _deletion(kind: Kind, thing_id: str) -> Mapping[str, object]:
    match kind:
        case "session":
            return {"t": "delete-session", "sid": thing_id, "id": thing_id}
        case "machine":
            return {"t": "delete-machine", "machineId": thing_id}
        case "artifact":
            return {"t": "delete-artifact", "artifactId": thing_id}


def events(since: Since) -> EventTable:
    """The socket event by which clients ask."""

    async def request_updates_since(sender: Sender, data: Any) -> Ack:
        wanted = payload(data, _Seqs)
        after: dict[Kind, int] = {}
        if wanted is not None:
            numbers: tuple[tuple[Kind, float], ...] = (
                ("session", wanted.sessions),
                ("machine", wanted.machines),
                ("artifact", wanted.artifacts),
            )
            after = {kind: int(number) for kind, number in numbers if 0 <= number <= _MAX_SEQ}
        if len(after) < len(LIMITS):
            return {"success": False, "error": "Invalid parameters"}
        return await since.answer(sender.account_id, after)

    return {"request-updates-since": request_updates_since}


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes the marks of what an account has deleted."""
    await tombstones.purge(tx, account_id)
