"""The routes with which admins keep webhooks: decode, call, encode."""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.policy import origin
from hapta.identity.webhooks.deliverer import Deliverer
from hapta.identity.webhooks.errors import (
    BadContact,
    BadEventTypes,
    BadWebhookUrl,
    DeliveryNotFound,
    WebhookDisabled,
    WebhookNotFound,
)
from hapta.identity.webhooks.models import Attempt, Delivery, Issued, NewWebhook, Webhook, WebhookChange
from hapta.identity.webhooks.schemas import (
    AddWebhookRequest,
    AttemptAnswer,
    ChangeWebhookRequest,
    DeliveriesAnswer,
    DeliveriesQuery,
    DeliveryAnswer,
    DeliveryDetails,
    IssuedAnswer,
    RemovedAnswer,
    RotateWebhookRequest,
    WebhookAnswer,
    WebhooksAnswer,
)
from hapta.identity.webhooks.service import WebhookService
from hapta.kit.access import Caller, role
from hapta.kit.clock import iso_ms

ROOT = "/identity/v1/admin/webhooks"
MAX_BODY_BYTES = 64 * 1024


def routes(webhooks: WebhookService, deliverer: Deliverer) -> list[Endpoint]:
    """The URL table of webhooks."""
    api = WebhookApi(webhooks, deliverer)
    table = Table(
        dialect=ENVELOPE, access=role("admin"), limit="account", tag="webhooks", max_body_bytes=MAX_BODY_BYTES
    )
    one = f"{ROOT}/{{webhookId}}"
    return [
        table.get(ROOT, api.list_webhooks, summary="List webhooks", answers={200: WebhooksAnswer}),
        table.post(
            ROOT,
            api.add,
            summary="Add a webhook; its secret is shown this once",
            answers={201: IssuedAnswer},
            errors=[BadWebhookUrl, BadEventTypes, BadContact],
        ),
        table.get(one, api.get, summary="One webhook", answers={200: WebhookAnswer}, errors=[WebhookNotFound]),
        table.patch(
            one,
            api.change,
            summary="Change, enable or disable a webhook",
            answers={200: WebhookAnswer},
            errors=[WebhookNotFound, BadWebhookUrl, BadEventTypes, BadContact],
        ),
        table.delete(
            one,
            api.remove,
            summary="Remove a webhook and its delivery log",
            answers={200: RemovedAnswer},
            errors=[WebhookNotFound],
        ),
        table.post(
            f"{one}/rotate",
            api.rotate,
            summary="A new secret; the former one signs as well for a while",
            answers={200: IssuedAnswer},
            errors=[WebhookNotFound],
        ),
        table.post(
            f"{one}/ping",
            api.ping,
            summary="Send a test message now",
            answers={200: AttemptAnswer},
            errors=[WebhookNotFound, WebhookDisabled],
        ),
        table.get(
            f"{one}/deliveries",
            api.deliveries,
            summary="Deliveries, the newest first",
            answers={200: DeliveriesAnswer},
            errors=[WebhookNotFound],
        ),
        table.get(
            f"{one}/deliveries/{{messageId}}",
            api.delivery,
            summary="One delivery with its text and every attempt",
            answers={200: DeliveryDetails},
            errors=[DeliveryNotFound],
        ),
        table.post(
            f"{one}/deliveries/{{messageId}}/replay",
            api.replay,
            summary="Send a delivery again",
            answers={202: DeliveryAnswer},
            errors=[WebhookNotFound, DeliveryNotFound, WebhookDisabled],
        ),
    ]


