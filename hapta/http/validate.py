"""What a request must look like: wire base class, ready-made wire types, and the collector that names every bad field.

The fast path never comes here: msgspec checks while it decodes and stops at the first fault. Only a refused value is walked
again, by the same type description, to list all its faults under their wire names. JSON has one number type, so an `int`
field takes 5.0 for 5 (contract sync, section 2.7), never "5", 5.5 or true, and nothing beyond 2^53-1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, inspect

from hapta.kit.errors import Issue, ValidationFailed

MAX_SAFE_INTEGER = 2**53 - 1
MAX_ISSUES = 100
"""A body may hold ten thousand bad entries; nobody reads more than this many of them."""

T = TypeVar("T")
Path = tuple[str | int, ...]
Plain = Any
"""What JSON decodes to without a type: None, bool, int, float, str, list, dict."""


class Wire(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of wire types: frozen, camelCase on the wire, unknown members ignored.

    A subclass may define `issues(self) -> list[Issue]` for rules that a type cannot say; it runs after decoding, also when
    the struct is nested in another.
    """


_UUID = (
    r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    r"|0{8}-0{4}-0{4}-0{4}-0{12}|[fF]{8}-[fF]{4}-[fF]{4}-[fF]{4}-[fF]{12})$"
)
Uuid = Annotated[
    str,
    Meta(
        pattern=_UUID,
        min_length=36,
        max_length=36,  # `$` alone would let a final line feed pass
        examples=["018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"],
        extra_json_schema={"format": "uuid"},
        extra={"message": "Invalid UUID"},
    ),
]
"""A UUID of RFC 9562, versions 1 to 8, or the nil or max one; either case (services lower it; contract sync, section 2.4)."""

