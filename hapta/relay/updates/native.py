"""The native protocol: JSON frames `{event, data}` over a plain WebSocket (contract relay, sections 14.1 and 14.2).

`NativeSockets.serve` is one socket's life: who it is, what it listens to, then frame after frame. At rest a socket is two objects
and the coroutine that waits for its next frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol, cast

import msgspec
import structlog

from hapta.http.caller import bearer_token, check_access
from hapta.http.sockets import Disconnected, Socket
from hapta.kit.access import DATA, Caller, Verifier
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unauthenticated, Unavailable
from hapta.kit.ids import Ids
from hapta.relay.events import NO_ACK, Sender
from hapta.relay.models import Scope
from hapta.relay.updates.dispatch import Dispatch
from hapta.relay.updates.frames import Frame, Text, encode_json
from hapta.relay.updates.handshake import (
    NO_MACHINE_ID,
    NO_SESSION_ID,
    POLICY,
    query_of,
    said_in_handshake,
    said_in_message,
    scope_of,
    text_of,
)
from hapta.relay.updates.hub import Connection, ConnectionEnded, Hub, TooManySockets
from hapta.relay.updates.outbox import Outbox
from hapta.relay.updates.strangers import REFUSAL, Strangers
from hapta.relay.updates.tickets import Tickets
from hapta.settings.relay import RelaySettings

AUTH_FAILED = 4001
TOO_MANY = 4005
AUTH_TIMEOUT = 4007
TRY_LATER = 1013
TOO_BIG = 1009
BAD_FRAME = 1002

CLOSE_SECONDS = 5.0
PING_SECONDS = 25.0
DEAD_SECONDS = 75.0
"""A peer that answers no ping for so long is gone."""
MAX_PENDING_FRAMES = 20
"""Frames of a socket that has not signed in."""
MAX_ASKED = 1000

_IF_ASKED = frozenset(("message",))
"""Acknowledged only where the client gave an `ackId`; everything else always is (contract relay-native, sections 3.5 and 9)."""
_MISSING = {NO_SESSION_ID: "Session", NO_MACHINE_ID: "Machine"}

_log = structlog.stdlib.get_logger("hapta.relay.native")


class Rpc(Protocol):
    """Who finds the one that answers a call (contract relay, section 14.5)."""

    def register(self, connection: Connection, method: object) -> str:
        """The socket answers calls of a method from now on. What was wrong, else empty."""
        ...

    def unregister(self, connection: Connection, method: object) -> str: ...

    async def call(
        self, caller: Connection, method: object, params: Any, *, request_id: str = ""
    ) -> Mapping[str, Any] | msgspec.Struct:
        """The acknowledgement of a call, in bounded time."""
        ...

    def cancel(self, connection: Connection, request_id: object) -> None:
        """Tells whoever works on a call that nobody waits for it any more."""
        ...


class _Incoming(msgspec.Struct):
    """What clients send; `type` and `payload` are another spelling of `event` and `data`."""

    event: Any = None
    type: Any = None
    data: Any = None
    payload: Any = None
    ackId: Any = None
    messageId: Any = None
    ack: Any = msgspec.UNSET


class _Acknowledgement(msgspec.Struct, frozen=True, gc=False):
    event: str
    ackId: str | int | msgspec.UnsetType
    ack: object


class _BadFrame(Exception):
    """The frame is not JSON, or not of the form that frames have."""


_decode = msgspec.json.Decoder(_Incoming).decode


def _read(frame: str | bytes) -> tuple[str, Any, Any, Any]:
    """(event, data, ack id, ack) of a frame."""
    try:
        incoming = _decode(frame)
    except msgspec.ValidationError:
        raise _BadFrame("Invalid message format") from None
    except (ValueError, RecursionError):  # no JSON, no UTF-8; or nested deeper than the decoder follows
        raise _BadFrame("Invalid JSON message") from None
    preferred = isinstance(incoming.event, str)
    name = incoming.event if preferred else incoming.type
    nul = "\\u0000" if isinstance(frame, str) else b"\\u0000"
    if not isinstance(name, str) or nul in frame:  # pyright: ignore[reportOperatorIssue]  (no database text can hold a NUL)
        raise _BadFrame("Invalid message format")
    data = incoming.data if incoming.data is not None else incoming.payload
    ack_id = incoming.ackId if incoming.ackId is not None else incoming.messageId
    return name, data, ack_id if isinstance(ack_id, str | int) else None, incoming.ack


class NativeConnection:
    """One socket of an account. `NativeSockets.serve` owns it."""

    __slots__ = (
        "_asked",
        "_calls",
        "_closing",
        "_ending",
        "_frames",
        "_owner",
        "_receiving",
        "_task",
        "_window_ends",
        "account_id",
        "auth_session_id",
        "expires_at",
        "id",
        "opened_at",
        "outbox",
        "scope",
        "sender",
        "socket",
    )

    skips_own = False  # the apps tell their own messages by `localId` (contract relay, section 14.3)

    def __init__(self, owner: NativeSockets, socket: Socket, caller: Caller, scope: Scope) -> None:
        self._owner = owner
        self.socket = socket
        self.id = owner.ids.uuid()
        self.account_id: str = caller.user_id
        self.auth_session_id: str = caller.session_id
        self.expires_at = caller.expires_at
        self.scope = scope
        self.sender = Sender(self.account_id, self.id, scope, self.auth_session_id, "native")
        self.opened_at = owner.clock.now_ms()
        self.outbox = owner.outbox(socket)
        self._task = asyncio.current_task()
        self._ending = False
        self._receiving = False
        self._closing: asyncio.Task[None] | None = None
        self._frames = 0
        self._window_ends = 0.0
        self._asked: dict[str, asyncio.Future[Any]] | None = None
        self._calls: set[asyncio.Task[None]] | None = None

    # -- what the hub calls: never waits ---------------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """See `Connection.send`."""
        self._put(frame.native)

    def _put(self, text: Text) -> None:
        if not self._ending and not self.outbox.put(text):
            self._owner.hub.counts.slow += 1
            self.outbox.drop()
            self.end(TRY_LATER, "too slow")
            if self.socket.line is not None:
                self.socket.line.abort()  # a close frame would wait behind all that it does not read

    def tell(self, name: str, data: Any) -> None:
        """Sends an event to this socket alone."""
        self._put(Text(encode_json({"event": name, "data": data})))

    def tick(self) -> None:
        """See `Connection.tick`."""
        if self._owner.clock.now() >= self.expires_at:
            self.end(AUTH_FAILED, "token expired")
            return
        line = self.socket.line
        if line is not None:
            silent = asyncio.get_running_loop().time() - line.heard_at
            if silent >= DEAD_SECONDS:
                line.abort()
            elif silent >= PING_SECONDS:
                line.ping()

    def end(self, code: int, reason: str) -> None:
        """See `Connection.end`."""
        if not self._ending:
            self._ending = True
            self._closing = self._owner.spawn(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.outbox.flushed()
                await self.socket.close(code, reason)
        except TimeoutError:
            if self.socket.line is not None:
                self.socket.line.abort()
        finally:
            # Whoever does not even take the close frame is not waited for; what a frame of his still does comes to its end.
            if self._receiving and self._task is not None:
                self._task.cancel()

    # -- being asked -----------------------------------------------------------------------------------------------------

    async def ask(self, name: str, data: Any, seconds: float, ask_id: str = "") -> Any:
        """See `Connection.ask`. What is asked goes out as `{event, ackId, data}` and is answered by `rpc-response`."""
        if self._asked is None:
            self._asked = {}
        if self._ending or len(self._asked) >= MAX_ASKED:
            raise ConnectionEnded
        ack_id = ask_id or self._owner.ids.uuid()
        answer = self._asked[ack_id] = asyncio.get_running_loop().create_future()
        try:
            self._put(Text(encode_json({"event": name, "ackId": ack_id, "data": data})))
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            self._forget(ack_id)

    def _forget(self, ack_id: str) -> None:
        if self._asked is not None:
            self._asked.pop(ack_id, None)

    def _answered(self, ack_id: Any, ack: Any) -> None:
        answer = None if self._asked is None else self._asked.get(ack_id)
        if answer is not None and not answer.done():
            answer.set_result(ack)

    # -- frames ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answers frames until the socket ends."""
        settings = self._owner.settings
        while not self._ending:
            self._receiving = True
            try:
                frame = await self.socket.receive()
            finally:
                self._receiving = False
            if self._ending:  # while what waits for a slow reader is sent, its session may be revoked already
                break
            if len(frame) > settings.max_frame_bytes:
                self.end(TOO_BIG, "frame too large")
            elif not self._may_send():
                self.end(POLICY, "too many frames")
            else:
                await self._answer(frame)
        if self._closing is not None:  # whoever returns first closes the socket: it must be the one that says why
            await asyncio.wait((self._closing,))

    def _may_send(self) -> bool:
        now = self._owner.clock.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + 60
            self._frames = 0
        self._frames += 1
        return self._frames <= self._owner.settings.frames_per_minute

    async def _answer(self, frame: str | bytes) -> None:
        try:
            name, data, ack_id, ack = _read(frame)
        except _BadFrame as bad:
            self._put(self._owner.error_frame(str(bad)))
            return
        match name:
            case "ping":
                self.tell("pong", {"timestamp": self._owner.clock.now_ms()})
            case "rpc-response":
                self._answered(ack_id, data if ack is msgspec.UNSET else ack)
            case _ if ack is not msgspec.UNSET and ack_id is not None:
                return  # an answer to what nobody asked
            case "rpc-register" | "rpc-unregister":
                self._register(name, data)
            case "rpc-call" | "rpc-request":
                self._call(data, ack_id)
            case "rpc-cancel":
                self._cancel(data)
            case _:
                answer = await self._owner.dispatch.dispatch(self.sender, name, data)
                if answer is not NO_ACK and (ack_id is not None or name not in _IF_ASKED):
                    self._acknowledge(ack_id, answer)

    def _acknowledge(self, ack_id: Any, answer: object) -> None:
        self._put(Text(encode_json(_Acknowledgement("ack", msgspec.UNSET if ack_id is None else ack_id, answer))))

    # -- calls -----------------------------------------------------------------------------------------------------------

    def _register(self, name: str, data: Any) -> None:
        method = text_of(data, "method")
        if method:
            rpc = self._owner.rpc
            (rpc.register if name == "rpc-register" else rpc.unregister)(self, method)

    def _call(self, data: Any, ack_id: Any) -> None:
        """A call takes as long as its target, so it gets a task; how many of them there may be is for `Rpc` to say."""
        if self._calls is None:
            self._calls = set()
        task = self._owner.spawn(self._finish_call(data, ack_id))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _finish_call(self, data: Any, ack_id: Any) -> None:
        params = cast("dict[str, Any]", data).get("params") if isinstance(data, dict) else None
        request_id = text_of(data, "requestId") or ("" if ack_id is None else str(ack_id))
        try:
            answer = await self._owner.rpc.call(self, text_of(data, "method"), params, request_id=request_id)
        except HaptaError as error:
            answer = {"ok": False, "error": error.message}
        self._acknowledge(ack_id, answer)

    def _cancel(self, data: Any) -> None:
        request_id = text_of(data, "requestId")
        if request_id:
            self._owner.rpc.cancel(self, request_id)

    # -- the end ---------------------------------------------------------------------------------------------------------

    def gone(self) -> None:
        """Leaves every register: the socket is closed."""
        self._ending = True
        self.outbox.drop()
        asked, self._asked = self._asked, None
        for answer in (asked or {}).values():
            if not answer.done():
                answer.set_exception(ConnectionEnded())
        for task in self._calls or ():
            task.cancel()


