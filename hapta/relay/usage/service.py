"""Usage: one report for each key of a session, whose figures a later one replaces, and sums of them by hour or day (UTC)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from hapta.db.database import Database, ReadTx, Row, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.errors import SessionNotFound
from hapta.relay.models import USERS, ephemeral
from hapta.relay.ports import Teller
from hapta.relay.updates.heads import Heads
from hapta.relay.usage import store
from hapta.relay.usage.models import Bucket, Figures, GroupBy, Report

Owned = Callable[[ReadTx, str, str], Awaitable[bool]]

PAGE = 200
MAX_REPORTS = 100_000
MAX_FIGURES = 50_000
"""Of one sum, figures of all its hours or days together: the newest ones count."""
FOREVER_MS = 2**53 - 1
SECONDS: Mapping[GroupBy, int] = {"hour": 3600, "day": 86_400}


class _Figures(msgspec.Struct, frozen=True):
    tokens: dict[str, int | float]
    cost: dict[str, int | float]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Figures).decode
_decode_limits = msgspec.json.Decoder(dict[str, Any]).decode


class UsageService:
    """The rules of usage."""

    def __init__(
        self, db: Database, heads: Heads, updates: Teller, clock: Clock, ids: Ids, owns_session: Owned
    ) -> None:
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._ids = ids
        self._owns_session = owns_session

    async def report(self, account_id: str, session_id: str | None, key: str, tokens: Figures, cost: Figures) -> Report:
        """Stores what was used under a key; of a session it is told to the account's apps.

        Raises:
            SessionNotFound
        """
        now_ms = self._clock.now_ms()
        data = _encode({"tokens": tokens, "cost": cost}).decode()

        async def body(tx: WriteTx) -> Report:
            if session_id is not None:
                await self._heads.locked(tx, account_id)  # so that the session stays until it is stored
                if not await self._owns_session(tx, account_id, session_id):
                    raise SessionNotFound
            return await store.upsert(tx, account_id, session_id or "", key, self._ids.uuid(), data, now_ms)

        report = await self._db.write(body)
        if session_id is not None:
            told: dict[str, object] = {
                "type": "usage",
                "id": session_id,
                "sid": session_id,
                "key": key,
                "tokens": tokens,
                "cost": cost,
                "timestamp": now_ms,
            }
            await self._updates.tell(ephemeral(account_id, told, USERS))
        return report

    async def sums(
        self, account_id: str, session_id: str | None, from_ms: int, to_ms: int | None, group_by: GroupBy
    ) -> list[Bucket]:
        """What was used in each hour or day in which something was, in the order of time.

        Args:
            to_ms: the last instant that counts; None: no end.

        Raises:
            SessionNotFound
        """
        if session_id is not None and not await self._db.read(
            lambda tx: self._owns_session(tx, account_id, session_id), snapshot=False
        ):
            raise SessionNotFound
        last_ms = FOREVER_MS if to_ms is None else to_ms
        buckets: dict[int, Bucket] = {}
        before = (last_ms + 1, "", "")
        count = figures = 0
        while count < MAX_REPORTS and figures < MAX_FIGURES:  # page by page, so that others have their turns
            rows = await self._db.read(
                lambda tx, before=before: store.page(tx, account_id, session_id, from_ms, last_ms, before, PAGE),
                snapshot=False,
            )
            figures += _add(buckets, rows, SECONDS[group_by])
            count += len(rows)
            if len(rows) < PAGE:
                break
            before = rows[-1][:3]
        return [buckets[timestamp] for timestamp in sorted(buckets)]

    async def save_limits(self, account_id: str, limits: Mapping[str, Any]) -> None:
        """Keeps what a machine told of its vendor's limits, as it is."""
        now_ms = self._clock.now_ms()
        data = _encode(limits).decode()
        await self._db.write(lambda tx: store.save_limits(tx, account_id, data, now_ms))

    async def limits(self, account_id: str) -> dict[str, Any]:
        """The limits as they were told last, with the instant; without any: that none are known."""
        found = await self._db.read(lambda tx: store.limits(tx, account_id), snapshot=False)
        if found is None:
            return {"limitsAvailable": False, "weeklyLimits": [], "lastUpdatedAt": self._clock.now_ms()}
        data, updated_at = found
        return {**_decode_limits(data), "lastUpdatedAt": updated_at}


def _add(buckets: dict[int, Bucket], rows: list[Row], seconds: int) -> int:
    """Adds reports to their hours or days; how many figures are new in those."""
    new = 0
    for created_at, _, _, data in rows:
        figures = _decode(data)
        timestamp = created_at // 1000 // seconds * seconds
        bucket = buckets.get(timestamp)
        if bucket is None:
            bucket = Bucket(timestamp, {}, {}, 0)
        for sums, values in ((bucket.tokens, figures.tokens), (bucket.cost, figures.cost)):
            before = len(sums)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value
            new += len(sums) - before
        buckets[timestamp] = bucket._replace(reports=bucket.reports + 1)
    return new


async def forget(tx: WriteTx, account_id: str, session_id: str) -> None:
    """Removes the reports of a session that is being deleted."""
    await store.delete_of_session(tx, account_id, session_id)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes all reports and limits of an account."""
    await store.purge(tx, account_id)
