"""One form for all spellings of the same read, which is the key of a kept answer (contract gateway, C.2).

The form itself is the key, not a hash of it: two different reads can then never meet, and the identity is a part of it.
Spellings that PocketBase might answer differently stay apart; telling equal ones apart only costs a fetch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

MAX_PER_PAGE = 1000
DEFAULT_PER_PAGE = 30

_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

Pairs = tuple[tuple[str, str], ...]


def canonical_query(action: str, query: Mapping[str, str], *, whole: bool) -> Pairs:
    """The parameters that matter, sorted by name, with what PocketBase takes for absent ones filled in.

    Args:
        action: `list` or `view`.
        query: decoded parameters, of repeated ones the first.
        whole: rules read the query, so that every parameter counts just as it was given, what the SDKs add too.
    """
    if whole:
        return tuple(sorted(query.items()))
    found = {"expand": _members(query.get("expand", "")), "fields": _fields(query.get("fields", ""))}
    if action == "list":
        found["page"] = _page(query.get("page", ""))
        found["perPage"] = _per_page(query.get("perPage", ""))
        found["skipTotal"] = _flag(query.get("skipTotal", ""))
        found["sort"] = _sort(query.get("sort", ""))
        wanted = query.get("filter", "")
        found["filter"] = wanted.strip() or wanted  # of blanks alone it is an error, and stays one
    return tuple(sorted((name, value) for name, value in found.items() if value))


def form(parts: Sequence[str | Pairs]) -> str:
    """A key of all that tells one read from another; different parts never give the same one."""
    return msgspec.json.encode(parts).decode()


def _members(text: str) -> str:
    """A set that is written as a list: neither order nor repeats nor blanks matter."""
    return ",".join(sorted({one.strip() for one in text.split(",")} - {""})) if text else ""


def _fields(text: str) -> str:
    # `:excerpt(200,true)` has a comma of its own.
    return text.strip() if "(" in text else _members(text)


def _page(text: str) -> str:
    text = text or "1"
    return str(max(int(text), 1)) if _INTEGER.fullmatch(text) else text


def _per_page(text: str) -> str:
    text = text or "0"
    if not _INTEGER.fullmatch(text):
        return text
    wanted = int(text)
    return str(min(wanted, MAX_PER_PAGE) if wanted > 0 else DEFAULT_PER_PAGE)


def _flag(text: str) -> str:
    if not text or text in _FALSE:
        return "0"
    return "1" if text in _TRUE else text


def _sort(text: str) -> str:
    """The order of the parts matters; a plus, which a query decodes to a blank, does not. An empty part is an error, and stays one."""
    return ",".join(one.strip().removeprefix("+").strip() for one in text.split(",")) or text
