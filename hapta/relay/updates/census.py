"""The sockets of an account on all workers, for whoever asks about them now and then.

Each worker says a word every few seconds, so that one that asks knows from whom to expect an answer. One worker alone is
never waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.kit.ids import Ids
from hapta.relay.models import Audience, ScopeKind
from hapta.relay.updates.hub import TICK_SECONDS, Connection, Hub

CHANNEL = "relay.census"
ANSWER_SECONDS = 0.5
"""A worker that has not answered by then is counted as if it held none."""
GONE_SECONDS = 3 * TICK_SECONDS

_log = structlog.stdlib.get_logger("hapta.relay.census")


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A socket, wherever it is.

    Args:
        opened_at: Unix ms.
        watched: whether its app said that somebody looks at it.
    """

    id: str
    kind: ScopeKind
    session_id: str
    machine_id: str
    opened_at: int
    watched: bool = False

    def hears(self, audience: Audience) -> bool:
        """As `Hub.listeners` finds it."""
        user = self.kind == "user-scoped"
        session = self.kind == "session-scoped" and self.session_id == audience.id
        machine = self.kind == "machine-scoped" and self.machine_id == audience.id
        match audience.kind:
            case "user":
                return user
            case "session":
                return user or session
            case "machine":
                return user or machine
            case "only-session":
                return session
            case "only-machine":
                return machine
            case "all":
                return True


class _Word(msgspec.Struct, frozen=True, array_like=True):
    """What workers say: `here` is a sign of life, `ask` wants the sockets of an account, `tell` has them."""

    kind: str
    worker_id: str
    question: str = ""
    account_id: str = ""
    members: Sequence[Member] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Word).decode


class _Question:
    __slots__ = ("done", "members", "missing")

    def __init__(self, members: list[Member], missing: set[str]) -> None:
        self.members = members
        self.missing = missing
        self.done = asyncio.Event()


class Census:
    """Asks all workers about the sockets of an account."""

    def __init__(self, hub: Hub, bus: Bus, ids: Ids) -> None:
        self._hub = hub
        self._bus = bus
        self._ids = ids
        self._peers: dict[str, float] = {}
        self._questions: dict[str, _Question] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Begins to listen, and makes itself known."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._receive)
        await self.say_here()

    async def close(self) -> None:
        """Listens no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        while self._answers:
            await asyncio.wait(self._answers)

    async def say_here(self) -> None:
        """One sign of life."""
        await self._bus.publish(CHANNEL, _encode(_Word("here", self._hub.worker_id)))

    @property
    def peers(self) -> set[str]:
        """The other workers that were heard of lately."""
        oldest = self._hub.clock.monotonic() - GONE_SECONDS
        return {worker_id for worker_id, heard_at in self._peers.items() if heard_at >= oldest}

    async def members(self, account_id: str) -> list[Member]:
        """The sockets of an account on all workers."""
        question = _Question(self._own(account_id), self.peers)
        if question.missing:
            question_id = self._ids.uuid()
            self._questions[question_id] = question
            try:
                await self._bus.publish(CHANNEL, _encode(_Word("ask", self._hub.worker_id, question_id, account_id)))
                async with asyncio.timeout(ANSWER_SECONDS):
                    await question.done.wait()
            except TimeoutError:
                pass
            finally:
                del self._questions[question_id]
        return question.members

    async def is_watched(self, account_id: str) -> bool:
        """Whether somebody looks at an app of the account now."""
        return any(member.watched for member in await self.members(account_id))

    def _own(self, account_id: str) -> list[Member]:
        return [_member(connection) for connection in self._hub.of_account(account_id)]

    def _receive(self, message: bytes) -> None:
        try:
            word = _decode(message)
        except msgspec.DecodeError:  # another version of the server speaks on this bus
            _log.warning("unreadable word of another worker")
            return
        if word.worker_id == self._hub.worker_id:
            return
        is_new = word.worker_id not in self._peers
        self._peers[word.worker_id] = self._hub.clock.monotonic()
        match word.kind:
            case "ask":
                told = _Word("tell", self._hub.worker_id, word.question, members=self._own(word.account_id))
                self._say(told)
            case "tell":
                self._told(word)
            case _ if is_new:
                self._say(_Word("here", self._hub.worker_id))
            case _:
                pass

    def _told(self, word: _Word) -> None:
        question = self._questions.get(word.question)
        if question is not None and word.worker_id in question.missing:
            question.members += word.members
            question.missing.discard(word.worker_id)
            if not question.missing:
                question.done.set()

    def _say(self, word: _Word) -> None:
        task = asyncio.get_running_loop().create_task(self._bus.publish(CHANNEL, _encode(word)))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


def _member(connection: Connection) -> Member:
    scope = connection.scope
    # Only the sockets of one protocol hear from their apps whether they are in front.
    watched = scope.kind == "user-scoped" and getattr(connection, "app_state", "") == "active"
    return Member(connection.id, scope.kind, scope.session_id, scope.machine_id, connection.opened_at, watched)
