"""`hapta vault` and `hapta demo`, run as a person would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import servers
from tests.servers import REPOSITORY, HaptaServer

PASSWORD = "correct horse battery staple"


class Person:
    """Somebody at a shell, with a config folder of their own."""

    def __init__(self, home: Path, server: HaptaServer) -> None:
        self.config, self.server = home / "config", server

    def run(self, *words: str, password: str | None = None, status: int = 0) -> str:
        """Runs `hapta vault ...`; gives both outputs."""
        child = servers.hapta(
            "vault",
            *words,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY),
                "XDG_CONFIG_HOME": str(self.config),
                "COLUMNS": "200",
            },
            cwd=REPOSITORY,
            given=password or "",
        )
        assert child.returncode == status, child.stdout + child.stderr
        assert "Traceback" not in child.stderr
        return child.stdout + child.stderr

    def login(self, *words: str) -> None:
        address = ("--url", self.server.url, "--email", "ada@example.org")
        self.run("login", *address, "--password-stdin", *words, password=PASSWORD + "\n")


@pytest.fixture
def server(new_hapta: Callable[..., HaptaServer]) -> HaptaServer:
    started = new_hapta()
    started.start()
    return started


def test_a_folder_goes_from_one_person_to_their_other_machine(server: HaptaServer, tmp_path: Path) -> None:
    desk, lap = Person(tmp_path / "desk", server), Person(tmp_path / "lap", server)
    desk.login("--register")
    vault_id = desk.run("create", "notes").strip()
    folder, other = tmp_path / "notes", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"1")
    report = json.loads(desk.run("sync", str(folder), "--json"))
    assert report["uploaded"] == ["a.txt"]
    lap.login()
    assert json.loads(lap.run("list", "--json"))[0]["name"] == "notes"
    assert "notes" in lap.run("list")
    lap.run("sync", str(other), "--vault", "notes")
    assert (other / "a.txt").read_bytes() == b"1"
    (other / "a.txt").unlink()
    assert "1 deleted there" in lap.run("sync", str(other))
    assert "1 deleted here" in desk.run("sync", str(folder))
    status = json.loads(desk.run("status", "--json"))
    assert status["vaults"][0]["vault_id"] == vault_id
    assert status["vaults"][0]["outbox"] == 0
    assert "notes" in desk.run("status")


def test_offline_changes_wait_and_go_out_later(server: HaptaServer, tmp_path: Path) -> None:
    desk = Person(tmp_path, server)
    desk.login("--register")
    desk.run("create", "notes")
    folder = tmp_path / "notes"
    folder.mkdir()
    desk.run("sync", str(folder))
    server.kill()
    (folder / "a.txt").write_bytes(b"1")
    assert "2 changes are kept here" in desk.run("sync", str(folder), status=4)
    assert json.loads(desk.run("status", "--json"))["vaults"][0]["outbox"] == 2
    server.start()
    desk.run("sync", str(folder))
    assert json.loads(desk.run("status", "--json"))["vaults"][0]["outbox"] == 0


def test_a_password_is_changed_and_the_vault_still_opens(server: HaptaServer, tmp_path: Path) -> None:
    desk = Person(tmp_path, server)
    desk.login("--register")
    desk.run("create", "notes")
    desk.run("password", "--password-stdin", password=f"{PASSWORD}\na new password\n")
    desk.run("sync", str(tmp_path / "notes"))
    lap = Person(tmp_path / "lap", server)
    words = ("login", "--url", server.url, "--email", "ada@example.org", "--password-stdin")
    lap.run(*words, password=PASSWORD + "\n", status=3)
    lap.run(*words, password="a new password\n")
    assert "notes" in lap.run("list")


def test_everything_is_exported_and_imported_without_doubles(server: HaptaServer, tmp_path: Path) -> None:
    desk = Person(tmp_path, server)
    desk.login("--register")
    desk.run("create", "notes")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_bytes(b"1")
    desk.run("sync", str(tmp_path / "notes"))
    file = tmp_path / "export.ndjson"
    desk.run("export", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert desk.run("import", str(file)).startswith("0 logs are new here")


def test_keys_are_kept_for_their_owner_and_passwords_not_at_all(server: HaptaServer, tmp_path: Path) -> None:
    desk = Person(tmp_path, server)
    desk.login("--register")
    desk.run("create", "notes")
    for path in desk.config.rglob("*"):
        if "hapta" in path.parts:
            assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("words", "status"),
    [(("list",), 3), (("sync", "."), 3), (("login", "--url", "http://127.0.0.1:1", "--email", "a@b"), 2)],
)
def test_what_cannot_work_is_said_in_one_line(
    server: HaptaServer, tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    said = Person(tmp_path, server).run(*words, status=status)
    assert said.startswith("hapta: ")
    assert said.count("\n") == 1


def test_the_demo_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "hapta", "demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path), "COLUMNS": "200"},
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert "identical" in child.stdout
    assert "X-Hapta-Cache: HIT" in child.stdout
    assert "PocketBase ended with it" in child.stdout
    assert list(tmp_path.iterdir()) == []
    assert not [words for words in commands_running() if str(tmp_path) in words]


def commands_running() -> list[str]:
    """Every process as it was called."""
    return [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]


def test_the_demo_refuses_a_folder_that_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    child = subprocess.run(
        [sys.executable, "-m", "hapta", "demo", "--folder", str(tmp_path / "small")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path), "COLUMNS": "200"},
    )
    assert child.returncode == 1
    assert "too few files" in child.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
