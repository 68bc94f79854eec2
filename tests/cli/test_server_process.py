"""The process that serves is not the one that read the command line, although it has its number."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.servers import HaptaServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there a program cannot become another one")


def test_the_server_carries_nothing_that_only_a_command_line_needs(
    new_hapta: Callable[..., HaptaServer],
) -> None:
    server = new_hapta(forked=False)
    server.start()
    process = psutil.Process(server.pid)
    assert "hapta.cli.server_process" in process.cmdline()
    mapped = {Path(entry.path).name for entry in process.memory_maps()}
    assert any(name.startswith("loop.") for name in mapped)  # uvloop: so this would see pydantic
    assert not any("pydantic" in name for name in mapped)


def test_a_file_in_the_working_folder_is_no_module_of_the_server(
    new_hapta: Callable[..., HaptaServer], tmp_path: Path
) -> None:
    for name in ("secrets.py", "hapta.py", "uvicorn.py"):
        (tmp_path / name).write_text("raise SystemExit('this must not run')\n")
    server = new_hapta(cwd=tmp_path, env={"PYTHONSAFEPATH": "1"}, forked=False)
    server.start()
    assert httpx.get(server.url + "/healthz").status_code == 200
    assert server.stop() == 0
