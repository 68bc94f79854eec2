"""All SQL of the feed, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.feed.models import FeedItem

_COLUMNS = "counter, id, repeat_key, body, created_at"
# S608: only constants are put together.
_NEWEST = f"""
    SELECT {_COLUMNS} FROM res_relay_feed WHERE account_id = :account_id ORDER BY counter DESC LIMIT :limit"""  # noqa: S608
_BEFORE = f"""
    SELECT {_COLUMNS} FROM res_relay_feed WHERE account_id = :account_id AND counter < :before
    ORDER BY counter DESC LIMIT :limit"""  # noqa: S608
_AFTER = f"""
    SELECT {_COLUMNS} FROM res_relay_feed WHERE account_id = :account_id AND counter > :after
    ORDER BY counter LIMIT :limit"""  # noqa: S608
_ADD = """
    INSERT INTO res_relay_feed (account_id, counter, id, repeat_key, body, created_at, updated_at)
    VALUES (:account_id, :counter, :id, :repeat_key, :body, :created_at, :created_at)"""


async def newest(tx: ReadTx, account_id: str, limit: int) -> list[FeedItem]:
    return [FeedItem(*row) for row in await tx.fetch_all(_NEWEST, account_id=account_id, limit=limit)]


async def before(tx: ReadTx, account_id: str, counter: int, limit: int) -> list[FeedItem]:
    """The items just below a place, newest first."""
    return [FeedItem(*row) for row in await tx.fetch_all(_BEFORE, account_id=account_id, before=counter, limit=limit)]


async def after(tx: ReadTx, account_id: str, counter: int, limit: int) -> list[FeedItem]:
    """The items just above a place, oldest first."""
    return [FeedItem(*row) for row in await tx.fetch_all(_AFTER, account_id=account_id, after=counter, limit=limit)]


async def add(tx: WriteTx, account_id: str, item: FeedItem) -> None:
    """Adds an item in place of the one that has its repeat key."""
    if item.repeat_key is not None:
        await tx.execute(
            "DELETE FROM res_relay_feed WHERE account_id = :account_id AND repeat_key = :repeat_key",
            account_id=account_id,
            repeat_key=item.repeat_key,
        )
    await tx.execute(_ADD, account_id=account_id, **item._asdict())


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_feed WHERE account_id = :account_id", account_id=account_id)
