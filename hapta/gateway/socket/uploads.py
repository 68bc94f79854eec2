"""Uploads in binary frames, streamed on to PocketBase in constant memory (contract gateway, B.8).

`upload.begin` -> `upload.ready {upload, chunk, window}` -> frames -> `upload.ack {upload, seq}` -> `upload.end` -> `upload.done` with the record.
The client may be `window` frames ahead of the last one that was acknowledged: so many are held here, and no more. A file goes
through the same checks as one of a multipart body, and PocketBase sees the end of its body only when all of them have passed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, cast

from hapta.gateway.bodies.incoming import Incoming, file_field, max_record_bytes
from hapta.gateway.errors import FieldsInvalid, FileTooLarge
from hapta.gateway.limits.service import reached
from hapta.gateway.models import Operation, Outcome
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.socket.asked import operation, record_id, required, text, whole
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.crud import collection_of, tell
from hapta.gateway.socket.errors import BadMessage, TransferBroken
from hapta.gateway.socket.failures import of_error
from hapta.gateway.socket.identities import Identities
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import CHUNK_BYTES, ID_BYTES, Message, push
from hapta.gateway.uploads.checks import check_field, new_file
from hapta.gateway.uploads.sources import FileSource
from hapta.kit.errors import HaptaError

WINDOW = 8
"""Frames that a client may be ahead."""
IDLE_SECONDS = 30.0
MAX_UPLOADS = 16
"""Of one connection, begun and not yet answered; how many of them may run is a matter of limits."""
REMEMBERED = 64


class Upload:
    """One upload under way: frames in, chunks out.

    Args:
        size: how many bytes were announced.
        sha256: of the whole file, in hex; empty when it was not announced.
        ready, acknowledge: tell the client to begin, and to go on after a frame.
    """

    def __init__(
        self,
        size: int,
        sha256: str,
        ready: Callable[[], Awaitable[None]],
        acknowledge: Callable[[int], Awaitable[None]],
    ) -> None:
        self.id = secrets.token_bytes(ID_BYTES)
        self._size = size
        self._sha256 = sha256
        self._ready = ready
        self._acknowledge = acknowledge
        self._waiting: deque[bytes] = deque()
        self._next = 0
        self._taken = 0
        self._arrived = 0
        self._ended = False
        self._passed = False
        self._broken: HaptaError | None = None
        self._writing: asyncio.Task[Outcome] | None = None
        self._news: asyncio.Future[None] | None = None

    def feed(self, number: int, data: bytes) -> None:
        """Takes a frame. One that is out of turn, too early or too much breaks the upload off."""
        if self._broken is not None:
            return
        self._arrived += len(data)
        if self._ended or number != self._next:
            self.abort(TransferBroken("A chunk of the upload is out of turn."))
        elif number - self._taken >= WINDOW:
            self.abort(TransferBroken("The upload does not wait for its acknowledgements."))
        elif self._arrived > self._size:
            self.abort(TransferBroken("The upload is longer than it said."))
        else:
            self._next += 1
            self._waiting.append(data)
            self._wake()

    def end(self, sha256: str = "") -> None:
        """All frames have come."""
        self._ended = True
        if sha256 and self._sha256 and sha256 != self._sha256:
            self.abort(TransferBroken("The upload was announced with another hash."))
        self._wake()

    def abort(self, error: HaptaError | None = None) -> None:
        """Breaks it off, unless PocketBase has all of it already."""
        if self._broken is None and not self._passed:
            self._broken = error or TransferBroken()
            self._waiting.clear()
            self._wake()
            if self._writing is not None:
                self._writing.cancel()

    async def through(self, write: Coroutine[Any, Any, Outcome]) -> Outcome:
        """What a write came to, which is cut off when this is broken off: PocketBase may take nothing more for a while.

        Raises:
            TransferBroken: it was.
            As the write.
        """
        writing = self._writing = asyncio.get_running_loop().create_task(write)
        try:
            await asyncio.wait((writing,))
            if writing.cancelled():
                raise self._broken or TransferBroken
            return writing.result()
        finally:
            if not writing.done():
                writing.cancel()
                await asyncio.wait((writing,))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file as it arrives. A frame is acknowledged when what it brought has gone on.

        Raises:
            TransferBroken: it does not come to its end, or is not what it said.
        """
        digest = hashlib.sha256() if self._sha256 else None
        await self._ready()
        while True:
            while self._waiting:
                data = self._waiting.popleft()
                if digest is not None:
                    digest.update(data)
                yield data
                self._taken += 1
                if self._broken is None:
                    await self._acknowledge(self._taken - 1)
            if self._broken is not None:
                raise self._broken
            if self._ended:
                break
            await self._more()
        if self._arrived != self._size:
            raise TransferBroken("The upload is shorter than it said.")
        if digest is not None and digest.hexdigest() != self._sha256:
            raise TransferBroken("The upload is not what its hash says.")
        self._passed = True

    async def _more(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self._news
        except TimeoutError:
            raise TransferBroken("The upload stopped.") from None
        finally:
            self._news = None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Uploads:
    """Uploads of one connection."""

    def __init__(self) -> None:
        self._running: dict[bytes, Upload] = {}
        self._over: deque[bytes] = deque(maxlen=REMEMBERED)
        self.begun = 0

    def add(self, upload: Upload) -> None:
        """It may get frames from now on."""
        self._running[upload.id] = upload

    def remove(self, upload: Upload) -> None:
        """It gets no more; frames that are still on their way are nobody's fault."""
        if self._running.pop(upload.id, None) is not None:
            self._over.append(upload.id)

    def find(self, written: str) -> Upload | None:
        """The upload of that id as messages write it; None: it is over.

        Raises:
            BadMessage: there was none.
        """
        try:
            upload_id = bytes.fromhex(written)
        except ValueError:
            raise BadMessage("There is no such upload.") from None
        return self._find(upload_id)

    def feed(self, upload_id: bytes, number: int, data: bytes) -> None:
        """Hands a frame on.

        Raises:
            BadMessage: it belongs to no upload.
        """
        upload = self._find(upload_id)
        if upload is not None:
            upload.feed(number, data)

    def _find(self, upload_id: bytes) -> Upload | None:
        upload = self._running.get(upload_id)
        if upload is None and upload_id not in self._over:
            raise BadMessage("There is no such upload.")
        return upload


class UploadHandlers:
    """Handlers of uploads."""

    def __init__(self, parts: Parts, identities: Identities) -> None:
        self._parts = parts
        self._identities = identities

    async def begin(self, connection: Connection, message: Message, uploads: Uploads) -> None:
        """`upload.begin`, and all that comes of it."""
        if uploads.begun >= MAX_UPLOADS:
            raise reached(1.0)
        uploads.begun += 1
        connection.flows += 1
        try:
            await self._run(connection, message, uploads)
        except HaptaError as error:
            await connection.fail(message, of_error(error, "create"), type="upload.error")
        finally:
            connection.flows -= 1
            uploads.begun -= 1

    async def _run(self, connection: Connection, message: Message, uploads: Uploads) -> None:
        visitor = await self._identities.who(connection)
        await self._identities.draw(connection, "upload")
        payload = message.payload
        asked, key, size = await self._asked(connection, message)
        name = required(payload, "name", "filename")

        async def ready() -> None:
            uploads.add(upload)
            told = {"upload": upload.id.hex(), "chunk": CHUNK_BYTES, "window": WINDOW}
            await connection.reply(message, told, type="upload.ready")

        async def acknowledge(number: int) -> None:
            await connection.deliver(push("upload.ack", upload=upload.id.hex(), seq=number))

        upload = Upload(size, _sha256(payload), ready, acknowledge)
        given: Any = payload.get("data")
        data = dict(cast("dict[str, Any]", given)) if isinstance(given, dict) else {}
        asked.visitor = visitor
        incoming = Incoming.of_parts(
            data, [FileSource(key, name, upload.chunks())], asked.collection, self._parts.file_rules
        )
        try:
            outcome = await upload.through(self._parts.records.write(asked, incoming))
        finally:
            uploads.remove(upload)
            await incoming.close()
        kind = "upload.done" if outcome.status < 300 else "upload.error"
        await tell(connection, message, outcome, type=kind)

    async def _asked(self, connection: Connection, message: Message) -> tuple[Operation, str, int]:
        """What is to be written, the field with its modifier, and the size.

        Raises:
            BadMessage, FieldsInvalid, FileTooLarge: it need not even begin.
        """
        payload, parts = message.payload, self._parts
        collection = collection_of(parts.catalog, payload)
        record = record_id(payload) if text(payload, "recordId", "recordID", "record") else ""
        action = "update" if record else "create"
        asked = operation(action, collection, connection.visitor, connection.client, payload, record)
        key = required(payload, "field")
        field = file_field(collection, key)
        if field is None:
            fault = {"code": "validation_unknown_field", "message": "There is no such field for files."}
            raise FieldsInvalid({key: fault})
        size = whole(payload, "size")
        if size is None:
            raise BadMessage("size is missing.", ErrorCodes.FIELD_MISSING)
        if size > parts.file_rules.max_bytes or size > max_record_bytes(collection):
            raise FileTooLarge
        announced = new_file(key, field.name, required(payload, "name", "filename"))
        announced.size = size
        check_field(announced, field)
        return asked, key, size

    async def end(self, connection: Connection, message: Message, uploads: Uploads) -> None:
        """`upload.end`: all frames have been sent."""
        upload = uploads.find(required(message.payload, "upload", "id"))
        if upload is not None:
            upload.end(_sha256(message.payload))

    async def abort(self, connection: Connection, message: Message, uploads: Uploads) -> None:
        """`upload.abort`: the client gives up. It hears `upload.error`."""
        upload = uploads.find(required(message.payload, "upload", "id"))
        if upload is not None:
            upload.abort()


def _sha256(payload: dict[str, Any]) -> str:
    written = text(payload, "sha256").lower()
    if written and (len(written) != 64 or not set(written) <= set("0123456789abcdef")):
        raise BadMessage("sha256 is 64 hexadecimal digits.", ErrorCodes.TYPE_MISMATCH)
    return written
