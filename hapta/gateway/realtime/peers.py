"""Workers among themselves: a client's stream is at one of them, its next request may come to any.

The first characters of a client's id name the worker that holds its stream. Where there is only one worker, nobody is asked.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.gateway.errors import LimitReached, TokenRefused, UpstreamAway
from hapta.gateway.models import Json
from hapta.http.errors import status_of
from hapta.kit.background import ended as tasks_ended
from hapta.kit.errors import Forbidden, HaptaError, Invalid, NotFound

TAG_LENGTH = 6
CLIENT_ID_LENGTH = 40
ASK_SECONDS = 15.0
"""A subscription may have to wait for PocketBase, which has less time than that."""

_LETTERS = string.ascii_letters + string.digits
_CHANNEL = "gateway.realtime."
_ERRORS: Mapping[int, type[HaptaError]] = {
    400: Invalid,
    401: TokenRefused,
    403: Forbidden,
    404: NotFound,
    429: LimitReached,
}
_log = structlog.stdlib.get_logger("hapta.gateway.realtime")

Handle = Callable[[str, dict[str, Json]], Awaitable[bool]]


class _Asked(msgspec.Struct):
    id: str
    by: str
    kind: str
    what: dict[str, Json]


class _Answered(msgspec.Struct):
    id: str
    yes: bool = False
    status: int = 0
    message: str = ""
    details: dict[str, Json] = {}


def random_letters(length: int) -> str:
    """Letters and digits that nobody guesses; 40 of them hold 238 bits."""
    return "".join([secrets.choice(_LETTERS) for _ in range(length)])


class Peers:
    """This worker among the others.

    Args:
        bus: None where there are no others.
    """

    def __init__(self, bus: Bus | None) -> None:
        self.tag = random_letters(TAG_LENGTH)
        self._bus = bus
        self._handle: Handle | None = None
        self._waiting: dict[str, asyncio.Future[_Answered]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._unsubscribe: list[Callable[[], None]] = []

    def client_id(self) -> str:
        """The id of a new client of this worker."""
        return self.tag + random_letters(CLIENT_ID_LENGTH - TAG_LENGTH)

    async def open(self, handle: Handle) -> None:
        """Answers others from now on.

        Args:
            handle: `(kind, what) -> yes or no`; what it raises of ours is told to whoever asks.
        """
        self._handle = handle
        if self._bus is not None:
            self._unsubscribe = [
                await self._bus.subscribe(f"{_CHANNEL}ask.{self.tag}", self._asked),
                await self._bus.subscribe(f"{_CHANNEL}answer.{self.tag}", self._answered),
            ]

    async def close(self) -> None:
        """Answers nobody any more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await tasks_ended(*self._working)

    async def ask(self, client_id: str, kind: str, what: Mapping[str, Json]) -> bool:
        """What the worker says that holds a client's stream. False as well when there is none.

        Raises:
            HaptaError: as it was raised there.
        """
        tag = client_id[:TAG_LENGTH]
        if (
            self._bus is None
            or tag == self.tag
            or len(client_id) != CLIENT_ID_LENGTH
            or not (client_id.isascii() and client_id.isalnum())
        ):
            return False
        asked = _Asked(random_letters(22), self.tag, kind, dict(what))
        future: asyncio.Future[_Answered] = asyncio.get_running_loop().create_future()
        self._waiting[asked.id] = future
        try:
            await self._bus.publish(f"{_CHANNEL}ask.{tag}", msgspec.json.encode(asked))
            async with asyncio.timeout(ASK_SECONDS):
                answer = await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[asked.id]
        if not answer.status:
            return answer.yes
        raise _ERRORS.get(answer.status, UpstreamAway)(answer.message, **answer.details)

    def _asked(self, message: bytes) -> None:
        try:
            asked = msgspec.json.decode(message, type=_Asked)
        except msgspec.DecodeError:
            _log.warning("an unreadable message of another worker was dropped")
            return
        if self._handle is None or self._bus is None:
            return
        work = self._answer(asked, self._handle, self._bus)
        task = asyncio.get_running_loop().create_task(work, name="gateway-realtime-peer")
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _answer(self, asked: _Asked, handle: Handle, bus: Bus) -> None:
        try:
            answer = _Answered(asked.id, await handle(asked.kind, asked.what))
        except HaptaError as error:
            answer = _Answered(asked.id, False, status_of(type(error)), error.message, dict(error.details))
        await bus.publish(f"{_CHANNEL}answer.{asked.by}", msgspec.json.encode(answer))

    def _answered(self, message: bytes) -> None:
        try:
            answer = msgspec.json.decode(message, type=_Answered)
        except msgspec.DecodeError:
            _log.warning("an unreadable message of another worker was dropped")
            return
        future = self._waiting.get(answer.id)
        if future is not None and not future.done():
            future.set_result(answer)
