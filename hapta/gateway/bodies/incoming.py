"""The body of a write: read, checked and written anew on its way to PocketBase (contract gateway, A.6 and B.8).

A body without files is read as a whole and goes on as one JSON text. With files it streams: their bytes go on as they arrive, while
text is collected. When the last part has come, the decision is asked for once, and only its answer, as the one `@jsonPayload`,
and the closing boundary let PocketBase begin. Whatever goes wrong before that leaves a body without its end, which commits nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol, TypeVar, cast

from hapta.gateway.bodies import forms, json
from hapta.gateway.bodies.envelopes import BATCH, read_text
from hapta.gateway.bodies.forms import PAYLOAD
from hapta.gateway.errors import BadBody
from hapta.gateway.models import Collection, Field
from hapta.gateway.uploads.checks import FileCheck, FileRules, UploadedFile, max_field_bytes, new_file
from hapta.gateway.uploads.sources import FileSource
from hapta.http.media import Media, boundary_of, parse_header
from hapta.http.multipart import MultipartReader, Part
from hapta.http.requests import body_too_large

T = TypeVar("T")
Json = Any
Decide = Callable[[], Awaitable[dict[str, Json]]]

MIB = 1024 * 1024
RECORD_BYTES = 32 * MIB
BATCH_BYTES = 128 * MIB
"""What PocketBase takes of a body where neither fields nor its settings say more (contract gateway, A.5)."""

JSON = "application/json"

_BATCH_FILE = re.compile(r"requests(?:\.(0|[1-9][0-9]{0,5})\.|\[(0|[1-9][0-9]{0,5})\]\.)(\+?[A-Za-z0-9_]+\+?)")


class Head(Protocol):
    """What is needed of a request; `hapta.http.requests.Request` is one."""

    def raw_header(self, name: bytes) -> bytes | None: ...


class Outgoing:
    """What goes on to PocketBase.

    Attributes:
        body: JSON as bytes, or a multipart body that grows as the client's arrives; to be iterated once.
        media_type: its Content-Type.
        error: what ended a growing body before its end. HTTP clients tell of it as a failure of their own, so it is kept here.
    """

    __slots__ = ("body", "error", "media_type")

    def __init__(self, body: bytes | AsyncGenerator[bytes, None], media_type: str) -> None:
        self.body = body
        self.media_type = media_type
        self.error: Exception | None = None

    async def send(self, send: Callable[[bytes | AsyncIterator[bytes], str], Awaitable[T]]) -> T:
        """Sends the body by a callable, `send(body, media_type)`, and lets go of it whatever comes.

        Returns:
            The answer. PocketBase may give it before the body has ended, by refusing; then the decision was never asked for.

        Raises:
            What ended the body (an error of the client's body, of a check, or of the decision), rather than what the HTTP client
            made of it.
        """
        try:
            answer = await send(self.body, self.media_type)
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise
        finally:
            await self.close()
        if self.error is not None:
            raise self.error
        return answer

    async def close(self) -> None:
        """Stops reading the client's body."""
        if not isinstance(self.body, bytes):
            # A task of the HTTP client that still waits for the next piece has been cancelled by it, and closes it all.
            with suppress(RuntimeError):
                await self.body.aclose()


class Incoming:
    """The body of a write, as far as it has come.

    Attributes:
        data: the fields so far, with modifiers; complete when the decision is asked for.
        files: the files so far.
        whole: nothing more is to come. Otherwise files stream, and `data` may still grow.
    """

    def __init__(self, data: dict[str, Json] | None = None) -> None:
        self.data: dict[str, Json] = {} if data is None else data
        self.files: list[UploadedFile] = []
        self.whole = True
        self._walk: AsyncGenerator[bytes, None] | None = None
        self._first = b""
        self._boundary = ""
        self._long = False
        """Whether there is so much text that it is read and written on a thread."""

    @classmethod
    def of_data(cls, data: dict[str, Json]) -> Incoming:
        """A body that is there already, without files."""
        return cls(data)

    @classmethod
    def of_parts(
        cls, data: dict[str, Json], sources: Sequence[FileSource], collection: Collection, rules: FileRules
    ) -> Incoming:
        """A body with files from elsewhere than HTTP; they pass the same checks. They are read one after the other."""
        incoming = cls(data)
        if sources:
            incoming.whole = False
            incoming._boundary = _new_boundary()
            incoming._walk = incoming._walk_sources(sources, collection, rules)
        return incoming

    @property
    def filenames(self) -> tuple[tuple[str, str, str], ...]:
        """Of the files so far: field with modifier, name, media type by content."""
        return tuple([(file.key, file.name, file.media_type) for file in self.files])

    async def outgoing(self, decide: Decide) -> Outgoing:
        """The body to send on.

        Args:
            decide: called once, when `data` and `files` are complete; returns what PocketBase shall get as fields. What it raises
                reaches the caller here when the body is whole, else from `Outgoing.send`.
        """
        if self._walk is None:
            return Outgoing(await self._written(await decide()), JSON)
        outgoing = Outgoing(b"", f"multipart/form-data; boundary={self._boundary}")
        outgoing.body = self._stream(outgoing, self._walk, decide)
        return outgoing

    async def send(self, decide: Decide, send: Callable[[bytes | AsyncIterator[bytes], str], Awaitable[T]]) -> T:
        """Decides and sends: `outgoing` and `Outgoing.send` in one."""
        return await (await self.outgoing(decide)).send(send)

    async def close(self) -> None:
        """Lets go of a body that is not to be sent."""
        if self._walk is not None:
            await self._walk.aclose()

    async def _stream(
        self, outgoing: Outgoing, walk: AsyncGenerator[bytes, None], decide: Decide
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(walk):
                if self._first:
                    yield self._first
                async for piece in walk:
                    yield piece
                self.whole = True
                payload = await self._written(await decide())
            # One piece: PocketBase must never see the boundary behind a file without what follows it.
            yield b"".join(
                [
                    b"\r\n--" if self.files else b"--", self._boundary.encode(),
                    b'\r\nContent-Disposition: form-data; name="@jsonPayload"\r\n\r\n', payload,
                    b"\r\n--", self._boundary.encode(), b"--\r\n",
                ]
            )  # fmt: skip
        except Exception as error:
            outgoing.error = error
            raise

    async def _written(self, data: dict[str, Json]) -> bytes:
        plain = _without_payload(data)
        return await asyncio.to_thread(json.dumps, plain) if self._long else json.dumps(plain)

    async def _read_multipart(self, chunks: AsyncIterable[bytes], boundary: str, parts: _Parts) -> None:
        """Reads as far as the first file's first bytes, or to the end."""
        # A boundary of our own: the client's may stand in a file of another one's making, and would need checks of its own.
        self._boundary = _new_boundary()
        self._walk = self._walk_parts(chunks, MultipartReader(boundary), parts)
        try:
            self._first = await anext(self._walk)
            self.whole = False
        except StopAsyncIteration:
            self._walk = None

    async def _walk_parts(
        self, chunks: AsyncIterable[bytes], reader: MultipartReader, parts: _Parts
    ) -> AsyncGenerator[bytes, None]:
        """What goes on of a multipart body but its end: files. Text is put into `data` when all has come."""
        pairs: forms.Pairs = []
        room = parts.max_text_bytes
        part: Part | None = None
        text: list[bytes] | None = None
        check: FileCheck | None = None
        try:
            async for chunk in chunks:
                out: list[bytes] = []
                for event in reader.feed(chunk):
                    if isinstance(event, Part):
                        part, text = event, None
                        if event.filename is None:
                            text = []
                        elif (found := parts.file(event)) is not None:
                            check = FileCheck(parts.rules, *found)
                    elif isinstance(event, bytes):
                        if check is not None:
                            out += self._begun(check, await check.feed(event))
                        elif text is not None:
                            room -= len(event)
                            if room < 0:
                                raise body_too_large(parts.max_text_bytes)
                            text.append(event)
                    elif check is not None:
                        out += self._begun(check, await check.finish(), ends=True)
                        check = None
                    elif text is not None and part is not None:
                        pairs.append((part.name, forms.text(b"".join(text))))
                if out:
                    yield b"".join(out)
            reader.finish()
        finally:
            if check is not None:
                await check.close()
        self._long = parts.max_text_bytes - room >= json.THREAD_BYTES
        self.data = await asyncio.to_thread(parts.data, pairs) if self._long else parts.data(pairs)

    async def _walk_sources(
        self, sources: Sequence[FileSource], collection: Collection, rules: FileRules
    ) -> AsyncGenerator[bytes, None]:
        for source in sources:
            field = file_field(collection, source.key)
            if field is None:
                raise BadBody(f"There is no field for the file {source.key!r}.")
            check = FileCheck(rules, new_file(source.key, field.name, source.filename), field)
            try:
                async for chunk in source.chunks:
                    for piece in self._begun(check, await check.feed(chunk)):
                        yield piece
                for piece in self._begun(check, await check.finish(), ends=True):
                    yield piece
            finally:
                await check.close()

    def _begun(self, check: FileCheck, passed: bytes, *, ends: bool = False) -> list[bytes]:
        """What a check let pass, behind the head of its part when it is the first."""
        file = check.file
        begun = bool(self.files) and self.files[-1] is file
        if begun or not (passed or ends):
            return [passed] if passed else []
        delimiter = "\r\n--" if self.files else "--"
        self.files.append(file)
        head = (
            f'{delimiter}{self._boundary}\r\nContent-Disposition: form-data; name="{file.key}"; filename="{file.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        return [head.encode(), passed]


class _Parts:
    """What the parts of a record's multipart body mean."""

    def __init__(self, rules: FileRules, collection: Collection | None, max_text_bytes: int) -> None:
        self.rules = rules
        self.max_text_bytes = max_text_bytes
        self._collection = collection

    def file(self, part: Part) -> tuple[UploadedFile, Field | None] | None:
        """The file that begins and its field; None for one that PocketBase would drop."""
        assert self._collection is not None  # noqa: S101 - a record's body
        field = file_field(self._collection, part.name)
        return None if field is None else (new_file(part.name, field.name, part.filename or ""), field)

    def data(self, pairs: forms.Pairs) -> dict[str, Json]:
        """The fields that the text parts make up."""
        return forms.data_of(pairs)


class _BatchParts(_Parts):
    """Of a batch: files by request and field; of the text only `@jsonPayload` counts, as in PocketBase."""

    def file(self, part: Part) -> tuple[UploadedFile, Field | None] | None:
        match = _BATCH_FILE.fullmatch(part.name)
        if match is None:
            return None
        request, key = match[1] or match[2], match[3]
        return new_file(f"requests.{request}.{key}", key.strip("+"), part.filename or "", int(request)), None

    def data(self, pairs: forms.Pairs) -> dict[str, Json]:
        return BATCH.of_form([pair for pair in pairs if pair[0] == PAYLOAD])


def file_field(collection: Collection, key: str) -> Field | None:
    """The file field that a part's name means: `papers`, or with a modifier `papers+` and `+papers`."""
    name = key
    if key not in collection.fields:
        name = key[:-1] if key.endswith("+") else key.removeprefix("+")
    field = collection.fields.get(name)
    return field if field is not None and field.type == "file" else None


def max_record_bytes(collection: Collection, *, files: bool = True) -> int:
    """The largest body that PocketBase takes for a record: 32 MiB beside what its fields may hold (contract gateway, A.5).

    Args:
        files: count the files; what remains without them may be held in memory.
    """
    total = RECORD_BYTES
    for field in collection.fields.values():
        if field.type == "file" and not files:
            continue
        if field.type == "file":
            total += max_field_bytes(field) * max(1, int(field.options.get("maxSelect") or 1))
        elif field.type == "json":
            total += int(field.options.get("maxSize") or MIB)
        elif field.type == "editor":
            total += int(field.options.get("maxSize") or 5 * MIB)
    return total


async def read_record_body(
    request: Head, chunks: AsyncIterable[bytes], collection: Collection, rules: FileRules | None = None
) -> Incoming:
    """Reads the body of a create or an update: all of it, or as far as the first file.

    Raises:
        TooLarge: larger than PocketBase takes; by Content-Length before anything is read.
        BadBody, BadMedia: it cannot be read, or nobody should.
        FileTooLarge, FieldsInvalid: a file that must not pass.
    """
    bounded = _bounded(request, chunks, max_record_bytes(collection))
    parts = _Parts(rules or FileRules(), collection, max_record_bytes(collection, files=False))
    return await _read(request, bounded, parts)


async def read_batch_body(
    request: Head, chunks: AsyncIterable[bytes], rules: FileRules | None = None, max_bytes: int = BATCH_BYTES
) -> Incoming:
    """Reads the body of a batch. `data` is `{"requests": [{"method", "url", "headers", "body"}]}` with just these names.

    The files of inner requests are not held against their fields yet: `uploads.checks.check_field` does, in the decision.

    Raises:
        As `read_record_body`.
    """
    bounded = _bounded(request, chunks, max_bytes)
    return await _read(request, bounded, _BatchParts(rules or FileRules(), None, min(max_bytes, BATCH_BYTES)))


async def _read(request: Head, chunks: AsyncIterable[bytes], parts: _Parts) -> Incoming:
    incoming = Incoming()
    raw_type = request.raw_header(b"content-type")
    media = parse_header(raw_type) if raw_type else Media("", {})
    if media.essence == "multipart/form-data":
        await incoming._read_multipart(chunks, boundary_of(media), parts)  # pyright: ignore[reportPrivateUsage]
        return incoming
    raw = await read_text(chunks, media.essence, parts.max_text_bytes)
    if media.essence == "application/x-www-form-urlencoded":
        incoming.data = parts.data(forms.parse(raw))
        return incoming
    value = await json.read(raw) if raw else None
    if isinstance(parts, _BatchParts):
        incoming.data = BATCH.of_json(value)
    elif value is not None and not isinstance(value, dict):
        raise BadBody("The submitted data must be an object.")
    else:
        incoming.data = cast(dict[str, Json], value or {})
    return incoming


def _bounded(request: Head, chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    length = request.raw_header(b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > max_bytes:
        raise body_too_large(max_bytes)
    return _counted(chunks, max_bytes)


async def _counted(chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise body_too_large(max_bytes)
        yield chunk


def _without_payload(data: dict[str, Json]) -> dict[str, Json]:
    """A member of that name means nothing in JSON; in a form it would mean much, so it never goes on."""
    return {name: value for name, value in data.items() if name != PAYLOAD} if PAYLOAD in data else data


def _new_boundary() -> str:
    """A boundary that no file can hold but by a guess of 128 bits."""
    return f"hapta-{secrets.token_hex(16)}"