class WebhookApi:
    """Decode, call, encode."""

    def __init__(self, webhooks: WebhookService, deliverer: Deliverer) -> None:
        self._webhooks = webhooks
        self._deliverer = deliverer

    async def list_webhooks(self) -> WebhooksAnswer:
        return WebhooksAnswer(webhooks=[self._webhook(webhook) for webhook in await self._webhooks.list_webhooks()])

    async def add(self, caller: Caller, request: Request, body: AddWebhookRequest) -> Reply:
        new = NewWebhook(body.url, tuple(body.types), body.description, body.contact, body.ed25519)
        issued = await self._webhooks.add(new, caller.user_id, origin(request))
        return Reply(201, self._issued(issued))

    async def get(self, webhookId: str) -> WebhookAnswer:
        return self._webhook(await self._webhooks.get(webhookId))

    async def change(
        self, caller: Caller, request: Request, webhookId: str, body: ChangeWebhookRequest
    ) -> WebhookAnswer:
        types = None if body.types is None else tuple(body.types)
        change = WebhookChange(body.url, types, body.description, body.contact, body.state)
        return self._webhook(await self._webhooks.change(webhookId, change, caller.user_id, origin(request)))

    async def remove(self, caller: Caller, request: Request, webhookId: str) -> RemovedAnswer:
        await self._webhooks.remove(webhookId, caller.user_id, origin(request))
        return RemovedAnswer(id=webhookId)

    async def rotate(
        self, caller: Caller, request: Request, webhookId: str, body: RotateWebhookRequest
    ) -> IssuedAnswer:
        return self._issued(
            await self._webhooks.rotate(webhookId, caller.user_id, origin(request), body.overlap_seconds)
        )

    async def ping(self, webhookId: str) -> AttemptAnswer:
        return _attempt(await self._deliverer.ping(webhookId))

    async def deliveries(self, webhookId: str, query: DeliveriesQuery) -> DeliveriesAnswer:
        page, following = await self._webhooks.deliveries(webhookId, query.state or "", query.before or "", query.limit)
        return DeliveriesAnswer(deliveries=[_delivery(delivery) for delivery in page], next=following)

    async def delivery(self, webhookId: str, messageId: str) -> DeliveryDetails:
        delivery, text, attempts = await self._webhooks.delivery(webhookId, messageId)
        log = [_attempt(attempt) for attempt in attempts]
        return DeliveryDetails(delivery=_delivery(delivery), body=msgspec.json.decode(text), log=log)

    async def replay(self, caller: Caller, request: Request, webhookId: str, messageId: str) -> Reply:
        await self._webhooks.replay(webhookId, messageId, caller.user_id, origin(request))
        self._deliverer.wake()
        delivery, _, _ = await self._webhooks.delivery(webhookId, messageId)
        return Reply(202, _delivery(delivery))

    def _issued(self, issued: Issued) -> IssuedAnswer:
        return IssuedAnswer(webhook=self._webhook(issued.webhook), secret=issued.secret)

    def _webhook(self, webhook: Webhook) -> WebhookAnswer:
        return WebhookAnswer(
            id=webhook.id,
            url=webhook.url,
            types=webhook.types.split(),
            description=webhook.description,
            contact=webhook.contact,
            state=webhook.state,
            disabled_at=_iso(webhook.disabled_at),
            disabled_reason=webhook.disabled_reason,
            failing_since=_iso(webhook.failing_since),
            paused_until=_iso(webhook.paused_until),
            last_success_at=_iso(webhook.last_success_at),
            previous_secret_until=_iso(webhook.previous_until),
            public_key=self._webhooks.public_key(webhook),
            created_at=iso_ms(webhook.created_at),
            updated_at=iso_ms(webhook.updated_at),
        )


def _attempt(attempt: Attempt) -> AttemptAnswer:
    return AttemptAnswer(
        at=iso_ms(attempt.at),
        status=attempt.status,
        error=attempt.error,
        took_ms=attempt.took_ms,
        answer=attempt.answer,
    )


def _delivery(delivery: Delivery) -> DeliveryAnswer:
    return DeliveryAnswer(
        message_id=delivery.message_id,
        type=delivery.type,
        state=delivery.state,
        attempts=delivery.attempts,
        next_at=iso_ms(delivery.next_at) if delivery.state == "pending" else None,
        created_at=iso_ms(delivery.created_at),
        finished_at=_iso(delivery.finished_at),
        last_status=delivery.last_status,
        last_error=delivery.last_error,
    )


def _iso(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else iso_ms(milliseconds)
