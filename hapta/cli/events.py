"""The services that `hapta audit` and `hapta webhook` need, over one open database, as the server builds them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapta.cli.context import opened
from hapta.settings import Settings, with_secret

if TYPE_CHECKING:
    from hapta.identity.audit.service import AuditLog
    from hapta.identity.webhooks.deliverer import Deliverer
    from hapta.identity.webhooks.service import WebhookService


@dataclass(frozen=True, slots=True)
class EventServices:
    """The audit log and webhooks, without their background work: that is the running server's."""

    audit: AuditLog
    webhooks: WebhookService
    deliverer: Deliverer


@asynccontextmanager
async def event_services(settings: Settings, former_keys: Sequence[str] = ()) -> AsyncGenerator[EventServices]:
    """Opens the database and builds the services on it.

    Args:
        settings: of the server.
        former_keys: public keys (hex) with which the audit log was signed earlier.
    """
    from hapta.db import migrate
    from hapta.db.connect import connect_auth
    from hapta.http.fetch import GuardedFetch
    from hapta.identity.audit.chain import AuditKeys
    from hapta.identity.audit.service import AuditLog
    from hapta.identity.event_log import EventRecorder
    from hapta.identity.webhooks.deliverer import Deliverer
    from hapta.identity.webhooks.queue import WebhookQueue
    from hapta.identity.webhooks.sealing import WebhookSecrets
    from hapta.identity.webhooks.service import WebhookService
    from hapta.kit.seal import Sealer
    from hapta.kit.secrets import derive_key

    async with opened(settings) as to:
        settings, _ = with_secret(settings)
        secret, allow_private = settings.identity.jwt_secret, settings.webhooks.allow_private
        db = await connect_auth(settings.database, to.db, settings.data.dir, to.clock)
        try:
            if db is not to.db and settings.database.auto_migrate:
                await migrate.migrate(db, to.clock)
            audit = AuditLog(
                db,
                to.clock,
                to.ids,
                AuditKeys(secret, former_keys),
                secret,
                addresses=settings.identity.audit_addresses,
                keep_days=settings.identity.audit_keep_days,
            )
            queue = WebhookQueue(db, to.clock, to.ids)
            secrets = WebhookSecrets(Sealer.of(derive_key(secret, "data-seal")))
            recorder = EventRecorder(audit, queue)
            fetch = GuardedFetch(allow_private=allow_private, timeout_seconds=settings.webhooks.timeout_seconds)
            yield EventServices(
                audit,
                WebhookService(db, to.clock, to.ids, secrets, recorder, allow_private=allow_private),
                Deliverer(db, to.clock, to.ids, fetch, queue, secrets, settings.webhooks),
            )
        finally:
            if db is not to.db:
                await db.close()
