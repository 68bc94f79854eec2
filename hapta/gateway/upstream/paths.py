"""Paths and queries for PocketBase, made anew from their parts: what was checked is what is sent (contract gateway, A.1).

PocketBase decodes a path once and takes names without regard to case, so a path that was not taken apart and put together
again could name something else than what was looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

from hapta.gateway.errors import Closed

_PLAIN = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_ESCAPE_AHEAD = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")


def split(raw_path: str) -> tuple[str, ...]:
    """The decoded segments of a path as it came.

    Raises:
        Closed: it is not one that PocketBase has: an empty segment or one of dots, an encoded slash, a control character,
            a broken escape, or no UTF-8.
    """
    if not raw_path.startswith("/"):
        raise Closed()
    return tuple(_decoded(segment) for segment in raw_path[1:].split("/"))


def _decoded(raw: str) -> str:
    if _PLAIN.fullmatch(raw):
        return raw
    if _ESCAPE_AHEAD.search(raw):
        raise Closed()
    try:
        segment = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Closed() from None
    return _checked(segment)


def _checked(segment: str) -> str:
    if segment in ("", ".", "..") or _UNSAFE.search(segment):
        raise Closed()
    return segment


def quote_segment(segment: str) -> str:
    """One decoded segment, encoded the one way in which it is sent.

    Raises:
        Closed: it cannot be one segment: empty, dots only, or with a slash or control character in it.
    """
    if _PLAIN.fullmatch(segment):
        return segment
    try:
        return quote(_checked(segment), safe="")
    except UnicodeEncodeError:  # a lone surrogate, which JSON may carry
        raise Closed() from None


def target(segments: Iterable[str], query: Iterable[tuple[str, str]] = ()) -> str:
    """What `PocketBase.send` takes: `target(("api", "files", "posts", "a b"), [("thumb", "1x1")])`.

    Args:
        segments: decoded.
        query: pairs, decoded, in the order in which they are sent.

    Raises:
        Closed: as `quote_segment`.
    """
    path = "/" + "/".join(map(quote_segment, segments))
    pairs = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in query)
    return f"{path}?{pairs}" if pairs else path


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")
