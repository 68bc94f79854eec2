"""Wire types of the webhook routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from hapta.http.validate import Wire

Url = Annotated[str, Meta(min_length=1, max_length=2048)]
Types = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=64)]],
    Meta(min_length=1, max_length=64, description="Types of events, beginnings of types like `auth.*`, or `*`."),
]
Description = Annotated[str, Meta(max_length=256)]
Contact = Annotated[str, Meta(max_length=254, description="Mail address that is told when the webhook is disabled.")]
MessageId = Annotated[str, Meta(max_length=64)]


class AddWebhookRequest(Wire, frozen=True):
    url: Url
    types: Types = field(default_factory=lambda: ["*"])
    description: Description = ""
    contact: Contact | None = None
    ed25519: bool = False
    """Signs with Ed25519 (`v1a`) as well."""


class ChangeWebhookRequest(Wire, frozen=True):
    url: Url | None = None
    types: Types | None = None
    description: Description | None = None
    contact: Contact | None = None
    """An empty text removes it."""
    state: Literal["active", "disabled"] | None = None


class RotateWebhookRequest(Wire, frozen=True):
    overlap_seconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 86_400
    """How long the former secret signs as well."""


class WebhookAnswer(Wire, frozen=True):
    id: str
    url: str
    types: list[str]
    description: str
    contact: str | None
    state: str
    disabled_at: str | None
    disabled_reason: str | None
    failing_since: str | None
    paused_until: str | None
    last_success_at: str | None
    previous_secret_until: str | None
    public_key: str | None
    created_at: str
    updated_at: str


class WebhooksAnswer(Wire, frozen=True):
    webhooks: list[WebhookAnswer]


class IssuedAnswer(Wire, frozen=True):
    webhook: WebhookAnswer
    secret: str
    """Shown this once."""


class RemovedAnswer(Wire, frozen=True):
    id: str


class AttemptAnswer(Wire, frozen=True):
    at: str
    status: int | None
    error: str | None
    took_ms: int
    answer: str | None
    """The beginning of what the receiver answered."""


class DeliveryAnswer(Wire, frozen=True):
    message_id: str
    type: str
    state: str
    attempts: int
    next_at: str | None
    created_at: str
    finished_at: str | None
    last_status: int | None
    last_error: str | None


class DeliveriesQuery(Wire, frozen=True):
    state: Literal["pending", "delivered", "failed", "canceled"] | None = None
    before: MessageId | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class DeliveriesAnswer(Wire, frozen=True):
    deliveries: list[DeliveryAnswer]
    next: str | None


class DeliveryDetails(Wire, frozen=True):
    delivery: DeliveryAnswer
    body: dict[str, Any]
    log: list[AttemptAnswer]
