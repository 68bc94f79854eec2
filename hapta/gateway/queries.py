"""Query strings as PocketBase reads them: of repeated parameters the first counts (contract gateway, A.2)."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode

from hapta.gateway.errors import BadBody

MAX_PARAMETERS = 64
"""PocketBase knows seven; the rest is for rules that read `@request.query`."""


KEPT_BYTES = 1024
"""Longer queries are read each time: whoever sends many of them must not fill the memory."""


def parsed(raw: bytes) -> MappingProxyType[str, str]:
    """The parameters of a query string.

    Raises:
        BadBody: it is not UTF-8, or has too many parameters.
    """
    return _parsed_before(raw) if len(raw) <= KEPT_BYTES else _parsed(raw)


def _parsed(raw: bytes) -> MappingProxyType[str, str]:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise BadBody("The query cannot be read.") from error
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return MappingProxyType(first)


def canonical(raw: bytes, whole: bool = False) -> str:
    """The same parameters, written anew: what was checked is what goes on, with a leading `?` unless there are none.

    Args:
        whole: leave the choice of fields out.
    """
    return _canonical_before(raw, whole) if len(raw) <= KEPT_BYTES else _canonical(raw, whole)


def _canonical(raw: bytes, whole: bool) -> str:
    pairs = {name: value for name, value in parsed(raw).items() if not (whole and name == "fields")}
    return "?" + urlencode(pairs) if pairs else ""


_parsed_before = lru_cache(4096)(_parsed)
_canonical_before = lru_cache(4096)(_canonical)
