"""The number of an account's last update, and the log of the latest ones: NO-SKIP for updates.

Every write that changes something which clients see goes like this, in one transaction:

    head = await heads.locked(tx, account_id)       # first of all: one lock for the account, so nobody waits in a circle
    ...                                             # compare and set the noun's rows
    update = head.add({"t": "update-session", ...}, session_audience(session_id))
    ...                                             # rows may keep `update.seq` as the number of their last change
    await head.save(tx)                             # last of all
    return result, head.updates

and after the commit: `await updates.announce(head.updates)`. Whoever holds the lock gives out the next numbers, so numbers are
without gaps and in the order of the commits; what is rolled back has used none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hapta.db.database import ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.models import Audience, Update

COLUMNS = [
    ("account_id", "text"),
    ("seq", "bigint"),
    ("id", "text"),
    ("audience", "text"),
    ("audience_id", "text"),
    ("body", "bytea"),
    ("ref", "text"),
    ("sender", "text"),
    ("created_at", "bigint"),
]

_encode = msgspec.json.Encoder().encode


class Head:
    """An account's head, locked in a transaction: gives out numbers and collects what they are for."""

    __slots__ = ("_ids", "_now_ms", "_rows", "account_id", "feed_seq", "seq", "updates")

    def __init__(self, account_id: str, seq: int, feed_seq: int, now_ms: int, ids: Ids) -> None:
        self.account_id = account_id
        self.seq = seq
        self.feed_seq = feed_seq
        """Number of the last item of the account's feed; whoever adds one raises it."""
        self.updates: list[Update] = []
        self._rows: list[tuple[str, int, str, str, str, bytes | None, str, str, int]] = []
        self._now_ms = now_ms
        self._ids = ids

    def add(self, body: Mapping[str, object], audience: Audience, *, ref: str = "", sender: str = "") -> Update:
        """Numbers an update.

        Args:
            body: with its kind as `t`.
            ref: where the body can be made from again (`<t>/<what its noun needs>`), for what is large and stored anyway: the log
                then keeps no copy of it.
            sender: as in `Update`.
        """
        self.seq += 1
        raw = _encode(body)
        update = Update(
            self.account_id,
            self.seq,
            self._ids.uuid().replace("-", ""),
            msgspec.Raw(raw),
            audience,
            self._now_ms,
            sender,
        )
        self.updates.append(update)
        kept = None if ref else raw
        self._rows.append(
            (self.account_id, self.seq, update.id, audience.kind, audience.id, kept, ref, sender, self._now_ms)
        )
        return update

    async def save(self, tx: WriteTx) -> None:
        """Writes the head and the log; does nothing when there is nothing new."""
        await save(tx, [self])

    @property
    def rows(self) -> Sequence[tuple[str, int, str, str, str, bytes | None, str, str, int]]:
        """The log's new rows, in the order of `COLUMNS`."""
        return self._rows


class Heads:
    """Opens heads for writing."""

    def __init__(self, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids

    async def locked(self, tx: WriteTx, account_id: str) -> Head:
        """The account's head, locked until the transaction ends; made when it is the account's first."""
        return (await self.all_locked(tx, [account_id]))[account_id]

    async def all_locked(self, tx: WriteTx, account_ids: Sequence[str]) -> dict[str, Head]:
        """Several heads, locked in the order of their ids, so that no two transactions wait for each other."""
        wanted = sorted(set(account_ids))
        rows = await _lock(tx, wanted)
        if len(rows) < len(wanted):
            await tx.execute(
                "INSERT INTO res_relay_heads (account_id, seq, feed_seq)"
                " SELECT missing.value, 0, 0 FROM unnest(:ids::text[]) AS missing(value) WHERE true ON CONFLICT DO NOTHING",
                ids=[account_id for account_id in wanted if account_id not in rows],
            )
            rows = await _lock(tx, wanted)
        now_ms = self._clock.now_ms()
        return {
            account_id: Head(account_id, seq, feed_seq, now_ms, self._ids)
            for account_id, (seq, feed_seq) in rows.items()
        }


async def _lock(tx: WriteTx, account_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    rows = await tx.fetch_all(
        "SELECT account_id, seq, feed_seq FROM res_relay_heads WHERE account_id = any(:ids::text[])"
        " ORDER BY account_id FOR UPDATE",
        ids=list(account_ids),
    )
    return {account_id: (seq, feed_seq) for account_id, seq, feed_seq in rows}


async def save(tx: WriteTx, heads: Sequence[Head]) -> None:
    """Writes what several heads gave out: two statements for all of them."""
    changed = [head for head in heads if head.updates or head.feed_seq]
    if not changed:
        return
    await tx.execute_many(
        "UPDATE res_relay_heads SET seq = :seq, feed_seq = :feed_seq WHERE account_id = :account_id",
        [{"seq": head.seq, "feed_seq": head.feed_seq, "account_id": head.account_id} for head in changed],
    )
    rows = [row for head in changed for row in head.rows]
    if rows:
        await tx.insert_rows("res_relay_updates", COLUMNS, rows)


async def seqs(tx: ReadTx, account_ids: Sequence[str]) -> dict[str, int]:
    """The last number of each account; one that has no row yet is at 0."""
    rows = await tx.fetch_all(
        "SELECT account_id, seq FROM res_relay_heads WHERE account_id = any(:ids::text[])", ids=list(account_ids)
    )
    return {**dict.fromkeys(account_ids, 0), **dict(rows)}
