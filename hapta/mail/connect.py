"""From settings to senders: one for each channel, with the second way where one is set up."""

from __future__ import annotations

from pathlib import Path

from hapta.kit.clock import Clock
from hapta.mail.file import FileSender
from hapta.mail.sender import Channel, FailOver, Sender
from hapta.mail.webhook import Post, WebhookSender
from hapta.settings import MailSettings

FOLDER = "outbox"


class MailMisconfigured(ValueError):
    """A way to send is chosen, but what it needs is missing or malformed; the text says what to set."""


def senders(settings: MailSettings, data_dir: Path, clock: Clock, post: Post) -> dict[Channel, Sender]:
    """The senders by channel. Text messages have one only with a provider, or with files in development.

    Args:
        post: makes outgoing requests; `GuardedFetch` behind it.

    Raises:
        MailMisconfigured: a URL or secret is missing or malformed.
    """
    files = FileSender(data_dir / FOLDER, clock, settings.from_address)
    try:
        mail: Sender = files if settings.sender == "file" else _mail(settings.sender, settings, clock, post)
        if settings.fallback != "none":
            mail = FailOver(mail, _mail(settings.fallback, settings, clock, post))
        found: dict[Channel, Sender] = {"email": mail}
        if settings.sms_webhook_url:
            found["sms"] = WebhookSender(settings.sms_webhook_url, settings.sms_webhook_secret, clock, post)
        elif settings.sender == "file":
            found["sms"] = files
    except ValueError as error:
        raise MailMisconfigured(f"mail: {error}") from error
    return found


def _mail(kind: str, settings: MailSettings, clock: Clock, post: Post) -> Sender:
    if kind == "webhook":
        if not settings.webhook_url:
            raise ValueError("set mail.webhook_url and mail.webhook_secret")
        return WebhookSender(settings.webhook_url, settings.webhook_secret, clock, post)
    from hapta.mail.smtp import SmtpSender, SmtpServer  # only who sends mail needs what that brings

    server = SmtpServer.parse(settings.smtp_url)
    return SmtpSender(server, settings.from_address, clock, timeout_seconds=settings.timeout_seconds)
