"""All sockets of one worker: who may open one, what each message is handed to, and who is told that a session has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog

from hapta.gateway.bodies.json import THREAD_BYTES
from hapta.gateway.limits.specs import CLASSES
from hapta.gateway.models import NOBODY, Client, LimitName
from hapta.gateway.socket.asked import required, text
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.crud import Crud, collection_of
from hapta.gateway.socket.downloads import DownloadHandlers, Downloads
from hapta.gateway.socket.errors import BadMessage
from hapta.gateway.socket.failures import INTERNAL, of_error
from hapta.gateway.socket.identities import Identities
from hapta.gateway.socket.oauth import SignIns
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import (
    MAX_FRAME_BYTES,
    POLICY,
    RESTART,
    STALE,
    TOO_BIG,
    Message,
    push,
    read,
    refusal_of_nothing,
    unframed,
)
from hapta.gateway.socket.subscriptions import SubscriptionHandlers, Subscriptions
from hapta.gateway.socket.uploads import UploadHandlers, Uploads
from hapta.http.sockets import Disconnected, Socket
from hapta.kit.background import ended
from hapta.kit.errors import HaptaError, TooMany
from hapta.kit.tokens import SKEW_SECONDS

SIGN_IN_SECONDS = 30.0
"""Whoever has not signed in by then is closed, unless he is at a provider."""
IDLE_SECONDS = 90.0
"""Whoever says nothing for so long, not even `pong`, is gone."""
TICK_SECONDS = 5.0
CLOSE_SECONDS = 5.0
MAX_STRIKES = 16
"""Frames that are no messages, before the socket is closed."""

LIMITS: dict[str, LimitName] = {
    **{name: name for name in CLASSES},
    "read": "view",
    "get": "view",
    "authWithPassword": "auth",
    "oauth": "auth",
    "oauth.start": "auth",
    "auth_roll_token": "authRefresh",
    "authUpdate": "view",
    "changePassword": "update",
    "fetchFile": "file",
    "file.get": "file",
    "upload.begin": "upload",
}
"""Classes of limits by what clients call them."""

_HOP = ("sec-websocket-", "sec-fetch-", "upgrade")

_log = structlog.stdlib.get_logger("hapta.gateway.socket")


class Seat(NamedTuple):
    """A connection, and what is done for it."""

    connection: Connection
    subscriptions: Subscriptions
    uploads: Uploads
    downloads: Downloads


T = TypeVar("T")
Handle = Callable[[Seat, Message], Awaitable[None]]


class Handler(NamedTuple):
    """What is done with one kind of message.

    Args:
        at_once: before the next message is read; else beside it.
        counts: among those that are worked on at a time. What waits for further messages of its client must not.
        to_the_end: even if the client goes away meanwhile.
    """

    handle: Handle
    at_once: bool = False
    counts: bool = True
    to_the_end: bool = False


class Sockets:
    """Serves sockets."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._identities = Identities(parts, self._bound)
        self._seats: dict[Connection, Seat] = {}
        self._by_session: dict[str, dict[Connection, None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._stopping = False
        self.messages = 0
        """Read since the start."""
        self._handlers = self._table()
        parts.sessions.on_ended(self.sessions_ended)

    def __len__(self) -> int:
        return len(self._seats)

    def _table(self) -> Mapping[str, Handler]:
        identities, crud = self._identities, Crud(self._parts, self._identities)
        sign_ins = SignIns(self._parts, identities)
        topics = SubscriptionHandlers(self._parts, identities)
        uploads, downloads = UploadHandlers(self._parts, identities), DownloadHandlers(self._parts, identities)

        listening, sending, fetching = _subscriptions, _uploads, _downloads
        return {
            "auth": _plain(identities.auth, at_once=True),
            "authWithPassword": _plain(identities.with_password, at_once=True),
            "authUpdate": _plain(identities.update, at_once=True),
            "auth_roll_token": _plain(identities.roll, at_once=True),
            "logout": _plain(identities.logout, at_once=True),
            "changePassword": _plain(identities.change_password, at_once=True),
            "oauth.start": _plain(sign_ins.start, counts=False),
            "list": _plain(crud.list),
            "read": _plain(crud.read),
            "create": _plain(crud.create, to_the_end=True),
            "update": _plain(crud.update, to_the_end=True),
            "delete": _plain(crud.delete, to_the_end=True),
            "subscribe": _with(listening, topics.subscribe),
            "unsubscribe": _with(listening, topics.unsubscribe),
            "isRatelimited": _plain(self._is_limited),
            "ping": _plain(self._ping, at_once=True),
            "pong": _plain(self._pong, at_once=True),
            "upload.begin": _with(sending, uploads.begin, counts=False),
            "upload.end": _with(sending, uploads.end, at_once=True),
            "upload.abort": _with(sending, uploads.abort, at_once=True),
            "file.get": _with(fetching, downloads.get, counts=False),
            "file.ack": _with(fetching, downloads.acknowledge, at_once=True),
            "file.abort": _with(fetching, downloads.abort, at_once=True),
        }

    # --- life ---

    async def serve(self, socket: Socket) -> None:
        """One socket from its handshake to its end."""
        client = _client_of(socket)
        connection = Connection(self, socket, client, self._parts.clock.monotonic())
        seat = Seat(connection, Subscriptions(self._parts, connection), Uploads(), Downloads())
        try:
            await socket.accept()
            try:
                with self._parts.metrics.call("connect"):
                    await self._enter(connection)
            except TooMany as error:
                await connection.deliver(refusal_of_nothing(of_error(error, "connect")))
                connection.end(POLICY, "too many")
                await connection.closed()
                return
            self._seats[connection] = seat
            self._tick_later()
            await self._run(seat)
        except Disconnected:
            return
        except asyncio.CancelledError:
            if socket.open:  # not our own end: the server cancels
                raise
        finally:
            self._left(connection)
            await connection.let_go()

    async def _enter(self, connection: Connection) -> None:
        await self._parts.limits.drawn("connect", None, NOBODY, connection.client.address)
        if self._stopping:
            connection.end(RESTART, "server is stopping")
        connection.seat = self._parts.limits.streams.open(
            NOBODY, connection.client.address, lambda: connection.end(POLICY, "too many requests")
        )

    async def _run(self, seat: Seat) -> None:
        connection, clock = seat.connection, self._parts.clock
        authorization = connection.socket.headers.get(b"authorization")
        if authorization is not None:
            token = authorization.decode("latin-1").strip()
            token = token[7:].strip() if token[:7].lower() == "bearer " else token
            await self._handled(seat, Message("auth", "auth", None, "", {}, token), self._handlers["auth"])
        while not connection.ending:
            frame = await connection.socket.receive()
            connection.heard_at = clock.monotonic()
            if len(frame) > MAX_FRAME_BYTES:  # the server itself lets more through, for sockets of others
                connection.end(TOO_BIG, "frame too large")
            elif isinstance(frame, bytes):
                await self._take_bytes(seat, frame)
            else:
                await self._take(seat, frame)
        await connection.closed()

    def _left(self, connection: Connection) -> None:
        self._seats.pop(connection, None)
        self._forget(connection, connection.visitor.session_id)

    def sessions_ended(self, session_ids: Sequence[str]) -> None:
        """The sockets of these sessions end."""
        for session_id in session_ids:
            for connection in [*self._by_session.get(session_id, ())]:
                connection.end(STALE, "session ended")

    def end_all(self) -> None:
        """The server stops: every socket ends cleanly."""
        self._stopping = True
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for connection in [*self._seats]:
            connection.end(RESTART, "server is stopping")

    async def close(self) -> None:
        """Ends everything; returns when nothing runs any more. Writes under way have a moment."""
        self.end_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        await ended(*self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that outlives its connection."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _bound(self, connection: Connection, before: str) -> None:
        self._forget(connection, before)
        self._by_session.setdefault(connection.visitor.session_id, {})[connection] = None
        seat = self._seats.get(connection)
        if seat is not None:
            await seat.subscriptions.rebind()

    def _forget(self, connection: Connection, session_id: str) -> None:
        others = self._by_session.get(session_id)
        if others is not None and others.pop(connection, self) is None and not others:
            del self._by_session[session_id]

    # --- heartbeats ---

    def _tick_later(self) -> None:
        if self._ticking is None and self._seats and not self._stopping:
            self._ticking = asyncio.get_running_loop().call_later(TICK_SECONDS, self.tick)

    def tick(self) -> None:
        """Looks at all sockets: whose time is over, and who has to be asked whether he is still there. Calls itself again."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        now, wall = self._parts.clock.monotonic(), self._parts.clock.now()
        beat = self._parts.settings.gateway.heartbeat_seconds
        for connection in [*self._seats]:
            if connection.visitor.is_guest:
                if not connection.flows and now - connection.opened_at >= SIGN_IN_SECONDS:
                    connection.end(STALE, "no token in time")
            elif wall >= connection.token_ends_at + SKEW_SECONDS:
                connection.end(STALE, "token expired")
            if now - connection.heard_at >= IDLE_SECONDS:
                connection.end(POLICY, "idle")
            elif now - max(connection.heard_at, connection.said_at) >= beat:
                connection.said_at = now
                connection.spawn(_quietly(connection.deliver(push("ping"))))
        self._tick_later()

    # --- frames ---

    async def _take_bytes(self, seat: Seat, frame: bytes) -> None:
        try:
            seat.uploads.feed(*unframed(frame))
        except BadMessage as error:
            await self._strike(seat.connection, error)

    async def _take(self, seat: Seat, text: str) -> None:
        connection = seat.connection
        try:
            message = read(text) if len(text) < THREAD_BYTES else await asyncio.to_thread(read, text)
        except BadMessage as error:
            await self._strike(connection, error)
            return
        self.messages += 1
        handler = self._handlers.get(message.kind)
        if handler is None:
            handler = Handler(self._unknown, at_once=True)
        if handler.at_once:
            await self._handled(seat, message, handler)
            return
        if handler.counts:
            await connection.places.acquire()
        connection.spawn(self._beside(seat, message, handler), to_the_end=handler.to_the_end)

    async def _strike(self, connection: Connection, error: BadMessage) -> None:
        connection.strikes += 1
        await connection.deliver(refusal_of_nothing(of_error(error, "")))
        if connection.strikes >= MAX_STRIKES:
            connection.end(POLICY, "not the protocol")

    async def _beside(self, seat: Seat, message: Message, handler: Handler) -> None:
        try:
            await self._handled(seat, message, handler)
        except Disconnected:
            return
        finally:
            if handler.counts:
                seat.connection.places.release()

    async def _handled(self, seat: Seat, message: Message, handler: Handler) -> None:
        connection = seat.connection
        try:
            await handler.handle(seat, message)
        except HaptaError as error:
            await connection.fail(message, of_error(error, message.kind))
        except Disconnected:
            raise
        except Exception:  # the boundary: a bug in one message must not end the others, and this must be heard of
            _log.exception("a message of a socket failed", kind=message.kind, request_id=connection.client.request_id)
            await connection.fail(message, INTERNAL)

    # --- small messages ---

    async def _unknown(self, seat: Seat, message: Message) -> None:
        await self._identities.draw(seat.connection)
        raise BadMessage("There is no message of this type.")

    async def _ping(self, connection: Connection, message: Message) -> None:
        await self._identities.who(connection)
        await self._identities.draw(connection)
        now, sent = self._parts.clock.now_ms(), message.payload.get("time")
        told: dict[str, Any] = {"now": now}
        if isinstance(sent, int | float) and not isinstance(sent, bool):
            told |= {"time": sent, "latency": max(0, now - sent)}
        await connection.reply(message, told, type="pong")

    async def _pong(self, connection: Connection, message: Message) -> None:
        """It was heard; that is all."""

    async def _is_limited(self, connection: Connection, message: Message) -> None:
        visitor, payload = await self._identities.who(connection), message.payload
        await self._identities.draw(connection)
        name = LIMITS.get(required(payload, "method", "name"))
        if name is None:
            raise BadMessage("There are no limits of this name.")
        collection = collection_of(self._parts.catalog, payload) if text(payload, "collection") else None
        state = await self._parts.limits.state(name, collection, visitor, connection.client.address)
        told = {
            "ratelimited": state.limited,
            "duration": state.every_ms,
            "limit": state.limit,
            "used": state.used,
            "retryAfter": state.retry_after_seconds,
        }
        await connection.reply(message, told)


def _plain(handle: Callable[[Connection, Message], Awaitable[None]], **how: bool) -> Handler:
    async def run(seat: Seat, message: Message) -> None:
        await handle(seat.connection, message)

    return Handler(run, **how)


def _with(
    part: Callable[[Seat], T], handle: Callable[[Connection, Message, T], Awaitable[None]], **how: bool
) -> Handler:
    """A handler that needs what is kept for its connection."""

    async def run(seat: Seat, message: Message) -> None:
        await handle(seat.connection, message, part(seat))

    return Handler(run, **how)


def _subscriptions(seat: Seat) -> Subscriptions:
    return seat.subscriptions


def _uploads(seat: Seat) -> Uploads:
    return seat.uploads


def _downloads(seat: Seat) -> Downloads:
    return seat.downloads


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """For what nobody misses when the peer is gone."""
    try:
        await work
    except Disconnected:
        return


def _client_of(socket: Socket) -> Client:
    """Who opened a socket, with those headers of the handshake that rules may read."""
    named = Client(socket.client_address, socket.request_id, raw=[*socket.headers.items()]).headers
    kept = {name: value for name, value in named.items() if not name.startswith(_HOP)}
    return Client(socket.client_address, socket.request_id, headers=kept)
