"""Routes of files, in the relay's dialect: decode, call, encode (contract relay, section 10)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hapta.blobs.blobs import BlobMissing, BlobsAway
from hapta.files.direct import DirectUploads
from hapta.files.errors import (
    FileInfected,
    FileNotFound,
    InvalidCategory,
    InvalidType,
    InvalidUpload,
    LinkRefused,
    MissingFile,
    NoDirectAccess,
    QuotaExceeded,
    ScannerAway,
    SizeExceeded,
    TooManyFiles,
    TooManyUploads,
    UploadLost,
    UploadNotFound,
)
from hapta.files.incoming import MultipartFile
from hapta.files.models import Description, File
from hapta.files.schemas import (
    AvatarAnswer,
    DirectAnswer,
    DirectRequest,
    DoneAnswer,
    DownloadQuery,
    FileAnswer,
    LinkAnswer,
    LinkedQuery,
    LinkRequest,
    ListAnswer,
    ListQuery,
    UploadAnswer,
    avatar_info,
    file_info,
)
from hapta.files.sending import sent
from hapta.files.service import FileService
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, PUBLIC, Caller
from hapta.kit.ids import Ids

FORM_BYTES = 64 * 1024
"""What a form may hold beside its file."""
UNBOUNDED = 1 << 60
"""For bodies that are bounded while they are read, by the category that stands in them."""
REVALIDATED = "private, no-cache"
"""Kept by browsers, and asked for again each time, which costs a 304: a deleted file is gone, and so is whoever signs out."""
_UPLOADING = [
    MissingFile, InvalidType, SizeExceeded, InvalidCategory, InvalidUpload, FileInfected, QuotaExceeded, TooManyFiles,
    TooManyUploads, UploadLost, ScannerAway, BlobsAway,
]  # fmt: skip


def routes(files: FileService, direct: DirectUploads, ids: Ids) -> list[Endpoint]:
    """The URL table of files."""
    api = FilesApi(files, direct, ids)
    table = Table(dialect=RELAY, access=DATA, limit="files", tag="files")
    return [
        table.post(
            "/v1/uploads",
            api.upload,
            summary="Upload a file as multipart/form-data: file, category, reuseKey",
            answers={200: UploadAnswer},
            errors=_UPLOADING,
            max_body_bytes=UNBOUNDED,
        ),
        table.get(
            "/v1/uploads",
            api.list_files,
            summary="List files, the newest first",
            answers={200: ListAnswer},
            errors=[InvalidCategory],
        ),
        table.post(
            "/v1/uploads/avatar",
            api.avatar,
            summary="Replace the account's avatar by a picture: multipart/form-data with file",
            answers={200: AvatarAnswer},
            errors=_UPLOADING,
            max_body_bytes=UNBOUNDED,
        ),
        table.get(
            "/v1/uploads/{fileId}",
            api.get_file,
            summary="What is known of a file",
            answers={200: FileAnswer},
            errors=[FileNotFound],
        ),
        table.delete(
            "/v1/uploads/{fileId}",
            api.delete_file,
            summary="Delete a file",
            answers={200: DoneAnswer},
            errors=[FileNotFound],
        ),
        table.get(
            "/v1/uploads/{fileId}/download",
            api.download,
            summary="Download a file, or ranges of it",
            answers=_BYTES,
            errors=[FileNotFound, BlobMissing, BlobsAway],
        ),
        table.post(
            "/v1/uploads/{fileId}/link",
            api.link,
            summary="Make a link that opens the file to whoever has it, for a while",
            answers={200: LinkAnswer},
            errors=[FileNotFound],
        ),
        table.get(
            "/v1/uploads/{fileId}/signed",
            api.linked,
            summary="Download a file by a link",
            access=PUBLIC,
            limit="default",
            answers=_BYTES,
            errors=[LinkRefused, FileNotFound, BlobMissing, BlobsAway],
        ),
        table.post(
            "/v1/uploads/direct",
            api.begin_direct,
            summary="Get an address to send a file straight to the S3 store",
            answers={200: DirectAnswer},
            errors=[
                InvalidCategory,
                SizeExceeded,
                QuotaExceeded,
                TooManyFiles,
                TooManyUploads,
                NoDirectAccess,
                BlobsAway,
            ],
        ),
        table.post(
            "/v1/uploads/direct/{uploadId}/complete",
            api.complete_direct,
            summary="Make a file of what was sent straight to the store",
            answers={200: UploadAnswer},
            errors=[UploadNotFound, *_UPLOADING],
        ),
    ]


_BYTES = {
    200: Content("application/octet-stream", "The file, in its own type"),
    206: Content("application/octet-stream", "A range of it, or several as multipart/byteranges"),
    304: None,
    307: None,
    416: None,
}


class FilesApi:
    """Handlers of files."""

    def __init__(self, files: FileService, direct: DirectUploads, ids: Ids) -> None:
        self._files = files
        self._direct = direct
        self._ids = ids

    async def upload(self, caller: Caller, request: Request, body: BodyStream) -> UploadAnswer:
        incoming = await self._incoming(request, body, self._files.settings.max_file_bytes)
        return UploadAnswer(success=True, file=file_info(await self._files.upload(caller.user_id, incoming)))

    async def avatar(self, caller: Caller, request: Request, body: BodyStream) -> AvatarAnswer:
        incoming = await self._incoming(request, body, self._files.settings.max_avatar_bytes)
        return AvatarAnswer(success=True, avatar=avatar_info(await self._files.avatar(caller.user_id, incoming)))

    async def list_files(self, caller: Caller, query: ListQuery) -> ListAnswer:
        found, cursor = await self._files.list_files(caller.user_id, query.category, query.cursor, query.limit)
        return ListAnswer(files=[file_info(file) for file in found], next_cursor=cursor)

    async def get_file(self, caller: Caller, fileId: str) -> FileAnswer:
        file = await self._files.get_file(caller.user_id, fileId)
        return FileAnswer(file=file_info(file), url=f"/v1/uploads/{file.id}/download")

    async def delete_file(self, caller: Caller, fileId: str) -> DoneAnswer:
        await self._files.delete_file(caller.user_id, fileId)
        return DoneAnswer(success=True)

    async def download(self, caller: Caller, request: Request, query: DownloadQuery, fileId: str) -> Reply:
        return await self._sent(await self._files.get_file(caller.user_id, fileId), request, query.download)

    async def link(self, caller: Caller, body: LinkRequest, fileId: str) -> LinkAnswer:
        file, token, expires_at = await self._files.link(caller.user_id, fileId, body.expires_in)
        return LinkAnswer(url=f"/v1/uploads/{file.id}/signed?token={token}", expires_at=expires_at)

    async def linked(self, request: Request, query: LinkedQuery, fileId: str) -> Reply:
        return await self._sent(await self._files.linked(fileId, query.token), request, query.download)

    async def begin_direct(self, caller: Caller, body: DirectRequest) -> DirectAnswer:
        described = Description(body.filename, body.content_type, body.category or "", body.reuse_key)
        upload, signed = await self._direct.begin(caller.user_id, described, body.size)
        return DirectAnswer(
            id=upload.id,
            url=signed.url,
            method=signed.method,
            headers=dict(signed.headers),
            expires_at=signed.expires_at,
        )

    async def complete_direct(self, caller: Caller, uploadId: str) -> UploadAnswer:
        return UploadAnswer(success=True, file=file_info(await self._direct.complete(caller.user_id, uploadId)))

    async def _sent(self, file: File, request: Request, download: str) -> Reply:
        if request.method == "GET" and (signed := await self._files.direct(file)) is not None:
            return Reply(307, None, ((b"location", signed.url.encode()), (b"cache-control", b"no-store")))
        return await sent(self._files, file, request, self._ids, cache=REVALIDATED, attachment=download == "1")

    async def _incoming(self, request: Request, body: BodyStream, max_bytes: int) -> MultipartFile:
        length = request.raw_header(b"content-length")
        if (
            length is not None
            and int(length[:20]) > max_bytes + FORM_BYTES
            and not request.raw_header(b"content-encoding")
        ):
            raise SizeExceeded(max_bytes)
        chunks: AsyncIterator[bytes] = aiter(body)
        incoming = MultipartFile(request.raw_header(b"content-type") or b"none", chunks)
        await incoming.begin()
        return incoming
