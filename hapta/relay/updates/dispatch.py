"""From a decoded frame to the noun that answers it, for both protocols; and the events that the server only passes on.

Whatever a handler raises becomes an acknowledgement: a client that waits for one is never left to its own clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import structlog

from hapta.kit.errors import HaptaError
from hapta.relay.events import NO_ACK, Ack, EventTable, Sender
from hapta.relay.models import ALL, USERS, Audience, Event, ephemeral, session_audience
from hapta.relay.updates.frames import encode_json
from hapta.relay.updates.service import Updates

OwnsSession = Callable[[str, str], Awaitable[bool]]
"""`(account_id, session_id)`: whether the session is the account's."""

MAX_NAME_CHARACTERS = 128
_SERVERS_OWN = frozenset(
    (
        "update",
        "ephemeral",
        "ack",
        "connected",
        "auth",
        "auth-error",
        "error",
        "pong",
        "ping",
        "rpc-request",
        "disconnect",
        "connect",
        "connect_error",
        "disconnecting",
        "newListener",
        "removeListener",
    )
)
"""Names that only the server says, or that Socket.IO keeps for itself: a relayed frame never looks like one of them."""
_SUCCESS = frozenset(("session-end", "usage-report", "update-usage-limits", "request-updates-since"))
_OK = frozenset(("access-key-get", "rpc-call"))
_SILENT = frozenset(("session-alive", "machine-alive", "message"))

_log = structlog.stdlib.get_logger("hapta.relay.events")


class Dispatch:
    """Answers events by name.

    Args:
        table: of all nouns.
        owns_session: asked before an agent's frames are passed on.
    """

    def __init__(self, table: EventTable, updates: Updates, owns_session: OwnsSession) -> None:
        self._updates = updates
        self._owns_session = owns_session
        self._table = {**self._passed_on(), **table}
        self.handled: dict[str, int] = dict.fromkeys([*self._table, "other"], 0)
        """How many events there were, by name; those that the table does not know as `other`."""
        self.failed = 0
        """Events whose handler failed unexpectedly."""

    async def dispatch(self, sender: Sender, name: str, data: Any) -> Ack:
        """Handles an event; what its acknowledgement carries, or `NO_ACK`. Never raises."""
        handler = self._table.get(name)
        try:
            if handler is None:
                self.handled["other"] += 1
                await self._relay(sender, name, data)
                return NO_ACK
            self.handled[name] += 1
            return await handler(sender, data)
        except HaptaError as error:
            return refusal(name, error.message)
        except Exception as error:  # the boundary: a defect is told to whoever waits, and ends no socket
            self.failed += 1
            _log.error("event failed", event_name=name if handler is not None else "other", exc_info=error)
            return refusal(name, "Internal error")

    # -- what is only passed on (contract relay, sections 14.3 and 14.4) -------------------------------------------------

    def _passed_on(self) -> EventTable:
        return {
            "broadcast": self._broadcast,
            "acp-session-update": self._acp("acp-session-update", session_audience, needs_session=True),
            "acp-permission-request": self._acp("acp-permission-request", lambda _: USERS),
            "acp-session-list-response": self._acp("acp-session-list-response", lambda _: USERS),
            "acp-permission-response": self._acp("acp-permission-response", lambda _: ALL),
            "acp-session-command": self._acp("acp-session-command", lambda _: ALL),
        }

    async def _broadcast(self, sender: Sender, data: Any) -> Ack:
        await self._tell(sender, "broadcast", data, ALL)
        return NO_ACK

    def _acp(
        self, name: str, audience: Callable[[str], Audience], *, needs_session: bool = False
    ) -> Callable[[Sender, Any], Awaitable[Ack]]:
        async def pass_on(sender: Sender, data: Any) -> Ack:
            members = _members(data)
            session_id = _text(members, "sessionId") or _text(members, "sid")
            if members is None or (needs_session and not session_id):
                return NO_ACK
            if session_id and not await self._owns_session(sender.account_id, session_id):
                return NO_ACK
            body: dict[str, object] = {**members, "type": name}
            event = ephemeral(sender.account_id, body, audience(session_id), sender=sender.connection_id)
            await self._updates.tell(event)
            return NO_ACK

        return pass_on

    async def _relay(self, sender: Sender, name: str, data: Any) -> None:
        """What no part of the server knows: from a session or a machine to the apps, from an app to the one it names."""
        if name in _SERVERS_OWN or not 0 < len(name) <= MAX_NAME_CHARACTERS:
            return
        if sender.scope.kind != "user-scoped":
            await self._tell(sender, name, data, USERS)
            return
        members = _members(data)
        if session_id := _text(members, "sessionId"):
            await self._tell(sender, name, data, Audience("only-session", session_id))
        elif machine_id := _text(members, "machineId"):
            await self._tell(sender, name, data, Audience("only-machine", machine_id))

    async def _tell(self, sender: Sender, name: str, data: Any, audience: Audience) -> None:
        raw = msgspec.Raw(encode_json(data))
        await self._updates.tell(Event(sender.account_id, name, raw, audience, sender.connection_id))


def refusal(name: str, message: str) -> Ack:
    """How the family of an event says that it was not done."""
    if name in _SILENT:
        return NO_ACK
    if name in _SUCCESS:
        return {"success": False, "error": message}
    if name in _OK:
        return {"ok": False, "error": message}
    return {"result": "error", "message": message}


def _members(data: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", data) if isinstance(data, dict) else None


def _text(members: dict[str, Any] | None, name: str) -> str:
    value = None if members is None else members.get(name)
    return value if isinstance(value, str) else ""
