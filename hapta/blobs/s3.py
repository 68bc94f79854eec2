"""A bucket of any store that speaks S3 as a store of ours.

    <prefix>/objects/<key>                 whole objects
    <prefix>/incoming/<key>/begun          an upload in pieces has begun, and counts
    <prefix>/incoming/<key>/p<offset>      its pieces; none is ever written over another one
    <prefix>/check                         what `check` writes

An object of S3 appears whole or not at all, so nothing here has to make it so. A piece is created only where none is yet, which
is how two senders of one piece find out about each other. `complete` copies the pieces through this process, then takes away
`begun` first: pieces without it do not count, so a removal that is cut off cannot be taken for an upload.
Memory is a few parts of 6 MiB for each transfer, whatever its size.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from hapta.blobs.blobs import BlobMissing, Blobs, BlobsAway, Opened, Signed, Stat, WrongOffset, checked_key
from hapta.blobs.presign import Credentials, presigned
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids

T = TypeVar("T")
PART_BYTES = 6 * 1024 * 1024
"""Of one part; S3 takes 10,000 of them, so an object may be 60 GB."""
PARTS_AT_ONCE = 2
READ_BYTES = 256 * 1024
DELETE_AT_ONCE = 1000
LIST_AT_ONCE = 1000
BEGUN = "begun"
LET_GO_SECONDS = 0.05

_SIGNED = re.compile(r"X-Amz-[A-Za-z-]+=[^&\s\"]*", re.IGNORECASE)
_pages: Any = getattr(obstore, "list")  # noqa: B009 - the types of the Arrow form are not installed
_log = structlog.stdlib.get_logger("hapta.blobs")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where objects lie, and the way to them.

    Args:
        endpoint: address of the service; empty: that of the region at AWS.
        credentials: None: those of the machine that this runs on.
        timeout_seconds: how long the service may be silent.
        retries: how often a request is sent again.
    """

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    credentials: Credentials | None = None
    path_style: bool = True
    timeout_seconds: float = 20.0
    retries: int = 2

    @property
    def base(self) -> str:
        """The address of the bucket."""
        endpoint = self.endpoint.rstrip("/") or f"https://s3.{self.region}.amazonaws.com"
        if self.path_style:
            return f"{endpoint}/{self.name}"
        scheme, _, host = endpoint.partition("://")
        return f"{scheme}://{self.name}.{host}"


