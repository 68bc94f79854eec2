"""Inner types of files: what is stored, what is offered, and what was found out about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

Category = Literal["avatars", "documents", "files"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
UploadKind = Literal["tus", "direct"]

EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/svg+xml": "svg",
    "application/pdf": "pdf",
    "text/plain": "txt",
    "application/json": "json",
    "text/markdown": "md",
}
"""Of a file's path, by its type (contract relay-native, section 2.22); what an operator allows beside these is `bin`."""

PROFILE_AVATAR = "profile-avatar"
"""The reuse key of the picture that stands for the account (contract relay, section 10)."""


class Picture(NamedTuple):
    """What is known of a raster image. `thumbhash` is in standard base64; None where the image is too large to decode."""

    width: int
    height: int
    thumbhash: str | None


class File(NamedTuple):
    """A stored file. Instants are Unix ms, `size` is in bytes."""

    user_id: str
    id: str
    blob_key: str
    category: str
    name: str
    media_type: str
    size: int
    sha256: bytes
    width: int | None
    height: int | None
    thumbhash: str | None
    reuse_key: str | None
    created_at: int
    updated_at: int

    @property
    def path(self) -> str:
        """Where the file lies, as clients are told: `<category>/<account>/<id>.<ext>` (contract relay, section 10)."""
        return f"{self.category}/{self.user_id}/{self.id}.{EXTENSIONS.get(self.media_type, 'bin')}"


class Upload(NamedTuple):
    """An upload over several requests. `length` is None until it is told; `file_id` is None until a file came of it."""

    user_id: str
    id: str
    kind: UploadKind
    blob_key: str
    length: int | None
    metadata: str
    name: str
    media_type: str
    category: Category
    reuse_key: str | None
    file_id: str | None
    created_at: int
    expires_at: int


class Attachment(NamedTuple):
    """An encrypted attachment of a relay session."""

    user_id: str
    session_id: str
    name: str
    blob_key: str
    size: int
    created_at: int


class Quarantined(NamedTuple):
    """A file in which the scanner found something."""

    user_id: str
    id: str
    blob_key: str
    name: str
    media_type: str
    size: int
    sha256: bytes
    finding: str
    created_at: int
    expires_at: int


class Usage(NamedTuple):
    """What an account keeps here."""

    bytes: int
    files: int


@dataclass(slots=True)
class Description:
    """What a client says of a file.

    Args:
        name: as the client calls it; it is cleaned before it is kept.
        media_type: as the client calls it; empty: it says nothing.
        category: empty: `files`.
    """

    name: str = ""
    media_type: str = ""
    category: str = ""
    reuse_key: str | None = None


class Incoming(Protocol):
    """A file on its way. What it is called may come behind its bytes: `described` is complete when `chunks` has ended."""

    @property
    def described(self) -> Description: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive; iterated once."""
        ...


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found out about bytes while they passed."""

    media_type: str
    size: int
    sha256: bytes
    finding: str | None
    """What the scanner found; None: nothing."""


def category_of(text: str) -> Category | None:
    """The category of that name; `files` for none, None for an unknown one."""
    if not text:
        return "files"
    return next((category for category in CATEGORIES if category == text), None)
