"""The `EventLog` of the server: each event goes into the audit log and to webhooks, in the transaction of what it tells of."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.service import AuditLog
from hapta.identity.events import Event
from hapta.identity.webhooks.queue import WebhookQueue
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Secret
from hapta.settings import IdentitySettings


class EventRecorder:
    """Records events; implements `EventLog`.

    A recorded event holds the head of the audit log until its transaction ends, so record it last.
    """

    def __init__(self, audit: AuditLog, webhooks: WebhookQueue) -> None:
        self.audit = audit
        self.webhooks = webhooks

    async def record(self, tx: WriteTx, event: Event) -> None:
        """Writes the event inside the transaction of what it tells of; awaits nothing but `tx`."""
        await self.webhooks.put(tx, await self.audit.append(tx, event))


def open_event_log(
    db: Database, clock: Clock, ids: Ids, secret: Secret, settings: IdentitySettings, former_keys: Sequence[str] = ()
) -> EventRecorder:
    """The audit log and the queue of webhooks as the settings want them.

    Args:
        db: of the auth side.
        former_keys: public keys (hex) with which the audit log was signed earlier.
    """
    audit = AuditLog(
        db,
        clock,
        ids,
        AuditKeys(secret, former_keys),
        secret,
        addresses=settings.audit_addresses,
        keep_days=settings.audit_keep_days,
    )
    return EventRecorder(audit, WebhookQueue(db, clock, ids))
