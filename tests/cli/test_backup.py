"""`hapta backup`: a consistent, private, complete copy of a database that is in use."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
from pathlib import Path

import apsw
import pytest

from hapta.settings import development_secret
from tests.cli.conftest import Command


@pytest.fixture
def data(hapta: Command, folder: Path) -> Path:
    hapta("migrate")
    data = folder / "hapta_data"
    development_secret(data)
    return data


def test_a_backup_holds_database_secrets_and_a_manifest_with_checksums(
    hapta: Command, folder: Path, data: Path
) -> None:
    said = hapta("backup", "copy").stdout
    copy = folder / "copy"
    manifest = json.loads((copy / "backup.json").read_text())
    assert sorted(manifest["files"]) == ["hapta.db", "secrets/jwt_secret"]
    for name, about in manifest["files"].items():
        content = (copy / name).read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert (copy / "secrets/jwt_secret").read_bytes() == (data / "secrets/jwt_secret").read_bytes()
    assert "2 files" in said
    assert "new-epoch" in said


def test_a_second_database_of_the_auth_side_is_migrated_looked_at_and_copied(hapta: Command, folder: Path) -> None:
    environ = {"HAPTA_DATABASE_AUTH_URL": f"sqlite:///{folder / 'sessions.db'}"}
    assert "of the auth side's database" in hapta("migrate", env=environ).stdout
    development_secret(folder / "hapta_data")
    assert "auth db" in hapta("doctor", env=environ).stdout
    said = hapta("backup", "copy", env=environ).stdout
    manifest = json.loads((folder / "copy" / "backup.json").read_text())
    assert sorted(manifest["files"]) == ["auth.db", "hapta.db", "secrets/jwt_secret"]
    assert "database.auth_url" in said
    copy = sqlite3.connect(folder / "copy" / "auth.db")
    try:
        assert copy.execute("SELECT count(*) FROM auth_sessions").fetchall() == [(0,)]
    finally:
        copy.close()


def test_a_backup_is_readable_by_its_owner_only(hapta: Command, folder: Path, data: Path) -> None:
    (data / "secrets" / "jwt_secret").chmod(0o644)
    hapta("backup", "copy")
    for path in [folder / "copy", *(folder / "copy").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_was_committed_is_in_the_backup_also_while_others_write(hapta: Command, folder: Path, data: Path) -> None:
    live = sqlite3.connect(data / "hapta.db", isolation_level=None)
    try:
        live.execute("CREATE TABLE probe (value text)")
        live.execute("INSERT INTO probe VALUES ('committed, and only in the write-ahead log')")
        live.execute("BEGIN IMMEDIATE")
        live.execute("INSERT INTO probe VALUES ('not committed')")
        hapta("backup", "copy")
    finally:
        live.close()
    copy = apsw.Connection(str(folder / "copy" / "hapta.db"))  # Python's own SQLite may be too old for the indexes
    try:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT value FROM probe").fetchall() == [("committed, and only in the write-ahead log",)]
    finally:
        copy.close()


def test_a_backup_can_be_used_as_a_data_folder(hapta: Command, data: Path) -> None:
    hapta("backup", "copy")
    assert hapta("migrate", "--data", "copy").stdout == "The schema is up to date.\n"
    assert hapta("doctor", "--data", "copy").stdout.endswith("Nothing is wrong.\n")


def test_an_existing_folder_is_never_written_to(hapta: Command, folder: Path, data: Path) -> None:
    (folder / "copy").mkdir()
    assert "there already" in hapta("backup", "copy", status=1).stderr
    assert list((folder / "copy").iterdir()) == []


def test_a_missing_database_leaves_nothing_behind(hapta: Command, folder: Path) -> None:
    assert "There is no database" in hapta("backup", "copy", status=1).stderr
    assert list(folder.iterdir()) == []


def test_postgresql_is_sent_to_its_own_tools(hapta: Command) -> None:
    assert "pg_dump" in hapta("backup", "copy", status=1, env={"DATABASE_URL": "postgresql://h/d"}).stderr
