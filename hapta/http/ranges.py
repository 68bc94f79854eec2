"""Conditional and partial reads: RFC 9110, sections 13 (preconditions) and 14 (ranges). Pure functions over header values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal, NamedTuple

MAX_RANGES = 16
"""More parts than this in one request are nobody's honest wish (RFC 9110, section 14.2); the whole is answered."""
_RANGES = re.compile(r"bytes\s*=\s*(.+)", re.IGNORECASE)
_RANGE = re.compile(r"(\d{0,18})-(\d{0,18})", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"[^"]*"')


class Span(NamedTuple):
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int


class Wanted(NamedTuple):
    """What of a file is answered, and with which status."""

    status: Literal[200, 206, 304, 416]
    spans: Sequence[Span] = ()


class Asked(NamedTuple):
    """The request's headers that matter here, as they came; None where there is none."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None


def wanted(asked: Asked, size: int, etag: str, modified_at: int, *, head: bool = False) -> Wanted:
    """Decides on an answer.

    Args:
        size: of the file, in bytes.
        etag: strong, with its quotation marks.
        modified_at: Unix ms.
        head: of a HEAD request, for which ranges mean nothing (RFC 9110, section 14.2).
    """
    if _is_known(asked, etag, modified_at):
        return Wanted(304)
    whole = Wanted(200, (Span(0, size),))
    if head or asked.range is None or not _is_still(asked.if_range, etag, modified_at):
        return whole
    spans = _spans(asked.range, size)
    if spans is None:
        return whole
    return Wanted(206, spans) if spans else Wanted(416)


def http_date(milliseconds: int) -> str:
    """An instant as HTTP writes it, in whole seconds."""
    return formatdate(milliseconds // 1000, usegmt=True)


def part_head(boundary: str, media_type: str, span: Span, size: int) -> bytes:
    """What stands before the bytes of one part of `multipart/byteranges` (RFC 9110, section 14.6)."""
    return (
        f"\r\n--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {content_range(span, size)}\r\n\r\n"
    ).encode()


def parts_end(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()


def content_range(span: Span, size: int) -> str:
    return f"bytes {span.start}-{span.end - 1}/{size}"


def _is_known(asked: Asked, etag: str, modified_at: int) -> bool:
    """Whether the client has what it asks for; where it names both, only its tags count (RFC 9110, section 13.2.2)."""
    if asked.if_none_match is not None:
        tags = _ETAG.findall(asked.if_none_match)
        return asked.if_none_match.strip() == "*" or etag in [tag.removeprefix("W/") for tag in tags]
    since = _instant(asked.if_modified_since)
    return since is not None and modified_at // 1000 <= since


def _is_still(if_range: str | None, etag: str, modified_at: int) -> bool:
    """Whether the parts that a client has are of this very file (RFC 9110, section 13.1.5): by a strong tag, or the very date."""
    if if_range is None or if_range.strip() == etag:
        return True
    return _instant(if_range) == modified_at // 1000


def _instant(date: str | None) -> float | None:
    if date is None or '"' in date:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None


def _spans(text: str, size: int) -> list[Span] | None:
    """The spans that a range names within the file, in their order; None when it is to be ignored."""
    found = _RANGES.fullmatch(text.strip())
    if found is None:
        return None
    parts = [part.strip() for part in found[1].split(",")]
    if len(parts) > MAX_RANGES:
        return None
    spans: list[Span] = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None or part == "-":
            return None
        first, last = match.groups()
        if not first:
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(size, int(last) + 1 if last else size)
            if last and int(last) < int(first):
                return None
        if start < end:
            spans.append(Span(start, end))
    if sum(span.end - span.start for span in spans) > size:
        return None  # overlapping spans would cost more than the whole
    return spans
