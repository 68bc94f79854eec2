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
from hapta.relay.updates import store

_encode = msgspec.json.Encoder().encode


class Head:
    """An account's head, locked in a transaction: gives out numbers and collects what they are for."""

    __slots__ = ("_before", "_ids", "_now_ms", "_rows", "account_id", "feed_seq", "seq", "updates")

    def __init__(self, account_id: str, seq: int, feed_seq: int, now_ms: int, ids: Ids) -> None:
        self.account_id = account_id
        self.seq = seq
        self.feed_seq = feed_seq
        """Number of the last item of the account's feed; whoever adds one raises it."""
        self.updates: list[Update] = []
        self._before = (seq, feed_seq)
        self._rows: list[tuple[str, int, str, str, str, bytes | None, str, str, int]] = []
        self._now_ms = now_ms
        self._ids = ids

    def add(
        self,
        body: Mapping[str, object] | msgspec.Struct,
        audience: Audience,
        *,
        ref: str = "",
        sender: str = "",
        logged: bool = True,
    ) -> Update:
        """Numbers an update.

        Args:
            body: with its kind as `t`.
            ref: where the body can be made from again (`<t>/<what its noun needs>`), for what is large and stored anyway: the log
                then keeps no copy of it.
            sender: as in `Update`.
            logged: False leaves it out of the log, where its announcement cannot get lost (`Teller.is_alone`).
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
        if logged:
            kept = None if ref else raw
            self._rows.append(
                (self.account_id, self.seq, update.id, audience.kind, audience.id, kept, ref, sender, self._now_ms)
            )
        return update

    async def save(self, tx: WriteTx) -> None:
        """Writes the head and the log; does nothing when there is nothing new."""
        await save(tx, [self])

    @property
    def moved(self) -> bool:
        """Whether there is anything to save."""
        return self._before != (self.seq, self.feed_seq)

    @property
    def rows(self) -> Sequence[tuple[str, int, str, str, str, bytes | None, str, str, int]]:
        """The log's new rows, as `store.save_heads` takes them."""
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
        rows = await store.lock_heads(tx, account_ids)
        missing = [account_id for account_id in account_ids if account_id not in rows]
        if missing:
            await store.insert_heads(tx, missing)
            rows = await store.lock_heads(tx, account_ids)
        now_ms = self._clock.now_ms()
        return {
            account_id: Head(account_id, seq, feed_seq, now_ms, self._ids)
            for account_id, (seq, feed_seq) in rows.items()
        }


async def hold(tx: WriteTx, account_ids: Sequence[str]) -> None:
    """Locks the heads of accounts, as far as they have one, for changes without a number that must not cross each other."""
    await store.lock_heads(tx, account_ids)


async def save(tx: WriteTx, heads: Sequence[Head]) -> None:
    """Writes what several heads gave out: two statements for all of them."""
    changed = [head for head in heads if head.moved]
    if changed:
        rows = [row for head in changed for row in head.rows]
        await store.save_heads(tx, [(head.account_id, head.seq, head.feed_seq) for head in changed], rows)


async def seqs(tx: ReadTx, account_ids: Sequence[str]) -> dict[str, int]:
    """The last number of each account; one that has no row yet is at 0."""
    return {**dict.fromkeys(account_ids, 0), **await store.head_seqs(tx, account_ids)}
