"""gzip and zstd both ways, with a bound on what a compressed body may become.

Inward, a body is expanded piece by piece and refused as soon as it passes its limit, so a bomb costs its limit in memory and
no more. Outward, the best encoding that the client accepts is chosen; a large body is compressed on a thread, since
both libraries let go of the interpreter while they work.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from functools import lru_cache
from typing import Literal, Protocol

import zstandard

from hapta.kit.errors import Invalid, TooLarge, UnsupportedMedia

Encoding = Literal["zstd", "gzip"]

STEP_BYTES = 64 * 1024
"""Expansion goes in steps of this size, so the bound is passed by one step at most."""
THREAD_BYTES = 64 * 1024
"""From this size on, compressing takes longer than the way to a thread and back."""
MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""Largest zstd window a request may ask us to hold (RFC 8878, section 3.1.1.1.2 recommends to support 8 MiB)."""
ZSTD_LEVEL = 3
GZIP_LEVEL = 5


class UnsupportedEncoding(UnsupportedMedia):
    """A content encoding that we do not read, or more than one on top of each other."""

    code = "unsupported_encoding"
    message = "This content encoding is not supported; use gzip, zstd or none"


class BrokenEncoding(Invalid):
    """The body is not what its `Content-Encoding` says."""

    code = "invalid_encoding"
    message = "The request body is not valid in its content encoding"


# -- inward ------------------------------------------------------------------------------------------------------------


class Expander(Protocol):
    """Expands one body; `feed` yields pieces of at most `STEP_BYTES`, `finish` says whether the body was whole."""

    def feed(self, chunk: bytes) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


