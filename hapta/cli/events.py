"""The services that `hapta audit` and `hapta webhook` need, over one open database, as the server builds them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapta.cli.context import auth_opened, opened
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
    from hapta.http.fetch import GuardedFetch
    from hapta.identity import roots
    from hapta.identity.data_roots import DATA
    from hapta.identity.event_log import open_event_log
    from hapta.identity.webhooks.deliverer import Deliverer
    from hapta.identity.webhooks.sealing import WebhookSecrets
    from hapta.identity.webhooks.service import WebhookService

    async with opened(settings) as to, auth_opened(to) as db:
        settings, _ = with_secret(settings)
        secret = await roots.opened(db, to.clock, roots.keyring_of(settings))
        await roots.opened(
            to.db, to.clock, roots.keyring_of(settings), DATA
        )  # a start has both sides' keys sealed anew
        allow_private = settings.webhooks.allow_private
        recorder = open_event_log(db, to.clock, to.ids, secret, settings.identity, former_keys)
        secrets = WebhookSecrets(secret.sealer("data-seal"))
        fetch = GuardedFetch(allow_private=allow_private, timeout_seconds=settings.webhooks.timeout_seconds)
        yield EventServices(
            recorder.audit,
            WebhookService(db, to.clock, to.ids, secrets, recorder, allow_private=allow_private),
            Deliverer(db, to.clock, to.ids, fetch, recorder.webhooks, secrets, settings.webhooks),
        )
