"""`Updates`: how every other part of the relay tells clients something, after its commit and without knowing a socket."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.relay.models import Event, Update
from hapta.relay.updates.hub import Hub


class Updates:
    """The way out of a service.

    Args:
        hub: the sockets of this worker.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def is_alone(self) -> bool:
        """Whether all sockets there are belong to this worker."""
        return self._hub.is_alone

    async def announce(self, updates: Sequence[Update]) -> None:
        """Tells numbered updates, once they are committed. An announcement that gets lost is told from the log instead."""
        if updates:
            await self._hub.publish(updates, ())

    async def tell(self, *events: Event) -> None:
        """Tells what has no number, at most once."""
        if events:
            await self._hub.publish((), events)
