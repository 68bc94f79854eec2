"""The Socket.IO face of the hub (protocol 5): what upstream's clients speak (contract relay, section 15).

A client says who it is when it connects to the namespace, and is verified before that is acknowledged; from then on it is a
`Connection` of the hub like any other. Its events are handled one after the other, in its own order; only calls run beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import structlog

from hapta.http.caller import check_access
from hapta.http.metrics import Metrics
from hapta.kit.access import DATA, Caller, Verifier
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, TooMany, Unavailable
from hapta.kit.ids import Ids
from hapta.relay.events import NO_ACK, Ack, Sender
from hapta.relay.models import Scope
from hapta.relay.rpc.service import Rpc
from hapta.relay.updates import packets
from hapta.relay.updates.dispatch import Dispatch
from hapta.relay.updates.engineio import Engine, Link
from hapta.relay.updates.frames import Frame, encode_json, frame_of
from hapta.relay.updates.hub import REVOKED, ConnectionEnded, Hub
from hapta.relay.updates.packets import BadPacket, Packet
from hapta.relay.updates.strangers import Strangers
from hapta.settings import RelaySettings

MAX_ID_CHARACTERS = 256
MAX_TOKEN_CHARACTERS = 8192
MAX_ASKED = 1000
"""Questions that one client may have open."""
NO_BINARY = "Binary attachments are not supported"
BAD_DATA = "Invalid parameters"

_MISSING = "Missing authentication token"
_INVALID = "Invalid authentication token"
_log = structlog.stdlib.get_logger("hapta.relay.socketio")


class Refused(Exception):
    """The namespace stays closed to this client, for the reason that is told it."""


class Client:
    """One client; implements `Connection` of the hub and `Receiver` of the engine."""

    __slots__ = (
        "_asked",
        "_attachments",
        "_caller",
        "_early",
        "_face",
        "_last_asked",
        "_link",
        "_ready",
        "_token",
        "account_id",
        "app_state",
        "auth_session_id",
        "id",
        "opened_at",
        "scope",
        "sender",
    )

    skips_own = True

    def __init__(self, face: SocketIo, link: Link) -> None:
        self._face = face
        self._link = link
        self._caller: Caller | None = None
        self._token = ""
        self._ready = False
        self._early: list[Frame] | None = None
        self._attachments = 0
        self._asked: dict[int, asyncio.Future[Any]] | None = None
        self._last_asked = 0
        self.id = ""
        self.account_id = ""
        self.auth_session_id = ""
        self.scope = Scope()
        self.sender = Sender("", "", self.scope)
        self.opened_at = 0
        self.app_state = ""
        """What the app said of itself last: `active` while somebody looks at it."""

    # -- what the hub calls ----------------------------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """See `Connection`. What comes before the acknowledgement of the connection waits for it."""
        if self._ready:
            self._link.put(frame.socketio)
        elif self._early is not None:
            self._early.append(frame)

    def end(self, code: int, reason: str) -> None:
        """See `Connection`."""
        self._link.end(code, reason)

    def tick(self) -> None:
        """See `Connection`. Pings are the engine's; here is the token's end."""
        if self._caller is not None and self._face.clock.now() >= self._caller.expires_at:
            self.end(REVOKED, "token expired")

    async def ask(self, name: str, data: Any, seconds: float, ask_id: str = "") -> Any:
        """See `Connection`. Answers of this protocol have numbers of their own, so that `ask_id` is not needed."""
        if self._asked is None:
            self._asked = {}
        if self._link.ending or len(self._asked) >= MAX_ASKED:
            raise ConnectionEnded
        self._last_asked = number = self._last_asked + 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._link.put(packets.event(name, data, number))
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            self._asked.pop(number, None)

    # -- what the engine calls -------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._ready

    def closed(self) -> None:
        """See `Receiver`."""
        self._face.hub.leave(self)
        for answer in list((self._asked or {}).values()):
            if not answer.done():
                answer.set_exception(ConnectionEnded())

    async def take(self, message: str | bytes) -> None:
        """See `Receiver`."""
        if isinstance(message, bytes) or self._attachments:
            # Attachments follow their packet at once; they are counted and dropped.
            if isinstance(message, str) or not self._attachments:
                self.end(1002, "bad packet")
            else:
                self._attachments -= 1
            return
        try:
            packet = packets.read(message)
        except BadPacket:
            self.end(1002, "bad packet")
            return
        self._attachments = packet.attachments
        if "\\u0000" in message:  # no database text can hold it
            self._acknowledge(packet.id if packet.kind == packets.EVENT else None, _refusal(BAD_DATA))
        else:
            await self._handle(packet)

    async def _handle(self, packet: Packet) -> None:
        if packet.namespace != packets.MAIN:
            if packet.kind == packets.CONNECT:
                self._link.put(packets.refused(packet.namespace, "Invalid namespace"))
            return
        match packet.kind:
            case packets.CONNECT:
                if self._caller is None:
                    await self._connect(packet.data)
            case packets.DISCONNECT:
                self.end(1000, "")
            case _ if not self._ready:
                self.end(1002, "not connected")
            case packets.EVENT:
                await self._event(packet.data, packet.id)
            case packets.BINARY_EVENT:
                self._acknowledge(packet.id, _refusal(NO_BINARY))
            case _:
                self._answered(packet)

    # -- signing in ------------------------------------------------------------------------------------------------------

    async def _connect(self, auth: Any) -> None:
        try:
            await self._sign_in(cast("dict[str, Any]", auth) if isinstance(auth, dict) else {})
        except Refused as refusal:
            # Clients that are refused do not try again by themselves.
            self._link.put(packets.refused(packets.MAIN, str(refusal)))
            self.end(1008, "refused")
        except (Unavailable, TooMany) as error:
            self.end(1013, error.message[:100])  # not a refusal: they shall come back

    async def _sign_in(self, auth: Mapping[str, Any]) -> None:
        face = self._face
        token, self.scope = _read_auth(auth)
        caller = await self._verified(token)
        self._caller, self._token = caller, token
        self.id = face.ids.uuid()
        self.account_id = caller.user_id
        self.auth_session_id = caller.session_id
        self.opened_at = face.clock.now_ms()
        self.sender = Sender(caller.user_id, self.id, self.scope, caller.session_id)
        self._note_state(auth.get("appState"))
        self._early = []
        await face.hub.join(self)
        try:
            await self._verified(token)  # it may have been revoked before the hub knew of this socket
        except BaseException:
            face.hub.leave(self)
            raise
        if self._link.ending:  # it went away meanwhile, before there was anything to leave
            face.hub.leave(self)
            return
        self._link.put(packets.connected(self.id))
        self._ready = True
        self._link.introduced()
        early, self._early = self._early, None
        for frame in early:
            self._link.put(frame.socketio)

    async def _verified(self, token: str) -> Caller:
        verifier = self._face.verifier
        try:
            caller = verifier.cached(token) or await verifier.verify(token)
            check_access(DATA, caller)
        except Unavailable:
            raise
        except HaptaError:
            raise Refused(_INVALID) from None
        return caller

    # -- events ----------------------------------------------------------------------------------------------------------

    async def _event(self, arguments: list[Any], packet_id: int | None) -> None:
        name: str = arguments[0]
        data = arguments[1] if len(arguments) > 1 else None
        rpc = self._face.rpc
        match name:
            case "ping":
                self._acknowledge(packet_id, {})
            case "app-state":
                self._note_state(_members(data).get("state"))
                self._acknowledge(packet_id, NO_ACK)
            case "rpc-register" | "rpc-unregister":
                self._register(name, _members(data).get("method"))
                self._acknowledge(packet_id, NO_ACK)
            case "rpc-call":
                self._face.engine.spawn(self._call(_members(data), packet_id))
            case "rpc-cancel":
                rpc.cancel(self, _members(data).get("requestId"))
                self._acknowledge(packet_id, NO_ACK)
            case "rpc-request" | "rpc-response":
                return  # the server's own word, and one of the other protocol
            case _:
                self._acknowledge(packet_id, await self._face.dispatch.dispatch(self.sender, name, data))

    def _acknowledge(self, packet_id: int | None, answer: Ack) -> None:
        """Whoever asked for an acknowledgement gets one, if only an empty one."""
        if packet_id is not None:
            self._link.put(packets.acknowledgement(packet_id, b"" if answer is NO_ACK else encode_json(answer)))

    def _note_state(self, state: object) -> None:
        if isinstance(state, str):
            self.app_state = "active" if state == "active" else "inactive"

    def _register(self, name: str, method: object) -> None:
        rpc = self._face.rpc
        if name == "rpc-register":
            kind, done, error = "register", "rpc-registered", rpc.register(self, method)
        else:
            kind, done, error = "unregister", "rpc-unregistered", rpc.unregister(self, method)
        if error:
            self.send(frame_of("rpc-error", {"type": kind, "error": error}))
        else:
            self.send(frame_of(done, {"method": method}))

    async def _call(self, data: Mapping[str, Any], packet_id: int | None) -> None:
        request_id = data.get("requestId")
        try:
            answer = await self._face.rpc.call(
                self,
                data.get("method"),
                data.get("params"),
                request_id=request_id if isinstance(request_id, str) else "",
            )
            self._acknowledge(packet_id, answer)
        except Exception as error:  # the boundary: a defect is told to whoever waits, and ends no socket
            _log.error("call failed", exc_info=error)
            self._acknowledge(packet_id, {"ok": False, "error": "Internal error"})

    def _answered(self, packet: Packet) -> None:
        waiting = None if packet.id is None or self._asked is None else self._asked.get(packet.id)
        if waiting is None or waiting.done():
            return
        if packet.kind == packets.BINARY_ACK:
            waiting.set_result({"ok": False, "error": NO_BINARY})
        else:
            answer = cast("list[Any]", packet.data)
            # Whatever it is, it is the result: only natives answer with an object that says `ok` itself.
            waiting.set_result({"ok": True, "result": answer[0] if answer else None})


class SocketIo:
    """All Socket.IO clients of this worker."""

    def __init__(
        self,
        hub: Hub,
        dispatch: Dispatch,
        rpc: Rpc,
        verifier: Verifier,
        clock: Clock,
        ids: Ids,
        settings: RelaySettings,
        strangers: Strangers,
    ) -> None:
        self.hub = hub
        self.dispatch = dispatch
        self.rpc = rpc
        self.verifier = verifier
        self.clock = clock
        self.ids = ids
        self.engine = Engine(clock, ids, settings, lambda link, _: Client(self, link), strangers)

    def start(self) -> None:
        """Begins to keep time."""
        self.engine.start()

    def stop_waiting(self) -> None:
        """Ends every client. The first step of an orderly stop."""
        self.engine.stop_waiting()

    async def close(self) -> None:
        """Ends every client, and returns when each has been told."""
        await self.engine.close()

    def publish(self, metrics: Metrics) -> None:
        """Shows what clients do on the metrics page."""
        engine = self.engine
        metrics.gauges(
            "hapta_relay_socketio_clients",
            "Clients of Socket.IO",
            "transport",
            lambda: {"polling": engine.polling, "websocket": engine.open - engine.polling},
        )
        metrics.counters(
            "hapta_relay_socketio_ended",
            "Clients of Socket.IO that the server ended",
            ["reason"],
            lambda: {("slow",): engine.slow, ("flooding",): engine.flooding},
        )


def _read_auth(auth: Mapping[str, Any]) -> tuple[str, Scope]:
    """Token and scope of a CONNECT packet's payload.

    Raises:
        Refused: something is missing, in the words of the contract (relay, section 15).
    """
    token = auth.get("token")
    if not token:
        raise Refused(_MISSING)
    match auth.get("clientType"):
        case "session-scoped":
            session_id = _id(auth.get("sessionId"))
            if not session_id:
                raise Refused("Session ID required for session-scoped clients")
            scope = Scope("session-scoped", session_id=session_id)
        case "machine-scoped":
            machine_id = _id(auth.get("machineId"))
            if not machine_id:
                raise Refused("Machine ID required for machine-scoped clients")
            scope = Scope("machine-scoped", machine_id=machine_id)
        case _:
            scope = Scope()
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise Refused(_INVALID)
    return token, scope


def _refusal(message: str) -> Ack:
    """The acknowledgement of what no event's handler saw, in the words of all families of events."""
    return {"ok": False, "success": False, "error": message, "result": "error", "message": message}


def _id(value: object) -> str:
    """An id as a client names it; empty: it names none that could be one."""
    fits = isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS and "\0" not in value
    return value if fits and isinstance(value, str) else ""


def _members(data: Any) -> Mapping[str, Any]:
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}
