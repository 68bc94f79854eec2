"""What is told, encoded once for all who hear it: by each protocol's spelling, and as the bytes that go over the wire.

A frame is made for each update and each ephemeral; how many sockets hear it costs no further encoding.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hapta.http.sockets import text_frame
from hapta.relay.models import Event, Update

VERBATIM = ""
"""Name of an event whose data is the whole frame (contract relay, section 11)."""

encode_json = msgspec.json.Encoder().encode


class Text:
    """One text message of a WebSocket.

    Args:
        data: UTF-8.
    """

    __slots__ = ("_wire", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._wire = b""

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def wire(self) -> bytes:
        """The whole WebSocket frame, made on first use."""
        if not self._wire:
            self._wire = text_frame(self.data)
        return self._wire


class Frame:
    """An event and its data, in the spellings of both protocols.

    Args:
        name: of the event.
        data: JSON.
    """

    __slots__ = ("_native", "_socketio", "data", "name")

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self._native: Text | None = None
        self._socketio: Text | None = None

    @property
    def native(self) -> Text:
        """`{"event":name,"data":...}` (contract relay, section 14.2); a message of the broadcast route goes as it came."""
        if self._native is None:
            known = _KNOWN.get(self.name) or _spelled(self.name)
            self._native = Text(self.data if self.name == VERBATIM else known[0] + self.data + b"}")
        return self._native

    @property
    def socketio(self) -> Text:
        """An event of the main namespace in a message of the engine: `42["name",...]` (Socket.IO protocol 5)."""
        if self._socketio is None:
            known = _KNOWN.get(self.name) or _spelled(self.name)
            self._socketio = Text(known[1] + self.data + b"]")
        return self._socketio


def _spelled(name: str) -> tuple[bytes, bytes]:
    """What stands before the data in either protocol."""
    return b'{"event":%b,"data":' % encode_json(name), b"42[%b," % encode_json(name or "broadcast")


_KNOWN = {name: _spelled(name) for name in ("update", "ephemeral", "broadcast", VERBATIM)}


class _Envelope(msgspec.Struct, frozen=True, rename="camel", gc=False):
    id: str
    seq: int
    body: msgspec.Raw
    created_at: int


def update_frame(update: Update) -> Frame:
    """The envelope of an update (contract relay, section 13)."""
    return Frame("update", encode_json(_Envelope(update.id, update.seq, update.body, update.created_at)))


def event_frame(event: Event) -> Frame:
    """An ephemeral, a relayed frame or a broadcast."""
    return Frame(event.name, bytes(event.data))


def frame_of(name: str, data: Any) -> Frame:
    """A frame for one socket."""
    return Frame(name, encode_json(data))
