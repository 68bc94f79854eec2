"""What is limited, and to what: the built-in classes, the owner's own ones over them, and which of them a call falls under.

Of `posts:create`, `*:create`, `create` and `default` the first that the owner wrote counts (contract gateway, B.4). Read once at
start; nothing here counts anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast, get_args

import msgspec

from hapta.gateway.models import LimitName
from hapta.kit.ratelimit import Rate

By = Literal["ip", "identity", "session", "ip+identity"]
Mode = Literal["reject", "queue"]

CLASSES: tuple[LimitName, ...] = get_args(LimitName)
GUARDED: frozenset[LimitName] = frozenset({"auth", "authRefresh", "mail", "fileToken", "upload", "admin"})
"""Classes whose built-in limits hold back guessing and mail bombs: the owner's `default` says nothing of them."""
ANY = "*"

_Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
_Most = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400_000)]


class LimitsInvalid(ValueError):
    """The setting `gateway.limits` cannot be used; the text says which entry and why."""


class LimitSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One limit (contract gateway, B.4)."""

    limit: _Count
    """Calls in the window; as many may come at once (GCRA)."""
    every: _Milliseconds = 1000
    """The window in milliseconds."""
    max_uses: _Most = 0
    """Calls in the window, refused ones included, beyond which the caller is cut off; 0: never."""
    mode: Mode = "reject"
    by: tuple[By, ...] = ("ip", "identity")
    """Whose budgets they draw on; all must have enough."""
    penalty: Annotated[float, msgspec.Meta(gt=0, le=7 * 86_400)] = 60.0
    """How long a cut-off lasts, in seconds."""
    max_waiting: _Count = 32
    """In mode `queue`: how many calls of one caller may wait."""
    max_wait: _Milliseconds = 5000
    """In mode `queue`: how long one may wait, in milliseconds."""

    @property
    def rate(self) -> Rate:
        return Rate(self.limit, self.every / 1000, self.limit)

    @property
    def uses_rate(self) -> Rate | None:
        """What cuts a caller off when it is passed."""
        return Rate(self.max_uses, self.every / 1000, self.max_uses) if self.max_uses else None

    @property
    def queue_rate(self) -> Rate:
        """The rate with those who may wait on top: whoever is beyond `rate` but within this waits for his turn."""
        rate = self.rate
        room = min(self.max_waiting, int(self.max_wait / 1000 / rate.interval_seconds + 1e-6))
        return Rate(rate.limit, rate.period_seconds, rate.burst + room)


def _both(identity: int, ip: int, every: int) -> tuple[LimitSpec, ...]:
    return (LimitSpec(limit=identity, every=every, by=("identity",)), LimitSpec(limit=ip, every=every, by=("ip",)))


BUILT_IN: Mapping[LimitName, tuple[LimitSpec, ...]] = MappingProxyType(
    {
        "default": _both(600, 3000, 10_000),
        "list": _both(600, 3000, 10_000),
        "view": _both(600, 3000, 10_000),
        "create": _both(120, 600, 10_000),
        "update": _both(120, 600, 10_000),
        "delete": _both(120, 600, 10_000),
        "auth": _both(10, 20, 60_000),
        "authRefresh": _both(60, 300, 60_000),
        "mail": _both(5, 10, 60_000),
        "subscribe": _both(120, 600, 10_000),
        "connect": _both(300, 600, 60_000),
        "file": _both(1200, 6000, 10_000),
        "fileToken": _both(120, 600, 60_000),
        "upload": _both(60, 300, 60_000),
        "batch": _both(60, 300, 10_000),
        "admin": (LimitSpec(limit=60, every=60_000, by=("ip",)),),
    }
)
"""Wide enough for every app of the SDKs, narrow for what can be guessed or mailed."""

Specs = tuple[LimitSpec, ...]
NONE: Specs = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a call falls under."""

    specs: Specs
    per_collection: bool
    """Whether each collection has budgets of its own."""


class Book:
    """All limits by class and collection.

    Args:
        own: the owner's, by `class` or `collection:class`; names of collections in lower case.
    """

    def __init__(self, own: Mapping[str, Specs] = MappingProxyType({})) -> None:
        self.own = dict(own)

    def choose(self, name: LimitName, collection: tuple[str, str] | None) -> Chosen:
        """The limits of a class for one collection, given by its id and name; None: for no collection."""
        own = self.own
        if collection is not None:
            for written in (collection[0], collection[1].casefold(), ANY):
                specs = own.get(f"{written}:{name}")
                if specs is not None:
                    return Chosen(specs, True)
        specs = own.get(name)
        if specs is None and name not in GUARDED:
            specs = own.get("default")
        return Chosen(BUILT_IN[name] if specs is None else specs, False)

    def has_collections(self, name: LimitName) -> bool:
        """Whether any collection has limits of its own in this class."""
        ending = f":{name}"
        return any(written.endswith(ending) for written in self.own)


def parse(text: str) -> Book:
    """Reads the setting `gateway.limits`.

    Raises:
        LimitsInvalid: a class that there is not, or a limit that cannot be meant.
    """
    if not text.strip():
        return Book()
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise LimitsInvalid(f"gateway.limits: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise LimitsInvalid("gateway.limits: expected an object of limits by class")
    own: dict[str, Specs] = {}
    for written, value in cast("dict[str, Any]", given).items():
        collection, colon, name = written.rpartition(":")
        if name not in CLASSES or (colon and not collection):
            raise LimitsInvalid(
                f"gateway.limits: {written!r} is no class; write one of {', '.join(CLASSES)}, or collection:class"
            )
        specs = _specs(written, value)
        own[f"{collection.casefold()}{colon}{name}"] = specs
        own.setdefault(written, specs)  # ids of collections keep their case
    return Book(own)


def _specs(written: str, value: object) -> Specs:
    if value is None:
        return NONE
    entries: list[object] = cast("list[object]", value) if isinstance(value, list) else [value]
    try:
        specs = tuple(msgspec.convert(entry, LimitSpec) for entry in entries)
    except msgspec.ValidationError as error:
        raise LimitsInvalid(f"gateway.limits: {written}: {error}") from None
    if not all(spec.by for spec in specs):
        raise LimitsInvalid(f"gateway.limits: {written}: `by` must name somebody")
    return specs
