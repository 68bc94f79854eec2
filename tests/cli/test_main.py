"""Finding and running a command: what is loaded, how errors are told, which status a command ends with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hapta as package
from hapta.cli.main import COMMANDS, SERVER_PACKAGES
from tests.cli.conftest import Command, clean_environment

WITHOUT_SERVER = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(SERVER_PACKAGES)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from hapta.__main__ import main
sys.argv = ["hapta", *sys.argv[1:]]
main()
"""


def without_server(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as on a machine where only the base of the package is installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_SERVER, *words],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_the_packages(hapta: Command) -> None:
    assert hapta("--version").stdout.strip() == package.__version__


def test_help_lists_every_command_with_its_line(hapta: Command) -> None:
    listed = hapta("--help").stdout
    for command in COMMANDS:
        assert command.name in listed
        assert command.help.partition(",")[0] in listed  # a long line is cut short


def test_help_loads_no_command_and_nothing_of_the_server(folder: Path) -> None:
    code = "import sys; from hapta.cli.main import build; build(['--help']); print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean_environment(), capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "typer" in loaded
    assert not loaded & {*SERVER_PACKAGES, "httpx", "cryptography", *(command.module for command in COMMANDS)}


def test_an_unknown_command_is_refused_with_status_2(hapta: Command) -> None:
    assert "no-such-command" in hapta("no-such-command", status=2).stderr


def test_bad_settings_end_any_command_with_status_2_and_their_names(hapta: Command) -> None:
    done = hapta("migrate", status=2, env={"PORT": "http", "HAPTA_TYPO": "1"})
    assert "server.port" in done.stderr
    assert "HAPTA_TYPO" in done.stderr


def test_without_the_servers_packages_a_server_command_says_what_to_install(folder: Path) -> None:
    done = without_server(folder, "migrate")
    assert done.returncode == 2
    assert "pip install 'hapta[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_servers_packages_help_and_the_client_work(folder: Path) -> None:
    for words in (["--help"], ["vault", "--help"], ["settings"], ["serve", "--help"]):
        done = without_server(folder, *words)
        assert done.returncode == 0, done.stderr


def test_a_reader_that_has_enough_is_no_error_to_complain_of(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "hapta", "settings", "--markdown"],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
