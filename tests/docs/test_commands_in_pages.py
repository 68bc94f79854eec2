"""Commands that the pages tell people to type really run.

Convention: a fenced block opened with ` ```sh run ` is executed line by line by `bash -euo pipefail`, all such blocks of one page in
order in one empty folder, with the `hapta` under test first in PATH. `$PORT` is a free port; `$REPOSITORY` is the clone. A line
`# expect: TEXT` wants TEXT in what the lines before it printed. A block opened with ` ```python save NAME ` lies in that folder as the
file NAME, so a page can show a program and then run it with `python NAME`. Plain `sh` and `python` blocks are for reading only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python save (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECONDS = 480


def script_of(page: Path) -> str:
    return "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


def programs_of(page: Path) -> dict[str, str]:
    return dict(PROGRAM.findall(page.read_text(encoding="utf-8")))


def expectations(script: str) -> list[str]:
    return re.findall(r"^# expect: (.+)$", script, re.MULTILINE)


@pytest.fixture
def hapta(tmp_path: Path) -> Path:
    """A folder with a `hapta` and a `python` that run the code of this clone, also where it is not installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, arguments in (("hapta", " -m hapta"), ("python", "")):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        command.chmod(0o755)
    return folder


def run(
    script: str, folder: Path, hapta: Path, programs: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
    environ |= {
        "PATH": f"{hapta}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PORT": str(free_port()),
        "REPOSITORY": str(ROOT),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text, encoding="utf-8")
    # Whatever the page starts in the background ends with its script.
    whole = f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{script}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", whole],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.exists() and script_of(page)], ids=lambda page: page.name
)
def test_what_a_page_tells_to_type_works(page: Path, tmp_path: Path, hapta: Path) -> None:
    script = script_of(page)
    done = run(script, tmp_path / "empty", hapta, programs_of(page))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for text in expectations(script):
        assert text in done.stdout + done.stderr


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.exists() and programs_of(page)], ids=lambda page: page.name
)
def test_each_program_of_a_page_is_run_by_it(page: Path) -> None:
    script = script_of(page)
    assert not [name for name in programs_of(page) if f"python {name}" not in script]


def test_a_page_whose_command_fails_would_be_noticed(tmp_path: Path, hapta: Path) -> None:
    done = run("hapta --version\nhapta no-such-command", tmp_path / "empty", hapta)
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
