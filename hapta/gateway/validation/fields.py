"""Values against the fields of PocketBase's schema, with its own codes and sentences (contract gateway, B.6).

Only what PocketBase is sure to refuse is refused here; it converts a lot, such as numbers in strings and lists of one. So a check
looks at values of the plain form only, and everything else is left for PocketBase to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

from hapta.gateway.bodies.names import base_name
from hapta.gateway.models import Collection, Field

Json = Any
Fault = dict[str, Json]

MAX_TEXT = 5000
"""Characters of a text where its field says nothing."""

MAX_EDITOR_BYTES = 5 * 1024 * 1024
REQUIRED: Fault = {"code": "validation_required", "message": "Cannot be blank."}
MISMATCH: Fault = {"code": "validation_values_mismatch", "message": "Values don't match."}

# Patterns of which Go's and Python's engines can be of no two opinions: a class of plain ASCII characters, repeated.
_SIMPLE_PATTERN = re.compile(
    r"\^\[((?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_ ]|\\?[-.])+)\]([*+]|\{\d{1,3}(?:,\d{0,3})?\})\$"
)


def faults_of(collection: Collection, data: Mapping[str, Json], *, creates: bool, required: bool) -> dict[str, Fault]:
    """What PocketBase would refuse in these fields.

    Args:
        creates: fields that are not given are empty then; on an update they stay what they are.
        required: whether empty fields that must not be so are refused here.
    """
    if collection.type == "auth":
        first = _password_faults(data, creates=creates and required)
        if first:
            return first
    faults: dict[str, Fault] = {}
    touched = {base_name(key, collection) for key in data}
    for field in collection.fields.values():
        name = field.name
        if field.hidden or field.system or field.options.get("primaryKey"):
            continue
        if name not in data:
            if creates and required and field.required and name not in touched and _starts_empty(field):
                faults[name] = REQUIRED
            continue
        value = data[name]
        if _is_empty(field, value):
            # A file that is uploaded stands in another part, and what is to be generated is written behind the name.
            if required and field.required and field.type not in {"file", "autodate"} and not _generated(field):
                faults[name] = REQUIRED
            continue
        check = _CHECKS.get(field.type)
        fault = None if check is None else check(field, value)
        if fault is not None:
            faults[name] = fault
    return faults


def _password_faults(data: Mapping[str, Json], *, creates: bool) -> dict[str, Fault]:
    """PocketBase looks at these before anything else of an auth record."""
    password, confirm = data.get("password"), data.get("passwordConfirm")
    if creates:
        faults = {name: REQUIRED for name in ("password", "passwordConfirm") if data.get(name) in (None, "")}
        if faults:
            return faults
    if isinstance(password, str) and isinstance(confirm, str) and password and confirm and password != confirm:
        return {"passwordConfirm": MISMATCH}
    return {}


def _starts_empty(field: Field) -> bool:
    """Whether a field that is not given stays empty, also one whose file comes in a part of its own: that is `touched`."""
    return field.type not in {"autodate", "password"} and not _generated(field)


def _generated(field: Field) -> bool:
    return bool(field.options.get("autogeneratePattern"))


def _is_empty(field: Field, value: Json) -> bool:
    """Whether PocketBase takes a value for none; false where it is not plain to see."""
    if value is None or value in ("", []):
        return True
    if field.type == "number":
        return not isinstance(value, str | bool | list | dict) and value == 0
    return (field.type == "bool" and value is False) or (field.type == "json" and value == {})


def _text(field: Field, value: Json) -> Fault | None:
    if not isinstance(value, str):
        return None
    options, length = field.options, len(value)
    least, most = int(options.get("min") or 0), int(options.get("max") or MAX_TEXT)
    if length < least:
        return _fault("validation_min_text_constraint", f"Must be at least {least} character(s).", min=least)
    if length > most:
        return _fault("validation_max_text_constraint", f"Must be no more than {most} character(s).", max=most)
    pattern = _compiled(options.get("pattern") or "")
    if pattern is not None and not pattern.fullmatch(value):
        return _fault("validation_invalid_format", "Invalid value format.")
    return None


@lru_cache(1024)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    return re.compile(pattern[1:-1], re.ASCII) if _SIMPLE_PATTERN.fullmatch(pattern) else None


def _number(field: Field, value: Json) -> Fault | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number, options = float(value), field.options
    # PocketBase takes what no 64 bits hold for a decimal.
    if options.get("onlyInt") and not (number.is_integer() and abs(number) < 2**63):
        return _fault("validation_only_int_constraint", "Decimal numbers are not allowed.")
    least, most = options.get("min"), options.get("max")
    if least is not None and number < least:
        return _fault("validation_min_number_constraint", f"Must be greater or equal than {_plain(least)}.", min=least)
    if most is not None and number > most:
        return _fault("validation_max_number_constraint", f"Must be less or equal than {_plain(most)}.", max=most)
    return None


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(number)


def _select(field: Field, value: Json) -> Fault | None:
    given = _strings(value)
    if given is None:
        return None
    most = int(field.options.get("maxSelect") or 1)
    if most > 1 and len(given) > most:
        return _fault("validation_too_many_values", f"Select no more than {most}.", maxSelect=most)
    if most > 1 or isinstance(value, str):
        known = cast(list[str], field.options.get("values") or [])
        for item in given:
            if item not in known:
                message = f"Invalid value {item}".strip()
                return _fault("validation_invalid_value", message + "." * (message[-1] not in ".?!"), value=item)
    return None


def _relation(field: Field, value: Json) -> Fault | None:
    given = _strings(value)
    most = int(field.options.get("maxSelect") or 1)
    if given is not None and most > 1 and len(given) > most:
        return _fault("validation_too_many_values", f"Select no more than {most}.", maxSelect=most)
    return None


def _strings(value: Json) -> list[str] | None:
    """The different texts of a value that names one or more; None when there is anything else in it."""
    items: list[Json] = cast(list[Json], value) if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        return None
    texts = cast(list[str], items)
    if len(texts) == 1 and texts[0].lstrip().startswith(("[", "{", '"')):
        return None  # PocketBase reads JSON in there
    return [text for text in dict.fromkeys(texts) if text]


def _email(field: Field, value: Json) -> Fault | None:
    if isinstance(value, str) and not re.fullmatch(r"[^\s@]+@[^\s@]+\.[^\s@]+", value):
        return _fault("validation_is_email", "Must be a valid email address.")
    return None


def _editor(field: Field, value: Json) -> Fault | None:
    most = int(field.options.get("maxSize") or MAX_EDITOR_BYTES)
    if isinstance(value, str) and len(value.encode()) > most:
        message = f"The maximum allowed content size is {most} bytes."
        return _fault("validation_content_size_limit", message, maxSize=most)
    return None


def _fault(code: str, message: str, **params: Json) -> Fault:
    fault: Fault = {"code": code, "message": message}
    return {**fault, "params": params} if params else fault


_CHECKS: Mapping[str, Callable[[Field, Json], Fault | None]] = {
    "text": _text,
    "number": _number,
    "select": _select,
    "relation": _relation,
    "email": _email,
    "editor": _editor,
}
