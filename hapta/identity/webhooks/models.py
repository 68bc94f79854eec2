"""Inner values of webhooks. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import Literal, NamedTuple

WebhookState = Literal["active", "disabled"]
DeliveryState = Literal["pending", "delivered", "failed", "canceled"]


class Webhook(NamedTuple):
    """A receiver, with its secrets still sealed; the fields are the columns of `auth_webhooks` in their order."""

    id: str
    url: str
    description: str
    types: str
    """Patterns separated by blanks: an event's type, `auth.*`, or `*`."""
    contact: str | None
    secret: bytes
    previous_secret: bytes | None
    previous_until: int | None
    signing_key: bytes | None
    state: WebhookState
    disabled_at: int | None
    disabled_reason: str | None
    failing_since: int | None
    paused_until: int | None
    last_success_at: int | None
    created_at: int
    updated_at: int


class NewWebhook(NamedTuple):
    """What an operator says of a receiver."""

    url: str
    types: tuple[str, ...] = ("*",)
    description: str = ""
    contact: str | None = None
    """Mail address of whoever is told when the receiver is disabled."""
    ed25519: bool = False
    """Whether messages are signed with `v1a` as well."""


class WebhookChange(NamedTuple):
    """What shall be different; None leaves it."""

    url: str | None = None
    types: tuple[str, ...] | None = None
    description: str | None = None
    contact: str | None = None
    state: WebhookState | None = None


class Issued(NamedTuple):
    """A receiver with what it verifies with. The secret is shown this once."""

    webhook: Webhook
    secret: str
    public_key: str | None


class Message(NamedTuple):
    """The text of an event, the same for all receivers."""

    id: str
    type: str
    body: str
    created_at: int


class Delivery(NamedTuple):
    """A message on its way to one receiver."""

    webhook_id: str
    message_id: str
    type: str
    state: DeliveryState
    attempts: int
    next_at: int
    created_at: int
    finished_at: int | None
    last_status: int | None
    last_error: str | None


class Claimed(NamedTuple):
    """A delivery that this worker alone attempts until the claim lapses."""

    webhook: Webhook
    message: Message
    attempts: int
    """Attempts before this one."""
    claim: str


class Attempt(NamedTuple):
    """One try, as the delivery log keeps it."""

    at: int
    id: str
    status: int | None
    error: str | None
    took_ms: int
    answer: str | None
    """The beginning of the answer's body."""


class Outcome(NamedTuple):
    """What an attempt means for its delivery and its receiver."""

    state: DeliveryState
    next_at: int
    pause_until: int | None = None
    disable: str | None = None
    """Why the receiver gets nothing any more."""
