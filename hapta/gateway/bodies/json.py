"""JSON as PocketBase reads it, and no other: no text passes that it would refuse or read differently.

Python's own scanner is used rather than msgspec, as it hands over every object's pairs and every number's digits. So keys that
stand twice are seen at any depth, whole numbers keep all digits, and the sign of `-0` survives.
"""

from __future__ import annotations

import asyncio
import json
import math
from itertools import chain
from typing import Any, NoReturn, cast

from hapta.gateway.errors import BadBody

MAX_DEPTH = 256
"""Objects and lists within each other. PocketBase takes 10,000; Python's own readers and writers give up before 1,000."""

MAX_DIGITS = 400
"""Of a whole number: one with more than 309 is none that PocketBase could hold."""

MAX_VALUES = 4_000_000
"""About: commas and brackets are counted, also those in text. Three bytes of JSON can cost Python a hundred."""

THREAD_BYTES = 256 * 1024
"""From this size on a text is read and written on a thread."""


def loads(raw: bytes | str) -> Any:
    """Reads one JSON text.

    Raises:
        BadBody: no UTF-8, no strict JSON, a key twice, a number beyond a double, half a surrogate pair, nested too deeply, or
            millions of values.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode()
    except UnicodeDecodeError:
        raise BadBody("The submitted data is not UTF-8.") from None
    brackets = text.count("[") + text.count("{")
    if brackets + text.count(",") > MAX_VALUES:
        raise BadBody("The submitted data has too many values.")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise BadBody("The submitted data is nested too deeply.") from None
    except ValueError:
        raise BadBody("The submitted data is not valid JSON.") from None
    if brackets > MAX_DEPTH:
        _require_flat(value)
    if "\\u" in text:
        _require_characters(value)
    return value


async def read(raw: bytes) -> Any:
    """As `loads`; a long text on a thread, so that others get their turn."""
    return loads(raw) if len(raw) < THREAD_BYTES else await asyncio.to_thread(loads, raw)


def dumps(value: Any) -> bytes:
    """Writes a value: the same numbers, text as it is.

    Raises:
        BadBody: it holds what JSON cannot, such as an infinite number that a rule put there.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError):
        raise BadBody("The data cannot be written as JSON.") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadBody("The submitted data has an object with the same key twice.")
    return members


def _int(digits: str) -> int | float:
    if len(digits) > MAX_DIGITS:
        raise BadBody("The submitted data has a number that is too large.")
    number = int(digits)
    if not number and digits[0] == "-":
        return -0.0
    try:
        float(number)
    except OverflowError:
        raise BadBody("The submitted data has a number that is too large.") from None
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise BadBody("The submitted data has a number that is too large.")
    return number


def _constant(name: str) -> NoReturn:
    raise BadBody(f"{name} is not JSON.")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_int, parse_float=_float, parse_constant=_constant)


def _require_flat(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        dicts = cast(list[dict[str, Any]], [node for node in level if type(node) is dict])
        lists = cast(list[list[Any]], [node for node in level if type(node) is list])
        if not dicts and not lists:
            return
        level = list(chain(chain.from_iterable(map(dict[str, Any].values, dicts)), chain.from_iterable(lists)))
    raise BadBody("The submitted data is nested too deeply.")


def _require_characters(value: Any) -> None:
    """Half a surrogate pair is no character: nothing can write it as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadBody("The submitted data has half a surrogate pair.") from None
