"""What payloads ask for, under the names that they have now or had before: collections, records, queries, fields
(contract gateway, B.10).

Keys of caches that clients send (`cacheKey`, `invalidateCache`) are read by nobody: the server knows itself what an answer depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlencode

from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import RecordMissing
from hapta.gateway.models import Action, Client, Collection, Operation, Visitor
from hapta.gateway.queries import parsed
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.socket.errors import BadMessage

Payload = Mapping[str, Any]

_RECORD = ("recordId", "recordID", "record", "id")
_DATA = ("record", "data", "fields")


def text(payload: Payload, *names: str) -> str:
    """The first of these members that is there; empty when none is.

    Raises:
        BadMessage: it is no text.
    """
    for name in names:
        value = payload.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise BadMessage(f"{name} is a text.", ErrorCodes.TYPE_MISMATCH)
            return value
    return ""


def required(payload: Payload, *names: str) -> str:
    """As `text`, of what must not be missing."""
    found = text(payload, *names)
    if not found:
        raise BadMessage(f"{names[0]} is missing.", ErrorCodes.FIELD_MISSING)
    return found


def whole(payload: Payload, name: str) -> int | None:
    """A whole number that is not negative; None when it is not there.

    Raises:
        BadMessage: it is none.
    """
    value = payload.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise BadMessage(f"{name} is a whole number.", ErrorCodes.TYPE_MISMATCH)
    return value


def record_id(payload: Payload) -> str:
    """The record that is meant.

    Raises:
        BadMessage, RecordMissing: none is, or none that could be.
    """
    plain = {name: value for name, value in payload.items() if not isinstance(value, dict)}
    return plain_segment(required(plain, *_RECORD), RecordMissing)


def fields(payload: Payload) -> dict[str, Any]:
    """What a write writes.

    Raises:
        BadMessage: nothing is there.
    """
    for name in _DATA:
        value = payload.get(name)
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
    raise BadMessage("data is missing.", ErrorCodes.FIELD_MISSING)


def query(payload: Payload, *, listing: bool = False) -> bytes:
    """The query string that a payload means.

    Raises:
        BadMessage: a member of it has the wrong type.
    """
    options = payload.get("options")
    given = {**payload, **cast("dict[str, Any]", options)} if isinstance(options, dict) else payload
    pairs: dict[str, str] = {}
    if listing:
        _page(given, pairs)
        filtered = given.get("filter")
        if filtered is not None and not isinstance(filtered, str):
            raise BadMessage(None, ErrorCodes.TYPEOF_FILTER_NOT_STRING)
        if filtered:
            pairs["filter"] = filtered
        sort = ",".join(_words(given.get("sort"), "sort", ErrorCodes.TYPE_MISMATCH))
        if sort and given.get("order") == "desc" and sort[0] not in "+-@":
            sort = f"-{sort}"
        if sort:
            pairs["sort"] = sort
    expand = _words(given.get("expand"), "expand", ErrorCodes.TYPEOF_EXPAND_NOT_ARRAY)
    if expand:
        pairs["expand"] = ",".join(expand)
    chosen = given.get("returnable")
    if chosen is None and not isinstance(given.get("fields"), dict):
        chosen = given.get("fields")
    picked = _words(chosen, "returnable", ErrorCodes.TYPEOF_RETURNABLES_NOT_ARRAY)
    if picked:
        pairs["fields"] = ",".join(picked)
    further = given.get("query")
    if further is not None:
        if not isinstance(further, dict):
            raise BadMessage("query is an object.", ErrorCodes.TYPE_MISMATCH)
        for name, value in cast("dict[str, Any]", further).items():
            pairs.setdefault(name, _plain(name, value))
    try:
        return urlencode(pairs).encode("ascii")
    except UnicodeEncodeError:
        raise BadMessage(None, ErrorCodes.INVALID_QUERY) from None


def _page(given: Payload, pairs: dict[str, str]) -> None:
    """Which part of a list: pages as PocketBase counts them, or where it begins and how long it is."""
    limit = whole(given, "perPage" if given.get("perPage") is not None else "limit")
    page, offset = whole(given, "page"), whole(given, "offset")
    if offset and page is None:
        if not limit or offset % limit:
            raise BadMessage("offset is a multiple of limit.", ErrorCodes.INVALID_QUERY)
        page = offset // limit + 1
    if page is not None:
        pairs["page"] = str(page)
    if limit is not None:
        pairs["perPage"] = str(limit)
    if given.get("skipTotal"):
        pairs["skipTotal"] = "1"


def _words(value: Any, name: str, number: ErrorCodes) -> list[str]:
    """A list of texts, which may be written as one with commas."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(word, str) for word in cast("list[Any]", value)):
        raise BadMessage(f"{name} is a list of texts.", number)
    return cast("list[str]", value)


def _plain(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadMessage(f"query.{name} is a text.", ErrorCodes.TYPE_MISMATCH)


def operation(
    action: Action, collection: Collection, visitor: Visitor, client: Client, payload: Payload, record: str = ""
) -> Operation:
    """The operation that a message means, as `Records` takes it."""
    raw_query = query(payload, listing=action == "list")
    return Operation(
        action, collection, visitor, client, record, parsed(raw_query) if raw_query else {}, raw_query=raw_query
    )
