"""Files over a socket: what they are in a message, their bytes in binary frames, no faster than the client takes them
(contract gateway, B.8).

`file.get` -> `file.meta {file, size, type, chunk, window}` -> frames, and for each some `file.ack {file, seq}` -> `file.end`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Any, cast

import msgspec

from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import RecordMissing
from hapta.gateway.files.service import FileWanted, OpenFile
from hapta.gateway.limits.service import reached
from hapta.gateway.models import Headers, Outcome, Visitor
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.socket.asked import Payload, operation, record_id, required, text, whole
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.crud import collection_of
from hapta.gateway.socket.errors import BadMessage, TransferBroken
from hapta.gateway.socket.failures import of_error, of_outcome
from hapta.gateway.socket.identities import Identities
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import CHUNK_BYTES, ID_BYTES, Message, frame
from hapta.kit.errors import HaptaError

WINDOW = 8
"""Frames that may be on their way without an acknowledgement."""
IDLE_SECONDS = 30.0
MAX_DOWNLOADS = 8
"""Of one connection at a time."""
MAX_ERROR_BYTES = 64 * 1024

_RANGE = re.compile(r"bytes=[0-9]{0,15}-[0-9]{0,15}")


class Download:
    """One file on its way out."""

    def __init__(self) -> None:
        self.id = secrets.token_bytes(ID_BYTES)
        self._allowed = WINDOW
        self._aborted = False
        self._news: asyncio.Future[None] | None = None

    def acknowledge(self, number: int) -> None:
        """The client has taken a frame, and all before it."""
        self._allowed = max(self._allowed, number + 1 + WINDOW)
        self._wake()

    def abort(self) -> None:
        """The client wants no more of it."""
        self._aborted = True
        self._wake()

    async def turn(self, number: int) -> None:
        """Waits until a frame may be sent.

        Raises:
            TransferBroken: the client wants no more, or says nothing.
        """
        while number >= self._allowed or self._aborted:
            if self._aborted:
                raise TransferBroken("The download was broken off.")
            self._news = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._news
            except TimeoutError:
                raise TransferBroken("The download stopped.") from None
            finally:
                self._news = None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Downloads:
    """Those of one connection."""

    def __init__(self) -> None:
        self.running: dict[str, Download] = {}
        self.begun = 0


class DownloadHandlers:
    """Handlers of downloads."""

    def __init__(self, parts: Parts, identities: Identities) -> None:
        self._parts = parts
        self._identities = identities

    async def get(self, connection: Connection, message: Message, downloads: Downloads) -> None:
        """`file.get`, `fetchFile`."""
        if downloads.begun >= MAX_DOWNLOADS:
            raise reached(1.0)
        downloads.begun += 1
        connection.flows += 1
        try:
            visitor = await self._identities.who(connection)
            wanted = await self._wanted(connection, message, visitor)
            opening = self._parts.files.open(wanted, visitor, connection.client)
            file = await self._parts.metrics.counted("file", wanted.collection.name, opening)
            try:
                if file.status in (200, 206):
                    await self._send(connection, message, downloads, wanted.name, file)
                else:
                    body = b"".join([chunk async for chunk in file])[:MAX_ERROR_BYTES]
                    await connection.fail(message, of_outcome(Outcome(file.status, body), message.kind))
            finally:
                await file.aclose()
        finally:
            connection.flows -= 1
            downloads.begun -= 1

    async def _send(
        self, connection: Connection, message: Message, downloads: Downloads, name: str, file: OpenFile
    ) -> None:
        download = Download()
        written = download.id.hex()
        downloads.running[written] = download
        told: dict[str, Any] = {
            "file": written,
            "name": name,
            "type": file.media_type,
            "size": file.length,
            "chunk": CHUNK_BYTES,
            "window": WINDOW,
        }
        if file.status == 206:
            told["range"] = next((value.decode() for key, value in file.headers if key == b"content-range"), "")
        try:
            await connection.reply(message, told, type="file.meta")
            number = size = 0
            held = bytearray()
            async for chunk in file:
                held += chunk
                while len(held) >= CHUNK_BYTES:
                    piece, held = bytes(held[:CHUNK_BYTES]), held[CHUNK_BYTES:]
                    await self._one(connection, download, number, piece)
                    number, size = number + 1, size + len(piece)
            if held:
                await self._one(connection, download, number, bytes(held))
                number, size = number + 1, size + len(held)
            await connection.reply(message, {"file": written, "chunks": number, "size": size}, type="file.end")
        except HaptaError as error:
            await connection.fail(message, of_error(error, message.kind), type="file.error")
        finally:
            del downloads.running[written]

    @staticmethod
    async def _one(connection: Connection, download: Download, number: int, piece: bytes) -> None:
        await download.turn(number)
        await connection.deliver(frame(download.id, number, piece))

    async def acknowledge(self, connection: Connection, message: Message, downloads: Downloads) -> None:
        """`file.ack`. What is over needs none."""
        number = whole(message.payload, "seq")
        download = downloads.running.get(required(message.payload, "file"))
        if download is not None and number is not None:
            download.acknowledge(number)

    async def abort(self, connection: Connection, message: Message, downloads: Downloads) -> None:
        """`file.abort`. The client hears `file.error`."""
        download = downloads.running.get(required(message.payload, "file"))
        if download is not None:
            download.abort()

    async def _wanted(self, connection: Connection, message: Message, visitor: Visitor) -> FileWanted:
        payload = message.payload
        collection = collection_of(self._parts.catalog, payload)
        record = record_id(payload)
        name = text(payload, "filename", "name")
        if not name:
            field = required(payload, "field")
            asked = operation("view", collection, visitor, connection.client, {}, record)
            outcome = await self._parts.records.read(asked)
            name = _first(outcome, field)
        return FileWanted(
            collection,
            record,
            plain_segment(name, RecordMissing),
            text(payload, "thumb"),
            conditions=_range(payload),
            by_visitor=True,
        )


def _first(outcome: Outcome, field: str) -> str:
    """The name of the first file in a record's field.

    Raises:
        RecordMissing: there is none, or no record that the visitor sees.
    """
    if outcome.status != 200:
        raise RecordMissing
    value = msgspec.json.decode(outcome.body, type=dict[str, Any]).get(field)
    if isinstance(value, list) and value:
        value = cast("list[Any]", value)[0]
    if not isinstance(value, str) or not value:
        raise RecordMissing
    return value


def _range(payload: Payload) -> Headers:
    """A `Range` header: from `bytes=0-99`, or from a list of the first and the last byte."""
    given: Any = payload.get("range")
    if given is None:
        return ()
    if isinstance(given, list) and len(bounds := cast("list[Any]", given)) in (1, 2):
        first = whole({"first": bounds[0]}, "first")
        last = whole({"last": bounds[1]}, "last") if len(bounds) == 2 else None
        given = f"bytes={first or 0}-{'' if last is None else last}"
    if not isinstance(given, str) or _RANGE.fullmatch(given) is None:
        raise BadMessage("range is bytes=first-last, or a list of these two.", ErrorCodes.TYPE_MISMATCH)
    return ((b"range", given.encode()),)
