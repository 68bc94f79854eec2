"""Rules that hold for every file: sizes, docstrings, what must not be in the repository, and that importing does nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 600
CODE = ("hapta", "tests", "bench")
BUILT = {".git", ".venv", "node_modules", "__pycache__", "dist", "build", ".ruff_cache", ".pytest_cache", ".hypothesis"}


def python_files() -> list[Path]:
    return sorted(file for part in CODE for file in (ROOT / part).rglob("*.py"))


def text_files() -> Iterator[tuple[Path, str]]:
    for folder, folders, names in os.walk(ROOT):
        # What is built or installed is never looked into: it holds a hundred times as many files.
        folders[:] = sorted(set(folders) - BUILT - {"hapta_data"})
        if Path(folder) == ROOT / "hapta/http/assets":
            folders.clear()
            continue
        for file in (Path(folder, name) for name in sorted(names)):
            if not file.is_file() or file.stat().st_size > 2_000_000:
                continue
            try:
                yield file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


class Module(NamedTuple):
    """What the rules look at in one file of Python."""

    silent: bool
    """It holds something and does not say what it is for."""
    third_party: frozenset[str]


@cache
def module(file: Path) -> Module:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    return Module(bool(text.strip()) and not ast.get_docstring(tree), frozenset(_third_party(tree)))


def test_no_file_hides_a_second_noun_behind_its_length() -> None:
    long = {str(file.relative_to(ROOT)): lines for file in python_files() if (lines := _lines(file)) > MAX_LINES}
    assert not long, f"split these by their nouns: {long}"


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    assert not [str(file.relative_to(ROOT)) for file in python_files() if module(file).silent]


def test_no_path_of_one_machine_and_no_registrys_address_is_in_the_repository() -> None:
    """They work for one person only. The hashes in requirements/ say what is accepted, wherever it comes from."""
    machine = re.compile(r"(?<![\w.~$}:/-])/(?:root|home/\w+|Users/\w+|work|farm)/\w")
    registry = re.compile(r"https?://[\w.-]*(?:pypi|pythonhosted|npmjs|yarnpkg|debian)[\w.-]*/", re.IGNORECASE)
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for file, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if machine.search(line) or registry.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def modules() -> list[str]:
    found: list[str] = []
    for file in sorted((ROOT / "hapta").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


WATCHED = """
import importlib, logging, os, sys, threading

class Watched(dict):
    def __getitem__(self, key):
        note(key)
        return dict.__getitem__(self, key)
    def get(self, key, default=None):
        note(key)
        return dict.get(self, key, default)

def note(key):
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in ("os", "posixpath"):
        frame = frame.f_back
    if frame is not None and frame.f_globals.get("__name__", "").startswith("hapta"):
        seen.append(f"{frame.f_globals['__name__']} reads {key} from the environment")

seen = []
os.environ = Watched(os.environ)
os.getenv = os.environ.get
handlers = list(logging.getLogger().handlers)
opened = []
def audit(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "sqlite3.connect"):
        opened.append(event)
sys.addaudithook(audit)
for name in sys.argv[1:]:
    importlib.import_module(name)
seen += [f"{event} happens while importing" for event in opened]
if logging.getLogger().handlers != handlers:
    seen.append("importing sets logging up")
if threading.active_count() > 1:
    seen.append("importing starts threads")
print("\\n".join(seen))
"""


def test_importing_every_module_does_nothing(tmp_path: Path) -> None:
    """No environment, no connection, no folder, no thread, no logging: two servers fit into one process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *(name for name in modules() if not name.endswith("__main__"))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert list(tmp_path.iterdir()) == []


def _names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


def _third_party(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in ("hapta", "tests", "bench"):
                yield top


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_package_that_is_imported_is_declared_where_it_is_needed(project: dict[str, object]) -> None:
    """What the client imports is in the base; the rest of hapta may use the server's extra too, and tests everything."""
    base = _names_of(project["dependencies"])  # type: ignore[arg-type]
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    server, dev = base | _names_of(extras["server"]), base | _names_of(extras["server"]) | _names_of(extras["dev"])
    owners = importlib.metadata.packages_distributions()
    wrong: list[str] = []
    for file in python_files():
        parts = file.relative_to(ROOT).parts
        allowed = (
            base
            if parts[:2] == ("hapta", "client")
            else server
            if parts[0] == "hapta" and parts[1] != "testing"
            else dev
        )
        for name in module(file).third_party:
            declared = {owner.lower().replace("_", "-") for owner in owners.get(name, [name])}
            if not declared & allowed:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}, which pyproject.toml does not give it")
    assert not wrong, "\n".join(wrong)


def test_every_declared_package_is_imported_somewhere(project: dict[str, object]) -> None:
    """A dependency that nobody uses is only weight and risk."""
    tools = {"httptools", "uvloop"}  # named to uvicorn by a string
    owners = importlib.metadata.packages_distributions()
    used = {
        owner.lower().replace("_", "-")
        for file in (ROOT / "hapta").rglob("*.py")
        for name in module(file).third_party
        for owner in owners.get(name, [])
    }
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    declared = _names_of(project["dependencies"]) | _names_of(extras["server"])  # type: ignore[arg-type]
    assert declared - used - tools == set()