SafeInt = Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""Any integer that a double holds exactly."""


# -- the collector ---------------------------------------------------------------------------------------------------


class _Walk:
    """One pass over a plain value: gathers issues, and gives back the value with whole floats made integers."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []

    def fault(self, path: Path, message: str) -> None:
        if len(self.issues) < MAX_ISSUES:
            self.issues.append(Issue(path, message))

    def value(self, value: Plain, kind: inspect.Type, path: Path) -> Plain:
        match kind:
            case inspect.Metadata():
                return self._with_own_message(value, kind, path)
            case inspect.UnionType():
                return self._union(value, kind, path)
            case inspect.StructType():
                return self._struct(value, kind, path)
            case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
                return self._list(value, kind, path)
            case inspect.TupleType():
                return self._tuple(value, kind, path)
            case inspect.DictType():
                return self._dict(value, kind, path)
            case inspect.IntType():
                return self._int(value, kind, path)
            case inspect.FloatType():
                return self._float(value, kind, path)
            case inspect.StrType():
                self._str(value, kind, path)
            case inspect.BoolType():
                self._expect(isinstance(value, bool), "boolean", value, path)
            case inspect.NoneType():
                self._expect(value is None, "null", value, path)
            case inspect.LiteralType():
                self._one_of(value, kind.values, path)
            case inspect.EnumType():
                self._one_of(value, tuple(member.value for member in kind.cls), path)
            case _:  # Any, and types that msgspec itself judges when the value is converted
                pass
        return value

    def _expect(self, held: bool, name: str, value: Plain, path: Path) -> bool:
        if not held:
            self.fault(path, f"Expected {name}, got {_name_of(value)}")
        return held

    def _with_own_message(self, value: Plain, kind: inspect.Metadata, path: Path) -> Plain:
        inner = _Walk()
        result = inner.value(value, kind.type, path)
        own = cast(dict[str, object], getattr(kind, "extra", None) or {}).get("message")
        wrong_type = any(issue.message.startswith("Expected ") for issue in inner.issues)
        if inner.issues and isinstance(own, str) and not wrong_type:
            self.fault(path, own)
        else:
            for issue in inner.issues:
                self.fault(issue.path, issue.message)
        return result

    def _union(self, value: Plain, kind: inspect.UnionType, path: Path) -> Plain:
        """Judges by the member that fits the value's JSON type; when none does, names them all."""
        members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
        if value is None and len(members) < len(kind.types):
            return value
        if len(members) == 1:
            return self.value(value, members[0], path)
        if isinstance(value, dict):
            tagged = [m for m in members if isinstance(m, inspect.StructType) and m.tag_field is not None]
            if tagged:
                return self._tagged(cast(dict[str, Plain], value), tagged, path)
            value = cast(Plain, value)
        best: _Walk | None = None
        for member in members:
            walk = _Walk()
            result = walk.value(value, member, path)
            if not walk.issues:
                return result
            if not walk.issues[0].message.startswith("Expected ") or walk.issues[0].path != path:
                best = best or walk
        if best is None:
            labels = dict.fromkeys(_label(member) for member in members)
            self.fault(path, f"Expected {' or '.join(labels)}, got {_name_of(value)}")
        else:
            for issue in best.issues:
                self.fault(issue.path, issue.message)
        return value

    def _tagged(self, value: dict[str, Plain], members: list[inspect.StructType], path: Path) -> Plain:
        tag_field = str(members[0].tag_field)
        if tag_field not in value:
            self.fault((*path, tag_field), "Required")
            return value
        for member in members:
            if member.tag == value[tag_field]:
                return self._struct(value, member, path)
        self._one_of(value[tag_field], tuple(member.tag for member in members), (*path, tag_field))
        return value

    def _struct(self, value: Plain, kind: inspect.StructType, path: Path) -> Plain:
        if kind.array_like or not self._expect(isinstance(value, dict), "object", value, path):
            return value
        members = cast(dict[str, Plain], value)
        result = dict(members)
        for field in kind.fields:
            name = field.encode_name
            if name in members:
                result[name] = self.value(members[name], field.type, (*path, name))
            elif field.required:
                self.fault((*path, name), "Required")
        if kind.tag_field is not None and kind.tag_field in members:
            self._one_of(members[kind.tag_field], (kind.tag,), (*path, kind.tag_field))
        if kind.forbid_unknown_fields:
            known = {field.encode_name for field in kind.fields} | {kind.tag_field}
            for name in members.keys() - known:
                self.fault((*path, name), "Unknown field")
        return result

    def _list(
        self,
        value: Plain,
        kind: inspect.ListType | inspect.SetType | inspect.FrozenSetType | inspect.VarTupleType,
        path: Path,
    ) -> Plain:
        if not self._expect(isinstance(value, list), "array", value, path):
            return value
        items = cast(list[Plain], value)
        self._length(len(items), kind.min_length, kind.max_length, "item", path)
        return [self.value(item, kind.item_type, (*path, index)) for index, item in enumerate(items)]

    def _tuple(self, value: Plain, kind: inspect.TupleType, path: Path) -> Plain:
        if not self._expect(isinstance(value, list), "array", value, path):
            return value
        items = cast(list[Plain], value)
        if len(items) != len(kind.item_types):
            self.fault(path, f"Must have exactly {len(kind.item_types)} items")
            return items
        pairs = enumerate(zip(items, kind.item_types, strict=True))
        return [self.value(item, item_type, (*path, index)) for index, (item, item_type) in pairs]

    def _dict(self, value: Plain, kind: inspect.DictType, path: Path) -> Plain:
        if not self._expect(isinstance(value, dict), "object", value, path):
            return value
        members = cast(dict[str, Plain], value)
        self._length(len(members), kind.min_length, kind.max_length, "member", path)
        result: dict[str, Plain] = {}
        for name, member in members.items():
            if isinstance(kind.key_type, inspect.StrType | inspect.Metadata | inspect.LiteralType):
                self.value(name, kind.key_type, (*path, name))
            result[name] = self.value(member, kind.value_type, (*path, name))
        return result

    def _int(self, value: Plain, kind: inspect.IntType, path: Path) -> Plain:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._expect(False, "integer", value, path)
            return value
        if isinstance(value, float) and not value.is_integer():
            self.fault(path, "Must be a whole number")
            return value
        whole = int(value)
        low = -MAX_SAFE_INTEGER if kind.ge is None and kind.gt is None else kind.ge
        high = MAX_SAFE_INTEGER if kind.le is None and kind.lt is None else kind.le
        self._bounds(whole, low, kind.gt, high, kind.lt, path)
        if kind.multiple_of is not None and whole % kind.multiple_of:
            self.fault(path, f"Must be a multiple of {kind.multiple_of}")
        return whole

    def _float(self, value: Plain, kind: inspect.FloatType, path: Path) -> Plain:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._expect(False, "number", value, path)
        else:
            self._bounds(value, kind.ge, kind.gt, kind.le, kind.lt, path)
        return value

    def _bounds(
        self, value: float, ge: float | None, gt: float | None, le: float | None, lt: float | None, path: Path
    ) -> None:
        if ge is not None and value < ge:
            self.fault(path, f"Must be at least {ge}")
        if gt is not None and value <= gt:
            self.fault(path, f"Must be greater than {gt}")
        if le is not None and value > le:
            self.fault(path, f"Must be at most {le}")
        if lt is not None and value >= lt:
            self.fault(path, f"Must be less than {lt}")

    def _str(self, value: Plain, kind: inspect.StrType, path: Path) -> None:
        if not self._expect(isinstance(value, str), "string", value, path):
            return
        self._length(len(value), kind.min_length, kind.max_length, "character", path)
        if kind.pattern is not None and re.search(kind.pattern, value) is None:
            self.fault(path, "Has the wrong form")

    def _length(self, length: int, least: int | None, most: int | None, what: str, path: Path) -> None:
        if least is not None and length < least:
            message = "Must not be empty" if least == 1 else f"Must have at least {least} {what}s"
            self.fault(path, message)
        if most is not None and length > most:
            self.fault(path, f"Must have at most {most} {what}{'' if most == 1 else 's'}")

    def _one_of(self, value: Plain, allowed: Sequence[object], path: Path) -> None:
        # `in` would take true for 1 and 1.0 for 1
        if not any(type(value) is type(one) and value == one for one in allowed):
            choices = ", ".join(msgspec.json.encode(one).decode() for one in allowed)
            self.fault(path, f"Must be {choices}" if len(allowed) == 1 else f"Must be one of {choices}")


