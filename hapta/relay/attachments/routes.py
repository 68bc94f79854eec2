"""Routes of attachments: decode, call, encode (contract relay, section 16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from hapta.blobs.blobs import Chunks
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.addresses import base_of
from hapta.relay.attachments.errors import AttachmentNotFound, AttachmentTooLarge, InvalidName, InvalidReference
from hapta.relay.attachments.schemas import (
    DownloadAnswer,
    RequestDownload,
    RequestUpload,
    StoredAnswer,
    UploadAnswer,
)
from hapta.relay.attachments.service import AttachmentService, prefix_of
from hapta.relay.errors import SessionNotFound
from hapta.settings import ServerSettings

PATH = "/v1/sessions/{sessionId}/attachments"
MEDIA_TYPE = "application/octet-stream"
_GUARDING = (
    (b"content-disposition", b"attachment"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cache-control", b"private, no-store"),
)


def routes(attachments: AttachmentService, server: ServerSettings, max_bytes: int) -> list[Endpoint]:
    """The URL table of attachments.

    Args:
        max_bytes: largest attachment.
    """
    api = AttachmentsApi(attachments, server)
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="attachments", max_body_bytes=64 * 1024)
    return [
        own.post(
            f"{PATH}/request-upload",
            api.request_upload,
            summary="Where to put an attachment",
            answers={200: UploadAnswer},
            errors=[SessionNotFound, AttachmentTooLarge],
        ),
        own.post(
            f"{PATH}/request-download",
            api.request_download,
            summary="Where an attachment is",
            answers={200: DownloadAnswer},
            errors=[SessionNotFound, AttachmentNotFound, InvalidReference],
        ),
        own.put(
            f"{PATH}/{{file}}",
            api.put,
            summary="Put an attachment",
            answers={200: StoredAnswer},
            errors=[SessionNotFound, InvalidName, AttachmentTooLarge],
            max_body_bytes=max_bytes,
        ),
        own.get(
            f"{PATH}/{{file}}",
            api.get,
            summary="Read an attachment",
            answers={200: Content(MEDIA_TYPE, "As it was put")},
            errors=[SessionNotFound, AttachmentNotFound],
        ),
    ]


class AttachmentsApi:
    """Handlers of attachments."""

    def __init__(self, attachments: AttachmentService, server: ServerSettings) -> None:
        self._attachments = attachments
        self._server = server

    async def request_upload(
        self, caller: Caller, request: Request, sessionId: str, body: RequestUpload
    ) -> UploadAnswer:
        name = await self._attachments.new_name(caller.user_id, sessionId, body.size)
        return UploadAnswer(
            ref=f"{prefix_of(sessionId)}{name}", upload_url=self._url(request, sessionId, name), method="PUT"
        )

    async def request_download(
        self, caller: Caller, request: Request, sessionId: str, body: RequestDownload
    ) -> DownloadAnswer:
        name = await self._attachments.named(caller.user_id, sessionId, body.ref)
        return DownloadAnswer(download_url=self._url(request, sessionId, name))

    async def put(self, caller: Caller, request: Request, sessionId: str, file: str, body: BodyStream) -> StoredAnswer:
        announced = request.header("content-length") or ""
        size = int(announced) if len(announced) <= 20 and announced.isascii() and announced.isdigit() else None
        await self._attachments.put(caller.user_id, sessionId, file, aiter(body), size)
        return StoredAnswer(ok=True)

    async def get(self, caller: Caller, sessionId: str, file: str) -> Reply:
        opened = await self._attachments.open(caller.user_id, sessionId, file)
        length = (b"content-length", str(opened.size).encode())
        return Reply(200, _read(opened.chunks), (*_GUARDING, length), MEDIA_TYPE)

    def _url(self, request: Request, session_id: str, name: str) -> str:
        return f"{base_of(self._server, request)}/v1/{prefix_of(session_id)}{name}"


async def _read(chunks: Chunks) -> AsyncIterator[bytes]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk
