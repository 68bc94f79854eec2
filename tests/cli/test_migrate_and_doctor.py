"""`hapta migrate` and `hapta doctor` on a real SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.cli.conftest import Command


def test_migrate_makes_the_database_once(hapta: Command, folder: Path) -> None:
    assert "applied 0001" in hapta("migrate").stdout
    assert (folder / "hapta_data" / "hapta.db").is_file()
    assert hapta("migrate").stdout == "The schema is up to date.\n"


def test_migrate_refuses_a_schema_newer_than_the_release(hapta: Command, folder: Path) -> None:
    hapta("migrate")
    with sqlite3.connect(folder / "hapta_data" / "hapta.db") as database:
        database.execute("INSERT INTO schema_migrations VALUES (9999, 'from_the_future', 'x', 0)")
    database.close()
    assert "9999" in hapta("migrate", status=1).stderr
    said = hapta("doctor", status=1).stdout
    assert "BAD   schema" in said


def test_doctor_finds_nothing_wrong_with_a_fresh_installation(hapta: Command) -> None:
    hapta("migrate")
    said = hapta("doctor").stdout
    for part in ("settings", "disk", "database", "schema", "clock", "bus"):
        assert f"ok    {part}" in said
    assert said.endswith("Nothing is wrong.\n")


def test_doctor_tells_every_bad_setting_and_shows_no_secret(hapta: Command) -> None:
    said = hapta("doctor", status=1, env={"PORT": "x", "NODE_ENV": "production", "JWT_SECRET": "tiny-one"}).stdout
    assert "server.port" in said
    assert "identity.jwt_secret" in said
    assert "tiny-one" not in said


def test_doctor_changes_nothing_where_there_is_no_server(hapta: Command, folder: Path) -> None:
    assert "There is no database" in hapta("doctor").stdout
    assert list(folder.iterdir()) == []


def test_doctor_finds_files_that_others_may_read(hapta: Command, folder: Path) -> None:
    hapta("migrate")
    database = folder / "hapta_data" / "hapta.db"
    database.chmod(0o644)
    said = hapta("doctor", status=1).stdout
    assert "others may open" in said
    assert "chmod 600 hapta_data/hapta.db" in said


def test_doctor_finds_migrations_that_wait_and_the_server_may_not_apply(hapta: Command, folder: Path) -> None:
    hapta("migrate")
    with sqlite3.connect(folder / "hapta_data" / "hapta.db") as database:
        database.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
    database.close()
    said = hapta("doctor", status=1, env={"HAPTA_DATABASE_AUTO_MIGRATE": "false"}).stdout
    assert "1 migration(s) are not applied yet" in said
    assert "-> hapta migrate" in said


def test_doctor_says_which_part_does_not_answer(hapta: Command) -> None:
    environ = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1"}
    said = hapta("doctor", status=1, env=environ).stdout
    assert "BAD   database" in said
    assert "BAD   bus" in said


def test_doctor_and_migrate_work_on_postgresql_and_redis(hapta: Command, postgres_url: str, redis_url: str) -> None:
    environ = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url}
    assert "applied 0001" in hapta("migrate", env=environ).stdout
    said = hapta("doctor", env=environ).stdout
    assert "PostgreSQL answers" in said
    assert "ok    clock" in said
    assert "Redis answers" in said
