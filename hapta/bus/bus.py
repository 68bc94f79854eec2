"""`Bus`: hints between workers. At most once, in order per publisher, and honest about gaps.

A message is a hint, never the only copy of a fact: whoever subscribes can always look the truth up in the database. When
messages may have been missed (the connection to Redis was lost and came back) every subscription's `gap` is called, and
its owner treats all it knows as stale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

Receive = Callable[[bytes], None]
Gap = Callable[[], None]


class Bus(ABC):
    """An open bus."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether what is published now reaches every worker, as far as this worker can tell."""

    @abstractmethod
    def is_alone(self, channel: str) -> bool:
        """Whether at most one subscription of this process hears `channel`, and no other process does: its owner may then keep to
        himself what he would publish there. May change whenever somebody subscribes; not to be remembered."""

    @abstractmethod
    async def publish(self, channel: str, message: bytes) -> None:
        """Tells all subscribers of `channel`, in this worker and in every other. Never raises for a bus that is away:
        the loss is counted, and subscribers are told of the gap when it is back."""

    @abstractmethod
    async def subscribe(self, channel: str, receive: Receive, gap: Gap | None = None) -> Callable[[], None]:
        """Calls `receive` on the event loop for every message from now on; it must not block and must not raise.

        Returns when the subscription is in force; the returned function ends it.
        """

    @abstractmethod
    async def increment(self, key: str, by: int = 1, *, ttl_seconds: int) -> int:
        """Adds to a shared counter that lives `ttl_seconds` after its last change; its new value."""

    @abstractmethod
    async def close(self) -> None: ...
