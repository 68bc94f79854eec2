"""The bus of several workers, over Redis publish and subscribe.

Each worker holds one connection to listen and one to send; what is published during one round trip goes out together as
the next. Redis keeps nothing for those who are away, so after every lost connection the workers concerned are told of a
gap: this worker's subscribers when it listened to nothing for a while, all workers' when it could not send.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import structlog
from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hapta.bus.bus import Bus, Gap, Receive
from hapta.bus.subscribers import Subscribers
from hapta.kit.background import ended
from hapta.kit.errors import Unavailable

HEALTH_SECONDS = 1.0
"""Silence after which the listening connection is asked for a sign of life; as long again without one, and it is dead."""
TIMEOUT_SECONDS = 2.0
MAX_WAITING = 10_000
_BATCH = 1000
_RETRY_SECONDS = (0.05, 1.0)
_GAP_CHANNEL = "bus.gap"
_AWAY = (RedisError, OSError, TimeoutError)

_log = structlog.get_logger("hapta.bus")


class RedisBus(Bus):
    """An open bus over one Redis. Made by `open_redis`.

    `dropped` counts messages that were published and not sent: Redis was away, or more than `MAX_WAITING` waited.
    """

    def __init__(self, url: str, prefix: str = "hapta:") -> None:
        self.dropped = 0
        self._url = url
        self._prefix = prefix
        self._client = _client(url)
        self._subscribers = Subscribers()
        self._listening: Connection | None = None
        self._first = asyncio.Event()
        self._in_force: dict[str, deque[asyncio.Future[None]]] = {}
        self._commands: list[tuple[str, str]] = []
        self._commander: asyncio.Task[None] | None = None
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._owes_gap = False
        self._closed = False
        self._listener = asyncio.create_task(self._listen(), name="listen to Redis")

    @property
    def healthy(self) -> bool:
        return self._listening is not None and not self._owes_gap

    def is_alone(self, channel: str) -> bool:
        return False  # nobody knows who else listens there

    async def publish(self, channel: str, message: bytes) -> None:
        if self._closed:  # sending would open a connection that nobody closes
            self.dropped += 1
            return
        if len(self._outbox) >= MAX_WAITING:
            self.dropped += 1
            self._owes_gap = True
            return
        self._outbox.append((channel, message))
        self._send_soon()

    async def subscribe(self, channel: str, receive: Receive, gap: Gap | None = None) -> Callable[[], None]:
        """As in `Bus`. While Redis is away it returns at once; the subscription's `gap` is called when it is in force."""
        end = self._subscribers.add(channel, receive, gap)

        def unsubscribe() -> None:
            if end() and self._listening is not None:
                self._command_soon("UNSUBSCRIBE", channel)

        if self._listening is not None:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # Redis answers each SUBSCRIBE once, in order; a channel it knows already is no exception.
            self._in_force.setdefault(channel, deque()).append(waiting)
            self._command_soon("SUBSCRIBE", channel)
            await waiting
        return unsubscribe

    async def increment(self, key: str, by: int = 1, *, ttl_seconds: int) -> int:
        """As in `Bus`.

        Raises:
            Unavailable: Redis is away; the counter may have been changed all the same. Or the bus is closed.
        """
        if self._closed:
            raise Unavailable
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._client.pipeline(transaction=True) as pipe:
                pipe.incrby(self._prefix + "count:" + key, by)
                pipe.expire(self._prefix + "count:" + key, ttl_seconds)
                return int((await pipe.execute())[0])
        except _AWAY as error:
            raise Unavailable from error

    async def close(self) -> None:
        self._closed = True
        await ended(self._listener, self._commander, self._sender)
        await self._client.aclose()

    async def wait_connected(self, timeout_seconds: float) -> None:
        """Returns when this worker listened for the first time.

        Raises:
            Unavailable: it did not come to that in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._first.wait()
        except TimeoutError:
            raise Unavailable("Redis does not answer; see the setting bus.url (REDIS_URL)") from None

    # --- listening ---

    async def _listen(self) -> None:
        """Listens for ever, over one connection after another."""
        pause, longest = _RETRY_SECONDS
        while True:
            connection = _connection(self._url)
            try:
                await self._connect(connection)
                pause = _RETRY_SECONDS[0]
                await self._receive_all(connection)
            except _AWAY as error:
                if self._listening is not None:
                    _log.warning("the bus lost its connection to Redis", error=str(error))
            finally:
                self._listening = None
                self._release_waiting()
                await connection.disconnect(nowait=True)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, longest)

    async def _connect(self, connection: Connection) -> None:
        channels = [_GAP_CHANNEL, *self._subscribers.channels()]
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await connection.connect()
            await connection.send_command("SUBSCRIBE", *(self._prefix + channel for channel in channels))
            missing = len(channels)
            while missing:
                reply = _reply(cast("object", await connection.read_response()))
                missing -= reply[0] == b"subscribe"
                self._handle(reply)  # the first channels may carry messages already
        self._listening = connection
        # Whoever subscribed during the above is not among those channels.
        for channel in set(self._subscribers.channels()).difference(channels):
            self._command_soon("SUBSCRIBE", channel)
        if self._first.is_set():
            _log.info("the bus is connected to Redis again")
            self._subscribers.tell_of_gap()
        self._first.set()
        if self._outbox or self._owes_gap:
            self._send_soon()

    async def _receive_all(self, connection: Connection) -> None:
        asked = False
        while True:
            reply = cast("object", await connection.read_response(timeout=HEALTH_SECONDS))  # None: silence
            if reply is None and asked:
                raise TimeoutError("no answer to PING")
            asked = reply is None
            if asked:
                async with asyncio.timeout(HEALTH_SECONDS):
                    await connection.send_command("PING")
            else:
                self._handle(_reply(reply))

    def _handle(self, reply: list[Any]) -> None:
        kind = reply[0]
        if kind not in (b"message", b"subscribe"):
            return
        channel = reply[1].decode()[len(self._prefix) :]
        if kind == b"subscribe":
            self._set_in_force(channel)
        elif channel == _GAP_CHANNEL:
            self._subscribers.tell_of_gap()
        else:
            self._subscribers.deliver(channel, reply[2])

    def _set_in_force(self, channel: str) -> None:
        queue = self._in_force.get(channel)
        if queue:
            waiting = queue.popleft()
            if not queue:
                del self._in_force[channel]
            if not waiting.done():  # else its subscriber was cancelled meanwhile
                waiting.set_result(None)

    def _release_waiting(self) -> None:
        """Lets go of those who wait to be subscribed: the next connection will tell them of a gap."""
        self._commands.clear()
        while self._in_force:
            self._set_in_force(next(iter(self._in_force)))

    def _command_soon(self, command: str, channel: str) -> None:
        """Queues a command for the listening connection; one task writes them, so their order holds."""
        self._commands.append((command, channel))
        if self._commander is None:
            self._commander = asyncio.create_task(self._command_all(), name="subscribe at Redis")

    async def _command_all(self) -> None:
        try:
            while self._commands and (connection := self._listening) is not None:
                commands, self._commands = self._commands, []
                packed = [self._packed(connection, command, channel) for command, channel in commands]
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await connection.send_packed_command(b"".join(packed), check_health=False)
        except _AWAY as error:  # the listener, which reads from the same connection, will find it lost too
            _log.debug("could not subscribe", error=str(error))
        finally:
            self._commander = None

    def _packed(self, connection: Connection, command: str, channel: str) -> bytes:
        return b"".join(connection.pack_command(command, self._prefix + channel))

    # --- sending ---

    def _send_soon(self) -> None:
        # A task begins on the loop's next turn: all that one turn publishes leaves together.
        if self._sender is None and not self._closed:
            self._sender = asyncio.create_task(self._send_all(), name="send to Redis")

    async def _send_all(self) -> None:
        batch: list[tuple[str, bytes]] = []
        try:
            while self._outbox or self._owes_gap:
                if self._owes_gap:
                    batch = [(_GAP_CHANNEL, b"")]
                else:
                    batch = [self._outbox.popleft() for _ in range(min(_BATCH, len(self._outbox)))]
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await self._send(batch)
                if batch[0][0] == _GAP_CHANNEL:
                    self._owes_gap = False
        except _AWAY as error:
            if not self._owes_gap:
                _log.warning("the bus could not send to Redis", error=str(error))
            self._lose([*batch, *self._outbox])
        finally:
            self._sender = None
            if self._owes_gap and self._listening is not None and not self._listener.done():
                # The listening connection lives, so nobody else will try again.
                asyncio.get_running_loop().call_later(_RETRY_SECONDS[1], self._send_soon)

    async def _send(self, batch: list[tuple[str, bytes]]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for channel, message in batch:
                pipe.publish(self._prefix + channel, message)  # pyright: ignore[reportUnknownMemberType]
            await pipe.execute()

    def _lose(self, messages: list[tuple[str, bytes]]) -> None:
        self.dropped += sum(channel != _GAP_CHANNEL for channel, _ in messages)
        self._outbox.clear()
        self._owes_gap = True


async def open_redis(url: str) -> RedisBus:
    """Opens the bus and waits for its first connection.

    Raises:
        Unavailable: Redis does not answer. A worker that starts without its bus would look healthy and be deaf.
    """
    bus = RedisBus(url)
    try:
        await bus.wait_connected(2 * TIMEOUT_SECONDS)
    except BaseException:
        await bus.close()
        raise
    return bus


def _client(url: str) -> Redis:
    # No retry of its own: a message sent twice is worse than one lost and told of.
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  (untyped keyword arguments)
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def _connection(url: str) -> Connection:
    """One bare connection: it never connects again by itself, which would hide a gap."""
    return cast("Connection", _client(url).connection_pool.make_connection())


def _reply(reply: object) -> list[Any]:
    """A reply on the listening connection: a kind, a channel, and a message or a number."""
    return cast("list[Any]", reply)
