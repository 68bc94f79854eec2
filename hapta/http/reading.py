"""Reads what a request brings, as its endpoint declares it: query string, and body bounded, decompressed, decoded, validated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from hapta.http.api import Endpoint
from hapta.http.compress import expand_chunks
from hapta.http.forms import MAX_FORM_BYTES, Form, is_form
from hapta.http.json import reader
from hapta.http.queries import query_reader
from hapta.http.requests import BodyStream, Receive, Request, body_too_large, read_all, read_chunks
from hapta.kit.errors import Invalid, UnsupportedMedia
from hapta.settings import ServerSettings

THREAD_BYTES = 256 * 1024
"""From this size on a body is decoded on a thread, so that other requests get their turn meanwhile."""

Read = Callable[[Request, Receive], Awaitable[None] | None]
"""Fills the request. None: it did so at once, as the whole body was there; most are, and it costs no task switch."""


def reader_for(endpoint: Endpoint, server: ServerSettings) -> Read | None:
    """What fills `request.query` and `request.body` for this endpoint; None when it takes neither."""
    body_type, query_type = endpoint.body_type, endpoint.query_type
    max_bytes = endpoint.max_body_bytes or server.max_body_bytes
    if body_type is not BodyStream:  # what is held in memory as a whole never passes the server's own limit
        max_bytes = min(max_bytes, server.max_body_bytes)
    read_body = None if body_type is None else _body_reader(endpoint, body_type, max_bytes, server.body_timeout_seconds)
    if query_type is None:
        return read_body

    read_query = query_reader(query_type)

    def read(request: Request, receive: Receive) -> Awaitable[None] | None:
        request.query = read_query(request.query_string)
        return None if read_body is None else read_body(request, receive)

    return read


def small_json_reader(endpoint: Endpoint, server: ServerSettings) -> Callable[[Request, bytes], Any] | None:
    """What makes the value of a small body that is there, uncompressed; None where the endpoint takes no JSON, or a query as well."""
    if endpoint.query_type is not None or endpoint.body_type in (None, bytes, BodyStream, Form):
        return None
    max_bytes = min(endpoint.max_body_bytes or server.max_body_bytes, server.max_body_bytes)
    read_json, as_json = reader(endpoint.body_type), _json_by_its_label(endpoint)

    def read(request: Request, raw: bytes) -> Any:
        if len(raw) > max_bytes:
            raise body_too_large(max_bytes)
        return read_json(as_json(request, raw))

    return read


def _json_by_its_label(endpoint: Endpoint) -> Callable[[Request, bytes], bytes]:
    """The text of a JSON body, or what a body of another kind counts as."""
    others_are_empty = endpoint.dialect.wrong_content_type == "empty_body"

    def as_json(request: Request, raw: bytes) -> bytes:
        if is_json(request.raw_header(b"content-type")):
            return raw
        if not others_are_empty:
            raise UnsupportedMedia("Send the body as application/json")
        return b"{}"

    return as_json


def _body_reader(endpoint: Endpoint, body_type: Any, max_bytes: int, timeout_seconds: float) -> Read:
    if body_type is BodyStream:
        return _stream_reader(max_bytes, timeout_seconds)
    if body_type is bytes:
        return _bytes_reader(max_bytes, timeout_seconds)
    if body_type is Form:
        return _form_reader(min(max_bytes, MAX_FORM_BYTES), timeout_seconds)
    read_json, as_json = reader(body_type), _json_by_its_label(endpoint)

    def read(request: Request, receive: Receive) -> Awaitable[None] | None:
        raw = _arrived(request, max_bytes)
        if raw is None or len(raw) >= THREAD_BYTES:
            return wait(request, receive, raw)
        request.body = read_json(as_json(request, raw))
        return None

    async def wait(request: Request, receive: Receive, raw: bytes | None) -> None:
        if raw is None:
            raw = await _read_bytes(request, receive, max_bytes, timeout_seconds)
        raw = as_json(request, raw)
        request.body = read_json(raw) if len(raw) < THREAD_BYTES else await asyncio.to_thread(read_json, raw)

    return read


def is_json(content_type: bytes | None) -> bool:
    """Whether a body is JSON by its label: `application/json` or a `+json` type, with any parameters."""
    if content_type is None:
        return False
    if content_type == b"application/json":
        return True
    essence = content_type.partition(b";")[0].strip().lower()
    return essence == b"application/json" or (essence.startswith(b"application/") and essence.endswith(b"+json"))


def _bytes_reader(max_bytes: int, timeout_seconds: float) -> Read:
    def read(request: Request, receive: Receive) -> Awaitable[None] | None:
        request.body = _arrived(request, max_bytes)
        return wait(request, receive) if request.body is None else None

    async def wait(request: Request, receive: Receive) -> None:
        request.body = await _read_bytes(request, receive, max_bytes, timeout_seconds)

    return read


def _form_reader(max_bytes: int, timeout_seconds: float) -> Read:
    def parse(request: Request, raw: bytes) -> None:
        if raw and not is_form(request.raw_header(b"content-type")):
            raise UnsupportedMedia("Send the parameters as application/x-www-form-urlencoded in UTF-8")
        request.body = Form.parse(raw)

    def read(request: Request, receive: Receive) -> Awaitable[None] | None:
        raw = _arrived(request, max_bytes)
        return wait(request, receive) if raw is None else parse(request, raw)

    async def wait(request: Request, receive: Receive) -> None:
        parse(request, await _read_bytes(request, receive, max_bytes, timeout_seconds))

    return read


def _stream_reader(max_bytes: int, timeout_seconds: float) -> Read:
    def read(request: Request, receive: Receive) -> None:
        _refuse_by_length(request, max_bytes)
        request.body = BodyStream(_chunks(request, receive, max_bytes, timeout_seconds))

    return read


def _arrived(request: Request, max_bytes: int) -> bytes | None:
    """The body, if it is here as a whole and as it is; its length was the parser's to judge."""
    if request.raw_header(b"content-encoding") is not None:
        return None
    body = request.whole_body()
    if body is not None and len(body) > max_bytes:
        raise body_too_large(max_bytes)
    return body


async def _read_bytes(request: Request, receive: Receive, max_bytes: int, timeout_seconds: float) -> bytes:
    _refuse_by_length(request, max_bytes)
    if request.raw_header(b"content-encoding") is None:
        return await read_all(receive, max_bytes, timeout_seconds)
    return b"".join([chunk async for chunk in _chunks(request, receive, max_bytes, timeout_seconds)])


def _chunks(request: Request, receive: Receive, max_bytes: int, timeout_seconds: float) -> AsyncIterator[bytes]:
    chunks = read_chunks(receive, max_bytes, timeout_seconds)
    encoding = request.raw_header(b"content-encoding")
    return chunks if encoding is None else expand_chunks(chunks, encoding, max_bytes)


def _refuse_by_length(request: Request, max_bytes: int) -> None:
    """Refuses early what says itself that it is too large; what lies about it is caught while it is read."""
    length = request.raw_header(b"content-length")
    if length is None:
        return
    if not length.isdigit():
        raise Invalid("Content-Length is not a number")
    if int(length[:20]) > max_bytes:
        raise body_too_large(max_bytes)
