"""Checks of one file while it passes through: its name, what it is, how large it is, and what a scanner says of it.

A file is judged before PocketBase can take it: its first bytes are held back until they are looked at, and the last word of the
body goes out only when every file has passed (contract gateway, B.8).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hapta.blobs.kinds import HEAD_BYTES, certainly_not, kind_of, listed
from hapta.blobs.names import sanitised
from hapta.gateway.errors import FieldsInvalid, FileTooLarge
from hapta.gateway.models import Field
from hapta.settings.gateway import GatewaySettings

DEFAULT_FIELD_BYTES = 5 * 1024 * 1024
"""What PocketBase takes of a file where its field says nothing."""


@dataclass(slots=True)
class UploadedFile:
    """A file in a body. `size` and `media_type` are known when it has passed.

    Args:
        key: the name of its part as it goes on, with a modifier (`papers+`), or of a batch (`requests.0.papers`).
        field: the key without them.
        name: as it goes on, sanitised.
        media_type: by its content.
        request: in a batch, the number of the inner request.
    """

    key: str
    field: str
    name: str
    media_type: str = ""
    size: int = 0
    request: int | None = None


class Scan(Protocol):
    """A scanner at work on one file."""

    async def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        ...

    async def verdict(self) -> str | None:
        """Says, when all has come, why the file is refused; None when it may pass. Raising refuses it too."""
        ...

    async def close(self) -> None:
        """Ends the scan, also of a file that never came to its end."""
        ...


Scanner = Callable[[UploadedFile], Awaitable[Scan]]
"""A hook for virus scanners and the like: begins the scan of a file."""


@dataclass(frozen=True, slots=True)
class FileRules:
    """What the gateway itself asks of files.

    Args:
        max_bytes: of one file.
        types: media types by content; empty = any.
    """

    max_bytes: int = 2 * 1024 * 1024 * 1024
    types: tuple[str, ...] = ()
    scanner: Scanner | None = None

    @classmethod
    def of(cls, settings: GatewaySettings, scanner: Scanner | None = None) -> FileRules:
        """The rules that the settings state."""
        return cls(settings.max_file_bytes, settings.mime_types, scanner)


class FileCheck:
    """One file's way through the checks.

    Args:
        field: the field that it is for; None where that is not known yet (batch).
    """

    def __init__(self, rules: FileRules, file: UploadedFile, field: Field | None) -> None:
        self.file = file
        self._rules = rules
        self._field = field
        self._head = b""
        self._judged = False
        self._scan: Scan | None = None

    async def feed(self, data: bytes) -> bytes:
        """Takes the next bytes; returns those that may go on.

        Raises:
            FileTooLarge, FieldsInvalid: it must not.
        """
        file = self.file
        file.size += len(data)
        if file.size > self._rules.max_bytes:
            raise FileTooLarge
        _require_size(file, self._field)
        if self._scan is not None:
            await self._scan.feed(data)
        if self._judged:
            return data
        self._head += data
        return await self._judge() if len(self._head) >= HEAD_BYTES else b""

    async def finish(self) -> bytes:
        """Says that the file is complete; returns what was held back.

        Raises:
            FieldsInvalid: it must not pass.
        """
        held = b"" if self._judged else await self._judge()
        scan = self._scan
        if scan is not None and (reason := await scan.verdict()) is not None:
            raise FieldsInvalid({self.file.field: {"code": "validation_file_refused", "message": reason}})
        await self.close()
        return held

    async def close(self) -> None:
        """Lets go of the scanner."""
        scan, self._scan = self._scan, None
        if scan is not None:
            await scan.close()

    async def _judge(self) -> bytes:
        self._judged = True
        file, head = self.file, self._head
        self._head = b""
        file.media_type = kind_of(head[:HEAD_BYTES])
        if self._rules.types and not listed(file.media_type, self._rules.types):
            raise _wrong_type(file, self._rules.types)
        _require_type(file, self._field)
        if self._rules.scanner is not None:
            self._scan = await self._rules.scanner(file)
            await self._scan.feed(head)
        return head


def new_file(key: str, field: str, filename: str, request: int | None = None) -> UploadedFile:
    """A file that begins to arrive, under a clean name."""
    return UploadedFile(key, field, sanitised(filename), request=request)


def check_field(file: UploadedFile, field: Field) -> None:
    """Holds a file that has passed already against its field; for batches, which name their fields last.

    Raises:
        FieldsInvalid: it does not fit.
    """
    _require_size(file, field)
    _require_type(file, field)


def max_field_bytes(field: Field) -> int:
    """The largest file that a field takes."""
    return int(field.options.get("maxSize") or DEFAULT_FIELD_BYTES)


def _require_size(file: UploadedFile, field: Field | None) -> None:
    if field is None or file.size <= (limit := max_field_bytes(field)):
        return
    message = f"Failed to upload {file.name} - the maximum allowed file size is {limit} bytes."
    params: dict[str, Any] = {"file": file.name, "maxSize": limit}
    raise FieldsInvalid({file.field: {"code": "validation_file_size_limit", "message": message, "params": params}})


def _require_type(file: UploadedFile, field: Field | None) -> None:
    types: list[str] = [] if field is None else field.options.get("mimeTypes") or []
    if certainly_not(file.media_type, types):
        raise _wrong_type(file, tuple(types))


def _wrong_type(file: UploadedFile, types: tuple[str, ...]) -> FieldsInvalid:
    message = f'"{file.name}" mime type must be one of: {", ".join(types)}.'
    return FieldsInvalid({file.field: {"code": "validation_invalid_mime_type", "message": message}})
