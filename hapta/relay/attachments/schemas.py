"""Wire types of attachments (contract relay, section 16)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hapta.http.validate import Wire


class RequestUpload(Wire, frozen=True):
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255, description="Not kept: names are the server's")]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1, description="In bytes")]


class UploadAnswer(Wire, frozen=True):
    ref: str
    upload_url: str
    method: Literal["PUT"]


class RequestDownload(Wire, frozen=True):
    ref: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class DownloadAnswer(Wire, frozen=True):
    download_url: str


class StoredAnswer(Wire, frozen=True):
    ok: bool
