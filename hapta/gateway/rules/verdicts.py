"""What a hook says: let it through, refuse it, or go on with something else. There is no fourth answer, and silence is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from hapta.gateway.rules.codes import ErrorCodes

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Allow:
    """Nothing speaks against it."""


@dataclass(frozen=True, slots=True)
class Deny:
    """No."""

    code: int
    message: str = ""
    field: str = ""
    retry_after_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Replace:
    """Yes, with this in place of what was there."""

    value: dict[str, Any]


Verdict = Allow | Deny | Replace

_ALLOW = Allow()


def allow() -> Verdict:
    """The hook has nothing against it. Further hooks are asked."""
    return _ALLOW


def deny(
    code: ErrorCodes | int, message: str | None = None, field: str | None = None, *, retry_after_seconds: float = 1.0
) -> Verdict:
    """The hook refuses; no further hook is asked.

    Args:
        code: why; it also decides the status (see docs/rules.md).
        message: for people; the code's own text when left out.
        field: the field at fault, told as PocketBase tells of fields.
        retry_after_seconds: for `RATE_LIMITED` and what is away.

    Raises:
        ValueError: there is no such code, or `field` is the one that holds the code. In a hook this refuses the request, too.
    """
    if field == "hapta":
        raise ValueError("`hapta` is where the answer carries the code")
    return Deny(ErrorCodes(code), message or "", field or "", retry_after_seconds)


def replace(value: Mapping[str, Any]) -> Verdict:
    """The hook goes on with another body (`before`) or another record (`after`). Further hooks see that one.

    Args:
        value: all of it, not only what changed; JSON values only.

    Raises:
        TypeError, ValueError: it holds something that JSON does not have. In a hook this refuses the request.
    """
    plain = dict(value)
    check_json(plain)
    return Replace(plain)


def check_json(value: object, depth: int = 0) -> None:
    """Raises TypeError or ValueError for what JSON does not have, or what is nested beyond reason."""
    if depth > MAX_DEPTH:
        raise ValueError("values are nested too deeply")
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("JSON has no such number")
        return
    if isinstance(value, list | tuple):
        for one in cast("list[object]", value):
            check_json(one, depth + 1)
        return
    if isinstance(value, dict):
        for name, one in cast("dict[object, object]", value).items():
            if not isinstance(name, str):
                raise TypeError(f"names of fields are texts, not {type(name).__name__}")
            check_json(one, depth + 1)
        return
    raise TypeError(f"JSON has no {type(value).__name__}")
