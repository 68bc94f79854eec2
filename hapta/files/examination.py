"""Bytes on their way into the store: counted, hashed, recognised and scanned while they pass, in constant memory.

Nothing passes before the first bytes were recognised, so that a file of the wrong type never reaches the store.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection

from hapta.blobs.kinds import HEAD_BYTES
from hapta.files.errors import InvalidCategory, InvalidType, SizeExceeded
from hapta.files.models import Category, Description, Examined, category_of
from hapta.files.scanner import Scan, Scanner
from hapta.files.types import is_textual, type_of
from hapta.settings import FilesSettings


class Examination:
    """Looks at one file.

    Args:
        described: what the sender says of it; parts of it may be told while the bytes pass.
        scanner: None: files are not scanned.
        types: media types that it may have.
    """

    def __init__(
        self, settings: FilesSettings, described: Description, scanner: Scanner | None, types: Collection[str]
    ) -> None:
        self._settings = settings
        self._described = described
        self._scanner = scanner
        self._types = types
        self._scan: Scan | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._media_type = ""
        self._text: codecs.IncrementalDecoder | None = None
        self._finding: str | None = None

    async def passed(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Hands the bytes on.

        Raises:
            SizeExceeded, InvalidType, InvalidCategory: they must not be stored.
            ScannerAway: nobody could look into them.
        """
        if self._scanner is not None:
            self._scan = await self._scanner.begin()
        held = b""
        try:
            async for chunk in chunks:
                await self._take(chunk)
                if self._media_type:
                    self._read(chunk)
                    yield chunk
                    continue
                held += chunk
                if len(held) >= HEAD_BYTES:
                    self._recognise(held)
                    yield held
                    held = b""
            if not self._media_type:
                self._recognise(held)
                if held:
                    yield held
            self._read(b"", final=True)
            _ = self.category  # it may have come behind the bytes, and its limit is not that of others
            if self._scan is not None:
                self._finding = await self._scan.verdict()
        finally:
            if self._scan is not None:
                self._scan.close()

    @property
    def category(self) -> Category:
        """As described by now, if the file fits into it so far.

        Raises:
            InvalidCategory: there is no such category.
            SizeExceeded: it is too large for it.
        """
        category = category_of(self._described.category)
        if category is None:
            raise InvalidCategory
        limit = max_bytes(self._settings, category)
        if self._size > limit:
            raise SizeExceeded(limit)
        return category

    def result(self) -> Examined:
        """What was found out; called when all bytes have passed."""
        return Examined(self._media_type, self._size, self._hash.digest(), self._finding)

    async def _take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        _ = self.category
        self._hash.update(chunk)
        if self._scan is not None:
            await self._scan.feed(chunk)

    def _recognise(self, head: bytes) -> None:
        said = self._described
        self._media_type = type_of(head[:HEAD_BYTES], said.media_type, said.name, self._types)
        if is_textual(self._media_type):
            self._text = codecs.getincrementaldecoder("utf-8")()
        self._read(head)

    def _read(self, chunk: bytes, *, final: bool = False) -> None:
        """Text stays text to its end: what begins as text and goes on as something else is neither."""
        if self._text is None:
            return
        try:
            self._text.decode(chunk, final)
        except UnicodeDecodeError:
            raise InvalidType("The file is not text in UTF-8") from None
        if b"\0" in chunk:
            raise InvalidType("The file is not text in UTF-8")


def max_bytes(settings: FilesSettings, category: Category) -> int:
    """The largest file of a category."""
    match category:
        case "avatars":
            return settings.max_avatar_bytes
        case "documents":
            return settings.max_document_bytes
        case "files":
            return settings.max_file_bytes
