"""What admins do with receivers: add, change, rotate, remove, look at deliveries and send them again.

A receiver's secret leaves this service twice: when it is made, and to the deliverer. In the database it is sealed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog, EventType
from hapta.identity.models import Origin
from hapta.identity.webhooks import store
from hapta.identity.webhooks.deliveries import store as queue_store
from hapta.identity.webhooks.errors import (
    BadContact,
    BadEventTypes,
    BadWebhookUrl,
    DeliveryNotFound,
    WebhookDisabled,
    WebhookNotFound,
)
from hapta.identity.webhooks.models import (
    Attempt,
    Delivery,
    Issued,
    NewWebhook,
    Webhook,
    WebhookChange,
)
from hapta.identity.webhooks.queue import NOT_SENT
from hapta.identity.webhooks.sealing import WebhookSecrets
from hapta.kit import standard_webhooks
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.targets import TargetRefused, parse_target

OVERLAP_SECONDS = 24 * 3600
"""How long the former secret of a receiver signs as well."""
MAX_OVERLAP_SECONDS = 30 * 24 * 3600
MAX_PAGE = 200
MAX_ATTEMPTS = 200
MAX_TYPES = 64
MAX_DESCRIPTION = 256
DISABLED_BY_HAND = "an admin disabled it"

SENT_TYPES: frozenset[str] = frozenset(get_args(EventType)) - NOT_SENT
_CONTACT = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")


class WebhookService:
    """See the module.

    Args:
        db: of the auth side.
        events: where these acts are recorded.
        allow_private: whether receivers may be on this machine or in its networks (`webhooks.allow_private`).
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        secrets: WebhookSecrets,
        events: EventLog,
        *,
        allow_private: bool = False,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._secrets = secrets
        self._events = events
        self._allow_private = allow_private

    async def add(self, new: NewWebhook, actor: str, origin: Origin) -> Issued:
        """Registers a receiver.

        Args:
            actor: whose act it is: a user's id or `operator`.

        Raises:
            BadWebhookUrl, BadEventTypes, BadContact: it cannot be registered like that.
        """
        self._check_url(new.url)
        now, webhook_id, secret = self._clock.now_ms(), self._ids.uuid(), standard_webhooks.new_secret()
        key = Ed25519PrivateKey.generate() if new.ed25519 else None
        webhook = Webhook(
            id=webhook_id,
            url=new.url,
            description=new.description[:MAX_DESCRIPTION],
            types=check_types(new.types),
            contact=_contact(new.contact),
            secret=self._secrets.seal(webhook_id, secret),
            previous_secret=None,
            previous_until=None,
            signing_key=None if key is None else self._secrets.seal_key(webhook_id, key),
            state="active",
            disabled_at=None,
            disabled_reason=None,
            failing_since=None,
            paused_until=None,
            last_success_at=None,
            created_at=now,
            updated_at=now,
        )

        async def body(tx: WriteTx) -> None:
            await store.insert(tx, webhook)
            await self._note(tx, "webhook.added", webhook_id, actor, origin)

        await self._db.write(body)
        return Issued(webhook, secret, None if key is None else standard_webhooks.public_key_text(key))

    async def list_webhooks(self) -> list[Webhook]:
        return await self._db.read(store.list_all, snapshot=False)

    async def get(self, webhook_id: str) -> Webhook:
        """Raises WebhookNotFound."""
        found = await self._db.read(lambda tx: store.find(tx, webhook_id), snapshot=False)
        if found is None:
            raise WebhookNotFound
        return found

    def public_key(self, webhook: Webhook) -> str | None:
        """The `whpk_` key of a receiver that has one."""
        key = self._secrets.open_key(webhook)
        return None if key is None else standard_webhooks.public_key_text(key)

    async def change(self, webhook_id: str, change: WebhookChange, actor: str, origin: Origin) -> Webhook:
        """Changes a receiver. Enabling it forgets that it failed; disabling it cancels what is queued.

        Raises:
            WebhookNotFound; BadWebhookUrl, BadEventTypes, BadContact: as in `add`.
        """
        fields: dict[str, Any] = {}
        if change.url is not None:
            self._check_url(change.url)
            fields["url"] = change.url
        if change.types is not None:
            fields["types"] = check_types(change.types)
        if change.description is not None:
            fields["description"] = change.description[:MAX_DESCRIPTION]
        if change.contact is not None:
            fields["contact"] = _contact(change.contact)

        async def body(tx: WriteTx) -> Webhook:
            before = await self._locked(tx, webhook_id)
            now = self._clock.now_ms()
            after = before._replace(**fields, updated_at=now)
            if change.state == "active":
                after = after._replace(
                    state="active", disabled_at=None, disabled_reason=None, failing_since=None, paused_until=None
                )
            elif change.state == "disabled" and before.state == "active":
                after = after._replace(state="disabled", disabled_at=now, disabled_reason=DISABLED_BY_HAND)
                await queue_store.cancel_all(tx, webhook_id, now)
            await store.update(tx, after, types_changed=change.types is not None)
            await self._note(tx, "webhook.changed", webhook_id, actor, origin)
            return after

        return await self._db.write(body)

    async def remove(self, webhook_id: str, actor: str, origin: Origin) -> None:
        """Removes a receiver and its delivery log. Raises WebhookNotFound."""

        async def body(tx: WriteTx) -> None:
            await self._locked(tx, webhook_id)
            await queue_store.drop_webhook(tx, webhook_id)
            await store.delete(tx, webhook_id)
            await self._note(tx, "webhook.removed", webhook_id, actor, origin)

        await self._db.write(body)

    async def rotate(
        self, webhook_id: str, actor: str, origin: Origin, overlap_seconds: int = OVERLAP_SECONDS
    ) -> Issued:
        """A new secret; the former one signs as well for a while, so that no message fails on either side.

        Args:
            overlap_seconds: how long; 0 when the former secret has leaked.

        Raises:
            WebhookNotFound
        """
        secret = standard_webhooks.new_secret()
        sealed = self._secrets.seal(webhook_id, secret)
        overlap_ms = max(0, min(overlap_seconds, MAX_OVERLAP_SECONDS)) * 1000

        async def body(tx: WriteTx) -> Webhook:
            before = await self._locked(tx, webhook_id)
            now = self._clock.now_ms()
            after = before._replace(
                secret=sealed,
                previous_secret=before.secret if overlap_ms else None,
                previous_until=now + overlap_ms if overlap_ms else None,
                updated_at=now,
            )
            await store.update(tx, after)
            await self._note(tx, "webhook.rotated", webhook_id, actor, origin)
            return after

        webhook = await self._db.write(body)
        return Issued(webhook, secret, self.public_key(webhook))

    # --- the delivery log ---

    async def deliveries(
        self, webhook_id: str, state: str = "", before: str = "", limit: int = 50
    ) -> tuple[Sequence[Delivery], str | None]:
        """A page of deliveries, the newest message first, and the `before` of the next page.

        Args:
            state: only these; empty for all.
            before: a message's id; empty for the first page.

        Raises:
            WebhookNotFound
        """
        limit = max(1, min(limit, MAX_PAGE))
        await self.get(webhook_id)
        found = await self._db.read(
            lambda tx: queue_store.list_deliveries(tx, webhook_id, state, before, limit + 1), snapshot=False
        )
        page = found[:limit]
        return page, page[-1].message_id if len(found) > limit else None

    async def delivery(self, webhook_id: str, message_id: str) -> tuple[Delivery, str, list[Attempt]]:
        """A delivery, the text that is sent, and every attempt. Raises DeliveryNotFound."""
        found = await self._db.read(lambda tx: queue_store.find_delivery(tx, webhook_id, message_id), snapshot=False)
        body = await self._db.read(lambda tx: queue_store.find_body(tx, message_id), snapshot=False)
        if found is None or body is None:
            raise DeliveryNotFound
        attempts = await self._db.read(
            lambda tx: queue_store.list_attempts(tx, webhook_id, message_id, MAX_ATTEMPTS), snapshot=False
        )
        return found, body, attempts

    async def replay(self, webhook_id: str, message_id: str, actor: str, origin: Origin) -> None:
        """Queues a delivery again, with all its attempts before it, whatever became of it.

        Raises:
            WebhookNotFound, DeliveryNotFound
            WebhookDisabled: nothing is sent there.
        """

        async def body(tx: WriteTx) -> None:
            webhook = await self._locked(tx, webhook_id)
            if webhook.state != "active":
                raise WebhookDisabled
            if not await queue_store.requeue(tx, webhook_id, message_id, self._clock.now_ms()):
                raise DeliveryNotFound
            await self._note(tx, "webhook.replayed", webhook_id, actor, origin)

        await self._db.write(body)

    async def _locked(self, tx: WriteTx, webhook_id: str) -> Webhook:
        found = await store.lock(tx, webhook_id)
        if found is None:
            raise WebhookNotFound
        return found

    async def _note(self, tx: WriteTx, action: str, webhook_id: str, actor: str, origin: Origin) -> None:
        data = {"action": action, "webhookId": webhook_id}
        await self._events.record(tx, Event("admin.action", None, origin, actor=actor, data=data))

    def _check_url(self, url: str) -> None:
        try:
            parse_target(url, allow_private=self._allow_private)
        except TargetRefused as refused:
            raise BadWebhookUrl(f"This URL cannot be called: {refused}") from None


def check_types(types: Sequence[str]) -> str:
    """Patterns as they are stored.

    Raises:
        BadEventTypes: there is none, or one that fits no event.
    """
    unique = list(dict.fromkeys(types))
    beginnings = {f"{name.rsplit('.', count)[0]}.*" for name in SENT_TYPES for count in range(1, name.count(".") + 1)}
    wrong = [name for name in unique if name != "*" and name not in SENT_TYPES and name not in beginnings]
    if not unique or wrong or len(unique) > MAX_TYPES:
        raise BadEventTypes(types=sorted(SENT_TYPES))
    return " ".join(unique)


def _contact(text: str | None) -> str | None:
    if not text:
        return None
    if _CONTACT.fullmatch(text) is None:
        raise BadContact
    return text
