"""A file that comes by another way than a multipart body: in frames of a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file to send along.

    Args:
        key: the field, with a modifier where it is added to others (`papers+`).
        filename: as the client calls it.
        chunks: its bytes as they arrive. What this raises ends the upload.
    """

    key: str
    filename: str
    chunks: AsyncIterator[bytes]
