"""A multipart body as it arrives: parts begin, bring bytes and end, in constant memory.

The scanning is python-multipart's. What it leaves open is closed here: what a part may say of itself, how many there may be, and
that a body ends with its closing boundary. What stands before the first and behind the last boundary is nobody's.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from hapta.http.media import BadBody, parse_header

MAX_PARTS = 1000
"""As many as PocketBase's own reader takes, before which the gateway stands."""

MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
_ENCODINGS = frozenset({"7bit", "8bit", "binary"})


class Part(NamedTuple):
    """What a part says of itself. Without the name of a file it is text."""

    name: str
    filename: str | None
    media_type: str


class Mark(Enum):
    """What else happens in a body."""

    PART_ENDS = 1


PART_ENDS = Mark.PART_ENDS
Event = Part | bytes | Mark


class MultipartReader:
    """Reads one body.

    Args:
        boundary: of Content-Type, valid already.
    """

    def __init__(self, boundary: str) -> None:
        self._events: list[Event] = []
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._value = b""
        self._done = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
                "on_end": self._ends,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        self._parser.logger.disabled = (
            True  # what is wrong is told to the sender; a line per bad request helps nobody else
        )

    @property
    def done(self) -> bool:
        """Whether the closing boundary has come: what follows is nobody's."""
        return self._done

    def feed(self, chunk: bytes) -> list[Event]:
        """What the next bytes bring.

        Raises:
            BadBody: the body has another form.
        """
        if self._done:
            return []
        self._events = []
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise BadBody("The multipart body cannot be read.") from None
        return self._events

    def finish(self) -> None:
        """Says that nothing more comes.

        Raises:
            BadBody: the closing boundary has not come.
        """
        if not self._done:
            raise BadBody("The multipart body ends too early.")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadBody("The multipart body has too many parts.")
        self._headers = {}

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        name = self._name.lower()
        if name in self._headers:
            raise BadBody("A part of the multipart body has a header twice.")
        self._headers[name] = self._value.strip()
        self._name = self._value = b""

    def _headers_end(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").lower().decode("latin-1")
        if encoding not in _ENCODINGS:  # PocketBase would decode one of them, behind everybody's back
            raise BadBody("Parts must not be encoded (Content-Transfer-Encoding).")
        disposition = parse_header(self._headers.get(b"content-disposition", b"none"))
        # Without a name it is nobody's field; without the name of a file, which may be empty, it is text.
        form_data = disposition.essence == "form-data"
        name = disposition.parameters.get("name", "") if form_data else ""
        filename = disposition.parameters.get("filename") or None
        media_type = self._headers.get(b"content-type", b"").decode("latin-1")
        self._events.append(Part(name, filename, media_type))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _part_ends(self) -> None:
        self._events.append(PART_ENDS)

    def _ends(self) -> None:
        self._done = True
