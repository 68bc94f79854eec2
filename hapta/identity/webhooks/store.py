"""The SQL of receivers: what they are and what they want. Deliveries are in `deliveries/store.py`."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.webhooks.models import Webhook

COLUMNS = (
    "id, url, description, types, contact, secret, previous_secret, previous_until, signing_key, state, disabled_at,"
    " disabled_reason, failing_since, paused_until, last_success_at, created_at, updated_at"
)

INSERT = f"""
    INSERT INTO auth_webhooks ({COLUMNS})
    VALUES (:id, :url, :description, :types, :contact, :secret, :previous_secret, :previous_until, :signing_key, :state,
            :disabled_at, :disabled_reason, :failing_since, :paused_until, :last_success_at, :created_at, :updated_at)
    """  # noqa: S608 - constants
LIST = f"SELECT {COLUMNS} FROM auth_webhooks ORDER BY created_at, id"  # noqa: S608 - constants
FIND = f"SELECT {COLUMNS} FROM auth_webhooks WHERE id = :id"  # noqa: S608 - constants
LOCK = f"SELECT {COLUMNS} FROM auth_webhooks WHERE id = :id FOR UPDATE"  # noqa: S608 - constants
UPDATE = """
    UPDATE auth_webhooks
    SET url = :url, description = :description, types = :types, contact = :contact, secret = :secret,
        previous_secret = :previous_secret, previous_until = :previous_until, signing_key = :signing_key, state = :state,
        disabled_at = :disabled_at, disabled_reason = :disabled_reason, failing_since = :failing_since,
        paused_until = :paused_until, last_success_at = :last_success_at, updated_at = :updated_at
    WHERE id = :id"""
DELETE = "DELETE FROM auth_webhooks WHERE id = :id"
DELETE_TYPES = "DELETE FROM auth_webhook_types WHERE webhook_id = :id"
INSERT_TYPE = "INSERT INTO auth_webhook_types (pattern, webhook_id) VALUES (:pattern, :id) ON CONFLICT DO NOTHING"


async def insert(tx: WriteTx, webhook: Webhook) -> None:
    await tx.execute(INSERT, **webhook._asdict())
    await _set_types(tx, webhook)


async def list_all(tx: ReadTx) -> list[Webhook]:
    return [Webhook(*row) for row in await tx.fetch_all(LIST)]


async def find(tx: ReadTx, webhook_id: str) -> Webhook | None:
    row = await tx.fetch_one(FIND, id=webhook_id)
    return None if row is None else Webhook(*row)


async def lock(tx: WriteTx, webhook_id: str) -> Webhook | None:
    """Like `find`, and nobody else changes it before the transaction ends."""
    row = await tx.fetch_one(LOCK, id=webhook_id)
    return None if row is None else Webhook(*row)


async def update(tx: WriteTx, webhook: Webhook, *, types_changed: bool = False) -> None:
    """Writes a receiver back that was read with `lock`."""
    columns = webhook._asdict()
    del columns["created_at"]
    await tx.execute(UPDATE, **columns)
    if types_changed:
        await tx.execute(DELETE_TYPES, id=webhook.id)
        await _set_types(tx, webhook)


async def delete(tx: WriteTx, webhook_id: str) -> None:
    await tx.execute(DELETE_TYPES, id=webhook_id)
    await tx.execute(DELETE, id=webhook_id)


async def _set_types(tx: WriteTx, webhook: Webhook) -> None:
    patterns: Sequence[str] = webhook.types.split()
    await tx.execute_many(INSERT_TYPE, [{"pattern": pattern, "id": webhook.id} for pattern in patterns])
