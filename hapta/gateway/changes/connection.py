"""One realtime connection to PocketBase with one set of topics that is never replaced.

PocketBase replaces topics by "unsubscribe all, then subscribe", and an event in between is lost (contract gateway, A.7). So whoever
wants other topics opens another connection and closes this one when the new one is confirmed. The identity is that of the token
with which the topics were submitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import structlog

from hapta.gateway.errors import UpstreamBroken, UpstreamSlow
from hapta.gateway.models import Answer, Headers
from hapta.gateway.upstream.sse import Event, events
from hapta.kit.background import ended as tasks_ended
from hapta.kit.errors import HaptaError

MAX_TOPICS = 1000
"""What PocketBase takes for one connection."""
OPEN_SECONDS = 10.0
PATH = "/api/realtime"
ADDRESS = "127.0.0.1"
"""What PocketBase sees as the client of our own streams; it compares that of the stream with that of the topics' POST."""

_log = structlog.stdlib.get_logger("hapta.gateway.realtime")

Receive = Callable[["Connection", Event], Awaitable[None]]


class Streamed(Protocol):
    """An answer of PocketBase as it arrives."""

    @property
    def status(self) -> int: ...
    @property
    def chunks(self) -> AsyncIterator[bytes]: ...


class Upstream(Protocol):
    """The client of PocketBase, as far as streams need it. Its connections must not be few: each stream holds one."""

    async def send(
        self,
        method: str,
        target: str,
        *,
        token: str = "",
        headers: Headers = (),
        body: bytes | None = None,
        media_type: str = "",
        address: str = "",
    ) -> Answer: ...

    def stream(
        self, method: str, target: str, *, token: str = "", address: str = ""
    ) -> AbstractAsyncContextManager[Streamed]: ...


class SubscriptionRefused(UpstreamBroken):
    """PocketBase did not take the topics."""

    def __init__(self, status: int) -> None:
        super().__init__(f"PocketBase answered a subscription with {status}")
        self.status = status


class _Topics(msgspec.Struct):
    clientId: str
    subscriptions: Sequence[str]


class Connection:
    """One stream. Made, opened once, closed once.

    Args:
        topics: at most `MAX_TOPICS`; no two equal.
        receive: is awaited for every event but `PB_CONNECT`, in their order.
        lost: called when the stream ended by itself after it was open, never after `close`.
    """

    def __init__(
        self, upstream: Upstream, topics: Sequence[str], receive: Receive, lost: Callable[[Connection], None]
    ) -> None:
        self.topics = topics
        self._upstream = upstream
        self._receive = receive
        self._lost = lost
        self._reader: asyncio.Task[None] | None = None
        self._open = False
        self._greeted: asyncio.Future[str] | None = None
        self.client_id = ""
        """PocketBase's id of it, while it is open: a secret."""

    @property
    def open(self) -> bool:
        """Whether the topics are confirmed and the stream has not ended."""
        return self._open

    async def start(self, token: str) -> None:
        """Connects and submits the topics; returns when they are in force.

        Raises:
            UpstreamAway, UpstreamSlow, UpstreamBroken: it did not come to that; nothing stays open.
        """
        loop = asyncio.get_running_loop()
        greeted = self._greeted = loop.create_future()
        self._reader = loop.create_task(self._read(greeted), name="gateway-stream")
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                client_id = self.client_id = await greeted
                answer = await self._upstream.send(
                    "POST",
                    PATH,
                    token=token,
                    body=msgspec.json.encode(_Topics(client_id, self.topics)),
                    media_type="application/json",
                    address=ADDRESS,
                )
            if answer.status != 204:
                raise SubscriptionRefused(answer.status)
            if self._reader.done():
                raise UpstreamBroken
        except TimeoutError:
            await self.close()
            raise UpstreamSlow from None
        except BaseException:
            await self.close()
            raise
        self._open = True

    async def close(self) -> None:
        """Ends the stream; returns when nothing of it runs any more."""
        self._open = False
        self._lost = _nobody
        if self._greeted is not None and self._greeted.done() and not self._greeted.cancelled():
            self._greeted.exception()
        if self._reader is not None and self._reader is not asyncio.current_task():
            await tasks_ended(self._reader)

    async def _read(self, greeted: asyncio.Future[str]) -> None:
        problem: HaptaError = UpstreamBroken("PocketBase closed its stream")
        try:
            async with self._upstream.stream("GET", PATH, address=ADDRESS) as streamed:
                if streamed.status != 200:
                    raise SubscriptionRefused(streamed.status)
                async for event in events(streamed.chunks):
                    if not greeted.done() and event.name == "PB_CONNECT":
                        greeted.set_result(event.id)
                    else:
                        await self._receive(self, event)
        except HaptaError as error:
            problem = error
        except (OSError, ValueError) as error:
            problem = UpstreamBroken(str(error))
        finally:
            was_open, self._open = self._open, False
            if not greeted.done():
                greeted.set_exception(problem)
            if was_open:
                self._lost(self)


def _nobody(connection: Connection) -> None:
    """Nobody waits for the end of a connection that was closed on purpose."""
