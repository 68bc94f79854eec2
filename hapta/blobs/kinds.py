"""What a file is by its first bytes. What it calls itself, by extension or media type, counts for nothing.

The gateway holds the answer against the fields of PocketBase, which has the last word on them; `hapta.files` against what it keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, cast

HEAD_BYTES = 4096
"""So much of a file is looked at."""

UNKNOWN = "application/octet-stream"
TEXT = "text/plain"

_ALIASES = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp",
    "svg": "image/svg+xml", "pdf": "application/pdf", "txt": TEXT, "html": "text/html", "mp4": "video/mp4",
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png", "application/x-pdf": "application/pdf",
    "audio/mp3": "audio/mpeg", "application/x-zip-compressed": "application/zip",
}  # fmt: skip

# Signatures that belong to one format, at the very first byte.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_CERTAIN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
_ACTIVE = frozenset({"text/html", "image/svg+xml", "text/xml"})
_BINARY = re.compile(r"image/(?:png|jpeg|gif|webp)|application/pdf|(?:video|audio)/.+")


class _Match(Protocol):
    mime_type: str
    confidence: float


# What browsers take for a page (WHATWG MIME Sniffing, section 7.1).
_PAGE = re.compile(
    rb"<(?:!doctype\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|meta|link|img|form)[\s>/]",
    re.I,
)
_PROLOGUE = re.compile(rb"(?:\s|<\?.*?\?>|<!--.*?-->|<!doctype\s+svg[^>]*>)*", re.I | re.S)


def kind_of(head: bytes) -> str:
    """The media type of a file that begins so; `text/plain` for other text, `application/octet-stream` for what is not known."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<"):
        return _markup(start)
    return _by_magic(head) or (TEXT if is_text(head) else UNKNOWN)


def listed(kind: str, types: Collection[str]) -> bool:
    """Whether a media type is among some, which may be patterns (`image/*`) or extensions (`png`)."""
    for entry in types:
        wanted = normal(entry)
        if wanted in {kind, "*/*", "*"} or (wanted.endswith("/*") and kind.startswith(wanted[:-1])):
            return True
    return False


def certainly_not(kind: str, types: Collection[str]) -> bool:
    """Whether PocketBase is sure to refuse a file of this kind for a field with these types."""
    if not types or listed(kind, types):
        return False
    return kind in _CERTAIN or (kind in _ACTIVE and all(_BINARY.fullmatch(normal(entry)) for entry in types))


def normal(media_type: str) -> str:
    """One name for types that have several."""
    essence = media_type.partition(";")[0].strip().lower()
    return _ALIASES.get(essence.removeprefix("."), essence)


def _markup(start: bytes) -> str:
    if _PAGE.match(start):
        return "text/html"
    rest = start[_PROLOGUE.match(start).end() :]  # type: ignore[union-attr]  # it matches nothing at least
    if re.match(rb"<svg[\s>/:]", rest, re.I):
        return "image/svg+xml"
    if _PAGE.match(rest):
        return "text/html"
    if start.startswith(b"<?xml"):
        # An SVG behind a long preface, or under a prefix of its own.
        return (
            "image/svg+xml"
            if re.search(rb"<(?:\w+:)?svg[\s>]|http://www\.w3\.org/2000/svg", start, re.I)
            else "text/xml"
        )
    return "text/html" if re.search(rb"<(?:script|html|svg|body|iframe)[\s>/]", start, re.I) else TEXT


def _by_magic(head: bytes) -> str:
    if not head:
        return ""
    import puremagic  # a megabyte of signatures, which a server at rest does without

    # The package has no types of its own.
    signatures = cast(Callable[[bytes], Sequence[_Match]], puremagic.magic_string)  # pyright: ignore[reportUnknownMemberType]
    try:
        found = signatures(head)
    except (puremagic.PureError, ValueError):
        return ""
    named = [match for match in found if match.mime_type]
    if not named or named[0].confidence < 0.3:
        return ""
    return normal(named[0].mime_type)


def is_text(head: bytes) -> bool:
    """Whether a file that begins so is text in UTF-8, as far as its beginning tells."""
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the head may end within a character
    return True
