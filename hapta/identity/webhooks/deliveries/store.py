"""The SQL of messages, their deliveries and the log of attempts: the transactional outbox."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.webhooks.models import Attempt, Delivery, Message, Outcome

QUEUE_FOR_ALL = """
    INSERT INTO auth_webhook_deliveries (webhook_id, message_id, state, attempts, next_at, created_at)
    SELECT DISTINCT w.id, :message_id::text, 'pending', 0, :now::bigint, :now::bigint
    FROM auth_webhooks AS w JOIN auth_webhook_types AS t ON t.webhook_id = w.id
    WHERE t.pattern = any(:patterns::text[]) AND w.state = 'active'"""
QUEUE_CLAIMED = """
    INSERT INTO auth_webhook_deliveries (webhook_id, message_id, state, attempts, next_at, claim, created_at)
    VALUES (:webhook_id, :message_id, 'pending', 0, :until, :claim, :now)"""
INSERT_MESSAGE = "INSERT INTO auth_webhook_messages (id, type, body, created_at) VALUES (:id, :type, :body, :now)"
COUNT_FAILURE = """
    INSERT INTO auth_webhook_failures (minute, user_id, failures) VALUES (:minute, :user_id, 1)
    ON CONFLICT (minute, user_id) DO UPDATE SET failures = auth_webhook_failures.failures + 1"""
TAKE_FAILURES = """
    DELETE FROM auth_webhook_failures
    WHERE minute = (SELECT min(minute) FROM auth_webhook_failures WHERE minute < :before)
    RETURNING minute, user_id, failures"""

# A receiver that rests has nothing due. The one whose delivery waits longest comes first.
DUE_WEBHOOKS = """
    SELECT d.webhook_id FROM auth_webhook_deliveries AS d JOIN auth_webhooks AS w ON w.id = d.webhook_id
    WHERE d.state = 'pending' AND d.next_at <= :now AND w.state = 'active'
      AND (w.paused_until IS NULL OR w.paused_until <= :now)
    GROUP BY d.webhook_id ORDER BY min(d.next_at)"""
UNDER_WAY = """
    SELECT count(*) FROM auth_webhook_deliveries
    WHERE webhook_id = :webhook_id AND state = 'pending' AND claim IS NOT NULL AND next_at > :now"""
DUE = """
    SELECT d.message_id, m.type, m.body, m.created_at, d.attempts
    FROM auth_webhook_deliveries AS d JOIN auth_webhook_messages AS m ON m.id = d.message_id
    WHERE d.webhook_id = :webhook_id AND d.state = 'pending' AND d.next_at <= :now ORDER BY d.next_at LIMIT :limit"""
CLAIM = """
    UPDATE auth_webhook_deliveries SET claim = :claim, next_at = :until
    WHERE webhook_id = :webhook_id AND message_id = any(:message_ids::text[]) AND state = 'pending'"""
# Only whoever still holds the claim may say how it went.
FINISH = """
    UPDATE auth_webhook_deliveries
    SET state = :state, attempts = attempts + 1, next_at = :next_at, claim = NULL, finished_at = :finished_at,
        last_status = :status, last_error = :error
    WHERE webhook_id = :webhook_id AND message_id = :message_id AND state = 'pending' AND claim = :claim"""
CANCEL_ALL = """
    UPDATE auth_webhook_deliveries SET state = 'canceled', claim = NULL, finished_at = :now
    WHERE webhook_id = :webhook_id AND state = 'pending'"""
REQUEUE = """
    UPDATE auth_webhook_deliveries
    SET state = 'pending', attempts = 0, next_at = :now, claim = NULL, finished_at = NULL
    WHERE webhook_id = :webhook_id AND message_id = :message_id"""
INSERT_ATTEMPT = """
    INSERT INTO auth_webhook_attempts (webhook_id, message_id, at, id, status, error, took_ms, answer)
    VALUES (:webhook_id, :message_id, :at, :id, :status, :error, :took_ms, :answer)"""

_DELIVERY = (
    "d.webhook_id, d.message_id, m.type, d.state, d.attempts, d.next_at, d.created_at, d.finished_at, d.last_status,"
    " d.last_error"
)
FIND_DELIVERY = f"""
    SELECT {_DELIVERY} FROM auth_webhook_deliveries AS d JOIN auth_webhook_messages AS m ON m.id = d.message_id
    WHERE d.webhook_id = :webhook_id AND d.message_id = :message_id"""  # noqa: S608 - constants
# Message ids are UUIDs of version 7, so their order is that of time.
LIST_DELIVERIES = f"""
    SELECT {_DELIVERY} FROM auth_webhook_deliveries AS d JOIN auth_webhook_messages AS m ON m.id = d.message_id
    WHERE d.webhook_id = :webhook_id AND (:state = '' OR d.state = :state) AND (:before = '' OR d.message_id < :before)
    ORDER BY d.message_id DESC LIMIT :limit"""  # noqa: S608 - constants
LIST_ATTEMPTS = """
    SELECT at, id, status, error, took_ms, answer FROM auth_webhook_attempts
    WHERE webhook_id = :webhook_id AND message_id = :message_id ORDER BY at, id LIMIT :limit"""
BODY = "SELECT body FROM auth_webhook_messages WHERE id = :message_id"

SWEEP_MESSAGES = """
    DELETE FROM auth_webhook_messages WHERE id = any(:ids::text[])"""
OLD_MESSAGES = """
    SELECT m.id FROM auth_webhook_messages AS m
    WHERE m.created_at < :before AND NOT EXISTS (
        SELECT 1 FROM auth_webhook_deliveries AS d
        WHERE d.message_id = m.id AND (d.finished_at >= :before OR (d.state = 'pending' AND EXISTS (
            SELECT 1 FROM auth_webhooks AS w WHERE w.id = d.webhook_id))))
    ORDER BY m.created_at LIMIT :limit"""
SWEEP_DELIVERIES = "DELETE FROM auth_webhook_deliveries WHERE message_id = any(:ids::text[])"
SWEEP_ATTEMPTS = """
    DELETE FROM auth_webhook_attempts WHERE id IN (
        SELECT id FROM auth_webhook_attempts WHERE at < :before ORDER BY at LIMIT :limit) AND at < :before"""
DROP_DELIVERIES = """
    DELETE FROM auth_webhook_deliveries WHERE webhook_id = :webhook_id"""
DROP_ATTEMPTS = "DELETE FROM auth_webhook_attempts WHERE webhook_id = :webhook_id"


async def queue_for_all(tx: WriteTx, message: Message, patterns: Sequence[str]) -> int:
    """A delivery for every active receiver that wants it; how many. The message is kept only if there is one."""
    queued = await tx.execute(QUEUE_FOR_ALL, message_id=message.id, now=message.created_at, patterns=patterns)
    if queued:
        await _insert_message(tx, message)
    return queued


async def queue_claimed(tx: WriteTx, message: Message, webhook_id: str, claim: str, until: int) -> None:
    """A delivery to one receiver that the caller attempts itself."""
    await tx.execute(
        QUEUE_CLAIMED,
        webhook_id=webhook_id,
        message_id=message.id,
        until=until,
        claim=claim,
        now=message.created_at,
    )
    await _insert_message(tx, message)


async def _insert_message(tx: WriteTx, message: Message) -> None:
    await tx.execute(INSERT_MESSAGE, id=message.id, type=message.type, body=message.body, now=message.created_at)


async def count_failure(tx: WriteTx, minute: int, user_id: str) -> None:
    await tx.execute(COUNT_FAILURE, minute=minute, user_id=user_id)


async def take_failures(tx: WriteTx, before: int) -> list[tuple[int, str, int]]:
    """Removes and returns the counts of the oldest whole minute: `(minute, user id, failures)`."""
    rows = await tx.fetch_all(TAKE_FAILURES, before=before)
    return [(minute, user_id, failures) for minute, user_id, failures in rows]


async def due_webhooks(tx: ReadTx, now: int) -> list[str]:
    """Active receivers with something due."""
    return [row[0] for row in await tx.fetch_all(DUE_WEBHOOKS, now=now)]


async def under_way(tx: WriteTx, webhook_id: str, now: int) -> int:
    """Deliveries to a receiver that some worker attempts now."""
    return await tx.fetch_value(UNDER_WAY, webhook_id=webhook_id, now=now)


async def due(tx: WriteTx, webhook_id: str, now: int, limit: int) -> list[tuple[Message, int]]:
    """Messages that are due for a receiver, with the attempts so far. Claim them under the receiver's lock."""
    rows = await tx.fetch_all(DUE, webhook_id=webhook_id, now=now, limit=limit)
    return [(Message(*row[:4]), row[4]) for row in rows]


