"""URL table and handler of files: decode, call, stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from hapta.gateway.closed import needed, plain_segment
from hapta.gateway.errors import RecordMissing
from hapta.gateway.files.service import Files, FileWanted, OpenFile, wants_download
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Collection, Visitor
from hapta.gateway.queries import parsed
from hapta.gateway.table import client_of, visitors
from hapta.http.api import Content, Endpoint, Reply, Request
from hapta.kit.errors import BadGateway, Forbidden, GatewayTimeout, Invalid, NotFound, TooMany, Unavailable

Recognise = Callable[[bytes | None], Awaitable[Visitor]]
"""Who sends an Authorization header; nobody where it does not count (`Sessions.lenient`)."""

CONDITIONS = (b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since")
_ERRORS = (Invalid, Forbidden, NotFound, TooMany, BadGateway, Unavailable, GatewayTimeout)


class Resolver(Protocol):
    """Knows the collections."""

    def resolve(self, segment: str) -> Collection:
        """The collection of that id, or of that name in any case.

        Raises:
            CollectionMissing: there is none, or it is closed.
        """
        ...


class FileRoutes:
    """Handlers of files."""

    def __init__(self, files: Files, catalog: Resolver, recognise: Recognise, metrics: GatewayMetrics) -> None:
        self._files = files
        self._catalog = catalog
        self._recognise = recognise
        self._metrics = metrics

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix."""
        table = visitors(prefix)
        any_type = Content("*/*", "The file, or the part of it that `Range` names")
        return [
            table.get(
                prefix + "/api/files/{collection}/{record}/{name}",
                self.download,
                summary="Read a file of a record",
                description="Query: `thumb`, `download=1`, and `token` for files of protected fields.",
                answers={200: any_type, 206: any_type, 304: None, 416: Content("text/plain", "No such range")},
                errors=_ERRORS,
            )
        ]

    async def download(self, request: Request, collection: str, record: str, name: str) -> Reply:
        query: Mapping[str, str] = parsed(request.query_string) if request.query_string else {}
        wanted = FileWanted(
            needed(self._catalog.resolve, collection),
            plain_segment(record, RecordMissing),
            plain_segment(name, RecordMissing),
            query.get("thumb", ""),
            wants_download(query.get("download", "")),
            tuple([(known, value) for known in CONDITIONS if (value := request.raw_header(known)) is not None]),
            query.get("token", ""),
            query,
            request.method == "HEAD",
        )
        visitor = await self._recognise(request.raw_header(b"authorization"))
        work = self._files.open(wanted, visitor, client_of(request))
        return reply(await self._metrics.counted("file", wanted.collection.name, work), head=wanted.head)


def reply(file: OpenFile, *, head: bool) -> Reply:
    """A file as the edge sends it."""
    headers = file.headers
    if not file.is_streamed and not head:
        return Reply(file.status, file.body if file.status != 304 else None, headers, file.media_type)
    # Of an answer to HEAD the edge sees no body, and could not tell the length of what there would be.
    if file.length is not None and file.status != 304:
        headers = (*headers, (b"content-length", b"%d" % file.length))
    chunks: AsyncIterator[bytes] = file
    return Reply(file.status, chunks, headers, file.media_type)
