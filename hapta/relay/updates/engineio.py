"""Engine.IO protocol 4: one stream of messages to and from a client, over a WebSocket or over long polling, with pings.

A client begins with either transport; one that polls may go on over a WebSocket (the probe). What is said in between waits, in
order. What is in the messages is a `Receiver`'s business (`socketio.py`). At rest there is no task and no queue for a client.

With several workers a client that polls has to come back to the same one; clients that force the WebSocket need not care.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from hapta.http.sockets import Disconnected, Socket
from hapta.kit.background import ended
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.updates.frames import Text, encode_json
from hapta.relay.updates.outbox import Outbox
from hapta.relay.updates.strangers import REFUSAL, Strangers
from hapta.settings import RelaySettings

PING_SECONDS = 15.0
PONG_SECONDS = 45.0
"""So long a client may take to answer a ping (contract relay, section 15)."""
CONNECT_SECONDS = 20.0
"""So long a client may take to connect to the namespace, or to finish a probe."""
CLOSE_SECONDS = 10.0
"""So long a closing waits for a peer that reads slowly, and a client that polls may come to hear that it is over."""
MAX_UNCONNECTED_POLLS = 2000
"""Clients of this worker that poll and have not said who they are."""
MAX_OF_ONE_ADDRESS = 500
"""So many of them may be of one address, that nobody alone takes all places."""
SEPARATOR = "\x1e"

_PING, _PONG, _NOOP, _CLOSE = Text(b"2"), Text(b"3probe"), Text(b"6"), Text(b"1")


class Receiver(Protocol):
    """Whoever takes the messages of one client."""

    @property
    def connected(self) -> bool:
        """Whether the client has said who it is."""
        ...

    async def take(self, message: str | bytes) -> None:
        """The next message. None comes before this has returned."""
        ...

    def closed(self) -> None:
        """There are no more messages. Called once."""
        ...


class BadRequest(Exception):
    """An HTTP request that is not one of the protocol. `code` and `message` are the protocol's own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def body(self) -> bytes:
        return encode_json({"code": self.code, "message": self.message})


UNKNOWN_TRANSPORT = (0, "Transport unknown")
UNKNOWN_SESSION = (1, "Session ID unknown")
BAD_METHOD = (2, "Bad handshake method")
BAD_REQUEST = (3, "Bad request")
FORBIDDEN = (4, "Forbidden")
UNSUPPORTED_VERSION = (5, "Unsupported protocol version")


