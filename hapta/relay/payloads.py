"""What a socket event carries, held to the types and bounds that the same values have over REST."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def payload(data: Any, type_: type[T]) -> T | None:
    """The event's data as a wire type; None when it does not fit.

    Args:
        data: what JSON decoded to, of any shape.
        type_: a subclass of `Wire`; its `issues()` is asked where it has one.
    """
    try:
        value = msgspec.convert(data, type_)
    except msgspec.ValidationError:
        return None
    return value if _holds(value) else None


def _holds(value: msgspec.Struct) -> bool:
    """Whether rules hold that types do not say: the struct's own, and that no text has a NUL, which no database keeps."""
    rule = getattr(value, "issues", None)
    if rule is not None and rule():
        return False
    for name in value.__struct_fields__:
        member = getattr(value, name)
        if isinstance(member, str):
            if "\0" in member:
                return False
        elif isinstance(member, msgspec.Struct) and not _holds(member):
            return False
    return True
