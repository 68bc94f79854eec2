"""The other workers, as far as calls go: who they are, which of their sockets answers, and how it is asked.

Two steps: everybody is asked who has the target, and exactly one worker is asked to ask it. A worker that says nothing for a while
is dead, and what it was asked has failed. The bus delivers at most once, so every wait here ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.relay.rpc.models import Ask, Cancel, Changed, Done, Has, Hello, Who, Word

CHANNEL = "relay.rpc"
HELLO_SECONDS = 2.0
DEAD_SECONDS = 9.0
"""A worker that has said nothing for so long is dead."""
WHO_SECONDS = 0.5
"""So long the others may take to say who has a target."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Word).decode
_log = structlog.stdlib.get_logger("hapta.relay.rpc")

Handle = Callable[[Word], None]


class _Question:
    __slots__ = ("answers", "found", "waits_for")

    def __init__(self, waits_for: set[str]) -> None:
        self.waits_for = waits_for
        self.answers: list[Has] = []
        self.found: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Peers:
    """The other workers.

    Args:
        handle: is told all words but `Hello` and `Has`, which are for this class. It must not wait.
        lost: is told of a worker that is gone.
        spawn: begins a short-lived task that somebody minds.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        worker_id: str,
        handle: Handle,
        lost: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._worker_id = worker_id
        self._handle = handle
        self._lost = lost
        self._spawn = spawn
        self._heard: dict[str, float] = {}
        self._questions: dict[str, _Question] = {}
        self._changes: list[tuple[str, str, str, bool]] = []
        self._unsubscribe: list[Callable[[], None]] = []
        self._routine = Routine("calls' other workers", self.turn, HELLO_SECONDS)

    async def start(self) -> None:
        """Begins to hear the others, and says that this worker is there."""
        for channel in (CHANNEL, _channel_of(self._worker_id)):
            self._unsubscribe.append(await self._bus.subscribe(channel, self._receive))
        await self._bus.publish(CHANNEL, _encode(Hello(self._worker_id)))
        self._routine.start()

    async def close(self) -> None:
        """Says good-bye and hears nothing more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._routine.stop()
        await self._bus.publish(CHANNEL, _encode(Hello(self._worker_id, leaves=True)))

    @property
    def workers(self) -> list[str]:
        """The other workers that live."""
        return list(self._heard)

    async def turn(self) -> None:
        """Says that this worker lives, and buries those that do not."""
        await self._bus.publish(CHANNEL, _encode(Hello(self._worker_id)))
        now = self._clock.monotonic()
        for worker in [worker for worker, heard in self._heard.items() if now - heard > DEAD_SECONDS]:
            self._bury(worker)

    def _bury(self, worker: str) -> None:
        if self._heard.pop(worker, None) is not None:
            for question in self._questions.values():
                _answered(question, worker)
            self._lost(worker)

    # -- what this worker says -------------------------------------------------------------------------------------------

    async def tell(self, worker: str, word: Ask | Done | Cancel | Has) -> None:
        """Says something to one worker."""
        await self._bus.publish(_channel_of(worker), _encode(word))

    def changed(self, account_id: str, keys: list[str], connection_id: str, *, answers: bool) -> None:
        """Tells all workers, soon, what a socket answers to from now on or no longer."""
        if not self._changes:
            asyncio.get_running_loop().call_soon(self._tell_changes)
        self._changes += [(account_id, key, connection_id, answers) for key in keys]

    def _tell_changes(self) -> None:
        changes, self._changes = self._changes, []
        if self._heard:  # nobody else: nobody to tell
            self._spawn(self._bus.publish(CHANNEL, _encode(Changed(self._worker_id, changes))))

    async def who(self, question_id: str, account_id: str, method: str, caller: str) -> tuple[list[Has], bool]:
        """What the others say of a target, and whether all of them said something.

        Ends as soon as one has it, else when all have answered, in bounded time.
        """
        if not self._heard:
            return [], True
        question = self._questions[question_id] = _Question(set(self._heard))
        try:
            await self._bus.publish(CHANNEL, _encode(Who(self._worker_id, question_id, account_id, method, caller)))
            async with asyncio.timeout(WHO_SECONDS):
                await question.found
        except TimeoutError:
            pass  # whoever has not answered by now is busy, or has just died
        finally:
            del self._questions[question_id]
        return question.answers, not question.waits_for

    # -- what it hears ---------------------------------------------------------------------------------------------------

    def _receive(self, message: bytes) -> None:
        try:
            word = _decode(message)
        except ValueError:  # another version of the server speaks on this bus
            _log.warning("unreadable word of another worker")
            return
        if word.worker == self._worker_id:
            return
        if isinstance(word, Hello) and word.leaves:
            self._bury(word.worker)
            return
        if word.worker not in self._heard:
            # Whoever is new learns at once of those that are here.
            self._spawn(self._bus.publish(CHANNEL, _encode(Hello(self._worker_id))))
        self._heard[word.worker] = self._clock.monotonic()
        if isinstance(word, Has):
            question = self._questions.get(word.id)
            if question is not None:
                question.answers.append(word)
                _answered(question, word.worker, found=bool(word.connection))
        elif not isinstance(word, Hello):
            self._handle(word)


def _answered(question: _Question, worker: str, *, found: bool = False) -> None:
    question.waits_for.discard(worker)
    if (found or not question.waits_for) and not question.found.done():
        question.found.set_result(None)


def _channel_of(worker: str) -> str:
    return f"{CHANNEL}.{worker}"
