"""Query strings as PocketBase reads them: of repeated parameters the first counts (contract gateway, A.2)."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode

from hapta.gateway.errors import BadBody

MAX_PARAMETERS = 64
"""PocketBase knows seven; the rest is for rules that read `@request.query`."""


@lru_cache(4096)
def parsed(raw: bytes) -> MappingProxyType[str, str]:
    """The parameters of a query string.

    Raises:
        BadBody: it is not UTF-8, or has too many parameters.
    """
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise BadBody("The query cannot be read.") from error
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return MappingProxyType(first)


@lru_cache(4096)
def canonical(raw: bytes, whole: bool = False) -> str:
    """The same parameters, written anew: what was checked is what goes on, with a leading `?` unless there are none.

    Args:
        whole: leave the choice of fields out.
    """
    pairs = {name: value for name, value in parsed(raw).items() if not (whole and name == "fields")}
    return "?" + urlencode(pairs) if pairs else ""
