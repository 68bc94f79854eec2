"""Avatars as anybody may see them: `/files/avatars/...`, where pictures of profiles are loaded from, without a token.

The address is told to whoever may see the profile. It holds the file's id, which nobody can guess, leads to the picture that the account
shows now, and to no other file (contract relay, section 16).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hapta.blobs.blobs import BlobMissing, BlobsAway
from hapta.files.errors import FileNotFound
from hapta.files.models import File
from hapta.files.sending import sent
from hapta.files.service import FileService
from hapta.http.api import Content, Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import PUBLIC
from hapta.kit.ids import Ids

CACHED = "public, max-age=300"
"""Another picture has another address; a deleted one is shown for so long by whoever has it in a cache."""


def shown(file: File) -> Mapping[str, Any]:
    """An avatar as profiles show it: `{path, url, width?, height?, thumbhash?}`; `url` without scheme and host."""
    known = {"width": file.width, "height": file.height, "thumbhash": file.thumbhash}
    return {
        "path": file.path,
        "url": f"/files/{file.path}",
        **{name: value for name, value in known.items() if value is not None},
    }


def routes(files: FileService, ids: Ids) -> list[Endpoint]:
    """The URL table of avatars."""

    async def avatar(request: Request, userId: str, fileName: str) -> Reply:
        return await sent(files, await files.public_avatar(userId, fileName), request, ids, cache=CACHED)

    table = Table(dialect=RELAY, access=PUBLIC, tag="files", cors="open")
    picture = Content("application/octet-stream", "The picture, in its own type")
    return [
        table.get(
            "/files/avatars/{userId}/{fileName}",
            avatar,
            summary="The avatar of an account, by the address that its profile tells",
            answers={200: picture, 206: picture, 304: None, 416: None},
            errors=[FileNotFound, BlobMissing, BlobsAway],
        )
    ]
