"""Reads a file of rules. Either all of it holds and comes back as a `RuleSet`, or what is wrong comes back with line numbers.

Beside what Python itself finds, two slips are refused that would open what looks shut: a verdict that is thrown away because its `return`
is missing, and a file without any rule, which is what an editor leaves for a moment while it saves.
"""

from __future__ import annotations

import ast
import contextvars
import itertools
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from hapta.gateway.rules.declare import Collected, Problem, collecting
from hapta.gateway.rules.ruleset import RuleSet
from hapta.kit.errors import HaptaError

VERDICTS = frozenset({"allow", "deny", "replace"})
_numbers = itertools.count(1)


class RulesBroken(HaptaError):
    """The file of rules cannot be used. `problems` names all that is wrong."""

    code = "rules_broken"
    message = "The rules cannot be used."

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(f"{path}: {problem}" for problem in self.problems))


def load(path: Path) -> RuleSet:
    """The rules in a file. Runs it, in a module of its own.

    Raises:
        RulesBroken: it cannot be read, does not run, or says something that cannot be done.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise RulesBroken(path, [Problem(0, f"cannot be read: {error.strerror or error}")]) from error
    try:
        tree = ast.parse(source, filename=str(path))
        code = compile(tree, str(path), "exec")
    except SyntaxError as error:
        raise RulesBroken(path, [Problem(error.lineno or 0, error.msg)]) from error
    except (ValueError, RecursionError) as error:
        raise RulesBroken(path, [Problem(0, str(error))]) from error
    module = ModuleType(f"hapta_rules_{next(_numbers)}")
    module.__file__ = str(path)
    collected = Collected(module.__name__)
    collected.problems += _thrown_away(tree)
    # Types whose annotations are texts are resolved by the name of their module.
    sys.modules[module.__name__] = module
    try:
        contextvars.copy_context().run(_execute, code, module, collected)
    except Exception as error:  # boundary: whatever the owner's file raises is what is wrong with it
        collected.problems.append(Problem(_line_in(error, path), f"{type(error).__name__}: {error}"))
    except SystemExit:
        collected.problems.append(Problem(0, "ends the program while it is loaded"))
    if not collected.problems and not collected.hooks and not collected.schemas:
        collected.problems.append(Problem(0, "holds no rule; to do without rules, unset `gateway.rules`"))
    if collected.problems:
        forget(module.__name__)
        raise RulesBroken(path, collected.problems)
    return RuleSet(tuple(collected.hooks), tuple(collected.schemas), module.__name__)


def forget(module: str) -> None:
    """Drops the module of rules that are no longer in force."""
    sys.modules.pop(module, None)


def _execute(code: object, module: ModuleType, collected: Collected) -> None:
    collecting.set(collected)
    exec(code, module.__dict__)  # type: ignore[arg-type] # noqa: S102 - the owner's own file is code, on purpose


def _line_in(error: BaseException, path: Path) -> int:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else 0) or 0


def _thrown_away(tree: ast.AST) -> Iterator[Problem]:
    """Calls of `deny()` and the like whose verdict nobody gets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = (
                called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            )
            # `text.replace(...)` is no verdict; `rules.replace(...)` may be one, but nobody could tell them apart.
            if name in VERDICTS and (isinstance(called, ast.Name) or name != "replace"):
                yield Problem(node.lineno, f"the verdict of {name}() is thrown away: write `return {name}(...)`")
