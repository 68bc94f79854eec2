"""Handlers that answer `Later`: whether a task was made for a request or not, whoever sent it gets the same."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from hapta.http.answering import access_lines
from hapta.http.api import Later, Reply, Table
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.errors import SYNC
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.protocol import AT_ONCE_BYTES, BoundedHttpProtocol
from hapta.kit.access import SESSION, Caller, SessionId, UserId
from hapta.kit.errors import Conflict, InvalidToken
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import Decision, Limiter, MemoryLimiter, Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.http.house import Letter
from tests.http.test_repeats import Wire

pytestmark = pytest.mark.anyio

LETTER = b'{"text":"hello","number":5}'


class Known:
    """Knows every token that begins with `of-`, at once."""

    def cached(self, token: str) -> Caller | None:
        return Caller(UserId(token), SessionId(f"session {token}"), 1, None, 4e9) if token.startswith("of-") else None

    async def verify(self, token: str) -> Caller:
        raise InvalidToken


class Distant:
    """A limiter that has to be waited for."""

    def __init__(self, memory: MemoryLimiter) -> None:
        self._memory = memory

    async def hit(self, key: str, rate: Rate, cost: int = 1) -> Decision:
        return self._memory.hit(key, rate, cost)

    async def close(self) -> None:
        pass


@dataclass
class Office:
    """An application whose letters are answered when the test says so, and one connection to it.

    Args:
        at_once: whether the application offers its way without a task.
    """

    at_once: bool = True
    rate: str = "600/60:200"
    distant: bool = False
    waiting: list[asyncio.Future[str]] = field(default_factory=list["asyncio.Future[str]"])
    wire: Wire = field(default_factory=Wire)
    metrics: Metrics = field(default_factory=Metrics)
    lines: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        def post(caller: Caller, body: Letter) -> Later:
            if body.text == "refused":
                raise Conflict("No")
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            return Later(future, lambda result: answer(caller, body, result))

        def answer(caller: Caller, body: Letter, result: str) -> Reply:
            if result == "late":
                raise Conflict("Too late")
            extra = ((b"x-bad", b"a\r\nb: c"),) if result == "bad header" else ()
            content = result * 4000 if result == "long " else f"{caller.user_id}: {body.text} {result}"
            return Reply(200, json.dumps({"text": content}).encode(), extra)

        clock = FakeClock()
        memory = MemoryLimiter(clock.monotonic)
        limiter = cast(Limiter, Distant(memory)) if self.distant else memory
        classes = {
            "default": LimitClass("default", Rate(600, 60, 200), "address"),
            "account": LimitClass("account", Rate.parse(self.rate), "account"),
        }
        self.access_log = AccessLog(self.lines, encode=access_lines)
        edge = Edge(
            ServerSettings(max_body_bytes=2 * AT_ONCE_BYTES),
            Known(),
            Limits(limiter, classes),
            Cors(["*"]),
            self.metrics,
            clock,
            self.access_log,
        )
        table = Table(dialect=SYNC, access=SESSION, limit="account")
        self.application = Application([table.post("/letters", post, summary="Post", answers={200: Letter})], edge)

    def connect(self) -> BoundedHttpProtocol:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.application(scope, receive, send)

        if self.at_once:
            cast(Any, app).find_at_once = self.application.find_at_once
        config = uvicorn.Config(app, log_config=None, interface="asgi3", date_header=False, server_header=False)
        config.load()
        config.loaded_app = cast(Any, app)
        self.protocol = BoundedHttpProtocol(config=config, server_state=ServerState(), app_state={})
        self.protocol.connection_made(cast(Any, self.wire))
        return self.protocol

    async def settle(self) -> None:
        """Lets everything run that need not wait for the test."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def begin(self, body: bytes = LETTER, head: str = "", token: str = "of-a") -> None:
        """Sends a request; two like it, which are answered, came before it: so its head is known."""
        for _ in range(2):
            self.protocol.data_received(letter(LETTER, head, token))
            await self.settle()
            if self.waiting:
                self.waiting.pop().set_result("before")
            await self.settle()
        self.wire.written.clear()
        self.protocol.data_received(letter(body, head, token))
        if not self.at_once or not self.waiting:
            await self.settle()

    async def end(self, how: Callable[[asyncio.Future[str]], object] | None) -> bytes:
        """Lets its future be done, where it waits for one; what was answered, without what is of one request only."""
        if self.waiting and how is not None:
            how(self.waiting.pop())
        await self.settle()
        answer = b"".join(self.wire.written)
        answer = re.sub(rb"[0-9a-f]{12}-[0-9a-f]+", b"ID", answer)
        return re.sub(rb"dur=[0-9.]+|[0-9-]{10}T[0-9:.]+Z", b"TIME", answer)

    def close(self) -> None:
        self.protocol.connection_lost(None)
        self.access_log.close()


def letter(body: bytes, head: str = "", token: str = "of-a") -> bytes:
    lines = f"POST /letters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{head}"
    if "Content-Type" not in head:
        lines += "Content-Type: application/json\r\n"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
async def offices() -> AsyncIterator[Callable[..., Office]]:
    opened: list[Office] = []

    def new(**how: Any) -> Office:
        opened.append(Office(**how))
        opened[-1].connect()
        return opened[-1]

    yield new
    for office in opened:
        office.close()


