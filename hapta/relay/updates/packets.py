"""Packets of Socket.IO protocol 5 inside messages of Engine.IO protocol 4, read from and written to text.

Only what goes over the wire is here. Attachments are told by their number and never put together: no client of the relay sends
any. Whatever a peer can send either becomes a `Packet` or raises `BadPacket`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, cast

import msgspec

from hapta.relay.updates.frames import Text, encode_json

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)
MAIN = "/"
"""The namespace that clients of the relay use."""
MAX_ATTACHMENTS = 16

_HEAD = re.compile(r"([0-6])(?:(?<=[56])([0-9]{1,3})-)?(?:(/[^,]{0,256})(?:,|\Z))?([0-9]{1,15})?")
_RESERVED = frozenset(("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"))
_decode = msgspec.json.Decoder().decode


class BadPacket(Exception):
    """What the peer sent is no packet of the protocol."""


class Packet(NamedTuple):
    """A packet as it came.

    `data` is the payload: of an event the list of its name and arguments, of an acknowledgement the list of its arguments.
    """

    kind: int
    namespace: str
    id: int | None
    data: Any
    attachments: int


def read(text: str) -> Packet:
    """A packet from the payload of an engine's message.

    Raises:
        BadPacket: it is none, or its payload is not one that its type allows (the protocol's exchange section).
    """
    head = _HEAD.match(text)
    if head is None:
        raise BadPacket
    kind = int(head[1])
    namespace = (head[3] or MAIN).partition("?")[0]
    try:
        data = _decode(text[head.end() :]) if head.end() < len(text) else None
    except (ValueError, RecursionError):  # no JSON; or nested deeper than the decoder follows
        raise BadPacket from None
    attachments = int(head[2] or 0)
    if (
        attachments > MAX_ATTACHMENTS
        or (kind in (BINARY_EVENT, BINARY_ACK)) != (head[2] is not None)
        or not _fits(kind, data)
    ):
        raise BadPacket
    return Packet(kind, namespace, None if head[4] is None else int(head[4]), data, attachments)


def _fits(kind: int, data: Any) -> bool:
    match kind:
        case 0:
            return data is None or isinstance(data, dict)
        case 1:
            return data is None
        case 2 | 5:
            name = cast("list[Any]", data)[0] if isinstance(data, list) and data else None
            return isinstance(name, str) and name not in _RESERVED
        case 3 | 6:
            return isinstance(data, list)
        case _:
            return False  # only servers refuse a connection


def connected(sid: str) -> Text:
    """The main namespace is open."""
    return Text(b"40" + encode_json({"sid": sid}))


def refused(namespace: str, message: str) -> Text:
    """A namespace stays closed."""
    at = b"" if namespace == MAIN else namespace.encode() + b","
    return Text(b"44" + at + encode_json({"message": message}))


def acknowledgement(packet_id: int, answer: bytes) -> Text:
    """Args: answer: JSON of the one argument; empty: none."""
    return Text(b"43%d[%b]" % (packet_id, answer))


def event(name: str, data: Any, packet_id: int) -> Text:
    """An event that wants an acknowledgement."""
    return Text(b"42%d[%b,%b]" % (packet_id, encode_json(name), encode_json(data)))
