"""Routes of the tus protocol, version 1.0.0 (tus.io/protocols/resumable-upload): core, creation with upload and with a length that
is told later, checksum, termination, expiration. Headers in, headers out; bodies are bytes of files.

Statuses that no other part of the server has are given here: 412 for another version, 423 for an upload that somebody writes to, 460
for a wrong checksum.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import ParamSpec

import msgspec

from hapta.blobs.blobs import BlobsAway
from hapta.files.errors import (
    ChecksumMismatch,
    FileInfected,
    InvalidCategory,
    InvalidType,
    InvalidUpload,
    OffsetConflict,
    QuotaExceeded,
    ScannerAway,
    SizeExceeded,
    TooManyFiles,
    TooManyUploads,
    UploadLocked,
    UploadNotFound,
)
from hapta.files.examination import max_bytes
from hapta.files.models import CATEGORIES
from hapta.files.tus.metadata import ALGORITHMS, checksum, described
from hapta.files.tus.service import State, TusService
from hapta.http.api import BodyStream, Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY, headers
from hapta.http.ranges import http_date
from hapta.kit.access import DATA, PUBLIC, Caller
from hapta.kit.errors import HaptaError, TooLarge, UnsupportedMedia
from hapta.settings import FilesSettings

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,creation-defer-length,checksum,termination,expiration"
PIECE_TYPE = "application/offset+octet-stream"
UNBOUNDED = 1 << 60
"""Pieces are bounded while they are read, by the length of their upload."""
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)
_RESUMABLE = (b"tus-resumable", VERSION.encode())
_SPOKEN = (b"tus-version", VERSION.encode())
_NO_STORE = (b"cache-control", b"no-store")
_STATUS: Mapping[type[HaptaError], int] = {UploadLocked: 423, ChecksumMismatch: 460}
_P = ParamSpec("_P")
Headers = list[tuple[bytes, bytes]]


def routes(tus: TusService, settings: FilesSettings) -> list[Endpoint]:
    """The URL table of resumable uploads."""
    api = TusApi(tus, settings)
    table = Table(dialect=RELAY, access=DATA, limit="files", tag="files")
    coming = [
        UploadNotFound, OffsetConflict, UploadLocked, UnsupportedMedia, InvalidUpload, InvalidType, SizeExceeded, FileInfected,
        QuotaExceeded, TooManyFiles, TooManyUploads, ScannerAway, BlobsAway,
    ]  # fmt: skip
    one = "/v1/uploads/tus/{uploadId}"
    return [
        table.options(
            "/v1/uploads/tus",
            api.about,
            summary="What the server speaks of tus",
            access=PUBLIC,
            limit="default",
            answers={204: None},
        ),
        table.options(
            one,
            api.about_one,
            summary="What the server speaks of tus",
            access=PUBLIC,
            limit="default",
            answers={204: None},
        ),
        table.post(
            "/v1/uploads/tus",
            api.create,
            summary="Begin a resumable upload (tus 1.0)",
            answers={201: None, 412: None},
            errors=[InvalidCategory, *coming[3:]],
            max_body_bytes=UNBOUNDED,
        ),
        table.head(
            one,
            api.state,
            summary="How far a resumable upload has come",
            answers={200: None, 412: None},
            errors=[UploadNotFound, InvalidType, BlobsAway],
        ),
        table.patch(
            one,
            api.append,
            summary="Add a piece to a resumable upload",
            answers={204: None, 412: None, 423: None, 460: None},
            errors=coming,
            max_body_bytes=UNBOUNDED,
        ),
        table.post(
            one,
            api.overridden,
            summary="PATCH or DELETE by X-HTTP-Method-Override, where proxies let neither pass",
            answers={204: None, 412: None, 423: None, 460: None},
            errors=coming,
            max_body_bytes=UNBOUNDED,
        ),
        table.delete(
            one,
            api.terminate,
            summary="End a resumable upload",
            answers={204: None, 412: None},
            errors=[UploadNotFound],
        ),
    ]


def _speaking(handler: Callable[_P, Awaitable[Reply]]) -> Callable[_P, Awaitable[Reply]]:
    """Every answer says which version it speaks, errors too; some of them have statuses of tus alone."""

    @functools.wraps(handler)
    async def speak(*args: _P.args, **kwargs: _P.kwargs) -> Reply:
        try:
            return await handler(*args, **kwargs)
        except HaptaError as error:
            status = _STATUS.get(type(error))
            if status is None:
                named = [(name.decode(), value.decode("latin-1")) for name, value in headers(error)]
                error.wire_headers = [("tus-resumable", VERSION), *named]
                raise
            return _refusal(status, error.message, error.details)

    return speak


class TusApi:
    """Handlers of resumable uploads."""

    def __init__(self, tus: TusService, settings: FilesSettings) -> None:
        self._tus = tus
        self._max_bytes = max(max_bytes(settings, category) for category in CATEGORIES)

    async def about(self) -> Reply:
        told: Headers = [
            _RESUMABLE,
            _SPOKEN,
            (b"tus-max-size", str(self._max_bytes).encode()),
            (b"tus-extension", EXTENSIONS.encode()),
            (b"tus-checksum-algorithm", ",".join(ALGORITHMS).encode()),
        ]
        return Reply(204, None, told)

    async def about_one(self, uploadId: str) -> Reply:
        return await self.about()

    @_speaking
    async def create(self, caller: Caller, request: Request, body: BodyStream) -> Reply:
        if (refusal := _other_version(request)) is not None:
            return refusal
        length, deferred = _number(request, "upload-length"), request.header("upload-defer-length")
        if deferred not in (None, "1") or (length is None) != (deferred == "1"):
            raise InvalidUpload("Send either Upload-Length or Upload-Defer-Length: 1")
        if length is not None and length > self._max_bytes:
            raise TooLarge("The upload is too large", maxSize=self._max_bytes)
        metadata = request.header("upload-metadata") or ""
        with_upload = _essence(request) == PIECE_TYPE
        upload = await self._tus.create(caller.user_id, length, metadata, described(metadata))
        location = (b"location", f"/v1/uploads/tus/{upload.id}".encode())
        if with_upload:
            state = await self._tus.append(
                caller.user_id, upload.id, 0, aiter(body), checksum=checksum(request.header("upload-checksum"))
            )
        elif length == 0:
            state = await self._tus.state(caller.user_id, upload.id)
        else:
            state = State(upload, 0, None)
        return Reply(201, None, [location, *_told(state, offset=with_upload)])

    @_speaking
    async def state(self, caller: Caller, request: Request, uploadId: str) -> Reply:
        if (refusal := _other_version(request)) is not None:
            return refusal
        state = await self._tus.state(caller.user_id, uploadId)
        upload = state.upload
        length = (
            (b"upload-defer-length", b"1") if upload.length is None else (b"upload-length", str(upload.length).encode())
        )
        metadata = [(b"upload-metadata", upload.metadata.encode())] if upload.metadata else []
        return Reply(200, None, [length, *metadata, *_told(state)])

    @_speaking
    async def append(self, caller: Caller, request: Request, body: BodyStream, uploadId: str) -> Reply:
        return await self._append(caller, request, body, uploadId)

    @_speaking
    async def overridden(self, caller: Caller, request: Request, body: BodyStream, uploadId: str) -> Reply:
        match (request.header("x-http-method-override") or "").upper():
            case "PATCH":
                return await self._append(caller, request, body, uploadId)
            case "DELETE":
                return await self._terminate(caller, request, uploadId)
            case _:
                raise InvalidUpload("Send X-HTTP-Method-Override: PATCH or DELETE")

    @_speaking
    async def terminate(self, caller: Caller, request: Request, uploadId: str) -> Reply:
        return await self._terminate(caller, request, uploadId)

    async def _append(self, caller: Caller, request: Request, body: BodyStream, upload_id: str) -> Reply:
        if (refusal := _other_version(request)) is not None:
            return refusal
        if _essence(request) != PIECE_TYPE:
            raise UnsupportedMedia(f"Send the piece as {PIECE_TYPE}")
        offset = _number(request, "upload-offset")
        if offset is None:
            raise InvalidUpload("Upload-Offset is missing")
        chunks: AsyncIterator[bytes] = aiter(body)
        state = await self._tus.append(
            caller.user_id,
            upload_id,
            offset,
            chunks,
            length=_number(request, "upload-length"),
            checksum=checksum(request.header("upload-checksum")),
        )
        return Reply(204, None, _told(state))

    async def _terminate(self, caller: Caller, request: Request, upload_id: str) -> Reply:
        if (refusal := _other_version(request)) is not None:
            return refusal
        await self._tus.terminate(caller.user_id, upload_id)
        return Reply(204, None, [_RESUMABLE])


def _told(state: State, *, offset: bool = True) -> Headers:
    """Where an upload stands."""
    told: Headers = [_RESUMABLE, _NO_STORE]
    if offset:
        told.append((b"upload-offset", str(state.offset).encode()))
    if state.file_id is None:
        told.append((b"upload-expires", http_date(state.upload.expires_at).encode()))
    else:
        told.append((b"hapta-file-id", state.file_id.encode()))
    return told


def _other_version(request: Request) -> Reply | None:
    """The refusal of a request that speaks another version (tus 1.0, "Tus-Resumable"); None for ours."""
    if request.header("tus-resumable") == VERSION:
        return None
    return _refusal(412, f"Send Tus-Resumable: {VERSION}", further=[_SPOKEN])


def _refusal(
    status: int, message: str, details: Mapping[str, object] | None = None, further: Sequence[tuple[bytes, bytes]] = ()
) -> Reply:
    body = msgspec.json.encode({"error": message, **(details or {})})
    return Reply(status, body, [_RESUMABLE, _NO_STORE, *further])


def _number(request: Request, name: str) -> int | None:
    text = request.header(name)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise InvalidUpload(f"{name.title()} is not a number")
    return int(text)


def _essence(request: Request) -> str:
    return (request.header("content-type") or "").partition(";")[0].strip().lower()
