"""The opening handshake of a WebSocket as almost every client makes it (RFC 6455 section 4.2), read and answered in one step.

Whatever looks different is the codec's to judge: it reads line by line, knows every refusal, and takes ten times as long. What is
read here it would take as well, and the answer has the same lines.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from binascii import Error, a2b_base64
from collections.abc import Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from hapta.http.protocol import header_lines

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONNECTION = frozenset((b"upgrade", b"keep-alive, upgrade"))
_NOT_PLAIN = frozenset((b"sec-websocket-protocol", b"content-length", b"transfer-encoding"))
_VISIBLE = bytes((*range(0x20, 0x7F), 0x0D, 0x0A))
_MAX_LINES = 64
_MAX_HEAD_BYTES = 8192  # no line of it can be too long for the codec then
_KEY_CHARACTERS = 24  # of 16 bytes in base64


class Handshake(NamedTuple):
    """What was asked, and the `Sec-WebSocket-Accept` that answers it."""

    path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    accept: bytes


def read(head: bytes) -> Handshake | None:
    """A handshake, or None when the codec has to judge it.

    Args:
        head: as the HTTP protocol hands it on: names in lower case, and not a byte more than the head.
    """
    if (
        not head.endswith(b"\r\n\r\n")
        or len(head) > _MAX_HEAD_BYTES
        or head.translate(None, _VISIBLE)
        or b" \r" in head
    ):
        return None
    first, *lines = head[:-4].split(b"\r\n")
    method, _, rest = first.partition(b" ")
    target, _, protocol = rest.partition(b" ")
    if method != b"GET" or protocol != b"HTTP/1.1" or len(lines) > _MAX_LINES:
        return None
    pairs: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, found, value = line.partition(b": ")
        if not found or value[:1] == b" " or b"\r" in line or b"\n" in line:
            return None
        pairs.append((name, value))
    headers = dict(pairs)
    key = headers.get(b"sec-websocket-key", b"")
    if (
        len(headers) != len(pairs)  # nothing is said twice
        or headers.get(b"upgrade", b"").lower() != b"websocket"
        or headers.get(b"connection", b"").lower() not in _CONNECTION
        or headers.get(b"sec-websocket-version") != b"13"
        or not _NOT_PLAIN.isdisjoint(headers)
        or not _is_key(key)
    ):
        return None
    path, _, query_string = target.partition(b"?")
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return Handshake(path, query_string, pairs, accept)


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == _KEY_CHARACTERS and len(a2b_base64(key, strict_mode=True)) == 16
    except Error:
        return False


def answer(accept: bytes, headers: Sequence[tuple[bytes, bytes]], subprotocol: str | None) -> bytes:
    """The head that opens the socket.

    Args:
        accept: of the handshake.
        headers: further ones, names in lower case.

    Raises:
        ValueError: one of them holds a line break.
    """
    if subprotocol:
        headers = [*headers, (b"Sec-WebSocket-Protocol", subprotocol.encode("ascii"))]
    lines = header_lines(headers)
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, lines)
    )


class _Faults(logging.LoggerAdapter[logging.Logger]):
    """Passes on what went wrong, and nothing that uvicorn and the codec say of each socket: they write its address with the query,
    where tokens and tickets are, and the edge has a line for it in the access log."""

    level = logging.WARNING

    def isEnabledFor(self, level: int) -> bool:
        return level >= self.level and super().isEnabledFor(level)


FAULTS: Any = _Faults(logging.getLogger("uvicorn.error"), {})
"""The logger of sockets."""
