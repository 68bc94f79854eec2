"""The parts of the way to PocketBase that need no connection: event streams and paths."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.gateway.errors import Closed, UpstreamBroken
from hapta.gateway.upstream import paths
from hapta.gateway.upstream.sse import Event, events


async def _cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


STREAM = (
    b"\xef\xbb\xbf: hello\n\nid:abc\nevent:PB_CONNECT\ndata:{}\n\n"
    b'id:abc\r\nevent:posts/*?options=%7B"a"%7D \r\ndata: one\r\ndata:two\r\n\r\n'
    b"event:nothing\n\ndata\n\nretry: 5\ndata:last\n\nevent:unfinished\ndata:x\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_a_stream_is_read_the_same_however_it_is_cut(size: int) -> None:
    assert [event async for event in events(_cut(STREAM, size))] == [
        Event("PB_CONNECT", "abc", b"{}"),
        Event('posts/*?options=%7B"a"%7D ', "abc", b"one\ntwo"),
        Event("message", "abc", b""),
        Event("message", "abc", b"last"),
    ]


@pytest.mark.parametrize("data", [b"data:" + b"x" * 200, b"data:xxx\n" * 40, b"data:x\nevent:\xff\n\n"])
@pytest.mark.parametrize("size", [5, 1000])
async def test_an_event_past_the_bound_or_without_text_ends_the_stream(data: bytes, size: int) -> None:
    with pytest.raises(UpstreamBroken):
        assert [event async for event in events(_cut(data, size), max_event_bytes=100)] == []


@pytest.mark.parametrize(
    "raw",
    ["", "api", "/api//x", "/api/./x", "/api/%2e%2E/x", "/api/a%2Fb", "/api/a%5cb", "/api/%00", "/api/%zz", "/api/%ff",
     "/api/x/", "/api/%0a"],
)  # fmt: skip
def test_a_path_that_could_mean_another_one_is_closed(raw: str) -> None:
    with pytest.raises(Closed):
        paths.split(raw)


def test_a_path_is_decoded_once() -> None:
    assert paths.split("/api/collections/%70ub/%2570") == ("api", "collections", "pub", "%70")


@pytest.mark.parametrize("segment", ["", ".", "..", "a/b", "a\\b", "a\nb", "\0", "\ud800"])
def test_what_cannot_be_one_segment_is_closed(segment: str) -> None:
    with pytest.raises(Closed):
        paths.quote_segment(segment)


def test_a_target_is_made_of_decoded_parts() -> None:
    query = [("filter", 'a="b" && c'), ("ü", "+&=")]
    assert paths.target(("api", "files", "a b"), query) == (
        "/api/files/a%20b?filter=a%3D%22b%22%20%26%26%20c&%C3%BC=%2B%26%3D"
    )


@given(st.lists(st.text(min_size=1), min_size=1))
def test_what_is_put_together_comes_apart_again(segments: list[str]) -> None:
    try:
        made = paths.target(segments)
    except Closed:
        return
    assert paths.split(made) == tuple(segments)
    assert made.isascii()
