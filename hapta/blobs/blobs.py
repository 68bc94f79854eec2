"""`Blobs`: objects of bytes under a key. What every store keeps to, whatever it is made of.

An object is there whole or not at all: `put` and `complete` make it visible in one step, after its bytes are durable as
configured. A key is made by us from ids, never of what a client names (`checked_key`). An upload that arrives in pieces is
appended to outside of what can be read, and survives a crash up to the last piece that was acknowledged.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from hapta.kit.errors import Conflict, NotFound, Unavailable

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,7}")


class BlobMissing(NotFound):
    """No object has this key, or no upload has been begun under it."""

    code = "blob_not_found"
    message = "File not found in storage"


class BlobsAway(Unavailable):
    """The store does not answer, is full, or may not be written; nothing of the call counts."""

    code = "storage_unavailable"
    message = "The file storage is not available"


class WrongOffset(Exception):
    """A piece begins elsewhere than the upload ends. `size` is where it ends."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the upload ends at {size}")
        self.size = size


class UploadBusy(Conflict):
    """Another piece of this upload is being written now; nothing of this one counts."""

    code = "upload_busy"
    message = "Another part of this upload is arriving"


class Chunks(Protocol):
    """Bytes as they are read. Iterated once; `aclose` gives back what the reading holds, before its end or after it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def __anext__(self) -> Awaitable[bytes]: ...
    def aclose(self) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Stat:
    """An object as the store sees it: its size in bytes, and when it was written (Unix ms)."""

    key: str
    size: int
    modified_at: int


class Opened(NamedTuple):
    """An object being read: its whole size in bytes, and the chunks of the part that was asked for."""

    size: int
    chunks: Chunks


@dataclass(frozen=True, slots=True)
class Signed:
    """A way for a client straight to the store, until it ends.

    Args:
        headers: what the client must send with it (lower-case names).
    """

    url: str
    method: Literal["GET", "PUT"]
    expires_at: int
    headers: tuple[tuple[str, str], ...] = ()


class Blobs(ABC):
    """An open store. Every call may raise `BlobsAway`; keys that are not well formed raise ValueError.

    No key may be a folder of another (`a` beside `a/b`), and the keys of one folder should be of one length: then all stores
    list them in the same order.
    """

    @abstractmethod
    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        """Stores an object, in place of an earlier one of this key; its size in bytes. What `chunks` raises is raised
        again, with nothing stored."""

    @abstractmethod
    async def get(self, key: str, start: int = 0, end: int | None = None) -> Opened:
        """Reads an object from byte `start` up to, not including, `end`.

        The chunks hold at most some 256 KiB each; whoever stops reading early closes them (`aclose`).

        Raises:
            BlobMissing: there is no such object.
        """

    def at_once(self, key: str, start: int = 0, end: int | None = None) -> tuple[int, bytes] | None:
        """As `get`, for what can be had without waiting: the object's size, and all the bytes that were asked for. None says nothing
        of the object; `get` does."""
        return None

    @abstractmethod
    async def stat(self, key: str) -> Stat | None:
        """What is there under this key, or None."""

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; one that is not there is no error."""

    @abstractmethod
    async def listed(self, prefix: str, after: str = "", limit: int = 1000) -> list[Stat]:
        """Objects below a folder in the order of their keys, from the first key greater than `after`."""

    # -- uploads in pieces: kept apart until they are complete ------------------------------------------------------------

    @abstractmethod
    async def append(self, key: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        """Appends to the upload of `key` (the first piece begins it, at 0); the size it has now.

        When `chunks` raises, what came before may be kept: `appended` tells. One piece of an upload at a time.

        Raises:
            WrongOffset: the upload does not end at `offset`, or another piece has just been appended there.
            UploadBusy: another piece is being appended.
        """

    @abstractmethod
    async def appended(self, key: str) -> int:
        """How many bytes of the upload of `key` are durable; 0 for one that never began."""

    @abstractmethod
    async def read_appended(self, key: str) -> Opened:
        """The bytes that an upload has so far, before it is complete.

        Raises:
            BlobMissing: it never began.
        """

    @abstractmethod
    async def complete(self, key: str) -> int:
        """Makes what was appended the object of this key; its size in bytes. Done twice, it is done once.

        Raises:
            BlobMissing: nothing was appended, and there is no such object.
        """

    @abstractmethod
    async def discard(self, key: str) -> None:
        """Forgets an upload in pieces; one that is not there is no error."""

    @abstractmethod
    async def begun(self, after: str = "", limit: int = 1000) -> list[Stat]:
        """Uploads in pieces that are neither complete nor discarded, by key; `modified_at` is that of the last piece."""

    async def tidy(self, before_ms: int) -> int:
        """Removes what writers left half done when they were killed and nobody can read, written last before then (Unix ms);
        how much of it. Stores that do so by themselves have nothing to do."""
        return 0

    # -- further ----------------------------------------------------------------------------------------------------------

    async def signed(
        self, method: Literal["GET", "PUT"], key: str, expires_seconds: int, *, size: int = 0, media_type: str = ""
    ) -> Signed | None:
        """A way for a client straight to the store; None where the store has none of its own (a disk)."""
        return None

    @abstractmethod
    async def check(self) -> None:
        """Comes back when the store can be read and written; raises BlobsAway when it cannot."""

    @abstractmethod
    async def close(self) -> None: ...


def checked_key(key: str) -> str:
    """The key as it is: up to eight segments of letters, digits, `.`, `_`, `-`, none of which begins with a dot.

    Raises:
        ValueError: it is anything else.
    """
    if not _KEY.fullmatch(key):
        raise ValueError("not a key of the store")
    return key
