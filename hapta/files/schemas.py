"""Wire types of files (contract relay, section 10). Instants are Unix ms; what is not known is left out."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hapta.files.models import File
from hapta.http.validate import Wire

FileId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$", max_length=32, description="Id of a file")]


class ListQuery(Wire, frozen=True):
    category: Annotated[str, msgspec.Meta(max_length=64, description="avatars, documents or files")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    cursor: FileId | None = None


class DownloadQuery(Wire, frozen=True):
    download: Annotated[str, msgspec.Meta(max_length=8, description="`1`: save it, whatever it is")] = ""


class LinkedQuery(Wire, frozen=True):
    token: Annotated[str, msgspec.Meta(max_length=512, description="The token of the link")] = ""
    download: Annotated[str, msgspec.Meta(max_length=8)] = ""


class LinkRequest(Wire, frozen=True):
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=10_000_000, description="Seconds")] | None = None


class DirectRequest(Wire, frozen=True):
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    size: Annotated[int, msgspec.Meta(ge=1)]
    content_type: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]*$")]
    category: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    reuse_key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None


class FileInfo(Wire, frozen=True, omit_defaults=True, kw_only=True):
    id: str
    path: str
    original_name: str
    content_type: str
    size: int
    width: int | None = None
    height: int | None = None
    thumbhash: str | None = None
    created_at: int
    updated_at: int


class AvatarInfo(Wire, frozen=True, omit_defaults=True):
    id: str
    path: str
    content_type: str
    size: int
    width: int | None = None
    height: int | None = None
    thumbhash: str | None = None


class UploadAnswer(Wire, frozen=True):
    success: bool
    file: FileInfo


class AvatarAnswer(Wire, frozen=True):
    success: bool
    avatar: AvatarInfo


class ListAnswer(Wire, frozen=True, omit_defaults=True):
    files: list[FileInfo]
    next_cursor: str | None = None


class FileAnswer(Wire, frozen=True):
    file: FileInfo
    url: str


class LinkAnswer(Wire, frozen=True):
    url: str
    expires_at: int


class DoneAnswer(Wire, frozen=True):
    success: bool


class DirectAnswer(Wire, frozen=True):
    id: str
    url: str
    method: str
    headers: dict[str, str]
    expires_at: int


def file_info(file: File) -> FileInfo:
    return FileInfo(
        id=file.id,
        path=file.path,
        original_name=file.name,
        content_type=file.media_type,
        size=file.size,
        width=file.width,
        height=file.height,
        thumbhash=file.thumbhash,
        created_at=file.created_at,
        updated_at=file.updated_at,
    )


def avatar_info(file: File) -> AvatarInfo:
    return AvatarInfo(
        id=file.id,
        path=file.path,
        content_type=file.media_type,
        size=file.size,
        width=file.width,
        height=file.height,
        thumbhash=file.thumbhash,
    )
