"""The `Sender` port: one message, one provider. Adapters beside it: `smtp.py`, `webhook.py`, `file.py`.

The outbox calls `send` and decides by the error: `TryLater` comes again, `Refused` never. A sender keeps nothing and retries
nothing itself; sending twice with one idempotency key is what a provider may use to send once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec
import structlog

Channel = Literal["email", "sms"]

_log = structlog.stdlib.get_logger("hapta.mail")


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A message, ready to be sent."""

    channel: Channel
    to: str
    subject: str
    """Empty for text messages."""
    text: str
    html: str | None
    template: str
    variables: Mapping[str, str]
    """What the text was made from, for providers that word messages themselves."""
    idempotency_key: str


class SendFailed(Exception):
    """The message did not go out. The text is for the log and holds neither the address nor the message."""


class TryLater(SendFailed):
    """Not now: the provider is away, slow, busy or set up wrongly."""


class Refused(SendFailed):
    """Never: this message or its address is not acceptable."""


class Sender(Protocol):
    """One way to get a message to a person."""

    async def send(self, message: Outgoing) -> None:
        """Hands the message to the provider; comes back once the provider has taken it.

        Raises:
            TryLater: it may be sent again.
            Refused: sending it again is no use.
        """
        ...

    async def close(self) -> None:
        """Gives connections back."""
        ...


class FailOver:
    """Two ways: the second one serves while the first one cannot.

    A message that the first one refuses is refused: another provider would only find the same.
    """

    def __init__(self, first: Sender, second: Sender) -> None:
        self._first = first
        self._second = second

    async def send(self, message: Outgoing) -> None:
        """See `Sender.send`."""
        try:
            await self._first.send(message)
        except TryLater as error:
            _log.warning("the second way is used for a message", id=message.idempotency_key, error=str(error))
            await self._second.send(message)

    async def close(self) -> None:
        """See `Sender.close`."""
        await self._first.close()
        await self._second.close()
