"""Wire types of the routes beside the sockets (contract relay, section 11)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hapta.http.validate import SafeInt, Wire
from hapta.kit.errors import Issue

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_NEEDS = {"session": "session_id", "machine": "machine_id", "exclude": "connection_id"}
_WIRE_NAMES = {"session_id": "sessionId", "machine_id": "machineId", "connection_id": "connectionId"}


class TicketAnswer(Wire, frozen=True):
    ticket: str


class ByType(msgspec.Struct, frozen=True, rename="kebab"):
    user_scoped: int
    session_scoped: int
    machine_scoped: int


class StatsAnswer(Wire, frozen=True):
    total_connections: int
    by_type: ByType
    active_sessions: int
    active_machines: int
    oldest_connection: int | None


class BroadcastMessage(Wire, frozen=True, omit_defaults=True):
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    timestamp: SafeInt
    payload: Any = msgspec.UNSET


class BroadcastFilter(Wire, frozen=True):
    type: Literal["all", "user-scoped-only", "session", "machine", "exclude"]
    session_id: _Id | None = None
    machine_id: _Id | None = None
    connection_id: _Id | None = None

    def issues(self) -> list[Issue]:
        needed = _NEEDS.get(self.type)
        if needed is None or getattr(self, needed) is not None:
            return []
        return [Issue((_WIRE_NAMES[needed],), "Required")]


class BroadcastRequest(Wire, frozen=True):
    message: BroadcastMessage
    filter: BroadcastFilter | None = None


class BroadcastAnswer(Wire, frozen=True):
    success: bool
    delivered: int
