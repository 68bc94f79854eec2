"""Encodings both ways, and bombs."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hapta.http.compress import (
    BrokenEncoding,
    Encoding,
    UnsupportedEncoding,
    choose,
    compress,
    compress_off_loop,
    expand_chunks,
    expander,
    weak_etag,
    worth_compressing,
)
from hapta.kit.errors import TooLarge

pytestmark = pytest.mark.anyio

TEXT = b"hello, world; " * 50_000


def bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP ": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}


async def in_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def unpacked(body: bytes, encoding: str | None, limit: int = 10_000_000, size: int = 10_000) -> bytes:
    return b"".join(
        [
            piece
            async for piece in expand_chunks(
                in_chunks(body, size), None if encoding is None else encoding.encode(), limit
            )
        ]
    )


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("size", [1, 7, 10_000, 10_000_000])
async def test_a_body_comes_back_whole_however_it_is_cut(encoding: str, size: int) -> None:
    for body in (b"", b"x", TEXT, os.urandom(5000)):
        assert await unpacked(PACKERS[encoding](body), encoding, size=size) == body


async def test_both_forms_of_deflate_are_read() -> None:
    assert await unpacked(bare_deflate(TEXT), "deflate") == TEXT
    assert await unpacked(zlib.compress(TEXT), "deflate") == TEXT


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [3, 100_000])
async def test_several_members_or_frames_make_one_body(encoding: str, size: int) -> None:
    pack = PACKERS[encoding]
    assert await unpacked(pack(TEXT) + pack(b"more"), encoding, size=size) == TEXT + b"more"


@pytest.mark.parametrize("encoding", [None, "", "identity"])
async def test_a_plain_body_passes_and_is_bounded(encoding: str | None) -> None:
    assert await unpacked(b"plain", encoding) == b"plain"
    with pytest.raises(TooLarge):
        await unpacked(b"x" * 101, encoding, limit=100)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_a_bomb_is_refused_before_it_fills_the_memory(encoding: str) -> None:
    bomb = PACKERS[encoding](b"\0" * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge) as refusal:
            await unpacked(bomb, encoding, limit=1_000_000, size=65_536)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert refusal.value.details == {"limits": {"maxBodyBytes": 1_000_000}}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_the_bound_is_exact(encoding: str) -> None:
    assert len(await unpacked(PACKERS[encoding](TEXT), encoding, limit=len(TEXT))) == len(TEXT)
    with pytest.raises(TooLarge):
        await unpacked(PACKERS[encoding](TEXT), encoding, limit=len(TEXT) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_a_body_that_is_cut_short_or_damaged_is_refused(encoding: str) -> None:
    packed = PACKERS[encoding](os.urandom(5000))
    for broken in (packed[:-1], packed[:5], b"", b"{}", packed + b"trailing"):
        with pytest.raises(BrokenEncoding):
            await unpacked(broken, encoding)


async def test_a_zstd_window_that_would_hold_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(BrokenEncoding):
        await unpacked(writer.compress(TEXT) + writer.flush(), "zstd")


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip, identity", "compress", "zstd,zstd", "ä"])
def test_unknown_and_stacked_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        expander(encoding.encode())


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_no_body_brings_forth_another_error(body: bytes, encoding: str) -> None:
    inflate = expander(encoding.encode())
    assert inflate is not None
    try:
        for piece in inflate.feed(body):
            assert piece
        inflate.finish()
    except BrokenEncoding:
        return


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (None, None),
        (b"", None),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip, deflate", "gzip"),
        (b"gzip", "gzip"),
        (b"GZIP;q=0.5", "gzip"),
        (b"zstd;q=0.5, gzip;q=0.8", "gzip"),
        (b"zstd, gzip", "zstd"),
        (b"gzip;q=0", None),
        (b"*", "zstd"),
        (b"*;q=0.1, zstd;q=0", "gzip"),
        (b"*;q=0", None),
        (b"identity", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", "gzip"),
        (b"br", None),
        (b"gzip;q=high", None),
        (b"gzip;q=nan", None),
        (b"gzip;q=7", None),
    ],
)
def test_the_client_weighs_and_zstd_breaks_the_tie(header: bytes | None, encoding: str | None) -> None:
    assert choose(header) == encoding


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
async def test_an_answer_can_be_read_again_small_and_large(encoding: Encoding) -> None:
    for body in (TEXT[:1000], TEXT):
        packed = await compress_off_loop(body, encoding)
        assert len(packed) < len(body)
        assert await unpacked(packed, encoding) == body
        assert compress(body, encoding) == packed


def test_a_compressed_answer_has_a_weak_tag() -> None:
    assert weak_etag(b'"a"') == b'W/"a"'
    assert weak_etag(b'W/"a"') == b'W/"a"'


def test_only_text_is_worth_it() -> None:
    assert worth_compressing("application/json")
    assert worth_compressing("text/html; charset=utf-8")
    assert worth_compressing("application/problem+json; charset=utf-8")
    assert not worth_compressing("application/octet-stream")
    assert not worth_compressing("image/png")
