"""Documented settings: a dataclass field that carries its own text, names, limits and form, and the conversion of raw values.

`settings.py` builds its tree from `setting(...)` fields; the loader, the commands and docs/settings.md read them back as `Spec`.
Conversion is strict: what a person would not write on purpose is refused with what was expected, and secrets are never shown.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast, get_args, get_origin
from urllib.parse import urlsplit

from hapta.kit.ratelimit import Rate

T = TypeVar("T")
Hidden = Literal["", "all", "password"]
Form = Literal["", "database", "bus", "rate", "json"]


@dataclass(frozen=True, slots=True)
class About:
    """What a field says of itself."""

    doc: str
    env: tuple[str, ...] = ()
    """Further names in the environment, beside `HAPTA_<SECTION>_<NAME>`."""
    hidden: Hidden = ""
    """`all`: never shown. `password`: a URL, shown without the password in it."""
    minimum: float | None = None
    maximum: float | None = None
    form: Form = ""
    """`json`: an object as text, or a table of the settings file, which becomes such a text."""


def setting(
    default: T,
    doc: str,
    *,
    env: tuple[str, ...] = (),
    hidden: Hidden = "",
    minimum: float | None = None,
    maximum: float | None = None,
    form: Form = "",
) -> T:
    """A field of a settings section with its documentation; the arguments are those of `About`."""
    about = About(doc, env, hidden, minimum, maximum, form)
    return field(default=default, repr=not hidden, metadata={"about": about})


@dataclass(frozen=True, slots=True)
class Spec:
    """One setting, seen from outside: `path` is `section.name`."""

    section: str
    name: str
    type: Any
    default: object
    about: About

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def env(self) -> tuple[str, ...]:
        """Names in the environment, the preferred one first."""
        return (f"HAPTA_{self.section}_{self.name}".upper(), *self.about.env)

    @property
    def expected(self) -> str:
        """What a value must be, as the end of a sentence."""
        return expected(self)

    def shown(self, value: object) -> str:
        """The value as text for people: secrets never, URLs without their password."""
        if self.about.hidden and not value:
            return "(not set)"
        if self.about.hidden == "all":
            return "(set, not shown)"
        if self.about.hidden == "password":
            return _without_password(str(value))
        return text_of(value)


_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TRUE: Final = {"true", "1", "yes", "on"}
_FALSE: Final = {"false", "0", "no", "off"}
_SCHEMES: Final = {"database": ("postgres", "postgresql", "sqlite"), "bus": ("redis", "rediss", "unix")}


def duration_seconds(text: str) -> int:
    """Seconds in `<n>` or `<n>s|m|h|d|w` (docs/sync.md, environment).

    Raises:
        ValueError: the text has another form.
    """
    match = re.fullmatch(r"([0-9]{1,12})([smhdw]?)", text.strip())
    if match is None:
        raise ValueError("expected seconds, or a number with one of s, m, h, d, w, like 7d")
    return int(match[1]) * _UNITS[match[2]]


def convert(spec: Spec, value: object) -> object:
    """The value in the field's own type. Raises ValueError with what was expected."""
    result = _parse_json(spec, value) if spec.about.form == "json" else _parse(spec, value)
    if isinstance(result, (int, float)) and not isinstance(result, bool):
        low, high = spec.about.minimum, spec.about.maximum
        if not (low is None or result >= low) or not (high is None or result <= high):
            raise ValueError(f"expected {spec.expected}")
    if spec.about.form == "rate":
        Rate.parse(cast(str, result))
    elif spec.about.form in _SCHEMES and result and urlsplit(cast(str, result)).scheme not in _SCHEMES[spec.about.form]:
        raise ValueError(f"expected {spec.expected}")
    return result


def _parse(spec: Spec, value: object) -> object:
    wrong = ValueError(f"expected {spec.expected}")
    kind = spec.type
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise wrong
        return value
    if kind is bool:
        return _parse_flag(value, wrong)
    if kind in (int, float):
        return _parse_number(spec, value, wrong)
    if get_origin(kind) is tuple:
        return _parse_list(value, wrong)
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise wrong
    if kind is str:
        return str(value)
    if not str(value):
        if kind == (Path | None):
            return None
        raise wrong
    return Path(value)


def _parse_json(spec: Spec, value: object) -> str:
    wrong = ValueError(f"expected {spec.expected}")
    if isinstance(value, dict):
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):  # a date, or a number that JSON has not
            raise wrong from None
    if not isinstance(value, str):
        raise wrong
    if value.strip():
        try:
            parsed = json.loads(value)
        except ValueError:
            raise wrong from None
        if not isinstance(parsed, dict):
            raise wrong
    return value.strip()


def _parse_flag(value: object, wrong: ValueError) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in _TRUE | _FALSE:
        raise wrong
    return text in _TRUE


def _parse_number(spec: Spec, value: object, wrong: ValueError) -> int | float:
    if isinstance(value, str):
        if spec.name.endswith("_seconds") and re.fullmatch(r"\s*[0-9]+[smhdw]\s*", value):
            return spec.type(duration_seconds(value))
        # Python's int() and float() take more than a person would write on purpose: "1_0", "nan".
        form = r"\s*[0-9]{1,18}\s*" if spec.type is int else r"\s*[0-9]{1,18}(\.[0-9]{1,9})?\s*"
        if re.fullmatch(form, value, re.ASCII) is None:
            raise wrong
        return spec.type(value)
    if isinstance(value, bool) or not isinstance(value, int if spec.type is int else (int, float)):
        raise wrong
    return spec.type(value)


def _parse_list(value: object, wrong: ValueError) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise wrong
    items = list(cast("list[object]", parts))
    texts = tuple(item.strip() for item in items if isinstance(item, str) and item.strip())
    if not texts or not all(isinstance(item, str) for item in items):
        raise wrong
    return texts


def expected(spec: Spec) -> str:
    kind, about = spec.type, spec.about
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if about.form == "rate":
        return "a rate like 600/60:200 (count, seconds, burst)"
    if about.form == "json":
        return "a JSON object, or a table of the settings file"
    if about.form:
        return "a URL that starts with " + " or ".join(f"{scheme}://" for scheme in _SCHEMES[about.form])
    if kind is bool:
        return "true or false"
    if get_origin(kind) is tuple:
        return "a list of texts, separated by commas"
    if kind not in (int, float):
        return "a text" if kind is str else "a path"
    noun = "a whole number" if kind is int else "a number"
    if spec.name.endswith("_seconds"):
        noun += " of seconds, or one with s, m, h, d or w,"
    match about.minimum, about.maximum:
        case None, None:
            return noun.rstrip(",")
        case low, None:
            return f"{noun} of at least {text_of(low)}"
        case low, high:
            return f"{noun} from {text_of(low)} to {text_of(high)}"


def text_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(cast("tuple[str, ...]", value))
    if value is None or value == "":
        return "(not set)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, userinfo = head.partition("://")
    return f"{scheme}://{userinfo.partition(':')[0]}:***@{tail}" if ":" in userinfo else url