class NativeSockets:
    """All native sockets of this worker.

    Args:
        verifier: judges tokens.
        rpc: finds the target of a call.
        strangers: has places for sockets that sign in by a message.
    """

    def __init__(
        self,
        hub: Hub,
        dispatch: Dispatch,
        rpc: Rpc,
        tickets: Tickets,
        verifier: Verifier,
        clock: Clock,
        ids: Ids,
        settings: RelaySettings,
        strangers: Strangers,
    ) -> None:
        self._strangers = strangers
        self.hub = hub
        self.dispatch = dispatch
        self.rpc = rpc
        self.clock = clock
        self.ids = ids
        self.settings = settings
        self._tickets = tickets
        self._verifier = verifier
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A short-lived task that this object minds."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a socket's work failed", exc_info=error)

    def outbox(self, socket: Socket) -> Outbox:
        """The way out of a new socket."""
        return Outbox(
            socket,
            self.spawn,
            max_bytes=self.settings.max_queued_bytes,
            max_frames=self.settings.max_queued_frames,
        )

    def error_frame(self, message: str) -> Text:
        """What a frame is answered with that cannot be read (contract relay, section 14.2)."""
        data = {"code": BAD_FRAME, "message": message, "timestamp": self.clock.now_ms()}
        return Text(encode_json({"event": "error", "data": data}))

    async def close(self) -> None:
        """Waits until every socket has been told; the hub's `close` has begun that."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- one socket ------------------------------------------------------------------------------------------------------

    async def serve(self, socket: Socket) -> None:
        """One socket from its handshake to its end."""
        connection: NativeConnection | None = None
        try:
            connection = await self._open(socket)
            if connection is not None:
                await connection.run()
        except Disconnected:
            return
        except asyncio.CancelledError:
            if socket.open:  # not our own end: the server cancels
                raise
        finally:
            if connection is not None:
                connection.gone()
                self.hub.leave(connection)

    async def _open(self, socket: Socket) -> NativeConnection | None:
        """Authenticates and registers a socket; None when it was refused."""
        query = query_of(socket.query_string)
        try:
            token = await self._token(socket, query)
            if token is None:
                return await self._open_stranger(socket, query)
            caller = await self._caller(token)
        except Unavailable:
            await socket.refuse(503, "Try again later")
            return None
        except Unauthenticated as error:
            await socket.refuse(401, error.message)
            return None
        if caller is None:
            await socket.refuse(401, "Invalid authentication token")
            return None
        scope = scope_of(said_in_handshake(socket, query))
        if isinstance(scope, int):
            kind = _MISSING.get(scope)
            text = "Invalid scope" if kind is None else f"{kind} ID required for {kind.lower()}-scoped connections"
            await socket.refuse(400, text)
            return None
        if self.hub.is_full(caller.user_id):
            await socket.refuse(429, TooManySockets.message)
            return None
        await socket.accept()
        return await self._join(socket, token, caller, scope)

    async def _token(self, socket: Socket, query: Mapping[str, str]) -> str | None:
        """The token that the handshake carries; None when there is none at all."""
        if "ticket" in query:
            return await self._tickets.redeem(query["ticket"])
        if "token" in query:
            return query["token"]
        header = socket.headers.get(b"authorization")
        return None if header is None else bearer_token(header)

    async def _caller(self, token: str) -> Caller | None:
        """The caller of a token, or None when it does not count here.

        Raises:
            Unavailable: the session could not be looked up.
        """
        try:
            caller = self._verifier.cached(token) or await self._verifier.verify(token)
            check_access(DATA, caller)
        except Unavailable:
            raise
        except HaptaError:
            return None
        return caller

    async def _join(self, socket: Socket, token: str, caller: Caller, scope: Scope) -> NativeConnection | None:
        connection = NativeConnection(self, socket, caller, scope)
        try:
            await self.hub.join(connection)
            joined = False
            try:
                # A revocation between the check and the registration would be missed; a second look closes that gap.
                joined = await self._caller(token) is not None
            finally:
                if not joined:
                    connection.gone()
                    self.hub.leave(connection)
        except TooManySockets:
            await socket.close(TOO_MANY, TooManySockets.message)
            return None
        except Unavailable:
            await socket.close(1012 if self.hub.closing else TRY_LATER, "try again later")
            return None
        if not joined:
            await socket.close(AUTH_FAILED, "Authentication failed")
            return None
        data: dict[str, object] = {
            "connectionId": connection.id,
            "userId": connection.account_id,
            "clientType": scope.kind,
        }
        if scope.session_id:
            data["sessionId"] = scope.session_id
        if scope.machine_id:
            data["machineId"] = scope.machine_id
        connection.tell("connected", {**data, "timestamp": connection.opened_at})
        return connection

    # -- signing in by a message -----------------------------------------------------------------------------------------

    async def _open_stranger(self, socket: Socket, query: Mapping[str, str]) -> NativeConnection | None:
        if not self._strangers.enter(socket.client_address):
            await socket.refuse(429, REFUSAL)
            return None
        try:
            await socket.accept()
            return await self._open_pending(socket, query)
        finally:
            self._strangers.leave(socket.client_address)

    async def _open_pending(self, socket: Socket, query: Mapping[str, str]) -> NativeConnection | None:
        """Waits for `auth` (contract relay, section 14.1); until then the socket hears nothing and counts nowhere."""
        try:
            async with asyncio.timeout(self.settings.auth_seconds):
                signed_in = await self._sign_in(socket, query)
        except TimeoutError:
            await self._refuse_auth(socket, AUTH_TIMEOUT, "Authentication timeout", close=AUTH_TIMEOUT)
            return None
        except Unavailable:
            await socket.close(TRY_LATER, "try again later")
            return None
        if signed_in is None:
            return None
        token, caller, scope = signed_in
        return await self._join(socket, token, caller, scope)

    async def _sign_in(self, socket: Socket, query: Mapping[str, str]) -> tuple[str, Caller, Scope] | None:
        for _ in range(MAX_PENDING_FRAMES):
            frame = await socket.receive()
            if len(frame) > self.settings.max_frame_bytes:
                await socket.close(TOO_BIG, "frame too large")
                return None
            try:
                name, data, _, _ = _read(frame)
            except _BadFrame as bad:
                await socket.send_text(self.error_frame(str(bad)).text)
                continue
            token = text_of(data, "token")
            if name != "auth" or not token:
                message = "Authentication required" if name != "auth" else "Missing authentication token"
                await self._refuse_auth(socket, AUTH_FAILED, message)
                continue
            caller = await self._caller(token)
            if caller is None:
                await self._refuse_auth(socket, AUTH_FAILED, "Invalid authentication token", close=AUTH_FAILED)
                return None
            scope = scope_of({**said_in_handshake(socket, query), **said_in_message(data)})
            if isinstance(scope, int):
                message = "Invalid scope" if scope not in _MISSING else f"{_MISSING[scope]} ID required"
                await self._refuse_auth(socket, scope, message, close=AUTH_FAILED)
                return None
            if self.hub.is_full(caller.user_id):
                await self._refuse_auth(socket, TOO_MANY, TooManySockets.message, close=TOO_MANY)
                return None
            return token, caller, scope
        await socket.close(POLICY, "too many frames")
        return None

    async def _refuse_auth(self, socket: Socket, code: int, message: str, *, close: int = 0) -> None:
        data = {"code": code, "message": message, "timestamp": self.clock.now_ms()}
        await socket.send_text(encode_json({"event": "auth-error", "data": data}).decode())
        if close:
            await socket.close(close, message if close == AUTH_TIMEOUT else "Authentication failed")
