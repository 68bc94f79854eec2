"""`hapta secret` and what `hapta doctor` says of it: the secret of a development server changes, and no token of it is lost."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hapta.settings import development_secret, load, previous_secret_path, secret_path, with_secret
from tests.cli.conftest import Command

DATA = Path("hapta_data")
STRONG, OTHER = "one secret of thirty-two bytes or more", "another secret of thirty-two bytes or more"


@pytest.fixture
def data(hapta: Command, folder: Path) -> Path:
    """The data folder of a development server with an account."""
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin="correct horse battery staple\n")
    return folder / DATA


def test_a_development_server_gets_the_next_secret_and_keeps_the_one_before_it(hapta: Command, data: Path) -> None:
    first, _ = development_secret(data)
    hapta("secret", "rotate")
    second, _ = development_secret(data)
    assert second != first
    own = with_secret(load({"HAPTA_DATA_DIR": str(data)}, cwd=data))[0].identity
    assert (own.jwt_secret, own.jwt_secret_previous) == (second, first)
    for path in (secret_path(data), previous_secret_path(data)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "last replacement is not over" in hapta("secret", "rotate", status=1).stderr
    assert development_secret(data)[0] == second


def test_the_previous_secret_goes_when_nothing_needs_it_any_more(hapta: Command, data: Path) -> None:
    assert "no previous secret" in hapta("secret", "forget", status=1).stderr
    assert "it opens what is stored" in hapta("doctor").stdout
    hapta("secret", "rotate")
    assert "still sealed under the previous one" in hapta("doctor").stdout
    assert "start the server once with both" in hapta("secret", "forget", "--now", status=1).stderr
    hapta("audit", "verify")  # a start: what is stored is sealed anew
    assert "the previous one may go after" in hapta("doctor").stdout
    assert "may be alive until" in hapta("secret", "forget", status=1).stderr
    assert previous_secret_path(data).is_file()
    hapta("secret", "forget", "--now")
    assert not previous_secret_path(data).exists()
    hapta("audit", "verify")
    assert "it opens what is stored" in hapta("doctor").stdout


def test_a_secret_that_does_not_open_the_database_is_told_by_every_command(hapta: Command, data: Path) -> None:
    secret_path(data).write_text(STRONG)
    for words, status in ((("doctor",), 1), (("audit", "verify"), 2), (("keys", "list"), 2)):
        said = hapta(*words, status=status)
        assert "sealed under another secret" in said.stdout + said.stderr
        assert STRONG not in said.stdout + said.stderr


def test_where_the_secret_is_a_setting_the_steps_are_printed(hapta: Command, data: Path) -> None:
    environ = {"JWT_SECRET": STRONG}
    said = hapta("secret", "rotate", env=environ).stdout
    assert said.count("JWT_SECRET_PREVIOUS") == 3
    assert STRONG not in said
    assert "your own settings" in hapta("secret", "forget", status=1, env=environ).stderr


def test_a_previous_secret_that_cannot_be_one_is_refused(hapta: Command) -> None:
    for previous in (STRONG, "tiny"):
        environ = {"JWT_SECRET": STRONG, "JWT_SECRET_PREVIOUS": previous, "NODE_ENV": "production"}
        said = hapta("settings", status=2, env=environ).stderr
        assert "identity.jwt_secret_previous" in said
    alone = hapta("settings", status=2, env={"JWT_SECRET_PREVIOUS": OTHER})
    assert "it goes with identity.jwt_secret" in alone.stderr
    assert OTHER not in hapta("settings", env={"JWT_SECRET": STRONG, "JWT_SECRET_PREVIOUS": OTHER}).stdout


def test_a_resource_servers_database_alone_is_refused_by_what_touches_sessions(hapta: Command, folder: Path) -> None:
    both = {"HAPTA_DATABASE_AUTH_URL": f"sqlite:///{folder / 'sessions.db'}"}
    words = ("user", "add", "ada@example.org", "--password-stdin")
    hapta(*words, stdin="correct horse battery staple\n", env=both)
    refused = hapta("user", "disable", "ada@example.org", status=1)
    assert "Set database.auth_url" in refused.stderr
    hapta("user", "disable", "ada@example.org", env=both)
