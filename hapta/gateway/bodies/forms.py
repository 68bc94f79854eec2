"""Forms as PocketBase reads them: what text becomes a number, and how the members of `@jsonPayload` join the fields.

Both kinds of forms come together here, as pairs of name and text. The result is one object, which goes on as JSON; so what
PocketBase does with a form's text has to be done here, to the letter (contract gateway, A.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from hapta.gateway.bodies.json import MAX_DIGITS, loads
from hapta.gateway.errors import BadBody

PAYLOAD = "@jsonPayload"
MAX_FIELDS = 10_000

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")

Pairs = list[tuple[str, str]]


def parse(raw: bytes) -> Pairs:
    """The pairs of a URL-encoded body or query, in their order.

    Raises:
        BadBody: a bad escape, a semicolon that some take for a separator, text that is not UTF-8, or too many pairs.
    """
    if raw.count(b"&") >= MAX_FIELDS:
        raise BadBody("The form has too many fields.")
    if b";" in raw or _BAD_ESCAPE.search(raw):
        raise BadBody("The form is not URL-encoded.")
    pairs: Pairs = []
    for pair in raw.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            pairs.append((text(unquote_to_bytes(name)), text(unquote_to_bytes(value))))
    return pairs


def text(raw: bytes) -> str:
    """The text of a field.

    Raises:
        BadBody: it is not UTF-8. PocketBase would put question marks in its place.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadBody("The submitted data is not UTF-8.") from None


def data_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The object that the pairs of a record's form make up.

    Fields that stand more than once become lists; then the members of each `@jsonPayload` join, in their order.

    Raises:
        BadBody: a payload is no JSON object, or holds another type than what is there already.
    """
    fields: dict[str, list[Any]] = {}
    payloads: list[str] = []
    for name, value in pairs:
        if name == PAYLOAD:
            payloads.append(value)
        elif name:
            fields.setdefault(name, []).append(inferred(value))
    data: dict[str, Any] = {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
    for payload in payloads:
        members = loads(payload)
        if members is None:  # PocketBase begins anew
            data = {}
        elif isinstance(members, dict):
            data = cast(dict[str, Any], _joined(data, cast(dict[str, Any], members)))
        else:
            raise BadBody("@jsonPayload must be an object.")
    return data


def inferred(value: str) -> Any:
    """The value that a form's text stands for: `true`, `false`, or a number that is written the only way it can be.

    `1.5` is a number; `1.50`, `007`, `1e3` and a number with more digits than a double holds stay text.
    """
    if value == "true":
        return True
    if value == "false":
        return False
    if len(value) > MAX_DIGITS or not _NUMBER.fullmatch(value):
        return value
    number = float(value)
    if number in (float("inf"), float("-inf")):
        return value
    shortest = format(Decimal(repr(number)), "f")
    if shortest.endswith(".0"):
        shortest = shortest[:-2]
    if shortest != value:
        return value
    return number if "." in value or value == "-0" else int(value)


def _joined(old: Any, new: Any) -> Any:
    """A payload's value over one that is there: objects join, null takes away, others must be of one type."""
    if old is None or new is None:
        return new
    if _kind(old) is not _kind(new):
        raise BadBody("The fields and @jsonPayload do not fit together.")
    if isinstance(old, dict):
        joined = dict(cast(Mapping[str, Any], old))
        for name, value in cast(dict[str, Any], new).items():
            joined[name] = _joined(joined.get(name), value)
        return joined
    return new


def _kind(value: Any) -> type[object]:
    kind: type[object] = cast(type[object], type(value))
    return float if kind is int else kind