class S3Blobs(Blobs):
    """An open bucket. Made by `open_s3`."""

    def __init__(self, bucket: Bucket, clock: Clock, ids: Ids) -> None:
        self._bucket = bucket
        self._clock = clock
        self._ids = ids
        self._prefix = f"{bucket.prefix}/" if bucket.prefix else ""
        self._store = _store(bucket)

    # -- objects ----------------------------------------------------------------------------------------------------------

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> int:
        return await self._put(self._object(key), chunks)

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Opened:
        name = self._object(key)
        options: Any = {}
        if start > 0 or end is not None:
            # A range that holds nothing is an error to S3, and the size has to be known to tell.
            found = await self._head(name)
            if found is None:
                raise BlobMissing
            size = found["size"]
            start, upto = max(start, 0), size if end is None else min(end, size)
            if start >= upto:
                return Opened(size, _Nothing())
            options["range"] = (start, upto)
        try:
            result = await _asked(obstore.get_async(self._store, name, options=options), may_miss=True)
        except FileNotFoundError:
            raise BlobMissing from None
        return Opened(result.meta["size"], _Chunks(result.stream(min_chunk_size=READ_BYTES)))

    async def stat(self, key: str) -> Stat | None:
        found = await self._head(self._object(key))
        return None if found is None else Stat(key, found["size"], _ms(found))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._delete([self._object(key) for key in keys])

    async def listed(self, prefix: str, after: str = "", limit: int = 1000) -> list[Stat]:
        base = f"{self._prefix}objects/"
        folder = prefix.rstrip("/")
        if folder:
            checked_key(folder)
        offset = base + after if after else None
        found: list[Stat] = []
        async for each in self._walk(f"{base}{folder}", offset):
            found.append(Stat(each["path"].removeprefix(base), each["size"], _ms(each)))
            if len(found) >= limit:
                break
        return found

    # -- uploads in pieces ------------------------------------------------------------------------------------------------

    async def append(self, key: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        upload = await self._pieces(key)
        if upload.size is None:
            if offset:
                raise WrongOffset(0)
            await self._delete(upload.rest)  # what is left of an earlier upload
            await _asked(obstore.put_async(self._store, self._piece(key, BEGUN), b"", use_multipart=False))
        elif upload.size != offset:
            raise WrongOffset(upload.size)
        parts = _Parts(chunks)
        try:
            while not parts.ended:
                part = await parts.next_part()
                if part:
                    offset = await self._add_piece(key, offset, part)
        except Exception:
            if parts.failure is not None:  # of the sender's: what came before it is kept, and the error goes on its way
                with contextlib.suppress(BlobsAway, WrongOffset):
                    for part in parts.left():
                        offset = await self._add_piece(key, offset, part)
            raise
        for part in parts.left():
            offset = await self._add_piece(key, offset, part)
        return offset

    async def appended(self, key: str) -> int:
        return (await self._pieces(key)).size or 0

    async def read_appended(self, key: str) -> Opened:
        upload = await self._pieces(key)
        if upload.size is None:
            raise BlobMissing
        return Opened(upload.size, self._read_pieces(upload.pieces))

    async def complete(self, key: str) -> int:
        upload = await self._pieces(key)
        if upload.size is None:
            await self._delete(upload.rest)
            return await self._completed_before(key)
        chunks = self._read_pieces(upload.pieces)
        try:
            stored = await self._put(self._object(key), chunks)
        except BlobMissing:  # somebody else completes it, and is taking the pieces away
            return await self._completed_before(key)
        finally:
            await chunks.aclose()
        await self._forget(key, upload)
        return stored

    async def _completed_before(self, key: str) -> int:
        found = await self.stat(key)
        if found is None:
            raise BlobMissing
        return found.size

    async def discard(self, key: str) -> None:
        await self._forget(key, await self._pieces(key))

    async def begun(self, after: str = "", limit: int = 1000) -> list[Stat]:
        base = f"{self._prefix}incoming/"
        # Behind every piece of the upload `after`.
        offset = f"{base}{after}/z" if after else None
        found: dict[str, Stat] = {}
        async for each in self._walk(base.rstrip("/"), offset):
            key = each["path"].removeprefix(base).rpartition("/")[0]
            if key not in found and len(found) >= limit:
                break
            known = found.get(key, Stat(key, 0, 0))
            found[key] = Stat(key, known.size + each["size"], max(known.modified_at, _ms(each)))
        return list(found.values())

    # -- further ----------------------------------------------------------------------------------------------------------

    async def signed(
        self, method: Literal["GET", "PUT"], key: str, expires_seconds: int, *, size: int = 0, media_type: str = ""
    ) -> Signed | None:
        name = self._object(key)
        expires_at = self._clock.now_ms() + expires_seconds * 1000
        credentials = self._bucket.credentials
        if credentials is None:
            # Those of the machine are known to the library alone, which signs no headers.
            url = await _asked(obstore.sign_async(self._store, method, name, timedelta(seconds=expires_seconds)))
            return Signed(url, method, expires_at)
        headers: dict[str, str] = {}
        if method == "PUT":
            headers["content-length"] = str(size)
            if media_type:
                headers["content-type"] = media_type
        url = presigned(
            method,
            f"{self._bucket.base}/{name}",
            credentials,
            self._bucket.region,
            now_ms=self._clock.now_ms(),
            expires_seconds=expires_seconds,
            headers=headers,
        )
        return Signed(url, method, expires_at, tuple(headers.items()))

    async def check(self) -> None:
        name, mark = f"{self._prefix}check", self._ids.uuid().encode()
        await _asked(obstore.put_async(self._store, name, mark))
        with contextlib.suppress(FileNotFoundError):
            # Another worker may check at this moment too, so what is read need not be what was written.
            await _asked(obstore.get_range_async(self._store, name, start=0, end=len(mark)), may_miss=True)

    async def close(self) -> None:
        """Connections end by themselves when they are idle. But the library's threads let go of our objects a moment after the
        last answer, and need the interpreter for it: a process that ends in that moment is aborted."""
        await asyncio.sleep(LET_GO_SECONDS)

    # -- the pieces of an upload ------------------------------------------------------------------------------------------

    async def _pieces(self, key: str) -> _Upload:
        folder = self._piece(key, "")
        names: dict[str, int] = {}
        async for each in self._walk(folder.rstrip("/"), None):
            names[each["path"]] = each["size"]
        begun = names.pop(folder + BEGUN, None) is not None
        pieces: list[str] = []
        size = 0
        while begun and (name := folder + _piece_name(size)) in names and names[name]:
            pieces.append(name)
            size += names.pop(name)
        return _Upload(size if begun else None, pieces, list(names))

    async def _add_piece(self, key: str, offset: int, part: bytes) -> int:
        name = self._piece(key, _piece_name(offset))
        try:
            await _asked(obstore.put_async(self._store, name, part, mode="create", use_multipart=False))
        except (AlreadyExistsError, PreconditionError):
            raise WrongOffset((await self._pieces(key)).size or 0) from None
        return offset + len(part)

    async def _read_pieces(self, names: Iterable[str]) -> AsyncGenerator[bytes]:
        for name in names:
            try:
                result = await _asked(obstore.get_async(self._store, name), may_miss=True)
            except FileNotFoundError:
                raise BlobMissing from None
            async for chunk in _Chunks(result.stream(min_chunk_size=READ_BYTES)):
                yield chunk

    async def _forget(self, key: str, upload: _Upload) -> None:
        await self._delete([self._piece(key, BEGUN)])
        await self._delete([*upload.pieces, *upload.rest])

    # -- requests ---------------------------------------------------------------------------------------------------------

    def _object(self, key: str) -> str:
        return f"{self._prefix}objects/{checked_key(key)}"

    def _piece(self, key: str, name: str) -> str:
        return f"{self._prefix}incoming/{checked_key(key)}/{name}"

    async def _put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        parts = _Parts(chunks)
        first = await parts.next_part()
        try:
            if parts.ended:
                await _asked(obstore.put_async(self._store, name, first, use_multipart=False))
            else:
                put = obstore.put_async(
                    self._store, name, parts.after(first), chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )
                await _asked(put)
        except Exception:
            if parts.failure is not None:  # of the sender's: the library has made it an error of its own
                raise parts.failure from None
            raise
        return parts.size

    async def _head(self, name: str) -> Any:
        try:
            return await _asked(obstore.head_async(self._store, name), may_miss=True)
        except FileNotFoundError:
            return None

    async def _delete(self, names: Sequence[str]) -> None:
        for at in range(0, len(names), DELETE_AT_ONCE):
            await _asked(obstore.delete_async(self._store, list(names[at : at + DELETE_AT_ONCE])))

    async def _walk(self, folder: str, offset: str | None) -> AsyncIterator[Any]:
        """Objects below a folder, in order."""
        pages = _pages(self._store, folder, offset=offset, chunk_size=LIST_AT_ONCE)
        while True:
            try:
                page = await _asked(pages.__anext__())
            except StopAsyncIteration:
                return
            for each in page:
                yield each


class _Upload(NamedTuple):
    """An upload in pieces: how far it has come without a gap (None: it has not begun), and the names of its pieces in order;
    `rest` counts for nothing."""

    size: int | None
    pieces: list[str]
    rest: list[str]


class _Parts:
    """A stream in parts of `PART_BYTES`. Remembers what the stream raised."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray()
        self.size = 0
        self.ended = False
        self.failure: Exception | None = None

    async def next_part(self) -> bytes:
        """The next part; short or empty only at the end (`ended`)."""
        try:
            while len(self._buffer) < PART_BYTES:
                try:
                    chunk = await anext(self._chunks)
                except StopAsyncIteration:
                    self.ended = True
                    break
                self._buffer += chunk
        except Exception as error:
            self.failure = error
            raise
        part = bytes(memoryview(self._buffer)[:PART_BYTES])
        del self._buffer[:PART_BYTES]
        self.size += len(part)
        return part

    def left(self) -> list[bytes]:
        """What was read and is in no part yet."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [rest] if rest else []

    async def after(self, first: bytes) -> AsyncIterator[bytes]:
        """All parts, of which the first one has been taken already."""
        part = first
        while part:
            yield part
            part = b"" if self.ended and not self._buffer else await self.next_part()


class _Chunks:
    """The chunks of an answer, at most `READ_BYTES` or as the network brought them."""

    __slots__ = ("_pieces", "_stream")

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream
        self._pieces: list[bytes] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        if self._stream is None:
            raise StopAsyncIteration
        try:
            block = bytes(await _asked(self._stream.__anext__(), may_miss=True))
        except FileNotFoundError:
            raise BlobMissing from None  # removed while it was read
        if len(block) <= READ_BYTES:
            return block
        self._pieces = [block[at : at + READ_BYTES] for at in range(0, len(block), READ_BYTES)]
        self._pieces.reverse()
        return self._pieces.pop()

    async def aclose(self) -> None:
        self._stream, self._pieces = None, []  # the connection ends with the last reference to it


class _Nothing:
    """No chunks."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None: ...


async def _asked(request: Awaitable[T], *, may_miss: bool = False) -> T:
    """The answer to a request.

    Args:
        may_miss: whether what is asked for may not be there; otherwise it is the bucket itself that is not.

    Raises:
        BlobsAway: the store did not answer, or not as it should. What it says may hold names of buckets and addresses, never a key
            (the library keeps those out), and goes to the log only.
        FileNotFoundError, AlreadyExistsError, PreconditionError: as the library says it.
    """
    try:
        return await request
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as error:
        if may_miss:
            raise
        _log.warning("the object store has no such bucket", error=_in_short(error))
        raise BlobsAway from error
    except BaseError as error:
        _log.warning("the object store refused", error=_in_short(error))
        raise BlobsAway from error


def _in_short(error: BaseException) -> str:
    """The first words of an error, without what a signed address carries."""
    return _SIGNED.sub("", str(error).splitlines()[0] if str(error) else type(error).__name__)[:300]


def _piece_name(offset: int) -> str:
    """Names sort by offset, and behind `begun`."""
    return f"p{offset:020d}"


def _ms(found: Any) -> int:
    return int(found["last_modified"].timestamp() * 1000)


def _store(bucket: Bucket) -> S3Store:
    seconds = timedelta(seconds=bucket.timeout_seconds)
    config: Any = {"region": bucket.region, "virtual_hosted_style_request": not bucket.path_style}
    if bucket.endpoint:
        config["endpoint"] = bucket.endpoint if bucket.path_style else bucket.base
    if bucket.credentials is not None:
        config["access_key_id"] = bucket.credentials.access_key_id
        config["secret_access_key"] = bucket.credentials.secret_access_key
        if bucket.credentials.session_token:
            config["session_token"] = bucket.credentials.session_token
    return S3Store(
        bucket.name,
        config=config,
        client_options={
            "allow_http": bucket.endpoint.startswith("http:"),
            "connect_timeout": min(seconds, timedelta(seconds=5)),
            "read_timeout": seconds,
            # Of a whole transfer: a large file to a slow reader takes as long as it takes.
            "timeout": timedelta(days=1),
        },
        retry_config={
            "max_retries": bucket.retries,
            "retry_timeout": seconds * 2,
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


async def open_s3(bucket: Bucket, clock: Clock, ids: Ids) -> S3Blobs:
    """Opens a bucket as a store. Whether it can be reached shows at its first use: a server may start before its store."""
    return S3Blobs(bucket, clock, ids)