async def claim(tx: WriteTx, webhook_id: str, message_ids: Sequence[str], claim: str, until: int) -> None:
    await tx.execute(CLAIM, webhook_id=webhook_id, message_ids=message_ids, claim=claim, until=until)


async def finish(
    tx: WriteTx, webhook_id: str, message_id: str, claim: str, outcome: Outcome, attempt: Attempt, now: int
) -> bool:
    """Writes down how an attempt went; False when its claim had lapsed and somebody else has it."""
    done = await tx.execute(
        FINISH,
        webhook_id=webhook_id,
        message_id=message_id,
        claim=claim,
        state=outcome.state,
        next_at=outcome.next_at,
        finished_at=None if outcome.state == "pending" else now,
        status=attempt.status,
        error=attempt.error,
    )
    await tx.execute(INSERT_ATTEMPT, webhook_id=webhook_id, message_id=message_id, **attempt._asdict())
    return done > 0


async def cancel_all(tx: WriteTx, webhook_id: str, now: int) -> int:
    return await tx.execute(CANCEL_ALL, webhook_id=webhook_id, now=now)


async def requeue(tx: WriteTx, webhook_id: str, message_id: str, now: int) -> bool:
    return await tx.execute(REQUEUE, webhook_id=webhook_id, message_id=message_id, now=now) > 0


