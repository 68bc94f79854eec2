"""Commands as people run them: a process of its own, in an empty folder, with an environment that says nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def clean_environment(**further: str) -> dict[str, str]:
    """The environment of a fresh login: none of the names that settings are read from."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **further}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working folder of the commands."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def hapta(folder: Path) -> Command:
    """Runs `hapta WORDS...` to its end; `status` is what it must end with, `env` adds to its environment."""

    def call(
        *words: str, status: int = 0, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = servers.hapta(*words, env=clean_environment(**(env or {})), cwd=folder, given=stdin)
        assert done.returncode == status, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return call
