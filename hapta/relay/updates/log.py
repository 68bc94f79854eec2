"""The log of the latest updates, as workers read it that missed an announcement, and as it is trimmed.

What is large and stored anyway has no copy here: its body is made again from what `ref` names, by the noun it belongs to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast

import msgspec

from hapta.db.database import ReadTx, Row, WriteTx
from hapta.relay.models import Audience, Update

BATCH = 200
MAX_BYTES = 8 * 1024 * 1024
"""Of bodies that are read at once; the last ones may be past it."""
REBUILD_BATCH = 16
"""Bodies without a copy are made again so many at a time, as nobody knows their size before."""
TRIM_BATCH = 2000

Rebuild = Callable[[ReadTx, str, Sequence[str]], Awaitable[Mapping[str, bytes]]]
"""`(tx, account_id, refs)`: the bodies as JSON, by their refs; one whose thing is gone is left out."""

_AFTER = """
    SELECT seq, id, audience, audience_id, body, ref, sender, created_at
    FROM (
        SELECT *, sum(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - size AS before
        FROM (
            SELECT *, coalesce(length(body), 0) AS size FROM res_relay_updates
            WHERE account_id = :account_id AND seq > :after ORDER BY seq LIMIT :limit
        ) AS next
    ) AS sized
    WHERE before < :max_bytes ORDER BY seq"""

_TRIM_UPDATES = """
    DELETE FROM res_relay_updates WHERE (account_id, seq) IN (
        SELECT account_id, seq FROM res_relay_updates WHERE created_at < :before LIMIT :limit)"""


class Entry(msgspec.Struct, frozen=True):
    """A number of the log. Without an update when there is nothing left to tell: what it was about is gone since."""

    seq: int
    update: Update | None


async def after(tx: ReadTx, account_id: str, seq: int, rebuild: Mapping[str, Rebuild]) -> list[Entry]:
    """The next updates after a number, as far as they are still kept: at most `BATCH`, and fewer when they are large."""
    rows = await tx.fetch_all(_AFTER, account_id=account_id, after=seq, limit=BATCH, max_bytes=MAX_BYTES)
    entries: list[Entry] = []
    size = 0
    for start in range(0, len(rows), REBUILD_BATCH):
        chunk = rows[start : start + REBUILD_BATCH]
        made = await _made_again(tx, account_id, chunk, rebuild)
        for number, update_id, audience, audience_id, body, ref, sender, created_at in chunk:
            raw: bytes | None = body if body is not None else made.get(cast(str, ref))
            told = None
            if raw is not None:
                heard_by = Audience(audience, audience_id)
                told = Update(account_id, number, update_id, msgspec.Raw(raw), heard_by, created_at, sender)
                size += len(raw)
            entries.append(Entry(number, told))
        if size >= MAX_BYTES:
            break
    return entries


async def _made_again(
    tx: ReadTx, account_id: str, rows: Sequence[Row], rebuild: Mapping[str, Rebuild]
) -> Mapping[str, bytes]:
    refs: dict[str, list[str]] = {}
    for row in rows:
        if row[4] is None:
            refs.setdefault(row[5].partition("/")[0], []).append(row[5])
    made: dict[str, bytes] = {}
    for kind, wanted in refs.items():
        if kind in rebuild:
            made.update(await rebuild[kind](tx, account_id, wanted))
    return made


async def trim(tx: WriteTx, before_ms: int) -> int:
    """Removes a batch of the updates that are older than an instant; how many."""
    return await tx.execute(_TRIM_UPDATES, before=before_ms, limit=TRIM_BATCH)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes an account's numbers and what was told under them."""
    await tx.execute("DELETE FROM res_relay_updates WHERE account_id = :account_id", account_id=account_id)
    await tx.execute("DELETE FROM res_relay_heads WHERE account_id = :account_id", account_id=account_id)
