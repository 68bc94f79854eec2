"""Reads an event stream as it arrives (WHATWG HTML, section 9.2): PocketBase's realtime, in bounded memory.

Comments are skipped; `retry` is not ours to obey. Lines end with LF or CRLF: PocketBase never ends one with a lone CR.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import NamedTuple

from hapta.gateway.errors import UpstreamBroken

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""A record may hold many fields of megabytes, and an event carries it whole."""


class Event(NamedTuple):
    """One event.

    Attributes:
        name: its type, byte for byte as sent (PocketBase: the topic); `message` where none was sent.
        id: the last id of the stream (PocketBase: the client's id).
        data: as sent; several lines are joined by LF.
    """

    name: str
    id: str
    data: bytes


async def events(chunks: AsyncIterable[bytes], *, max_event_bytes: int = MAX_EVENT_BYTES) -> AsyncIterator[Event]:
    """The events of a stream, until it ends. An event that was not finished then is dropped, as the standard says.

    Raises:
        UpstreamBroken: an event is longer than the bound, or not UTF-8 where text belongs.
    """
    pending: list[bytes] = []
    pending_bytes = 0
    name, last_id = b"", b""
    data: list[bytes] = []
    event_bytes = 0
    first = True
    async for chunk in chunks:
        if first:
            chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
        head, newline, rest = chunk.partition(b"\n")
        if not newline:
            pending.append(head)
            pending_bytes += len(head)
            if pending_bytes + event_bytes > max_event_bytes:
                raise UpstreamBroken("PocketBase sent an event that is too long.")
            continue
        if pending:
            head = b"".join((*pending, head))
            pending, pending_bytes = [], 0
        *lines, tail = rest.split(b"\n")
        if tail:
            pending.append(tail)
            pending_bytes = len(tail)
        for line in (head, *lines):
            if line.endswith(b"\r"):
                line = line[:-1]
            if not line:
                if data:
                    yield Event(
                        _text(name) or "message", _text(last_id), data[0] if len(data) == 1 else b"\n".join(data)
                    )
                name, data, event_bytes = b"", [], 0
                continue
            event_bytes += len(line)
            if event_bytes > max_event_bytes:
                raise UpstreamBroken("PocketBase sent an event that is too long.")
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"id" and b"\0" not in value:
                last_id = value


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UpstreamBroken() from error
