"""`hapta audit` and `hapta webhook`, as people run them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.cli.conftest import Command


def test_webhooks_are_kept_from_the_command_line_and_the_log_tells_of_it(hapta: Command, folder: Path) -> None:
    hapta("migrate")
    added = hapta("webhook", "add", "https://hooks.example.org/", "--type", "auth.*").stdout
    assert "Secret: whsec_" in added
    webhook = added.split("(")[1].split(")")[0]
    assert "1 webhook(s)" in hapta("webhook", "list").stdout
    assert "Secret: whsec_" in hapta("webhook", "rotate", webhook).stdout
    assert "is disabled" in hapta("webhook", "disable", webhook).stdout
    assert "disable" in hapta("webhook", "ping", webhook, status=1).stderr
    assert "is enabled" in hapta("webhook", "enable", webhook).stdout
    assert "0 deliveries" in hapta("webhook", "deliveries", webhook).stdout
    assert "no such delivery" in hapta("webhook", "replay", webhook, "msg_1", status=1).stderr
    assert "cannot be called" in hapta("webhook", "add", "https://127.0.0.1/", status=1).stderr
    hapta("webhook", "remove", webhook)
    assert "no such webhook" in hapta("webhook", "remove", webhook, status=1).stderr

    checked = hapta("audit", "verify").stdout
    assert checked.startswith("5 event(s) of 1 day(s)")
    end = checked.split("End: ")[1].strip()
    hapta("audit", "verify", "--expect", end)
    lines = [json.loads(line) for line in hapta("audit", "export").stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["event"] * 5 + ["day"]
    assert lines[-1]["public_key"] == hapta("audit", "key").stdout.strip()

    with sqlite3.connect(folder / "hapta_data/hapta.db") as db:
        db.execute("DELETE FROM auth_events WHERE number = 5")
    db.close()
    told = hapta("audit", "verify", status=1).stderr
    assert "event 5: the event is missing" in told
    for wrong in (["--expect", "x"], ["--public-key", "zz"]):
        assert hapta("audit", "verify", *wrong, status=1).stderr.count("\n") == 1


def test_with_two_databases_the_commands_look_into_that_of_the_auth_side(hapta: Command, folder: Path) -> None:
    auth = folder / "auth.db"
    two = {"HAPTA_DATABASE_AUTH_URL": f"sqlite:///{auth}", "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64"}
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin="correct horse battery staple\n", env=two)
    hapta("webhook", "add", "https://hooks.example.org/", env=two)
    assert "1 webhook(s)" in hapta("webhook", "list", env=two).stdout
    with sqlite3.connect(auth) as db:
        assert db.execute("SELECT count(*) FROM auth_webhooks").fetchone() == (1,)
        events = db.execute("SELECT count(*) FROM auth_events").fetchone()[0]
    db.close()
    assert events >= 2
    assert hapta("audit", "verify", env=two).stdout.startswith(f"{events} event(s)")