async def find_delivery(tx: ReadTx, webhook_id: str, message_id: str) -> Delivery | None:
    row = await tx.fetch_one(FIND_DELIVERY, webhook_id=webhook_id, message_id=message_id)
    return None if row is None else Delivery(*row)


async def list_deliveries(tx: ReadTx, webhook_id: str, state: str, before: str, limit: int) -> list[Delivery]:
    """Deliveries to a receiver, the newest message first; `state` and `before` are empty for all."""
    rows = await tx.fetch_all(LIST_DELIVERIES, webhook_id=webhook_id, state=state, before=before, limit=limit)
    return [Delivery(*row) for row in rows]


async def list_attempts(tx: ReadTx, webhook_id: str, message_id: str, limit: int) -> list[Attempt]:
    rows = await tx.fetch_all(LIST_ATTEMPTS, webhook_id=webhook_id, message_id=message_id, limit=limit)
    return [Attempt(*row) for row in rows]


async def find_body(tx: ReadTx, message_id: str) -> str | None:
    return await tx.fetch_value(BODY, message_id=message_id)


async def drop_webhook(tx: WriteTx, webhook_id: str) -> None:
    """Removes all deliveries of a receiver that goes; their messages go with their age."""
    await tx.execute(DROP_DELIVERIES, webhook_id=webhook_id)
    await tx.execute(DROP_ATTEMPTS, webhook_id=webhook_id)


async def sweep(tx: WriteTx, before: int, limit: int) -> int:
    """Removes old messages with their deliveries, and old attempts; how many rows, 0 when there is nothing left."""
    ids = [row[0] for row in await tx.fetch_all(OLD_MESSAGES, before=before, limit=limit)]
    removed = 0
    if ids:
        removed = await tx.execute(SWEEP_DELIVERIES, ids=ids)
        removed += await tx.execute(SWEEP_MESSAGES, ids=ids)
    return removed + await tx.execute(SWEEP_ATTEMPTS, before=before, limit=limit)
