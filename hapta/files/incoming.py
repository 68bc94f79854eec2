"""A file in a multipart form (RFC 7578), read while it arrives. Fields may stand before the file and behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hapta.files.errors import InvalidUpload, MissingFile
from hapta.files.models import Description
from hapta.http.media import BadBody, boundary_of, parse_header
from hapta.http.multipart import PART_ENDS, Event, MultipartReader, Part

FILE = "file"
MAX_FIELD_BYTES = 1024
MAX_FIELDS = 32


class MultipartFile:
    """The file of a form, and what its fields say of it.

    Args:
        content_type: of the request.
        body: its bytes as they arrive.

    Raises:
        MissingFile: the body is no form with files.
    """

    def __init__(self, content_type: bytes, body: AsyncIterator[bytes]) -> None:
        try:
            media = parse_header(content_type)
            if media.essence != "multipart/form-data":
                raise MissingFile("Send the file as multipart/form-data")
            self._reader = MultipartReader(boundary_of(media))
        except BadBody as error:
            raise InvalidUpload(error.message) from None
        self._body = body
        self._events: list[Event] = []
        self._field = ""
        self._text = bytearray()
        self._fields = 0
        self._described = Description()

    @property
    def described(self) -> Description:
        """What is known by now; complete when all chunks were read."""
        return self._described

    async def begin(self) -> None:
        """Reads up to the file.

        Raises:
            MissingFile: there is none.
            InvalidUpload: the form cannot be read.
        """
        while (event := await self._next()) is not None:
            if isinstance(event, Part) and event.name == FILE and event.filename is not None:
                self._described.name = event.filename
                self._described.media_type = event.media_type
                return
            self._take(event)
        raise MissingFile

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the file; when they have ended, so has the form.

        Raises:
            InvalidUpload: the form cannot be read, or has two files.
        """
        while (event := await self._next()) is not PART_ENDS:
            if isinstance(event, bytes):
                yield event
        while (event := await self._next()) is not None:
            if isinstance(event, Part) and event.filename is not None:
                raise InvalidUpload("There is more than one file")
            self._take(event)

    def _take(self, event: Event) -> None:
        """A field, piece by piece."""
        if isinstance(event, Part):
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise InvalidUpload("There are too many fields")
            self._field = event.name
            self._text.clear()
        elif isinstance(event, bytes):
            self._text += event
            if len(self._text) > MAX_FIELD_BYTES:
                raise InvalidUpload("A field is too long")
        else:
            self._told(self._field, self._text)

    def _told(self, name: str, raw: bytearray) -> None:
        if name not in ("category", "reuseKey"):
            return
        try:
            text = raw.decode().strip()
        except UnicodeDecodeError:
            raise InvalidUpload("A field is not UTF-8") from None
        if "\0" in text:
            raise InvalidUpload("A field holds a character that it may not hold")
        if name == "category":
            self._described.category = text
        else:
            self._described.reuse_key = text[:MAX_FIELD_BYTES] or None

    async def _next(self) -> Event | None:
        """The next thing that happens in the form; None at its end."""
        while not self._events:
            if self._reader.done:  # what follows the form may have no end, and nobody waits for it
                return None
            chunk = await anext(self._body, None)
            try:
                if chunk is None:
                    self._reader.finish()
                    return None
                self._events = self._reader.feed(chunk)[::-1]
            except BadBody as error:
                raise InvalidUpload(error.message) from None
        return self._events.pop()
