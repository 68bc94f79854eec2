"""The rules of one file, as they stand: which hooks speak about which operation. Immutable, so that a reload swaps one reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hapta.gateway.models import Action, Collection
from hapta.gateway.rules.context import Context, Phase
from hapta.gateway.rules.verdicts import Verdict

ACTIONS: tuple[Action, ...] = ("list", "view", "create", "update", "delete", "auth", "subscribe", "file")
SHOWING = frozenset[str]({"list", "view", "create", "update", "auth", "subscribe"})
"""Actions whose answers hold records. What `after("view")` hides is hidden in all of them."""

EVERYWHERE = "*"
Part = Literal["body", "query", "path"]
PARTS: tuple[Part, ...] = ("body", "query", "path")
Function = Callable[[Context], Verdict]


class Hook(NamedTuple):
    """A function of the owner, and when it is asked."""

    phase: Phase
    actions: tuple[Action, ...]
    collection: str
    """A name, which ignores case, an id, which does not, or `*`."""
    function: Function
    name: str
    line: int
    stable: bool


class SchemaRule(NamedTuple):
    """A type of the owner that a part of requests must fit."""

    collection: str
    actions: tuple[Action, ...]
    part: Part
    type: type
    line: int


@dataclass(frozen=True)
class RuleSet:
    """Rules that are in force together."""

    hooks: tuple[Hook, ...] = ()
    schemas: tuple[SchemaRule, ...] = ()
    module: str = ""
    """The name under which the module of these rules stands in `sys.modules`."""
    _found: dict[tuple[str, str, str, str], tuple[Hook, ...]] = field(
        default_factory=dict[tuple[str, str, str, str], tuple[Hook, ...]], repr=False
    )

    def find(self, phase: Phase, action: Action, collection: Collection) -> tuple[Hook, ...]:
        """The hooks that are asked, in the order of the file."""
        key = (phase, action, collection.id, collection.name)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple([hook for hook in self.hooks if _speaks(hook, phase, action, collection)])
        return found

    def showing(self) -> tuple[Hook, ...]:
        """Those that look at records wherever these are shown, of whichever collection."""
        key = ("", "", "", "")
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple(
                [hook for hook in self.hooks if hook.phase == "after" and "view" in hook.actions]
            )
        return found

    def schema(self, collection: Collection, action: Action, part: Part) -> type | None:
        """The type that a part of a request must fit; that of the collection itself before that of all of them."""
        fitting = [one for one in self.schemas if one.part == part and action in one.actions]
        own = [one.type for one in fitting if names(one.collection, collection)]
        general = [one.type for one in fitting if one.collection == EVERYWHERE]
        return next(iter([*own, *general]), None)

    def collections(self) -> set[str]:
        """What the rules name as collections."""
        return {one.collection for one in (*self.hooks, *self.schemas)} - {EVERYWHERE}


def names(given: str, collection: Collection) -> bool:
    """Whether an owner's word means this collection."""
    return given == collection.id or given.casefold() == collection.name.casefold()


def _speaks(hook: Hook, phase: Phase, action: Action, collection: Collection) -> bool:
    if hook.phase != phase or not (hook.collection == EVERYWHERE or names(hook.collection, collection)):
        return False
    return action in hook.actions or (phase == "after" and "view" in hook.actions and action in SHOWING)
