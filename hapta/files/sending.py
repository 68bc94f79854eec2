"""A file as an answer: ranges, conditions, and headers that keep a browser from running what a stranger uploaded."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from hapta.blobs.blobs import Chunks
from hapta.files.models import File
from hapta.files.service import FileService
from hapta.files.types import is_passive, is_textual
from hapta.http.api import Reply, Request
from hapta.http.protocol import Prepared
from hapta.http.ranges import Asked, Span, content_range, http_date, part_head, parts_end, wanted
from hapta.kit.ids import Ids

WHOLE_BYTES = 256 * 1024
"""Up to here a file is answered in one piece, which spares the stream."""
_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+-]")
_ASKED = (b"range", b"if-range", b"if-none-match", b"if-modified-since")
"""The headers of `Asked`, in its order."""
_ASKS = frozenset(_ASKED)
Headers = Sequence[tuple[bytes, bytes]]


async def sent(
    files: FileService, file: File, request: Request, ids: Ids, *, cache: str, attachment: bool = False
) -> Reply:
    """The answer to a GET or HEAD of a file.

    Args:
        ids: make the boundary of an answer of several parts.
        cache: the value of Cache-Control.
        attachment: whether it is saved in any case and never shown.

    Raises:
        BlobMissing: its bytes are not there.
    """
    told = _told(file, cache, attachment)
    if told.is_small and request.method == "GET" and not request.has_any(_ASKS):  # as most are: all of it, from memory
        whole = files.at_once(file)
        if whole is not None:
            return Reply(200, whole, told.whole, told.media_type)
    head = request.method == "HEAD"
    asked = Asked(*[None if (raw := request.raw_header(name)) is None else raw.decode("latin-1") for name in _ASKED])
    plan = wanted(asked, file.size, told.etag, file.updated_at, head=head)
    if plan.status == 304:
        return Reply(304, None, told.common)
    if plan.status == 416:
        return Reply(416, None, [*told.common, (b"content-range", b"bytes */%d" % file.size)])
    media_type = told.media_type
    headers = list(told.whole)
    if len(plan.spans) > 1:
        return await _in_parts(files, file, plan.spans, ids.secret(18), media_type, headers)
    span = plan.spans[0]
    size = span.end - span.start
    if plan.status == 206:
        headers.append((b"content-range", content_range(span, file.size).encode()))
    if head or size == 0:
        return Reply(plan.status, _nothing(), [*headers, _length(size)], media_type)
    opened = await files.read(file, span.start, span.end)
    if size <= WHOLE_BYTES and not is_textual(file.media_type):
        async with aclosing(opened.chunks):
            whole = b"".join([chunk async for chunk in opened.chunks])
        return Reply(plan.status, whole, headers, media_type)
    return Reply(plan.status, opened.chunks, [*headers, _length(size)], media_type)


class _Told(NamedTuple):
    """What an answer says of a file: `common` in any case, `whole` with its bytes.

    `is_small`: it may be answered in one piece. Text may not: it would be compressed, which its tag does not tell."""

    etag: str
    media_type: str
    common: Headers
    whole: Headers
    is_small: bool


@lru_cache(maxsize=1024)
def _told(file: File, cache: str, attachment: bool) -> _Told:
    etag = f'"{file.sha256.hex()[:32]}"'
    common = (
        (b"etag", etag.encode()),
        (b"last-modified", http_date(file.updated_at).encode()),
        (b"cache-control", cache.encode()),
    )
    whole = Prepared((*common, *_guarding(file, attachment=attachment), (b"accept-ranges", b"bytes")))
    is_small = 0 < file.size <= WHOLE_BYTES and not is_textual(file.media_type)
    return _Told(etag, with_charset(file.media_type), common, whole, is_small)


def disposition(name: str, *, attachment: bool) -> bytes:
    """Content-Disposition for a name of any characters (RFC 6266, section 4.3)."""
    kind = "attachment" if attachment else "inline"
    plain = _PLAIN.sub("_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}".encode()


def with_charset(media_type: str) -> str:
    """The type as it is answered: text was checked to be UTF-8."""
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type


def _guarding(file: File, *, attachment: bool) -> Headers:
    """What can hold scripts is saved and not shown, and whatever shows it nevertheless gives it no origin and no network.

    `nosniff` stands on every answer of the edge."""
    shown = is_passive(file.media_type) and not attachment
    return [
        (b"content-disposition", disposition(file.name, attachment=not shown)),
        (b"content-security-policy", b"default-src 'none'; sandbox"),
    ]


async def _in_parts(
    files: FileService, file: File, spans: Sequence[Span], boundary: str, media_type: str, headers: Headers
) -> Reply:
    heads = [part_head(boundary, media_type, span, file.size) for span in spans]
    end = parts_end(boundary)
    size = sum(map(len, heads)) + sum(span.end - span.start for span in spans) + len(end)
    first = await files.read(file, spans[0].start, spans[0].end)  # if it cannot be read, that is told by a status

    async def parts() -> AsyncIterator[bytes]:
        opened: Chunks = first.chunks
        for number, head in enumerate(heads):
            yield head
            if number:
                opened = (await files.read(file, spans[number].start, spans[number].end)).chunks
            async with aclosing(opened):
                async for chunk in opened:
                    yield chunk
        yield end

    return Reply(206, parts(), [*headers, _length(size)], f"multipart/byteranges; boundary={boundary}")


def _length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", str(size).encode()


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in ():
        yield chunk