def _name_of(value: Plain) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _label(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            return _label(kind.type)
        case inspect.StrType():
            return "string"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "boolean"
        case inspect.StructType() | inspect.DictType():
            return "object"
        case inspect.LiteralType():
            return "one of " + ", ".join(msgspec.json.encode(one).decode() for one in kind.values)
        case _:
            return "array" if hasattr(kind, "item_type") or hasattr(kind, "item_types") else "another type"


@cache
def inspected(type_: Any) -> inspect.Type:
    """What msgspec says of a type; asked once."""
    return inspect.type_info(type_)


_REFUSAL = re.compile(r"^(?P<message>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)


def _issue_of(refusal: msgspec.ValidationError) -> Issue:
    """The single fault that msgspec itself found, for the types that the collector leaves to it."""
    match = _REFUSAL.match(str(refusal))
    found = match.group("path") if match else None
    message = match.group("message") if match else str(refusal)
    parts = re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", found or "")
    path: Path = tuple(name if name else int(index) if index.isdigit() else index for name, index in parts)
    return Issue(path, message.replace("`", ""))


def convert(value: Plain, type_: Any, extra_issues: Sequence[Issue] = ()) -> Any:
    """A plain value as `type_`, with every fault named.

    Args:
        value: what untyped JSON decoding gave.
        type_: a wire type.
        extra_issues: faults found before, told together with the others.

    Raises:
        ValidationFailed: at least one fault; `issues` lists all (the first `MAX_ISSUES`).
    """
    walk = _Walk()
    relaxed = walk.value(value, inspected(type_), ())
    if walk.issues or extra_issues:
        raise ValidationFailed([*extra_issues, *walk.issues][:MAX_ISSUES])
    try:
        return msgspec.convert(relaxed, type_, str_keys=True)
    except msgspec.ValidationError as refusal:
        raise ValidationFailed([_issue_of(refusal)]) from None


# -- columns: questions asked of every value of one kind inside a decoded value, without a Python step per value ---------

Column = Callable[[list[Any]], int]
_Leaf = Callable[[inspect.Type], Column | None]
_PYTHON_TYPE: Mapping[type[inspect.Type], type] = {inspect.IntType: int, inspect.ListType: list, inspect.DictType: dict}


def _children(kind: inspect.Type) -> list[tuple[Callable[[list[Any]], list[Any]], inspect.Type]]:
    """How to get from all values of a kind to all values of each kind directly inside it."""
    match kind:
        case inspect.Metadata():
            return [(lambda values: values, kind.type)]
        case inspect.StructType():
            return [_member(field) for field in kind.fields]
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return [(_flatten, kind.item_type)]
        case inspect.DictType():
            return [(lambda dicts: list(chain.from_iterable(map(dict[Any, Any].values, dicts))), kind.value_type)]
        case inspect.UnionType():
            return [(_of_type(python), member) for member in kind.types if (python := _python_type(member)) is not None]
        case _:
            return []


def _flatten(lists: list[Any]) -> list[Any]:
    return list(chain.from_iterable(lists))


def _member(field: inspect.Field) -> tuple[Callable[[list[Any]], list[Any]], inspect.Type]:
    """How to get to one member of each value, or to all items of one that is a list."""
    if not (field.required and isinstance(field.type, inspect.ListType)):
        return _getter(field), field.type
    get = attrgetter(field.name)

    def items(values: list[Any]) -> list[Any]:
        return get(values[0]) if len(values) == 1 else list(chain.from_iterable(map(get, values)))

    return items, field.type.item_type


def _getter(field: inspect.Field) -> Callable[[list[Any]], list[Any]]:
    get = attrgetter(field.name)
    if field.required:
        return lambda values: list(map(get, values))
    return lambda values: [value for value in map(get, values) if value is not msgspec.UNSET]


def _of_type(python: type) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [value for value in values if type(value) is python]


def _python_type(kind: inspect.Type) -> type | None:
    if isinstance(kind, inspect.Metadata):
        return _python_type(kind.type)
    return kind.cls if isinstance(kind, inspect.StructType) else _PYTHON_TYPE.get(type(kind))


def _column(kind: inspect.Type, leaf: _Leaf, known: dict[type, Column | None]) -> Column | None:
    """Sums `leaf` over all values inside; None when no kind inside has one."""
    if isinstance(kind, inspect.StructType):
        if kind.cls in known:  # a type that holds itself: look its column up when it is complete
            cls = kind.cls
            return lambda values: column(values) if values and (column := known[cls]) else 0
        known[kind.cls] = None
    own = leaf(kind)
    inner = [(get, column) for get, child in _children(kind) if (column := _column(child, leaf, known)) is not None]
    result = _sum(own, inner)
    if isinstance(kind, inspect.StructType):
        known[kind.cls] = result
    return result


def _sum(own: Column | None, inner: list[tuple[Callable[[list[Any]], list[Any]], Column]]) -> Column | None:
    if not inner:
        return own

    if own is None and len(inner) == 1:
        get_only, only = inner[0]
        if get_only is _flatten and isinstance(only, _Fixed):
            each = only.each
            return lambda lists: each * sum(map(len, lists))
        return lambda values: only(get_only(values))

    if own is not None and len(inner) == 1:
        get_only, only = inner[0]
        return lambda values: own(values) + only(get_only(values))

    def total(values: list[Any]) -> int:
        count = own(values) if own is not None else 0
        for get, column in inner:
            count += column(get(values))
        return count

    return total


class _Fixed:
    """A column that adds the same for each value."""

    def __init__(self, each: int) -> None:
        self.each = each

    def __call__(self, values: list[Any]) -> int:
        return self.each * len(values)


def _own_keys(kind: inspect.Type) -> Column | None:
    if isinstance(kind, inspect.DictType):
        return lambda dicts: sum(map(len, dicts))
    if not isinstance(kind, inspect.StructType) or kind.array_like:
        return None
    required = sum(field.required for field in kind.fields)
    optional = [(attrgetter(field.name), _absent(field)) for field in kind.fields if not field.required]

    if not optional:
        return _Fixed(required)
    most = required + len(optional)

    def count(values: list[Any]) -> int:
        keys = most * len(values)
        if len(values) == 1:  # columns of one cost more than they spare
            (value,) = values
            for get, default in optional:
                if get(value) == default:
                    keys -= 1
            return keys
        for get, default in optional:
            keys -= list(map(get, values)).count(default)
        return keys

    return count


def _absent(field: inspect.Field) -> object:
    """What an optional member is when it was not sent; a factory makes an equal value each time."""
    return field.default_factory() if callable(field.default_factory) else field.default


def _own_unsafe_ints(kind: inspect.Type) -> Column | None:
    if not isinstance(kind, inspect.IntType):
        return None
    low_open, high_open = kind.ge is None and kind.gt is None, kind.le is None and kind.lt is None
    if not low_open and not high_open:
        return None

    def unsafe(values: list[Any]) -> int:
        return int(bool(values) and (max(values) > MAX_SAFE_INTEGER or min(values) < -MAX_SAFE_INTEGER))

    return unsafe


def key_counter(type_: Any) -> Column | None:
    """Counts object keys that surely were in the JSON text of decoded values: never more than there were distinct ones."""
    return _column(inspected(type_), _own_keys, {})


def unsafe_int_counter(type_: Any) -> Column | None:
    """Above zero when there are integers beyond 2^53-1 in fields that set no bound themselves; None when every field has bounds."""
    return _column(inspected(type_), _own_unsafe_ints, {})


# -- rules of a struct's own -------------------------------------------------------------------------------------------


def _has_rules(kind: inspect.Type, seen: set[type]) -> bool:
    if isinstance(kind, inspect.StructType):
        if kind.cls in seen:
            return False
        seen.add(kind.cls)
        if hasattr(kind.cls, "issues"):
            return True
    return any(_has_rules(child, seen) for _, child in _children(kind))


@cache
def _names_of(type_: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """The members of a type, by the name that they have in Python and on the wire; msgspec works them out anew each time."""
    return [(field.name, field.encode_name) for field in msgspec.structs.fields(type_)]


def _struct_issues(value: Any, path: Path, issues: list[Issue]) -> None:
    if isinstance(value, msgspec.Struct):
        if (rule := getattr(value, "issues", None)) is not None:
            issues += [Issue((*path, *issue.path), issue.message) for issue in cast(list[Issue], rule())]
        for name, wire_name in _names_of(type(value)):
            _struct_issues(getattr(value, name), (*path, wire_name), issues)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast(Sequence[Any], value)):
            _struct_issues(item, (*path, index), issues)
    elif isinstance(value, dict):
        for name, item in cast(dict[str, Any], value).items():
            _struct_issues(item, (*path, name), issues)


def rules_of(type_: Any) -> Callable[[Any], None] | None:
    """The check of all `issues()` methods inside a type, or None when it has none.

    The check raises `ValidationFailed` with every fault that the methods report.
    """
    if not _has_rules(inspected(type_), set()):
        return None

    def check(value: Any) -> None:
        issues: list[Issue] = []
        _struct_issues(value, (), issues)
        if issues:
            raise ValidationFailed(issues[:MAX_ISSUES])

    return check
