"""The feed of an account: what happened to it, in the order in which it did.

An item takes its place from the account's head, which whoever posts has locked, so places grow with the commits. What is posted
again under the same repeat key leaves its old place for a new one on top: clients that read on from a cursor see it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.feed import store
from hapta.relay.feed.models import FeedItem, FeedPage
from hapta.relay.models import USERS
from hapta.relay.updates.heads import Head


class FeedService:
    """Posts and reads feeds."""

    def __init__(self, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def post(
        self, tx: WriteTx, head: Head, body: Mapping[str, object], *, repeat_key: str | None = None
    ) -> FeedItem:
        """Adds an item on top of an account's feed, and the update that tells of it to `head`.

        Args:
            head: of the account, locked; the caller saves it and announces its updates.
            body: with its `kind` (contract relay, section 9.4).
        """
        head.feed_seq += 1
        now = self._clock.now_ms()
        text = msgspec.json.encode(body).decode()
        item = FeedItem(head.feed_seq, self._ids.uuid().replace("-", ""), repeat_key, text, now)
        await store.add(tx, head.account_id, item)
        told: dict[str, object] = {
            "t": "new-feed-post",
            "id": item.id,
            "body": body,
            "cursor": f"0-{item.counter}",
            "createdAt": now,
            "repeatKey": repeat_key,
            "counter": item.counter,
        }
        head.add(told, USERS)
        return item

    async def page(self, account_id: str, *, before: int | None, after: int | None, limit: int) -> FeedPage:
        """The newest items, those just below `before`, or those just above `after`, which wins over the other."""

        async def body(tx: ReadTx) -> list[FeedItem]:
            if after is not None:
                return await store.after(tx, account_id, after, limit + 1)
            if before is not None:
                return await store.before(tx, account_id, before, limit + 1)
            return await store.newest(tx, account_id, limit + 1)

        items = await self._db.read(body, snapshot=False)
        has_more = len(items) > limit
        items = items[:limit]  # what is nearest to the cursor
        return FeedPage(items[::-1] if after is not None else items, has_more)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
