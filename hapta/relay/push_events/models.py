"""A push notification about a session, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Kind = Literal["done", "permission", "question"]
Result = Literal["sent", "partial", "suppressed", "no_tokens", "failed"]


class Notification(NamedTuple):
    """What a phone shows, and what its app is handed when it is touched."""

    kind: Kind
    title: str
    body: str
    data: Mapping[str, Any] | None


class Delivery(NamedTuple):
    """What became of it: how many phones there are, how many of them the carrier took it for, and why it went to none."""

    result: Result
    tokens: int | None = None
    delivered: int | None = None
    reason: str | None = None


class Ticket(NamedTuple):
    """What the carrier says of one phone: whether it took the notification, and whether it knows the phone no more."""

    taken: bool
    is_gone: bool


class Carrier(Protocol):
    """Whoever reaches phones: `expo.Expo`."""

    @property
    def configured(self) -> bool:
        """Whether there is one."""
        ...

    async def push(
        self, tokens: Sequence[str], notification: Notification, data: Mapping[str, Any], /
    ) -> Sequence[Ticket] | str:
        """Hands a notification over for some phones.

        Returns:
            What became of it for each of them, in their order; a sentence when the carrier says nothing.
        """
        ...
