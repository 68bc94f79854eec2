"""Who listens to what in this worker: the part that the memory bus and the Redis bus share."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from hapta.bus.bus import Gap, Receive

_log = structlog.get_logger("hapta.bus")


class _Subscription:
    __slots__ = ("active", "gap", "receive")

    def __init__(self, receive: Receive, gap: Gap | None) -> None:
        self.receive = receive
        self.gap = gap
        self.active = True


class Subscribers:
    """All subscriptions of one worker, by channel."""

    def __init__(self) -> None:
        self._by_channel: dict[str, list[_Subscription]] = {}

    def channels(self) -> list[str]:
        return list(self._by_channel)

    def count(self, channel: str) -> int:
        """How many subscriptions a channel has."""
        return len(self._by_channel.get(channel, ()))

    def add(self, channel: str, receive: Receive, gap: Gap | None) -> Callable[[], bool]:
        """Adds one; the function that it returns ends it and tells whether it was the last of its channel."""
        subscription = _Subscription(receive, gap)
        self._by_channel.setdefault(channel, []).append(subscription)

        def end() -> bool:
            if not subscription.active:
                return False
            subscription.active = False
            others = self._by_channel[channel]
            others.remove(subscription)
            if others:
                return False
            del self._by_channel[channel]
            return True

        return end

    def deliver(self, channel: str, message: bytes) -> None:
        """Calls everybody who listens; one that raises is logged and takes nothing from the others."""
        # A copy, and asked once more: a subscriber may end itself or another one while it is called.
        for subscription in tuple(self._by_channel.get(channel, ())):
            if subscription.active:
                try:
                    subscription.receive(message)
                except Exception as error:  # the boundary to code that the bus does not know
                    _log.error("a subscriber failed", channel=channel, exc_info=error)

    def tell_of_gap(self) -> None:
        """Tells everybody that messages may have been missed."""
        for channel, subscriptions in tuple(self._by_channel.items()):
            for subscription in tuple(subscriptions):
                if subscription.active and subscription.gap is not None:
                    try:
                        subscription.gap()
                    except Exception as error:  # the boundary to code that the bus does not know
                        _log.error("a subscriber failed to handle a gap", channel=channel, exc_info=error)
