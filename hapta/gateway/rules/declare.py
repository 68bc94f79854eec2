"""How an owner's file says what its functions are: `before`, `after` and `schema`.

They note their function for whoever is loading the file at this moment; anywhere else, as in an owner's own tests, they leave it as it
is. What is wrong is noted with its line and the loading goes on, so that all of it is told at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import TypeVar, cast

import msgspec

from hapta.gateway.models import Action
from hapta.gateway.rules.context import Phase
from hapta.gateway.rules.ruleset import ACTIONS, EVERYWHERE, PARTS, Function, Hook, Part, SchemaRule

F = TypeVar("F", bound=Function)
S = TypeVar("S", bound=type)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file of rules. `line` 0: with the file as a whole."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass(slots=True)
class Collected:
    """What a file said while it was loaded."""

    module: str
    hooks: list[Hook] = field(default_factory=list[Hook])
    schemas: list[SchemaRule] = field(default_factory=list[SchemaRule])
    problems: list[Problem] = field(default_factory=list[Problem])


collecting: ContextVar[Collected | None] = ContextVar("collecting", default=None)


def before(
    actions: Action | tuple[Action, ...] | str, collection: str = EVERYWHERE, *, stable: bool = False
) -> Callable[[F], F]:
    """The function is asked before PocketBase is.

    Args:
        actions: one of `list`, `view`, `create`, `update`, `delete`, `auth`, `subscribe`, `file`, or several of them; `*` for all.
        collection: its name or id; `*` for all.
        stable: the verdict rests on nothing but identity, collection, record and query, so it may be kept with a cached answer.
    """
    return _hook("before", actions, collection, stable)


def after(
    actions: Action | tuple[Action, ...] | str, collection: str = EVERYWHERE, *, stable: bool = False
) -> Callable[[F], F]:
    """The function is asked about each record that is about to be shown.

    `after("view", ...)` looks at the collection's records wherever they appear: lists, expands, realtime events, answers of writes and
    of logins. The other actions narrow that to their own answers.

    Args: as of `before`.
    """
    return _hook("after", actions, collection, stable)


def schema(collection: str, *actions: Action, part: Part = "body") -> Callable[[S], S]:
    """The type, usually a `msgspec.Struct`, says what a part of requests must look like.

    Args:
        actions: which requests; `create` when left out.
        part: `body`; `query`, its parameters by name; or `path`, with the record's `id` where there is one.
    """

    def decorate(given: S) -> S:
        noted = collecting.get()
        if noted is None:
            return given
        line = _line_of(given, noted, inspect.currentframe())
        wanted = _actions(actions or ("create",), line, noted)
        if part not in PARTS:
            noted.problems.append(Problem(line, f"there is no part {part!r}: {', '.join(PARTS)}"))
        if not _named(collection):
            noted.problems.append(Problem(line, "the collection is named by a text"))
        try:
            msgspec.json.Decoder(given)
        except (TypeError, NameError, ValueError) as error:
            noted.problems.append(Problem(line, f"{given.__name__} cannot be used as a schema: {error}"))
        noted.schemas.append(SchemaRule(collection, wanted, part, given, line))
        return given

    return decorate


def _hook(phase: Phase, actions: Action | tuple[Action, ...] | str, collection: str, stable: bool) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        noted = collecting.get()
        if noted is None:
            return function
        line = _line_of(function, noted, inspect.currentframe())
        wanted = _actions(actions, line, noted)
        name = getattr(function, "__name__", repr(function))
        for wrong in _unfit(function, collection):
            noted.problems.append(Problem(line, f"{name} {wrong}"))
        noted.hooks.append(Hook(phase, wanted, collection, function, name, line, stable))
        return function

    return decorate


def _actions(given: object, line: int, noted: Collected) -> tuple[Action, ...]:
    if given == EVERYWHERE:
        return ACTIONS
    listed = (given,) if isinstance(given, str) else given
    if not isinstance(listed, tuple | list) or not listed:
        noted.problems.append(Problem(line, "actions are a text or a tuple of texts"))
        return ()
    words = tuple(cast("list[object]", listed))
    if unknown := [word for word in words if word not in ACTIONS]:
        noted.problems.append(Problem(line, f"there is no action {unknown[0]!r}: {', '.join(ACTIONS)}"))
    return cast("tuple[Action, ...]", words)


def _named(collection: object) -> bool:
    return isinstance(collection, str) and bool(collection)


def _unfit(function: object, collection: object) -> list[str]:
    """What keeps a function from being a hook."""
    if not callable(function):
        return ["is no function"]
    wrong: list[str] = []
    if not _named(collection):
        wrong.append("must name its collection by a text, or `*`")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        wrong.append("is asynchronous: hooks run in threads, so write `def`, and ask for what you need without `await`")
    elif inspect.isgeneratorfunction(function):
        wrong.append("yields, which is no verdict")
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        wrong.append("must take exactly one argument, the context")
    return wrong


def _line_of(given: object, noted: Collected, frame: FrameType | None) -> int:
    """Where a declaration stands. One that stands in another module is refused: that module is not read anew when it changes."""
    asking = frame.f_back if frame is not None else None
    if asking is None:
        return 0
    if asking.f_globals.get("__name__") != noted.module:
        noted.problems.append(
            Problem(
                0,
                f"{asking.f_globals.get('__name__')} declares {given!r}: hooks are declared in the file of rules itself",
            )
        )
        return 0
    code = getattr(given, "__code__", None)
    return asking.f_lineno if code is None or code.co_filename != asking.f_code.co_filename else code.co_firstlineno
