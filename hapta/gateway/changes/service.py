"""Tells the gateway what changes in PocketBase, whoever changes it, and above all when that cannot be told.

Two streams listen to every collection as superuser. As long as one of them is live, nothing is missed. Whenever something may have
been missed, all that is known of PocketBase's records is out of date (contract gateway, C.4 points 3 to 6): `on_gap` says so once
the new subscription is confirmed, and until then `live` is False.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from hapta.gateway.changes.canary import CANARY, Canary, Superuser
from hapta.gateway.changes.connection import Upstream
from hapta.gateway.changes.stream import LIFE_SECONDS, ONLY_IDS, ChangeStream
from hapta.gateway.models import Collection
from hapta.kit.background import ended as tasks_ended
from hapta.kit.clock import Clock
from hapta.settings.gateway import GatewaySettings

ECHO_SECONDS = 1.0
"""How much later than due an echo of the canary may come."""

_log = structlog.stdlib.get_logger("hapta.gateway.changes")

OnChange = Callable[[str, str, str], None]
OnGap = Callable[[str], None]
OnLive = Callable[[bool], None]


class Collections(Protocol):
    """What is known of PocketBase's collections."""

    def all(self) -> Sequence[Collection]: ...
    def on_change(self, listener: Callable[[], None]) -> object: ...


class Changes:
    """The stream of changes of one worker. Listeners are called on the event loop, must not block and must not raise.

    Args:
        upstream: PocketBase, over connections that may be held for long.
    """

    def __init__(
        self, upstream: Upstream, superuser: Superuser, catalog: Collections, clock: Clock, settings: GatewaySettings
    ) -> None:
        self.lag_seconds = 0.0
        """How long the last echo of the canary took."""
        self.gaps = 0
        """How often all had to be taken for changed."""
        self.echoes = 0
        self._catalog = catalog
        self._clock = clock
        self._every_seconds = settings.canary_seconds
        self._canary = Canary(superuser)
        self._canary_sings = True
        self._touched_at: float | None = None
        self._on_change: list[OnChange] = []
        self._on_gap: list[OnGap] = []
        self._on_live: list[OnLive] = []
        self._live = False
        self._tasks: list[asyncio.Task[None]] = []
        self.streams = [
            ChangeStream(
                name,
                upstream,
                clock,
                superuser.token,
                self._topics,
                life,
                changed=self._changed,
                beat=self._echo,
                confirmed=self._confirmed,
                lost=self._lost,
            )
            for name, life in (("one", LIFE_SECONDS), ("two", LIFE_SECONDS / 2))
        ]
        catalog.on_change(self._schema_changed)

    @property
    def live(self) -> bool:
        """Whether nothing that changes now would be missed, as far as the last echoes prove."""
        return self._live

    def on_change(self, listener: OnChange) -> None:
        """`listener(collection_id, record_id, action)` for each change; these come in no order and may repeat."""
        self._on_change.append(listener)

    def on_gap(self, listener: OnGap) -> None:
        """`listener(reason)` when changes may have been missed and all after now will be told."""
        self._on_gap.append(listener)

    def on_live(self, listener: OnLive) -> None:
        """`listener(live)` when `live` has changed."""
        self._on_live.append(listener)

    async def open(self) -> None:
        """Starts listening. PocketBase may still be away."""
        loop = asyncio.get_running_loop()
        for stream in self.streams:
            stream.start()
        self._tasks = [
            loop.create_task(self._sing(), name="gateway-canary"),
            loop.create_task(self._judge(), name="gateway-canary-watch"),
        ]

    async def close(self) -> None:
        """Stops listening; returns when nothing runs any more."""
        await tasks_ended(*self._tasks)
        for stream in self.streams:
            await stream.stop()
        self._set_live(False)

    def _topics(self) -> Sequence[str]:
        # By id, so that another name is nothing new. View collections have no events of their own.
        return [
            f"{one.id}/*{ONLY_IDS}"
            for one in sorted(self._catalog.all(), key=lambda one: one.id)
            if one.type != "view" and one.name != CANARY
        ]

    def _schema_changed(self) -> None:
        topics = self._topics()
        for stream in self.streams:
            if not stream.covers(topics):
                # What happens in the new collection is told by nobody yet.
                stream.give_up("a collection came")

    def _changed(self, collection_id: str, record_id: str, action: str) -> None:
        for listener in self._on_change:
            listener(collection_id, record_id, action)

    def _confirmed(self, stream: ChangeStream) -> None:
        if not self._live:
            self._gap(f"stream {stream.name} is confirmed")
            self._set_live(True)

    def _lost(self, stream: ChangeStream, reason: str) -> None:
        others = [other for other in self.streams if other is not stream and other.live]
        _log.info("a stream of changes is lost", stream=stream.name, reason=reason, others=len(others))
        if not others:
            self._set_live(False)
        elif not any(other.since <= stream.proved for other in others):
            # The other one came back while this one may have been dead already.
            self._gap(f"stream {stream.name} was lost")

    def _gap(self, reason: str) -> None:
        self.gaps += 1
        for listener in self._on_gap:
            listener(reason)

    def _set_live(self, live: bool) -> None:
        if live != self._live:
            self._live = live
            for listener in self._on_live:
                listener(live)

    def _echo(self) -> None:
        self.echoes += 1
        if self._touched_at is not None:
            self.lag_seconds, self._touched_at = self._clock.monotonic() - self._touched_at, None

    async def _sing(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._touched_at = self._clock.monotonic()
            touched = "away"
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_seconds + ECHO_SECONDS):
                    touched = await self._canary.touch()
            if touched == "touched":
                self._canary_sings = True
            elif touched == "refused" and self._canary_sings:
                self._canary_sings = False
                _log.warning("PocketBase refuses the canary; a stream that dies silently is noticed by TCP alone")
            due = max(due + self._every_seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _judge(self) -> None:
        """Takes a stream for lost whose echo did not come in time."""
        allowed = self._every_seconds + ECHO_SECONDS
        while True:
            now = self._clock.monotonic()
            wait = allowed
            for stream in self.streams:
                left = stream.proved + allowed - now
                if stream.live and self._canary_sings and left <= 0:
                    stream.give_up("no echo")
                elif stream.live:
                    wait = min(wait, max(left, 0.0) + 0.001)
            await asyncio.sleep(max(wait, 0.01))