class _Zlib:
    """gzip or deflate. For `deflate` both the zlib form of RFC 1950 and the bare one that some clients send are read."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inflate = zlib.decompressobj(wbits)
        self._bare_allowed = wbits == zlib.MAX_WBITS
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        rest = chunk
        while rest:
            if self._inflate.eof:
                self._next_member()
            try:
                piece = self._inflate.decompress(rest, STEP_BYTES)
            except zlib.error:
                if self._started or not self._bare_allowed:
                    raise BrokenEncoding from None
                self._bare_allowed = False
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._started = True
            rest = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if piece:
                yield piece
        # what fits in the window may still wait inside
        while not self._inflate.eof and self._started:
            try:
                piece = self._inflate.decompress(b"", STEP_BYTES)
            except zlib.error:
                raise BrokenEncoding from None
            if not piece:
                break
            yield piece

    def _next_member(self) -> None:
        """A gzip body may be several members one after the other (RFC 1952, section 2.2); a deflate body may not."""
        if self._wbits != zlib.MAX_WBITS | 16:
            raise BrokenEncoding
        self._inflate = zlib.decompressobj(self._wbits)

    def finish(self) -> None:
        if not self._inflate.eof:
            raise BrokenEncoding


class _Zstd:
    """zstd, one or more frames. The library writes into a sink, which hands the pieces on."""

    def __init__(self) -> None:
        self._new = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj
        self._inflate = self._new(write_size=STEP_BYTES, read_across_frames=False)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        # The library expands all of what it is given at once; a block is at most 128 KiB and may be 4 bytes long, so small
        # slices bound what one call can bring forth.
        for start in range(0, len(chunk), _ZSTD_SLICE_BYTES):
            rest = chunk[start : start + _ZSTD_SLICE_BYTES]
            while rest:
                if self._inflate.eof:
                    self._inflate = self._new(write_size=STEP_BYTES, read_across_frames=False)
                try:
                    piece = self._inflate.decompress(rest)
                except zstandard.ZstdError:
                    raise BrokenEncoding from None
                rest = self._inflate.unused_data if self._inflate.eof else b""
                if piece:
                    yield piece

    def finish(self) -> None:
        if not self._inflate.eof:
            raise BrokenEncoding


_ZSTD_SLICE_BYTES = 128


def expander(content_encoding: bytes | None) -> Expander | None:
    """What expands a body with this `Content-Encoding`; None when it is not compressed.

    Raises:
        UnsupportedEncoding: an encoding we do not know, or several.
    """
    name = (content_encoding or b"").strip().lower()
    match name:
        case b"" | b"identity":
            return None
        case b"gzip" | b"x-gzip":
            return _Zlib(zlib.MAX_WBITS | 16)
        case b"deflate":
            return _Zlib(zlib.MAX_WBITS)
        case b"zstd":
            return _Zstd()
        case _:
            raise UnsupportedEncoding


async def expand_chunks(
    chunks: AsyncIterator[bytes], content_encoding: bytes | None, max_bytes: int
) -> AsyncIterator[bytes]:
    """A body as it arrives, expanded piece by piece.

    Args:
        content_encoding: the header's value; None for a plain body.
        max_bytes: the most that the body may become.

    Raises:
        TooLarge: it becomes more; noticed at once, without expanding the rest.
        BrokenEncoding: it is damaged or cut short.
        UnsupportedEncoding: see `expander`.
    """
    inflate = expander(content_encoding)
    total = 0
    async for chunk in chunks:
        for piece in (chunk,) if inflate is None else inflate.feed(chunk):
            total += len(piece)
            if total > max_bytes:
                raise _too_large(max_bytes)
            yield piece
    if inflate is not None:
        inflate.finish()


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge("The request body is too large", limits={"maxBodyBytes": max_bytes})


# -- outward -----------------------------------------------------------------------------------------------------------

_PREFERRED: tuple[tuple[Encoding, bytes], ...] = (("zstd", b"zstd"), ("gzip", b"gzip"))
_CHOSEN: dict[bytes, Encoding | None] = {
    b"gzip, deflate, br, zstd": "zstd",
    b"gzip, deflate": "gzip",
    b"identity": None,
}
"""What the most common headers come to."""


def choose(accept_encoding: bytes | None) -> Encoding | None:
    """The encoding for an answer: of those the client weighs highest, zstd before gzip; None for a plain answer.

    Weights as RFC 9110, section 12.5.3 has them; a header that cannot be read asks for nothing.
    """
    if not accept_encoding:
        return None
    if accept_encoding in _CHOSEN:
        return _CHOSEN[accept_encoding]
    weights = accept_weights(accept_encoding)
    best: Encoding | None = None
    best_weight = 0.0
    for encoding, name in _PREFERRED:
        weight = weights.get(name, weights.get(b"*", 0.0))
        if weight > best_weight:
            best, best_weight = encoding, weight
    return best if best_weight >= weights.get(b"identity", 0.0) else None


@lru_cache(256)
def takes_gzip(accept_encoding: bytes) -> bool:
    """Whether gzip may be sent, whatever else the client would rather have: for what is kept in that form."""
    return accept_weights(accept_encoding).get(b"gzip", 0.0) > 0.0


def accept_weights(header: bytes) -> dict[bytes, float]:
    """The weights of an `Accept` or `Accept-Encoding` header (RFC 9110, section 12.4.2); one that cannot be read is 0."""
    weights: dict[bytes, float] = {}
    for part in header[:1024].lower().split(b","):
        name, _, parameters = part.partition(b";")
        key, _, value = parameters.partition(b"=")
        weight = 1.0
        if key.strip() == b"q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        weights[name.strip()] = weight if 0.0 <= weight <= 1.0 else 0.0
    return weights


async def compress_off_loop(body: bytes, encoding: Encoding, executor: Executor | None = None) -> bytes:
    """As `compress`, on a thread when the body is large.

    Args:
        executor: where large bodies are compressed; the loop's own pool when left out.
    """
    if len(body) < THREAD_BYTES:
        return compress(body, encoding)
    return await asyncio.get_running_loop().run_in_executor(executor, compress, body, encoding)


def compress(body: bytes, encoding: Encoding) -> bytes:
    """The body in this encoding. Each call makes its compressor: one may not be used by two threads at once."""
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress(body)
    return zlib.compress(body, GZIP_LEVEL, zlib.MAX_WBITS | 16)


def weak_etag(etag: bytes) -> bytes:
    """The ETag of a compressed answer: equal in meaning, not in bytes (RFC 9110, section 8.8.3)."""
    return etag if etag.startswith(b"W/") else b"W/" + etag


_TEXTUAL = ("application/json", "application/javascript", "application/xml", "application/x-ndjson", "image/svg+xml")


def worth_compressing(media_type: str) -> bool:
    """Text shrinks; pictures, archives and ciphertext do not."""
    return media_type.startswith(("text/", *_TEXTUAL)) or media_type.partition(";")[0].endswith("+json")
