"""What nouns need of the hub: somebody who tells. `updates.service.Updates` is the one that does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hapta.relay.models import Event, Update


class Teller(Protocol):
    """Tells sockets of an account, in this worker and in all others. Nothing here raises."""

    @property
    def is_alone(self) -> bool:
        """Whether all sockets there are belong to this worker: what it announces after a commit then reaches them, or nobody is left
        to hear it. May change; not to be remembered."""
        ...

    async def announce(self, updates: Sequence[Update], /) -> None:
        """Tells what a transaction numbered; called after its commit."""
        ...

    async def tell(self, *events: Event) -> None:
        """Tells ephemerals and other frames without a number."""
        ...
