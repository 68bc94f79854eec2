"""All SQL of back-channel logout, and nothing but SQL."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import WriteTx
from hapta.kit.access import UserId
from hapta.oauth.logout.models import Delivery

_WATCH = """
    INSERT INTO auth_logout_watchers (user_id, session_id, client_id, expires_at)
    VALUES (:user_id, :session_id, :client_id, :expires_at)
    ON CONFLICT (user_id, session_id, client_id) DO UPDATE SET expires_at = excluded.expires_at"""
_TAKE = """
    DELETE FROM auth_logout_watchers WHERE user_id = :user_id AND session_id = any(:session_ids::text[])
    RETURNING client_id, session_id"""
_CLAIM = """
    UPDATE auth_logout_deliveries SET attempts = attempts + 1, due_at = :lease
    WHERE due_at <= :now AND (client_id, id) IN
        (SELECT client_id, id FROM auth_logout_deliveries WHERE due_at <= :now ORDER BY due_at LIMIT :limit)
    RETURNING client_id, id, user_id, session_id, attempts"""
_DONE = "DELETE FROM auth_logout_deliveries WHERE client_id = :client_id AND id = :id"
_LATER = "UPDATE auth_logout_deliveries SET due_at = :due_at WHERE client_id = :client_id AND id = :id"
_SWEEP = """
    DELETE FROM auth_logout_watchers WHERE (user_id, session_id, client_id) IN
        (SELECT user_id, session_id, client_id FROM auth_logout_watchers
        WHERE expires_at < :now ORDER BY expires_at LIMIT :limit)"""
_COLUMNS = (
    ("client_id", "text"),
    ("id", "text"),
    ("user_id", "text"),
    ("session_id", "text"),
    ("attempts", "bigint"),
    ("due_at", "bigint"),
)


async def watch(tx: WriteTx, user_id: UserId, session_id: str, client_id: str, expires_at: int) -> None:
    await tx.execute(_WATCH, user_id=user_id, session_id=session_id, client_id=client_id, expires_at=expires_at)


async def take_watchers(tx: WriteTx, user_id: UserId, session_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Removes the watchers of sessions; their clients with the session of each. Of two callers only one gets them."""
    rows = await tx.fetch_all(_TAKE, user_id=user_id, session_ids=list(session_ids))
    return [(row[0], row[1]) for row in rows]


async def put(tx: WriteTx, deliveries: Sequence[Delivery], due_at: int) -> None:
    await tx.insert_rows("auth_logout_deliveries", _COLUMNS, [(*delivery, due_at) for delivery in deliveries])


async def claim(tx: WriteTx, now: int, lease: int, limit: int) -> list[Delivery]:
    """Those that are due, for this worker alone until the lease ends."""
    rows = await tx.fetch_all(_CLAIM, now=now, lease=lease, limit=limit)
    return [Delivery(row[0], row[1], UserId(row[2]), row[3], row[4]) for row in rows]


async def done(tx: WriteTx, delivery: Delivery) -> None:
    await tx.execute(_DONE, client_id=delivery.client_id, id=delivery.id)


async def later(tx: WriteTx, delivery: Delivery, due_at: int) -> None:
    await tx.execute(_LATER, client_id=delivery.client_id, id=delivery.id, due_at=due_at)


async def sweep(tx: WriteTx, now: int, limit: int) -> int:
    return await tx.execute(_SWEEP, now=now, limit=limit)
