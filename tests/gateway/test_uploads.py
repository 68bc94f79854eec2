"""Files: what they are by their content, how they may be called, and how many may be under way."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.blobs.kinds import TEXT, UNKNOWN, certainly_not, kind_of, listed
from hapta.blobs.names import MAX_NAME_BYTES, sanitised
from tests.gateway.bodies_house import MULTIPART, PNG, multipart
from tests.gateway.pocketbase_house import PocketBaseHouse

JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xdb"
GIF = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\4\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
WEBP = b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0"
PDF = b"%PDF-1.7\n1 0 obj\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
HTML = b"<!doctype html><script>1</script>"


def _zip() -> bytes:
    # With a fixed time: two test workers must make the same bytes, since they name the tests.
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt", (2026, 1, 1, 0, 0, 0)), "x")
    return out.getvalue()


KINDS = [
    (PNG, "image/png"),
    (JPEG, "image/jpeg"),
    (GIF, "image/gif"),
    (WEBP, "image/webp"),
    (PDF, "application/pdf"),
    (HTML, "text/html"),
    (b"\xef\xbb\xbf \n<HTML>", "text/html"),
    (b"<script>alert(1)</script>", "text/html"),
    (b"<!-- a --><body onload=x>", "text/html"),
    (b"<x/><iframe src=y>", "text/html"),
    (SVG, "image/svg+xml"),
    (b'<?xml version="1.0"?><!-- x --><!DOCTYPE svg PUBLIC "a" "b"><svg>', "image/svg+xml"),
    (b'<?xml version="1.0"?><s:svg xmlns:s="http://www.w3.org/2000/svg">', "image/svg+xml"),
    (b'<?xml version="1.0"?><note/>', "text/xml"),
    (b"hello w\xc3\xb6rld", TEXT),
    (b"\0\1\2\3", UNKNOWN),
    (b"caf\xe9 in another encoding", UNKNOWN),
    (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4"),
]


@pytest.mark.parametrize(("head", "kind"), KINDS)
def test_a_file_is_what_it_begins_with(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind


@given(head=st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_every_beginning_has_some_kind(head: bytes) -> None:
    assert "/" in kind_of(head)


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=10, max_size=50),
    cut=st.integers(0, 3),
)
def test_text_may_be_cut_within_a_character(text: str, cut: int) -> None:
    raw = ("so: " + text).encode()
    assert kind_of(raw[: len(raw) - cut]) != UNKNOWN


@pytest.mark.parametrize(
    ("types", "expected"),
    [(("image/png",), True), (("image/*",), True), (("png",), True), ((".PNG",), True), (("*/*",), True), (("*",), True),
     (("image/x-png",), True), (("image/jpeg", "jpg"), False), ((), False), (("video/*",), False)],
)  # fmt: skip
def test_types_may_be_listed_in_several_ways(types: tuple[str, ...], expected: bool) -> None:
    assert listed("image/png", types) is expected


IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"]


@pytest.mark.parametrize(
    "content",
    [PNG, JPEG, GIF, WEBP, PDF, HTML, SVG, b"hello", b"\0\1", b"", _zip(), b"GIF89a<script>", b" <svg/>", b"MZ\x90\0"],
    ids=[
        "png",
        "jpeg",
        "gif",
        "webp",
        "pdf",
        "html",
        "svg",
        "text",
        "bytes",
        "empty",
        "zip",
        "gif with script",
        "svg after a space",
        "exe",
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.html", "a"])
def test_what_is_refused_for_a_field_is_refused_by_pocketbase_too(
    pocketbase: PocketBaseHouse, content: bytes, name: str
) -> None:
    body = multipart((f'name="image"; filename="{name}"\r\nContent-Type: image/png', content))
    answer = pocketbase.http.post(
        "/api/collections/files/records", content=body,
        headers={"content-type": MULTIPART, "authorization": pocketbase.token},
    )  # fmt: skip
    if certainly_not(kind_of(content), IMAGES):
        assert answer.json()["data"]["image"]["code"] == "validation_invalid_mime_type"


def test_active_content_is_no_image_and_no_doubt_is_left_to_pocketbase() -> None:
    for content in (HTML, SVG):
        assert certainly_not(kind_of(content), IMAGES)
        assert not certainly_not(kind_of(content), ["text/plain"])
        assert not certainly_not(kind_of(content), [])
    assert not certainly_not(kind_of(_zip()), ["application/zip"])


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\a.txt", "a.txt"),
        ("..", "file"),
        ("", "file"),
        ("/", "file"),
        (".htaccess", "htaccess"),
        ("a\r\nX: y.txt", "a__X_ y.txt"),
        ('a".txt', "a_.txt"),
        ("a\0.png", "a_.png"),
        ("gpj.\u202eexe", "gpj._exe"),
        ("e\u0301.txt", "\u00e9.txt"),
        (" a . ", "a"),
        ("a?b*c|d", "a_b_c_d"),
    ],
)
def test_names_are_cleaned(name: str, clean: str) -> None:
    assert sanitised(name) == clean


@given(name=st.text(max_size=400))
def test_every_name_is_safe_in_a_header_and_a_path(name: str) -> None:
    clean = sanitised(name)
    assert clean
    assert len(clean.encode()) <= MAX_NAME_BYTES
    assert not set(clean) & set('/\\"\r\n\0')
    assert clean not in {".", ".."}
    assert sanitised(clean) == clean


def test_a_long_name_keeps_its_extension() -> None:
    assert sanitised("ä" * 300 + ".jpeg").endswith("ä.jpeg")
