"""Bounds of a query string, as PocketBase has them (contract gateway, A.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hapta.gateway.errors import FieldsInvalid
from hapta.kit.errors import Forbidden

MAX_FILTER = 3500
MAX_SORT = 8
MAX_NESTING = 200
"""Brackets within each other: as many as a filter may have expressions."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_BOOL = frozenset({"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"})
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)


class FilterForbidden(Forbidden):
    """A filter reaches for what only rules may ask."""

    def __init__(self, what: str) -> None:
        super().__init__(f"Only superusers can filter by {what}.")


def check_list(query: Mapping[str, str]) -> None:
    """Checks the parameters of a list.

    Raises:
        FieldsInvalid: one is past its bounds, or no number.
        FilterForbidden: filter or sort names `@collection` or `@request`.
    """
    for name in ("page", "perPage"):
        value = query.get(name)
        if value and not _WHOLE.fullmatch(value):
            raise FieldsInvalid({})
    skip_total = query.get("skipTotal")
    if skip_total and skip_total not in _BOOL:
        raise FieldsInvalid({})
    condition, sort = query.get("filter", ""), query.get("sort", "")
    if condition or sort:
        for what in ("@collection", "@request"):
            if f"{what}." in condition or f"{what}." in sort:
                raise FilterForbidden(what)
    if len(condition) > MAX_FILTER or (condition.count("(") > MAX_NESTING and _nesting(condition) > MAX_NESTING):
        raise FieldsInvalid({})
    if sort.count(",") >= MAX_SORT:
        raise FieldsInvalid({})


def _nesting(condition: str) -> int:
    depth = deepest = 0
    for char in _QUOTED.sub("", condition):
        if char == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif char == ")":
            depth -= 1
    return deepest
