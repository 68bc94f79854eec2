"""What `?fields=` leaves of an answer, as PocketBase's own picker does it (contract gateway, A.2): for answers whose members the gateway
has to see whole before any may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any, cast

from hapta.gateway.errors import BadBody

Modify = Callable[[Any], Any]
Picked = dict[str, Modify | None]

_UNSEEN = frozenset({"head", "style", "script", "iframe", "embed", "object"})
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "b",
        "bdo",
        "big",
        "br",
        "button",
        "cite",
        "code",
        "em",
        "i",
        "img",
        "input",
        "kbd",
        "label",
        "map",
        "object",
        "output",
        "q",
        "samp",
        "select",
        "small",
        "span",
        "strong",
        "sub",
        "sup",
        "textarea",
        "time",
        "tt",
        "u",
        "var",
    ]
)
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_BLANKS = re.compile(r"\s+")
_EXCERPT = re.compile(r"\s*excerpt\s*\(\s*(\d+)\s*(?:,\s*(\w+)\s*)?\)\s*")


class BadFields(BadBody):
    """The list of fields cannot be read."""

    message = "Something went wrong while processing your request."


def pick(data: Any, raw: str) -> Any:
    """What is left of a decoded answer.

    Args:
        data: may be changed in place.
        raw: the parameter as it was sent: `id,record.*,meta.rawUser.login,record.text:excerpt(100,true)`; empty: all.

    Raises:
        BadFields: it names another modifier than `excerpt`, or that without a length.
    """
    if raw.strip():
        _pick(data, _parsed(raw))
    return data


def _parsed(raw: str) -> Picked:
    fields: Picked = {}
    for part in _split(raw):
        name, colon, modifier = part.strip().partition(":")
        if name or colon:
            fields[name] = _modifier(modifier) if colon else None
    return fields


def _split(raw: str) -> Iterator[str]:
    """At commas, but not at those in parentheses."""
    start = depth = 0
    for at, character in enumerate(raw):
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif character == "," and depth == 0:
            yield raw[start:at]
            start = at + 1
    yield raw[start:]


def _modifier(text: str) -> Modify:
    match = _EXCERPT.fullmatch(text)
    if match is None or len(match[1]) > 9 or int(match[1]) == 0:
        raise BadFields
    length, ellipsis = int(match[1]), match[2] in ("1", "t", "T", "true", "TRUE", "True")
    return lambda value: excerpt(value, length, ellipsis=ellipsis)


def _pick(data: Any, fields: Picked) -> None:
    if isinstance(data, list):
        for item in cast("list[Any]", data):
            _pick(item, fields)
    elif isinstance(data, dict) and fields:
        _pick_members(cast("dict[str, Any]", data), fields)


def _pick_members(data: dict[str, Any], fields: Picked) -> None:
    if "*" in fields:
        fields = {**{key: fields["*"] for key in data if not _matching(key, fields)}, **fields}
    for key in list(data):
        matching = _matching(key, fields)
        if not matching:
            del data[key]
        elif "" in matching:
            modify = matching[""]
            if modify is not None:
                data[key] = modify(data[key])
        else:
            _pick(data[key], matching)


def _matching(key: str, fields: Picked) -> Picked:
    """What of the list concerns a member, without its name; an empty rest means all of it."""
    prefix = f"{key}."
    return {f"{name}."[len(prefix) : -1]: modify for name, modify in fields.items() if f"{name}.".startswith(prefix)}


def excerpt(value: Any, length: int, *, ellipsis: bool) -> Any:
    """The first characters of a text without its tags, blanks collapsed; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    reader = _Text(length + 2)
    reader.feed(value.strip())
    reader.close()
    plain = reader.text
    if len(plain) <= length:
        return plain
    return plain[:length].strip() + ("..." if ellipsis else "")


class _Text(HTMLParser):
    """The text of some HTML. A block is parted from what is around it by a blank."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self._enough = enough
        self._parts: list[str] = []
        self._size = 0
        self._hidden: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN and tag not in _VOID:
            self._hidden.append(tag)
        elif tag not in _INLINE:
            self._add(" ")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
        elif tag not in _INLINE:
            self._add(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._add(_BLANKS.sub(" ", data))

    def _add(self, text: str) -> None:
        if self._size > self._enough:
            return
        if not self._parts or self._parts[-1].endswith(" "):
            text = text.lstrip(" ")
        if text:
            self._parts.append(text)
            self._size += len(text)