class Link:
    """One client of the engine."""

    __slots__ = (
        "_deadline",
        "_engine",
        "_frames",
        "_outbox",
        "_pinged",
        "_poll",
        "_posting",
        "_queue",
        "_queued_bytes",
        "_receiving",
        "_stranger",
        "_upgrading",
        "_window_at",
        "address",
        "ending",
        "opened_at",
        "receiver",
        "sid",
        "socket",
    )

    receiver: Receiver

    def __init__(self, engine: Engine, sid: str, address: str) -> None:
        self._engine = engine
        self.sid = sid
        self.address = address
        self.socket: Socket | None = None
        """The WebSocket; None while the client polls."""
        self.ending = False
        self.opened_at = engine.clock.monotonic()
        self._pinged = False
        self._deadline = self.opened_at + PING_SECONDS
        """When the next ping is due; after it, when its answer is."""
        self._outbox: Outbox | None = None
        self._queue: list[Text] | None = None
        self._queued_bytes = 0
        self._poll: asyncio.Future[None] | None = None
        self._posting = False
        self._upgrading = False
        self._frames = 0
        self._window_at = self.opened_at
        self._stranger = True
        self._receiving: asyncio.Task[Any] | None = None
        """The task that waits for the client's next packet; None while one is handled."""

    # -- to the client ---------------------------------------------------------------------------------------------------

    def put(self, text: Text) -> None:
        """Sends soon, in order; never waits. A client that reads too slowly is closed."""
        if self.ending:
            return
        fits = self._outbox.put(text) if self._outbox is not None else self._keep(text)
        if not fits:
            self._engine.slow += 1
            self.end(1013, "too slow")

    def _keep(self, text: Text) -> bool:
        settings = self._engine.settings
        queue = self._queue
        if queue is None:
            queue = self._queue = []
        if len(queue) >= settings.max_queued_frames or self._queued_bytes + len(text.data) > settings.max_queued_bytes:
            return False
        queue.append(text)
        self._queued_bytes += len(text.data)
        self._wake()
        return True

    def _wake(self) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    def _taken(self) -> list[Text]:
        queue, self._queue = self._queue or [], None
        self._queued_bytes = 0
        return queue

    def end(self, code: int, reason: str) -> None:
        """Closes soon; does not wait."""
        if self.ending:
            return
        self.ending = True
        self._deadline = self._engine.clock.monotonic() + CLOSE_SECONDS
        if self.socket is None:
            self._queue = [*(self._queue or ()), _CLOSE]
            self._wake()
        else:
            self._engine.spawn(self._close(self.socket, code, reason))
        self._engine.gone(self)

    async def _close(self, socket: Socket, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._outbox is not None and code != 1013:
                    await self._outbox.flushed()
                await socket.close(code, reason)
        except TimeoutError:
            pass
        finally:
            if self._outbox is not None:
                self._outbox.drop()
            # Whoever does not even take the close frame is not waited for; what a message of his still does comes to its end.
            if self._receiving is not None:
                self._receiving.cancel()

    def tick(self, now: float) -> None:
        """Pings, and ends what does not answer or never connects."""
        if self.ending:
            if self.socket is None and now >= self._deadline:
                self._engine.forget(self)
        elif not self.receiver.connected and now - self.opened_at >= CONNECT_SECONDS:
            self.end(1008, "connect timeout")
        elif now >= self._deadline:
            if self._pinged:
                self.end(1001, "ping timeout")
            else:
                self._pinged = True
                self._deadline = now + PONG_SECONDS
                self.put(_PING)

    def introduced(self) -> None:
        """The client has said who it is, or is gone: its place among those who have not is free."""
        if self._stranger:
            self._stranger = False
            self._engine.strangers.leave(self.address)

    # -- from the client -------------------------------------------------------------------------------------------------

    async def take(self, packet: str | bytes) -> None:
        """Handles one packet of either transport."""
        if self.ending:
            return
        if len(packet) > self._engine.settings.max_frame_bytes:
            self.end(1009, "message too big")
        elif isinstance(packet, bytes):
            if self._counted():
                await self.receiver.take(packet)
        elif packet.startswith("4"):
            if self._counted():
                await self.receiver.take(packet[1:])
        elif packet.startswith("3"):
            self._pinged = False
            self._deadline = self._engine.clock.monotonic() + PING_SECONDS
        elif packet.startswith("1"):
            self.end(1000, "")
        else:
            self.end(1002, "bad packet")

    def _counted(self) -> bool:
        now = self._engine.clock.monotonic()
        if now - self._window_at >= 60:
            self._window_at, self._frames = now, 0
        self._frames += 1
        if self._frames <= self._engine.settings.frames_per_minute:
            return True
        self._engine.flooding += 1
        self.end(1008, "too many messages")
        return False

    async def run(self, socket: Socket) -> None:
        """Takes packets from a WebSocket until the client ends."""
        task = asyncio.current_task()
        try:
            while True:  # also when it is ending: whoever returns first closes, and must be the one that says why
                self._receiving = task
                try:
                    packet = await socket.receive()
                finally:
                    self._receiving = None
                await self.take(packet)
        except Disconnected:
            return
        except asyncio.CancelledError:
            if not self.ending:  # not our own end: the server cancels
                raise
        finally:
            if not self.ending:
                self.ending = True
                self._engine.gone(self)
            self._engine.forget(self)
            if self._outbox is not None:
                self._outbox.drop()
            # Nothing is taken any more. The two would hold each other, and the whole connection, until the collector comes by.
            del self.receiver

    def attach(self, socket: Socket) -> None:
        """From now on the client is reached over this WebSocket; what waited goes first."""
        settings = self._engine.settings
        self.socket = socket
        self._outbox = Outbox(
            socket,
            self._engine.spawn,
            max_bytes=settings.max_queued_bytes,
            max_frames=settings.max_queued_frames,
        )
        for text in self._taken():
            self.put(text)

    # -- polling ---------------------------------------------------------------------------------------------------------

    async def poll(self) -> str:
        """What waits for the client, as one body; waits for something to wait.

        Raises:
            BadRequest: another poll is under way. That ends the client, as the protocol wants it.
        """
        if self._poll is not None:
            self.end(1002, "overlapping polls")
            raise BadRequest(*BAD_REQUEST)
        if self.socket is None and not self._queue and not self._upgrading and not self.ending:
            self._poll = asyncio.get_running_loop().create_future()
            try:
                await self._poll
            finally:
                self._poll = None
        if self.ending and self.socket is None:
            self._engine.forget(self)
        packets = self._taken() or [_NOOP]
        return SEPARATOR.join([packet.text for packet in packets])

    async def post(self, body: bytes) -> None:
        """Handles the packets of a body.

        Raises:
            BadRequest: it is not one, has more packets than a client may send in a minute, or another one is being handled. That
                ends the client.
        """
        few = body.count(SEPARATOR.encode()) < self._engine.settings.frames_per_minute
        try:
            packets = body.decode().split(SEPARATOR) if few and not self._posting else None
        except UnicodeDecodeError:
            packets = None
        if packets is None or self.socket is not None:
            self.end(1002, "bad request")
            raise BadRequest(*BAD_REQUEST)
        self._posting = True
        try:
            for packet in packets:
                # A "b" begins what is base64 of a binary message; nobody looks at its content.
                await self.take(packet[1:].encode() if packet.startswith("b") else packet)
        finally:
            self._posting = False

    async def upgrade(self, socket: Socket) -> None:
        """Goes on over a WebSocket, once the probe went through (the protocol's section on upgrading)."""
        self._upgrading = True
        try:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await socket.accept()
                    if await socket.receive() != "2probe":
                        return
                    await socket.send_text(_PONG.text)
                    self._wake()  # a poll that waits ends now, with nothing if need be
                    if await socket.receive() != "5":
                        return
            except TimeoutError:
                return
            finally:
                self._upgrading = False
            if self.ending:
                return
            self._wake()
            self.attach(socket)
        finally:
            if self.socket is not socket:
                await socket.close(1002, "no upgrade")
        await self.run(socket)

    @property
    def may_upgrade(self) -> bool:
        return self.socket is None and not self._upgrading and not self.ending


class Engine:
    """All clients of this worker.

    Args:
        receiver: makes who takes a client's messages; is told the client's address.
        strangers: has places for clients that have not said who they are.
    """

    def __init__(
        self,
        clock: Clock,
        ids: Ids,
        settings: RelaySettings,
        receiver: Callable[[Link, str], Receiver],
        strangers: Strangers,
    ) -> None:
        self.strangers = strangers
        self.clock = clock
        self.settings = settings
        self.slow = 0
        """Clients that were closed since they read too slowly."""
        self.flooding = 0
        """Clients that were closed since they sent too much."""
        self._ids = ids
        self._receiver = receiver
        self._links: dict[str, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begins to keep time."""
        self._ticker = asyncio.create_task(self._keep_time(), name="pings of Engine.IO")

    def stop_waiting(self) -> None:
        """Ends every client; new ones are refused. The first step of an orderly stop."""
        self._closing = True
        for link in [*self._links.values()]:
            link.end(1012, "server is stopping")

    async def close(self) -> None:
        """Ends every client, and returns when each has been told."""
        self.stop_waiting()
        await ended(self._ticker)
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def open(self) -> int:
        """How many clients there are."""
        return len(self._links)

    @property
    def polling(self) -> int:
        """How many of them poll."""
        return sum(link.socket is None for link in self._links.values())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A short-lived task that this object minds."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def tick(self) -> None:
        """One step of the only timer."""
        now = self.clock.monotonic()
        for link in [*self._links.values()]:
            link.tick(now)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tick()

    # -- a client's life -------------------------------------------------------------------------------------------------

    def find(self, sid: str) -> Link:
        """The client of a session.

        Raises:
            BadRequest: there is none.
        """
        link = self._links.get(sid)
        if link is None:
            raise BadRequest(*UNKNOWN_SESSION)
        return link

    async def serve(self, socket: Socket) -> None:
        """A client that begins with the WebSocket, to its end."""
        if self._closing:
            await socket.refuse(503, "The server is stopping")
            return
        address = socket.client_address
        if not self.strangers.enter(address):
            await socket.refuse(429, REFUSAL)
            return
        try:
            await socket.accept()
        except BaseException:
            self.strangers.leave(address)
            raise
        link = self._opened(address)
        link.attach(socket)
        link.put(self._hello(link, ()))
        await link.run(socket)

    async def upgrade(self, socket: Socket, sid: str) -> None:
        """A client that polls and wants to go on over the WebSocket, to its end."""
        link = self._links.get(sid)
        if link is None or not link.may_upgrade:
            error = BadRequest(*(UNKNOWN_SESSION if link is None else BAD_REQUEST))
            await socket.refuse(400, error.body.decode(), "application/json")
            return
        await link.upgrade(socket)

    def begin_polling(self, address: str) -> str:
        """A client that begins by polling: the body of its first answer.

        Raises:
            BadRequest: there are too many that have not said who they are, or the server stops.
        """
        waiting = [link for link in self._links.values() if link.socket is None and not link.receiver.connected]
        theirs = sum(link.address == address for link in waiting)
        if self._closing or len(waiting) >= MAX_UNCONNECTED_POLLS or theirs >= MAX_OF_ONE_ADDRESS:
            raise BadRequest(*FORBIDDEN)
        if not self.strangers.enter(address):
            raise BadRequest(*FORBIDDEN)
        link = self._opened(address)
        return self._hello(link, ("websocket",)).text

    def _opened(self, address: str) -> Link:
        """A new client, which has a place among those who have not said who they are."""
        link = Link(self, self._ids.secret(15), address)
        link.receiver = self._receiver(link, address)
        self._links[link.sid] = link
        return link

    def _hello(self, link: Link, upgrades: Sequence[str]) -> Text:
        hello = {
            "sid": link.sid,
            "upgrades": upgrades,
            "pingInterval": int(PING_SECONDS * 1000),
            "pingTimeout": int(PONG_SECONDS * 1000),
            "maxPayload": self.settings.max_frame_bytes,
        }
        return Text(b"0" + encode_json(hello))

    def gone(self, link: Link) -> None:
        """The client hears nothing more; one that polls stays to be told so."""
        link.introduced()
        link.receiver.closed()

    def forget(self, link: Link) -> None:
        """There is nothing left to tell the client."""
        self._links.pop(link.sid, None)
