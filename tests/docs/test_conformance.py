"""The table of demands and tests names tests that are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "identity-conformance.md"
DEMAND = re.compile(r"^- §\d", re.MULTILINE)
NAMED = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
LEFT_OPEN = 4
"""Lines without a test: what is not done, or done otherwise. One more is a decision, and belongs in the page."""


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_test_that_the_table_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > 300
    missing = {
        f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    }
    assert not missing


def test_every_demand_has_a_test_or_says_why_it_has_none() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if DEMAND.match(line)]
    assert len(lines) > 140
    untested = [line for line in lines if not NAMED.search(line)]
    assert len(untested) <= LEFT_OPEN, untested
