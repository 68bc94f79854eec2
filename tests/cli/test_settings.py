"""`hapta settings`: what is in force and where it comes from."""

from __future__ import annotations

from tests.cli.conftest import Command


def test_each_setting_is_shown_with_its_origin(hapta: Command) -> None:
    lines = hapta("settings", "--data", "d", env={"PORT": "4000"}).stdout.splitlines()
    shown = {line.split()[0]: line for line in lines}
    assert shown["server.port"].endswith("4000  (PORT)")
    assert shown["data.dir"].endswith("d  (option --data)") or shown["data.dir"].endswith("d  (option --dir)")
    assert shown["server.host"].endswith("127.0.0.1  (default)")


def test_secrets_are_not_shown(hapta: Command) -> None:
    secret = "kG7pQ2vXw9ZtR4mN8bYc3LfHs6JdA1eU"
    shown = hapta("settings", env={"JWT_SECRET": secret, "DATABASE_URL": "postgresql://me:hunter2@h/d"}).stdout
    assert secret not in shown
    assert "hunter2" not in shown
    assert "me:***@h/d" in shown
