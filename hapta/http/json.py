"""Strict JSON for request bodies: one typed decode by msgspec, and cheap proofs that nothing dubious slipped through it.

msgspec refuses bad syntax, control characters and lone surrogates, and checks types while it decodes. What it lets pass is
caught here: duplicate keys (RFC 8259 leaves them undefined, so two readers may disagree), bytes that are not UTF-8 in
members it skips, NUL, and integers beyond 2^53-1. Whatever a body holds, the outcome is a value, `InvalidJson`
or `ValidationFailed`, never another exception.

Duplicates are found by counting: every key needs one colon, so when the decoded value has as many distinct keys as the text
has colons, none was given twice. Only when that proof fails is the text read again, in the end exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any, TypeVar, cast

import msgspec

from hapta.http.validate import MAX_ISSUES, Path, Plain, convert, key_counter, rules_of, unsafe_int_counter
from hapta.kit.errors import Invalid, Issue

T = TypeVar("T")


class InvalidJson(Invalid):
    """The body is no JSON text, or one that two readers could understand differently."""

    code = "invalid_json"
    message = "The request body is not valid JSON"


class DuplicateKey(InvalidJson):
    """An object of the body has one key twice."""

    message = "The request body has an object with the same key twice"


def reader(type_: type[T]) -> Callable[[bytes], T]:
    """Compiles the reader of one body type; done once for a type, at start.

    Returns:
        A function from the raw body to the value. It raises `InvalidJson` for a text that is not strict JSON, and
        `ValidationFailed` that names every bad field.
    """
    return _compiled(type_)


@cache
def _compiled(type_: Any) -> Callable[[bytes], Any]:
    return _Reader(type_, msgspec.json.Decoder(type_)).read


@cache
def _cached_reader(type_: Any, decoder: msgspec.json.Decoder[Any]) -> Callable[[bytes], Any]:
    return _Reader(type_, decoder).read


def decode(raw: bytes, decoder: msgspec.json.Decoder[T], type_: type[T]) -> T:
    """Reads one body; the same as `reader(type_)(raw)`."""
    return _cached_reader(type_, decoder)(raw)


class _Reader:
    def __init__(self, type_: Any, decoder: msgspec.json.Decoder[Any]) -> None:
        self._type = type_
        self._decode = decoder.decode
        self._keys = key_counter(type_)
        self._unsafe_ints = unsafe_int_counter(type_)
        self._rules = rules_of(type_)

    def read(self, raw: bytes) -> Any:
        try:
            value = self._decode(raw)
        except msgspec.ValidationError:
            return self._read_again(raw)
        except (ValueError, RecursionError):
            raise InvalidJson from None
        if (b"\\" in raw and _may_hold_nul(raw)) or (self._unsafe_ints is not None and self._unsafe_ints([value])):
            return self._read_again(raw)
        if not raw.isascii():
            _require_utf8(raw)
        keys = self._keys([value]) if self._keys is not None else 0
        colons = raw.count(b":")
        if keys != colons:
            most = min(colons, _most_keys(raw))
            if keys != most:
                _require_unique_keys(_plain(raw), raw, most)
        if self._rules is not None:
            self._rules(value)
        return value

    def _read_again(self, raw: bytes) -> Any:
        """The careful way, for what msgspec refused or the proofs doubted: names every fault, allows 5.0 for 5."""
        _require_utf8(raw)
        plain = _plain(raw)
        _require_unique_keys(plain, raw, min(raw.count(b":"), _most_keys(raw)))
        try:
            value = convert(plain, self._type, _nul_issues(plain) if _may_hold_nul(raw) else ())
        except RecursionError:
            raise InvalidJson from None
        if self._rules is not None:
            self._rules(value)
        return value


def _require_utf8(raw: bytes) -> None:
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise InvalidJson("The request body is not UTF-8") from None


_decode_plain = msgspec.json.Decoder().decode


def _plain(raw: bytes) -> Plain:
    try:
        return _decode_plain(raw)
    except (ValueError, RecursionError):
        raise InvalidJson from None


_SPACES = (b" ", b"\n", b"\r", b"\t")


def _may_hold_nul(raw: bytes) -> bool:
    """The escape is the only way in, as a bare NUL is bad JSON; looking for one byte first is much the faster search."""
    return b"\\" in raw and b"\\u0000" in raw


def _most_keys(raw: bytes) -> int:
    """An upper bound of the number of keys: a key's colon stands behind a quotation mark or behind white space."""
    return raw.count(b'":') + sum(raw.count(space + b":") for space in _SPACES if space in raw)


def _require_unique_keys(plain: Plain, raw: bytes, most: int) -> None:
    if most and _count_keys(plain) != most:
        _require_unique_keys_exactly(raw)


def _count_keys(plain: Plain) -> int:
    """Distinct keys of all objects, level by level: no recursion, and few Python steps for a list of like objects."""
    keys = 0
    level: list[Plain] = [plain]
    while level:
        dicts = cast(list[dict[str, Plain]], [node for node in level if type(node) is dict])
        lists = cast(list[list[Plain]], [node for node in level if type(node) is list])
        keys += sum(map(len, dicts))
        level = list(chain(chain.from_iterable(map(dict[str, Plain].values, dicts)), chain.from_iterable(lists)))
    return keys


def _unique_pairs(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise DuplicateKey


def _require_unique_keys_exactly(raw: bytes) -> None:
    try:
        # numbers are of no interest here, and reading a long one would cost much
        json.loads(raw, object_pairs_hook=_unique_pairs, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        raise InvalidJson from None


def _nul_issues(plain: Plain) -> list[Issue]:
    """Every string or key that holds NUL: no database text can, and C code below would cut it short."""
    issues: list[Issue] = []
    stack: list[tuple[Path, Plain]] = [((), plain)]
    while stack and len(issues) < MAX_ISSUES:
        path, node = stack.pop()
        if isinstance(node, str):
            if "\0" in node:
                issues.append(Issue(path, "Must not contain NUL"))
        elif isinstance(node, dict):
            members = cast(dict[str, Plain], node)
            bad_names = [name.replace("\0", "\ufffd") for name in members if "\0" in name]
            issues += [Issue((*path, name), "Must not contain NUL") for name in bad_names]
            stack += [((*path, name), member) for name, member in reversed(members.items())]
        elif isinstance(node, list):
            items = cast(list[Plain], node)
            stack += [((*path, index), item) for index, item in reversed(list(enumerate(items)))]
    return issues
