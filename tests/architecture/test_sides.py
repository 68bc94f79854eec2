"""No statement names tables of both sides: accounts and data on one, sessions and OAuth on the other (contract identity, section 1).

The two may live in two databases; a join, a key or a transaction across them would hold only as long as they do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIGRATIONS = sorted((ROOT / "hapta/db/migrations").glob("*.sql"))
_CREATED = re.compile(r"create\s+table\s+(?:if\s+not\s+exists\s+)?(\w+)", re.IGNORECASE)
_WORDS = re.compile(r"\w+")
_COMMENT = re.compile(r"--[^\n]*")


def tables() -> frozenset[str]:
    return frozenset(name for file in MIGRATIONS for name in _CREATED.findall(file.read_text(encoding="utf-8")))


def side_of(table: str) -> str | None:
    """Whose a table is; None for what each database has for itself, as the list of its migrations."""
    if table.startswith("auth_"):
        return "auth"
    return "resource" if table.startswith(("res_", "sync_")) else None


@cache
def texts() -> tuple[tuple[str, str], ...]:
    return tuple(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    """Every text in the code that could be a statement or a part of one, and every statement of the migrations."""
    for file in sorted((ROOT / "hapta").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        documentation = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
                yield f"{file.relative_to(ROOT)}:{node.lineno}", " ".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value
    for file in MIGRATIONS:
        for number, statement in enumerate(_COMMENT.sub("", file.read_text(encoding="utf-8")).split(";"), 1):
            yield f"{file.relative_to(ROOT)}, statement {number}", statement


def named(text: str, known: frozenset[str]) -> set[str]:
    return {word for word in _WORDS.findall(text) if word in known}


def test_every_table_belongs_to_one_side() -> None:
    known = tables()
    assert len(known) > 30
    assert {name for name in known if side_of(name) is None} <= {"schema_migrations"}


def test_no_statement_names_tables_of_both_sides() -> None:
    known, seen = tables(), set[str]()
    for place, text in texts():
        found = named(text, known)
        seen |= found
        assert len({side_of(name) for name in found} - {None}) < 2, f"{place} names {sorted(found)}"
    assert seen == known, f"no statement uses {sorted(known - seen)}"


def test_no_module_holds_statements_of_both_sides() -> None:
    known = tables()
    sides: dict[str, set[str | None]] = {}
    for place, text in texts():
        if ".sql" not in place:
            sides.setdefault(place.partition(":")[0], set()).update(side_of(name) for name in named(text, known))
    wrong = [place for place, found in sides.items() if {"auth", "resource"} <= found]
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["select 1 from auth_sessions join res_people using (user_id)", "auth_codes, sync_logs"]
)
def test_a_text_that_names_both_would_be_noticed(text: str) -> None:
    known = frozenset({"auth_sessions", "res_people", "auth_codes", "sync_logs"})
    assert {side_of(name) for name in named(text, known)} == {"auth", "resource"}
