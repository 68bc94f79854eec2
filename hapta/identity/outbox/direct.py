"""Mail without an outbox: for the resource server of a pair, whose auth server has it. Sent at once, or not at all."""

from __future__ import annotations

from hapta.identity.messages import Notice
from hapta.identity.outbox.templates import Templates
from hapta.kit.errors import Unavailable
from hapta.kit.ids import Ids
from hapta.mail.sender import Outgoing, Sender, SendFailed


class DirectMail:
    """Sends notices by mail."""

    def __init__(self, sender: Sender, templates: Templates, ids: Ids) -> None:
        self._sender = sender
        self._templates = templates
        self._ids = ids

    async def send(self, notice: Notice) -> None:
        """Hands a notice to the provider.

        Raises:
            Unavailable: it did not take it.
        """
        rendered = self._templates.render(notice.template, "email", notice.locale, notice.variables)
        message = Outgoing(
            channel="email",
            to=notice.to,
            subject=rendered.subject,
            text=rendered.text,
            html=rendered.html,
            template=notice.template,
            variables=notice.variables,
            idempotency_key=self._ids.uuid(),
        )
        try:
            await self._sender.send(message)
        except SendFailed as failure:
            raise Unavailable("The mail was not sent") from failure

    async def close(self) -> None:
        """Gives connections back."""
        await self._sender.close()
