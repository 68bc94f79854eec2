"""The public face: deliberate names, the documented example, and nothing of the server needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import hapta.client
from tests.servers import REPOSITORY, HaptaServer

IMPORT = """
    import sys
    from importlib.abc import MetaPathFinder

    FORBIDDEN = set(sys.argv[1].split(","))

    class Refuse(MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in FORBIDDEN or ".".join(name.split(".")[:2]) in FORBIDDEN:
                raise ModuleNotFoundError(f"{name} is not for clients", name=name)

    sys.meta_path.insert(0, Refuse())
    import hapta.client
    import hapta.cli.vault
    from hapta.client import *
    print(sorted(name for name in sys.modules if name.startswith("hapta.")))
"""
SERVER = (
    "uvicorn,starlette,asyncpg,apsw,redis,structlog,prometheus_client,joserfc,argon2,bcrypt,uvloop,httptools,"
    "watchfiles,hapta.db,hapta.http,hapta.bus,hapta.identity,hapta.sync,hapta.settings"
)


def test_the_client_and_its_command_import_without_the_servers_packages() -> None:
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IMPORT), SERVER],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert child.returncode == 0, child.stderr
    assert "'hapta.client.vault'" in child.stdout


def test_every_public_name_exists_and_is_documented() -> None:
    for name in hapta.client.__all__:
        assert (getattr(hapta.client, name).__doc__ or "").strip(), name
    assert sorted(hapta.client.__all__) == hapta.client.__all__


def test_the_example_in_the_documentation_runs(new_hapta: Callable[..., HaptaServer], tmp_path: Path) -> None:
    server = new_hapta()
    server.start()
    page = (REPOSITORY / "docs" / "client.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    child = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:3000", server.url)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "{'title': 'Hello'}\n"
