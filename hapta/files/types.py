"""Which type a file has: its content says, and what its sender says must agree (contract relay, section 10)."""

from __future__ import annotations

from collections.abc import Collection

from hapta.blobs.kinds import HEAD_BYTES, TEXT, is_text, kind_of, normal
from hapta.files.errors import InvalidType

MARKDOWN = "text/markdown"
JSON = "application/json"
SVG = "image/svg+xml"
_MARKUP = frozenset({"text/html", "text/xml", SVG})
_BY_EXTENSION = {"md": MARKDOWN, "markdown": MARKDOWN, "json": JSON}
_JSON_BEGINS = frozenset(b'{["-0123456789tfn')
_PASSIVE = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def type_of(head: bytes, declared: str, name: str, allowed: Collection[str]) -> str:
    """The type under which a file is kept.

    Args:
        head: its first bytes, up to `HEAD_BYTES` of them.
        declared: as the sender says, with any parameters; empty: it says nothing.
        name: as the sender calls it; tells kinds of text apart when it says nothing else.
        allowed: types that may be kept.

    Raises:
        InvalidType: it may not be kept, or is not what the sender says.
    """
    kind = kind_of(head[:HEAD_BYTES])
    wanted = normal(declared) or _guessed(kind, head, name)
    if wanted not in allowed:
        raise InvalidType(f"Files of the type {wanted[:100]} are not allowed")
    if not _agrees(wanted, kind, head):
        raise InvalidType("The file is not what its type says")
    return wanted


def is_textual(media_type: str) -> bool:
    """Whether all of a file of this type is text."""
    return media_type in (TEXT, MARKDOWN, JSON, SVG)


def is_passive(media_type: str) -> bool:
    """Whether a browser that shows a file of this type can run nothing of it. All others are handed out as attachments."""
    return media_type in _PASSIVE


def _agrees(wanted: str, kind: str, head: bytes) -> bool:
    if wanted == TEXT:
        return is_text(head) and kind not in _MARKUP and not _is_certain(kind)
    if wanted == MARKDOWN:  # which may hold HTML (CommonMark, section 4.6)
        return is_text(head) and not _is_certain(kind)
    if wanted == JSON:
        begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        return is_text(head) and begin != b"" and begin[0] in _JSON_BEGINS
    if wanted == SVG:
        return kind == SVG and is_text(head)
    return kind == wanted


def _guessed(kind: str, head: bytes, name: str) -> str:
    named = _BY_EXTENSION.get(name.rpartition(".")[2].lower(), TEXT)
    if kind in _MARKUP and named == MARKDOWN:
        return MARKDOWN
    if kind in _MARKUP or _is_certain(kind) or not is_text(head):
        return kind
    return named


def _is_certain(kind: str) -> bool:
    """Whether the signature of a kind leaves no doubt: text that begins like an old picture format is still text."""
    return kind == "application/pdf" or kind in _PASSIVE