def done(result: str) -> Callable[[asyncio.Future[str]], object]:
    return lambda future: future.set_result(result)


def failed(error: Exception) -> Callable[[asyncio.Future[str]], object]:
    return lambda future: future.set_exception(error)


WAYS: dict[str, tuple[bytes, str, Callable[[asyncio.Future[str]], object], int]] = {
    "answered": (LETTER, "", done("dear"), 200),
    "of an origin": (LETTER, "Origin: https://a.test\r\n", done("dear"), 200),
    "to be compressed": (LETTER, "Accept-Encoding: gzip\r\n", done("long "), 200),
    "refused by the handler": (b'{"text":"refused"}', "", done(""), 409),
    "refused when it was there": (LETTER, "", done("late"), 409),
    "failed": (LETTER, "", failed(Conflict("Moved")), 409),
    "broken": (LETTER, "", failed(RuntimeError("the text of a bug")), 500),
    "with a bad header": (LETTER, "", done("bad header"), 500),
    "no JSON": (b"{", "", done(""), 400),
    "no letter": (b'{"text":5}', "", done(""), 400),
    "of another kind": (LETTER, "Content-Type: text/plain\r\n", done(""), 400),
    "too large": (b'{"text":"%b"}' % (b"x" * 3 * AT_ONCE_BYTES), "", done(""), 413),
}


@pytest.mark.parametrize("way", WAYS)
async def test_both_ways_answer_the_same(offices: Callable[..., Office], way: str) -> None:
    body, head, how, status = WAYS[way]
    answers: list[bytes] = []
    for at_once in (True, False):
        office = offices(at_once=at_once)
        await office.begin(body, head)
        answers.append(await office.end(how))
        assert office.metrics.requests.open == 0
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 %d " % status)
    assert b"the text of a bug" not in answers[0]


async def test_no_task_is_made_and_the_request_counts_while_it_waits(offices: Callable[..., Office]) -> None:
    office = offices()
    await office.begin()
    assert not office.protocol.tasks
    assert office.metrics.requests.open == 1
    assert not office.wire.written
    assert b'{"text": "of-a: hello dear"}' in await office.end(done("dear"))
    assert office.metrics.requests.open == 0
    office.access_log.close()
    lines = [json.loads(line) for line in office.lines.getvalue().splitlines()]
    assert [(line["status"], line["user"], line["path"]) for line in lines] == [(200, "of-a", "/letters")] * 3


@pytest.mark.parametrize(
    ("body", "head", "token"),
    [
        (LETTER, "Content-Encoding: identity\r\n", "of-a"),
        (LETTER, "Authorization: Bearer of-b\r\n", "of-a"),
        (LETTER, "", "stranger"),
        (b'{"text":"%b"}' % (b"x" * AT_ONCE_BYTES), "", "of-a"),
    ],
)
async def test_what_may_have_to_wait_goes_the_usual_way(
    offices: Callable[..., Office], body: bytes, head: str, token: str
) -> None:
    answers: list[bytes] = []
    for at_once in (True, False):
        office = offices(at_once=at_once)
        await office.begin(body, head, token)
        if at_once and office.waiting:
            assert office.protocol.tasks
        answers.append(await office.end(done("dear")))
    assert answers[0] == answers[1]


async def test_a_budget_that_has_to_be_asked_for_goes_the_usual_way(offices: Callable[..., Office]) -> None:
    office = offices(distant=True)
    await office.begin()
    assert office.protocol.tasks
    assert (await office.end(done("dear"))).startswith(b"HTTP/1.1 200 ")


async def test_a_used_budget_refuses_on_both_ways(offices: Callable[..., Office]) -> None:
    answers: list[bytes] = []
    for at_once in (True, False):
        office = offices(at_once=at_once, rate="2/60:2")
        await office.begin()
        answers.append(await office.end(None))
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: " in answers[0]


async def test_a_future_that_is_cancelled_is_answered(offices: Callable[..., Office]) -> None:
    office = offices()
    await office.begin()
    answer = await office.end(lambda future: future.cancel())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in answer


async def test_a_client_that_went_away_leaves_nothing_behind(offices: Callable[..., Office]) -> None:
    office = offices()
    await office.begin()
    office.protocol.connection_lost(None)
    assert await office.end(done("dear")) == b""
    assert office.metrics.requests.open == 0


async def test_a_slow_reader_is_waited_for(offices: Callable[..., Office]) -> None:
    office = offices()
    await office.begin()
    office.protocol.pause_writing()
    assert await office.end(done("dear")) == b""
    office.protocol.resume_writing()
    assert (await office.end(None)).endswith(b'{"text": "of-a: hello dear"}')


async def test_the_next_request_follows_at_once(offices: Callable[..., Office]) -> None:
    office = offices()
    await office.begin()
    office.protocol.data_received(letter(b'{"text":"second"}'))  # before the first one is answered
    assert len(office.waiting) == 1
    first = await office.end(done("dear"))
    assert first.endswith(b'{"text": "of-a: hello dear"}')
    office.wire.written.clear()
    assert (await office.end(done("too"))).endswith(b'{"text": "of-a: second too"}')
