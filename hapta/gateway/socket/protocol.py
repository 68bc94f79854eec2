"""Messages and frames on the wire: one envelope both ways, the older names of its members as aliases, and binary frames for files
(contract gateway, B.8 and B.10).

In:  `{id, type, payload}`. Out: `{id, type, ok, payload | error: {code, status, message, data}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from hapta.gateway.bodies.json import loads
from hapta.gateway.errors import BadBody
from hapta.gateway.socket.errors import BadMessage
from hapta.gateway.socket.failures import Failure

MAX_ID_LENGTH = 128
MAX_TYPE_LENGTH = 64
MAX_DEPTH = 64
"""Objects and lists within each other in one message."""
ID_BYTES = 16
HEAD_BYTES = ID_BYTES + 4
CHUNK_BYTES = 256 * 1024
"""The most that one binary frame brings of a file."""

MAX_FRAME_BYTES = 1024 * 1024

STALE = 4401
POLICY = 1008
TOO_BIG = 1009
RESTART = 1012

KINDS = {
    "authSession": "auth",
    "authRollToken": "auth_roll_token",
    "auth.roll": "auth_roll_token",
    "get": "read",
    "view": "read",
    "oauth": "oauth.start",
    "fetchFile": "file.get",
}
"""Older names of what can be asked for, to the one that it has here."""

_ENVELOPE = frozenset(("type", "payload", "token", "security", "session", "key", "callback", "time"))
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a client.

    Args:
        type: as it was written.
        kind: the type's one name.
        id: chosen by the client, echoed in every answer to this message; None when there is none.
        alias: the older name under which the id came, under which it is echoed too.
        token: empty when none was given.
    """

    type: str
    kind: str
    id: str | int | None
    alias: str
    payload: dict[str, Any]
    token: str


def read(text: str | bytes) -> Message:
    """Reads one message.

    Raises:
        BadMessage: it is no strict JSON, nested too deeply, or no envelope.
    """
    if len(text) > MAX_FRAME_BYTES:
        raise BadMessage("The message is too large.")
    try:
        value = loads(text)
    except BadBody as error:
        raise BadMessage(error.message) from None
    if not isinstance(value, dict):
        raise BadMessage("A message is an object.")
    given = cast("dict[str, Any]", value)
    if not _is_flat(given):
        raise BadMessage("The message is nested too deeply.")
    kind = given.get("type")
    if not isinstance(kind, str) or not 0 < len(kind) <= MAX_TYPE_LENGTH:
        raise BadMessage("A message has a type.")
    payload = _payload(given)
    alias = next((name for name in ("key", "callback") if name in given), "")
    correlation = given[alias] if alias else given.get("id")
    if correlation is not None and (
        isinstance(correlation, bool)
        or not isinstance(correlation, str | int)
        or (len(correlation) > MAX_ID_LENGTH if isinstance(correlation, str) else abs(correlation) >= 2**53)
    ):
        raise BadMessage("The id of a message is a short text or a whole number.")
    return Message(kind, KINDS.get(kind, kind), correlation, alias, payload, _token(given, payload))


def _payload(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a message is about: `payload`, or `data` as it was called before, or members beside the envelope's own."""
    name = "payload" if "payload" in given else "data" if "data" in given and "collection" not in given else ""
    if not name:
        return {key: value for key, value in given.items() if key not in _ENVELOPE or key == "time"}
    payload = given[name]
    if payload is None:
        return {}
    if not isinstance(payload, dict):
        raise BadMessage("The payload is an object.")
    return cast("dict[str, Any]", payload)


def _token(given: Mapping[str, Any], payload: Mapping[str, Any]) -> str:
    security = given.get("security")
    nested = cast("dict[str, Any]", security).get("token") if isinstance(security, dict) else None
    for token in (given.get("token"), nested, payload.get("token")):
        if token is not None:
            if not isinstance(token, str) or not token.isascii() or len(token) > 8192:
                raise BadMessage("The token is a text.")
            return token
    return ""


def _is_flat(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for node in level:
            if type(node) is dict:
                inner += cast("dict[str, Any]", node).values()
            elif type(node) is list:
                inner += cast("list[Any]", node)
        if not inner:
            return True
        level = inner
    return False


def answer(message: Message, payload: object, *, type: str = "", **beside: object) -> str:
    """An answer that it went well.

    Args:
        payload: JSON as bytes, or what can be written as such.
        type: of the answer; the message's own when left out.
        beside: further members of the envelope.
    """
    told = _head(message, type or message.type)
    told["ok"] = True
    told["payload"] = msgspec.Raw(payload) if isinstance(payload, bytes) else payload
    told.update(beside)
    return _encode(told).decode()


def refusal(message: Message, failure: Failure, *, type: str = "") -> str:
    """An answer that it did not."""
    told = _head(message, type or message.type)
    told["ok"] = False
    told["error"] = failure.told
    return _encode(told).decode()


def refusal_of_nothing(failure: Failure) -> str:
    """What is told of a frame that is no message."""
    return _encode({"id": None, "type": "error", "ok": False, "error": failure.told}).decode()


def push(type: str, **members: object) -> str:
    """A message that nobody asked for."""
    return _encode({"type": type, **members}).decode()


def _head(message: Message, type: str) -> dict[str, Any]:
    head: dict[str, Any] = {"id": message.id, "type": type}
    if message.alias:
        head[message.alias] = message.id
    return head


def frame(transfer: bytes, number: int, data: bytes | memoryview) -> bytes:
    """A binary frame: 16 bytes say which transfer, 4 (big-endian) which of its chunks."""
    return b"".join((transfer, number.to_bytes(4, "big"), data))


def unframed(raw: bytes) -> tuple[bytes, int, bytes]:
    """Transfer, number and bytes of a binary frame.

    Raises:
        BadMessage: it is too short to be one, or too long.
    """
    if not HEAD_BYTES < len(raw) <= HEAD_BYTES + CHUNK_BYTES:
        raise BadMessage("A binary frame is the id of an upload, a number and some bytes of a file.")
    return raw[:ID_BYTES], int.from_bytes(raw[ID_BYTES:HEAD_BYTES], "big"), raw[HEAD_BYTES:]
