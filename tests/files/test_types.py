"""What a file is, its content says; and what its sender says must agree."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.files.errors import InvalidType, SizeExceeded
from hapta.files.examination import Examination
from hapta.files.models import Description
from hapta.files.types import type_of
from hapta.settings import FilesSettings
from tests.files.house import PDF, SVG, chunks_of, picture

pytestmark = pytest.mark.anyio

ALLOWED = FilesSettings().types
PNG = picture("PNG")


def _zip(before: bytes = b"") -> bytes:
    out = BytesIO()
    out.write(before)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(zipfile.ZipInfo("a.class", (2026, 1, 1, 0, 0, 0)), b"\xca\xfe\xba\xbe")
    return out.getvalue()


LIES = {
    "text as png": (b"hello", "image/png"),
    "png as text": (PNG, "text/plain"),
    "png as jpeg": (PNG, "image/jpeg"),
    "svg as png": (SVG, "image/png"),
    "svg as text": (SVG, "text/plain"),
    "html as text": (b"<!doctype html><script>1</script>", "text/plain"),
    "html as svg": (b"<html><svg></svg></html>", "image/svg+xml"),
    "html as json": (b"<html>", "application/json"),
    "html as html": (b"<html>", "text/html"),
    "text as json": (b"hello", "application/json"),
    "nothing as json": (b"", "application/json"),
    "pdf as markdown": (PDF, "text/markdown"),
    "text as pdf": (b"hello", "application/pdf"),
    "pdf behind junk": (b"junk" + PDF, "application/pdf"),
    "zip as zip": (_zip(), "application/zip"),
    "zip as text": (_zip(), "text/plain"),
    "program as nothing": (b"\x7fELF\2\1\1" + bytes(60), ""),
    "nonsense type": (b"hello", "text/plain\u0000/x"),
    "binary as text": (bytes(range(256)), "text/plain"),
    "utf-16 as text": ("hello".encode("utf-16"), "text/plain"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_label_that_the_content_does_not_bear_out_is_refused(lie: str) -> None:
    content, declared = LIES[lie]
    with pytest.raises(InvalidType):
        type_of(content, declared, "x", ALLOWED)


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (PNG, "x.txt", "image/png"),
        (b"# hello", "README.md", "text/markdown"),
        (b"<div>hello", "README.md", "text/markdown"),
        (b"[1]", "x.json", "application/json"),
        (b"[1]", "x", "text/plain"),
        (SVG, "x.json", "image/svg+xml"),
    ],
    ids=["png", "markdown", "markdown with html", "json", "text", "svg"],
)
def test_without_a_label_the_content_alone_decides(content: bytes, name: str, kind: str) -> None:
    assert type_of(content, "", name, ALLOWED) == kind


@given(
    head=st.binary(max_size=64),
    declared=st.sampled_from([*ALLOWED, "", "text/html", "image/*", "*/*"]),
    name=st.text(max_size=8),
)
def test_whatever_passes_is_allowed(head: bytes, declared: str, name: str) -> None:
    try:
        kind = type_of(head, declared, name, ALLOWED)
    except InvalidType:
        return
    assert kind in ALLOWED
    assert declared in (kind, "")


async def examined(content: bytes, declared: str, piece_bytes: int = 1000, **described: str) -> bytes:
    settings = FilesSettings(max_file_bytes=200_000, max_avatar_bytes=100)
    examination = Examination(settings, Description("x", declared, **described), None, settings.types)
    passed = b"".join([chunk async for chunk in examination.passed(chunks_of(content, piece_bytes))])
    result = examination.result()
    assert (result.size, result.media_type) == (len(content), declared)
    return passed


@pytest.mark.parametrize("piece_bytes", [1, 999, 4096, 100_000])
async def test_what_passes_is_what_came_in_any_cut(piece_bytes: int) -> None:
    content = ("äöü€ " * 2000).encode()
    assert await examined(content, "text/plain", piece_bytes) == content


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\xff\xfe", "ä".encode()[:1], b"PK\3\4\x14\0\0\0\xff"],
    ids=["nul", "bytes", "half a letter", "zip"],
)
async def test_text_that_goes_on_as_something_else_is_no_text(tail: bytes) -> None:
    with pytest.raises(InvalidType):
        await examined(b"x" * 10_000 + tail, "text/plain")
    with pytest.raises(InvalidType):
        await examined(b'{"a": "' + b"x" * 10_000 + tail, "application/json")


async def _note(chunks: AsyncIterator[bytes], passed: list[bytes]) -> None:
    """Notes what passes, also where an error follows."""
    async for chunk in chunks:
        passed.append(chunk)


async def test_nothing_of_a_wrong_type_passes_and_nothing_beyond_the_limit() -> None:
    settings = FilesSettings(max_file_bytes=20_000)
    passed: list[bytes] = []
    for content, kind, error in ((_zip(PDF), "image/png", InvalidType), (b"x" * 50_000, "text/plain", SizeExceeded)):
        passed.clear()
        examination = Examination(settings, Description("x", kind), None, settings.types)
        with pytest.raises(error):
            await _note(examination.passed(chunks_of(content, 1000)), passed)
        assert len(b"".join(passed)) <= (0 if error is InvalidType else 20_000)
