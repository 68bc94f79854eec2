"""What webhooks refuse."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Invalid, NotFound


class WebhookNotFound(NotFound):
    """There is no such receiver."""

    code = "webhook_not_found"
    message = "There is no such webhook"


class DeliveryNotFound(NotFound):
    """The receiver was never sent such a message, or its record is too old."""

    code = "delivery_not_found"
    message = "There is no such delivery"


class WebhookDisabled(Conflict):
    """The receiver is switched off."""

    code = "webhook_disabled"
    message = "The webhook is disabled; enable it first"


class BadWebhookUrl(Invalid):
    """The URL is not one that this server calls."""

    code = "invalid_webhook_url"
    message = "This URL cannot be called"


class BadEventTypes(Invalid):
    """A pattern fits no event."""

    code = "invalid_event_types"
    message = "A pattern is the type of an event, a beginning of types like `auth.*`, or `*`"


class BadContact(Invalid):
    """The contact is no mail address."""

    code = "invalid_contact"
    message = "The contact is not an e-mail address"
