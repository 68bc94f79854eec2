"""Query strings, read as a struct says: percent-decoded strictly, each parameter once, numbers and booleans where they are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar, cast
from urllib.parse import unquote_to_bytes

from msgspec import NODEFAULT, inspect

from hapta.http.validate import Plain, convert, inspected, rules_of
from hapta.kit.errors import Issue

T = TypeVar("T")

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_BROKEN_PERCENT = re.compile(rb"%(?![0-9a-fA-F]{2})")


def query_reader(type_: type[T]) -> Callable[[bytes], T]:
    """Compiles a reader of query strings for one struct type.

    The reader takes the raw query string and gives the struct. Values are percent-decoded as strict UTF-8 with `+` for a
    space; a parameter that the type knows may appear once; unknown ones are ignored. Numbers and booleans (`true`, `false`)
    are read where the type wants them.

    The reader raises `ValidationFailed` that names every bad parameter.
    """
    kind = inspected(type_)
    if not isinstance(kind, inspect.StructType):
        raise TypeError(f"a query is described by a struct, not by {type_!r}")
    kinds = {field.encode_name: field.type for field in kind.fields}
    rules = rules_of(type_)

    may_share = kind.cls.__struct_config__.frozen and all(field.default_factory is NODEFAULT for field in kind.fields)
    of_nothing: T | None = None

    def read(query_string: bytes) -> T:
        nonlocal of_nothing
        if not query_string and of_nothing is not None:
            return of_nothing
        result = read_anew(query_string)
        if not query_string and may_share:
            of_nothing = result  # most requests have no query: one that nobody can change serves them all
        return result

    def read_anew(query_string: bytes) -> T:
        values: dict[str, Plain] = {}
        issues: list[Issue] = []
        if query_string:
            for name, value in _parameters(query_string, kinds, issues):
                if name in values:
                    issues.append(Issue((name,), "Given more than once"))
                else:
                    values[name] = _coerced(value, kinds[name])
        result = cast(T, convert(values, type_, _unique(issues)))
        if rules is not None:
            rules(result)
        return result

    return read


def decode_query(query_string: bytes, type_: type[T]) -> T:
    """Reads one query string; see `query_reader`, which is cheaper when many are read."""
    return query_reader(type_)(query_string)


def _unique(issues: list[Issue]) -> list[Issue]:
    return list(dict.fromkeys(issues))


def _parameters(query_string: bytes, known: Mapping[str, object], issues: list[Issue]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for part in query_string.split(b"&"):
        raw_name, _, raw_value = part.partition(b"=")
        name = unquote_to_bytes(raw_name.replace(b"+", b" ")).decode("utf-8", "replace")
        if name not in known:
            continue
        try:
            value = unquote_to_bytes(raw_value.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            issues.append(Issue((name,), "Must be UTF-8"))
            continue
        if _BROKEN_PERCENT.search(raw_value):
            issues.append(Issue((name,), "Has a broken percent escape"))
        elif "\0" in value:
            issues.append(Issue((name,), "Must not contain NUL"))
        else:
            found.append((name, value))
    return found


def _coerced(text: str, kind: inspect.Type) -> Plain:
    """Text as the JSON value that the type wants, or the text itself: then the collector says what is wrong."""
    match kind:
        case inspect.Metadata():
            return _coerced(text, kind.type)
        case inspect.UnionType():
            tried = [_coerced(text, member) for member in kind.types]
            return next((value for value in tried if not isinstance(value, str)), text)
        case inspect.IntType():
            return int(text) if _INTEGER.fullmatch(text) else text
        case inspect.FloatType():
            return float(text) if re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text) else text
        case inspect.BoolType():
            return {"true": True, "false": False}.get(text, text)
        case inspect.LiteralType():
            number = int(text) if _INTEGER.fullmatch(text) else None
            return number if number in kind.values and text not in kind.values else text
        case _:
            return text
