"""The URL table of blobs, and handlers that decode, call and encode; nothing else."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request, Table
from hapta.http.caller import bearer_token
from hapta.http.errors import SYNC
from hapta.http.ranges import Asked, Span, content_range, http_date, wanted
from hapta.kit.access import DATA, Caller
from hapta.sync import errors
from hapta.sync.blobs import schemas
from hapta.sync.blobs.models import Blob
from hapta.sync.blobs.service import VaultBlobs
from hapta.sync.long_requests import LongRequests

OCTETS = "application/octet-stream"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobApi:
    """The handlers. Everything they need is handed in by the wiring (`hapta.sync.feature`)."""

    blobs: VaultBlobs
    long_requests: LongRequests
    max_bytes: int

    async def put(self, caller: Caller, vaultId: str, sha256: str, request: Request, body: BodyStream) -> Reply:
        digest = _digest(sha256)
        if digest is None:
            raise errors.BadHash
        length = request.raw_header(b"content-length")
        declared = int(length) if length is not None and request.raw_header(b"content-encoding") is None else None
        async with self.long_requests.running(caller, _token(request)) as running:
            chunks = running.through(body)
            stored, size = await self.blobs.put(caller.user_id, vaultId, digest, chunks, declared)
        answer = schemas.BlobStored(vault_id=vaultId.lower(), hash=digest.hex(), size=size)
        return Reply(201 if stored else 200, answer)

    async def get(self, caller: Caller, vaultId: str, sha256: str, request: Request) -> Reply:
        blob = await self.blobs.find(caller.user_id, vaultId, _digest(sha256) or b"")
        etag = f'"{blob.hash.hex()}"'
        asked = Asked(*[request.header(name) for name in _CONDITIONS])
        answer = wanted(asked, blob.size, etag, blob.created_at, head=request.method == "HEAD")
        headers = {"etag": etag, "accept-ranges": "bytes", "last-modified": http_date(blob.created_at)}
        if answer.status == 304:
            return Reply(304, None, _encoded(headers))
        if answer.status == 416:
            return Reply(416, None, _encoded({"content-range": f"bytes */{blob.size}"}))
        # Several ranges at once are nobody's need here: the whole is answered, as RFC 9110, section 14.2, allows.
        span, status = Span(0, blob.size), 200
        if answer.status == 206 and len(answer.spans) == 1:
            span, status = answer.spans[0], 206
            headers["content-range"] = content_range(span, blob.size)
        headers["content-length"] = str(span.end - span.start)
        chunks = _none() if request.method == "HEAD" else self._chunks(caller, _token(request), blob, span)
        return Reply(status, chunks, _encoded(headers), OCTETS)

    async def delete(self, caller: Caller, vaultId: str, sha256: str) -> schemas.BlobDeleted:
        digest = _digest(sha256)
        if digest is None:
            raise errors.BlobNotFound
        await self.blobs.delete(caller.user_id, vaultId, digest)
        return schemas.BlobDeleted(message="Blob deleted successfully", vault_id=vaultId.lower(), hash=digest.hex())

    async def missing(self, caller: Caller, vaultId: str, body: schemas.MissingRequest) -> schemas.MissingAnswer:
        hashes = [bytes.fromhex(each) for each in body.hashes]
        missing = await self.blobs.missing(caller.user_id, vaultId, hashes)
        return schemas.MissingAnswer(missing=[each.hex() for each in missing])

    async def _chunks(self, caller: Caller, token: str, blob: Blob, span: Span) -> AsyncGenerator[bytes]:
        """Opened with the first chunk, so that an answer whose sending never begins holds nothing open."""
        async with self.long_requests.running(caller, token) as running:
            opened = await self.blobs.open(blob, span.start, span.end)
            try:
                async for chunk in running.through(opened.chunks):
                    yield chunk
            finally:
                await opened.chunks.aclose()


_CONDITIONS = ("range", "if-range", "if-none-match", "if-modified-since")


def blob_routes(api: BlobApi) -> list[Endpoint]:
    """The endpoints of blobs."""
    table = Table(dialect=SYNC, access=DATA, limit="sync", tag="sync", max_body_bytes=256 * 1024)
    one = "/blobs/{vaultId}/{sha256}"
    bytes_of_it = Content(OCTETS, "The ciphertext, as it was sent")
    return [
        table.put(
            one,
            api.put,
            summary="Store an encrypted blob under the SHA-256 of its ciphertext",
            answers={201: schemas.BlobStored, 200: schemas.BlobStored},
            errors=[
                errors.VaultNotFound,
                errors.BadHash,
                errors.HashMismatch,
                errors.PushTooLarge,
                errors.QuotaExceeded,
                errors.BlobGivenUp,
            ],
            max_body_bytes=api.max_bytes,
        ),
        table.get(
            one,
            api.get,
            summary="Get a blob, or a range of it",
            answers={200: bytes_of_it, 206: bytes_of_it, 304: None, 416: None},
            errors=[errors.BlobNotFound],
        ),
        table.delete(
            one,
            api.delete,
            summary="Delete a blob",
            answers={200: schemas.BlobDeleted},
            errors=[errors.BlobNotFound],
        ),
        table.post(
            "/blobs/{vaultId}/missing",
            api.missing,
            summary="Ask which blobs a vault does not have",
            answers={200: schemas.MissingAnswer},
            errors=[errors.VaultNotFound],
        ),
    ]


def _digest(text: str) -> bytes | None:
    lowered = text.lower()
    return bytes.fromhex(lowered) if _HASH.fullmatch(lowered) else None


def _token(request: Request) -> str:
    return bearer_token(request.raw_header(b"authorization"))


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _none() -> AsyncIterator[bytes]:
    for chunk in ():
        yield chunk
