"""What a handshake and the first message of a native socket say: which scope it wants (contract relay, section 14.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

from hapta.http.sockets import Socket
from hapta.relay.models import Scope

INVALID_HANDSHAKE = 4002
NO_SESSION_ID = 4003
NO_MACHINE_ID = 4004
POLICY = 1008
MAX_ID_CHARACTERS = 256


def query_of(query_string: bytes) -> dict[str, str]:
    """The parameters of an address; none where they cannot be read."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, max_num_fields=50)
    except ValueError:  # bytes outside ASCII, or far too many
        return {}
    return dict(reversed(pairs))  # of several the first one counts


def said_in_handshake(socket: Socket, query: Mapping[str, str]) -> dict[str, str]:
    """What a handshake says of the scope: by the query, else by headers (contract relay, section 14.1)."""
    found: dict[str, str] = {}
    for name, header in (
        ("clientType", b"x-client-type"),
        ("sessionId", b"x-session-id"),
        ("machineId", b"x-machine-id"),
    ):
        value = query.get(name) or socket.headers.get(header, b"").decode("latin-1").strip()
        if value:
            found[name] = value
    return found


def said_in_message(data: Any) -> dict[str, str]:
    """What the data of `auth` says of the scope."""
    return {name: value for name in ("clientType", "sessionId", "machineId") if (value := text_of(data, name))}


def scope_of(said: Mapping[str, str]) -> Scope | int:
    """The scope, or the close code that says what is missing."""
    session_id, machine_id = said.get("sessionId", ""), said.get("machineId", "")
    for value in (session_id, machine_id):
        if len(value) > MAX_ID_CHARACTERS or "\0" in value:
            return INVALID_HANDSHAKE
    match said.get("clientType"):
        case "session-scoped":
            return Scope("session-scoped", session_id=session_id) if session_id else NO_SESSION_ID
        case "machine-scoped":
            return Scope("machine-scoped", machine_id=machine_id) if machine_id else NO_MACHINE_ID
        case _:
            return Scope()


def text_of(data: Any, name: str) -> str:
    """A member of an event's data that is text; empty where there is none."""
    value = cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""
