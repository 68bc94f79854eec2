"""Who may import whom inside a feature, and from outside of it. The rules between parts are import-linter's (pyproject.toml).

A failure names the line and says the reason: what is only written down decays.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FEATURES = ("identity", "oauth", "gateway", "sync", "relay", "files")
PLUMBING = ("http", "db", "bus", "blobs", "mail")

PRIVATE = {
    "store": "a feature's SQL is its own: ask its service, or its tables can never change",
    "schemas": "wire types are a promise to clients, made by one feature: use its models",
}
"""Modules of a feature that nobody outside of it imports."""

INSIDE = {
    "routes": ({"store"}, "a handler decodes, calls and encodes: what it needs from the database, its service does"),
    "service": ({"routes", "schemas"}, "a service knows no HTTP: a command, a job and a test call it the same way"),
    "store": ({"routes", "schemas", "service"}, "a store is SQL and nothing but SQL; nothing calls back up"),
    "models": ({"routes", "schemas", "service", "store"}, "models are values: they need nobody"),
    "errors": ({"routes", "schemas", "service", "store"}, "errors are named by everybody, so they need nobody"),
    "schemas": ({"routes", "service", "store"}, "wire types are values: they need nobody"),
}
"""What a module of a feature does not import from its own feature, with the reason."""

OUTSIDE = {
    "store": (("hapta.http", "hapta.bus", "hapta.mail"), "a store is SQL and nothing but SQL"),
    "models": (("hapta.http", "hapta.db", "hapta.bus"), "models are values: they need nobody"),
    "service": (("hapta.http", "starlette", "uvicorn"), "a service knows no HTTP"),
    "routes": (("hapta.db",), "a handler reaches the database through its service"),
}
"""What a module of a feature does not import from elsewhere, with the reason."""


PARTS_OF = {
    "records": "store",
    "store_postgres": "store",
    "inspection": "store",
    "cleanup": "store",
    "session_store": "store",
    "person_store": "store",
    "root_store": "store",
    "log": "store",
}
"""Files that hold a share of what another module stands for, where one file would be too long."""


class Import(NamedTuple):
    """One import as it stands in a file."""

    file: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


@cache
def imports_of(file: Path) -> tuple[Import, ...]:
    return tuple(_imports_of(file))


def _imports_of(file: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{file.relative_to(ROOT)}:{node.lineno}: imports are absolute, so that they can be found"
            )
            assert node.module is not None
            yield Import(file, node.lineno, node.module)
            for alias in node.names:  # `from hapta.sync import store` imports hapta.sync.store
                yield Import(file, node.lineno, f"{node.module}.{alias.name}")


def sources() -> list[Path]:
    return sorted((ROOT / "hapta").rglob("*.py"))


def feature_of(file: Path) -> str | None:
    parts = file.relative_to(ROOT / "hapta").parts
    return parts[0] if parts[0] in FEATURES else None


def module_of(file: Path) -> str:
    """The noun a file stands for inside its feature: `sync/service/push.py` belongs to `service`."""
    parts = file.relative_to(ROOT / "hapta").with_suffix("").parts
    named = [PARTS_OF.get(part, part) for part in parts[1:]]
    return next((part for part in named if part in INSIDE), parts[-1])


def is_below(target: str, package: str) -> bool:
    return target == package or target.startswith(package + ".")


def test_there_is_something_to_check() -> None:
    """A moved folder would make every rule below pass."""
    assert {"identity", "sync"} <= {feature_of(file) for file in sources()}
    assert any(module_of(file) == "store" for file in sources())


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_a_features_store_and_schemas_are_private_to_it(name: str) -> None:
    wrong = [
        f"{found}: {PRIVATE[name]}"
        for file in sources()
        for feature in FEATURES
        if feature_of(file) != feature
        for found in imports_of(file)
        for part in (name, *(part for part, whole in PARTS_OF.items() if whole == name))
        if is_below(found.target, f"hapta.{feature}.{part}")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_a_request_is_read_downwards_inside_a_feature(name: str) -> None:
    forbidden, reason = INSIDE[name]
    wrong = [
        f"{found}: {reason}"
        for file in sources()
        if (feature := feature_of(file)) is not None and module_of(file) == name
        for found in imports_of(file)
        for other in forbidden
        if is_below(found.target, f"hapta.{feature}.{other}")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_each_part_of_a_feature_keeps_to_its_level(name: str) -> None:
    forbidden, reason = OUTSIDE[name]
    wrong = [
        f"{found}: {reason}"
        for file in sources()
        if feature_of(file) is not None and module_of(file) == name
        for found in imports_of(file)
        for other in forbidden
        if is_below(found.target, other)
    ]
    assert not wrong, "\n".join(wrong)


def test_sql_stands_in_stores_and_in_the_database_layer_only() -> None:
    """A statement elsewhere is one that nobody finds when a table changes."""
    wrong: list[str] = []
    for file in sources():
        if feature_of(file) is None or module_of(file) == "store":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.split(None, 2)
                if words and words[0] in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH") and len(words) > 2:
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: SQL outside of a store: {node.value[:40]!r}")
    assert not wrong, "\n".join(wrong)


def test_plumbing_knows_no_feature() -> None:
    """import-linter forbids the imports; a name in a string (a channel, a table) would be the same knowledge."""
    wrong = [
        f"{found}: plumbing knows no feature; app.py hands it what it needs"
        for part in PLUMBING
        for file in sorted((ROOT / "hapta" / part).rglob("*.py"))
        for found in imports_of(file)
        for feature in FEATURES
        if is_below(found.target, f"hapta.{feature}")
    ]
    assert not wrong, "\n".join(wrong)
