"""`hapta user` on a real database: what it makes is what the server finds, and what it removes is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hapta.testing.server import TestHapta
from tests.cli.conftest import Command

PASSWORD = "correct horse battery staple\n"


@pytest.fixture(params=["sqlite", "postgres"])
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    further = {"HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64"}
    if request.param == "sqlite":
        return further
    return {"DATABASE_URL": request.getfixturevalue("postgres_url"), **further}


def test_an_account_is_added_listed_limited_and_deleted(hapta: Command, environ: dict[str, str]) -> None:
    assert (
        "Ada@example.org is added"
        in hapta("user", "add", "Ada@example.org", "--password-stdin", stdin=PASSWORD, env=environ).stdout
    )
    listed = hapta("user", "list", env=environ).stdout.splitlines()
    assert listed[0].startswith("Ada@example.org  ")
    assert "0 vault(s)  0 B of no limit" in listed[0]
    assert listed[1] == "1 account(s)"

    hapta("user", "quota", "ada@example.org", "1048576", env=environ)
    assert "0 B of 1.0 MiB" in hapta("user", "list", env=environ).stdout
    hapta("user", "quota", "ada@example.org", "default", env=environ)
    assert "0 B of no limit" in hapta("user", "list", env=environ).stdout

    assert "deleted" in hapta("user", "delete", "ada@example.org", "--yes", env=environ).stdout
    assert hapta("user", "list", env=environ).stdout == "0 account(s)\n"


def test_an_address_is_given_once_whatever_its_case(hapta: Command, environ: dict[str, str]) -> None:
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin=PASSWORD, env=environ)
    refused = hapta("user", "add", "ADA@example.org", "--password-stdin", stdin=PASSWORD, env=environ, status=1)
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("email", "stdin", "said"),
    [
        ("not-an-address", PASSWORD, "email"),
        ("ada@example.org", "short\n", "password"),
        ("ada@example.org", "\n", "no password"),
        ("ada@example.org", "", "no password"),
    ],
)
def test_an_account_that_could_not_register_cannot_be_added(hapta: Command, email: str, stdin: str, said: str) -> None:
    assert said in hapta("user", "add", email, "--password-stdin", stdin=stdin, status=1).stderr
    assert PASSWORD.strip() not in said


def test_an_unknown_account_is_told_in_one_line(hapta: Command) -> None:
    hapta("migrate")
    for words in (["quota", "nobody@example.org", "1"], ["delete", "nobody@example.org", "--yes"]):
        assert hapta("user", *words, status=1).stderr.count("\n") == 1


@pytest.mark.parametrize("size", ["lots", "-1", "1.5", "9" * 30])
def test_a_quota_is_a_number_of_bytes(hapta: Command, size: str) -> None:
    said = hapta("user", "quota", "--", "ada@example.org", size, status=1).stderr
    assert "is not a number of bytes" in said


def test_deleting_asks_first(hapta: Command, folder: Path) -> None:
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin=PASSWORD)
    hapta("user", "delete", "ada@example.org", stdin="n\n", status=1)
    assert "1 account(s)" in hapta("user", "list").stdout


def test_a_mistyped_folder_makes_no_database(hapta: Command, folder: Path) -> None:
    assert "There is no database" in hapta("user", "list", "--data", "mistyped", status=1).stderr
    assert not (folder / "mistyped" / "hapta.db").exists()


def test_roles_and_bans_are_set_by_address(hapta: Command, environ: dict[str, str]) -> None:
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin=PASSWORD, env=environ)
    assert "user, admin" in hapta("user", "role", "Ada@example.org", "user", "admin", env=environ).stdout
    assert "is disabled" in hapta("user", "disable", "ada@example.org", env=environ).stdout
    assert "user,admin  disabled" in hapta("user", "list", env=environ).stdout
    assert "is enabled" in hapta("user", "enable", "ada@example.org", env=environ).stdout
    assert "disabled" not in hapta("user", "list", env=environ).stdout
    assert "Is no role" in hapta("user", "role", "ada@example.org", "two words", env=environ, status=1).stderr
    assert hapta("user", "disable", "bob@example.org", env=environ, status=1).stderr.count("\n") == 1


@pytest.mark.anyio
async def test_with_an_account_go_its_files_and_agent_sessions(hapta: Command, folder: Path) -> None:
    async with TestHapta(folder) as server:
        account = await server.register("ada@example.org")
        file = {"file": ("notes.txt", b"a note", "text/plain")}
        assert (await account.post("/v1/uploads", files=file)).status_code == 200
        session = {"tag": "one", "metadata": "opaque"}
        assert (await account.post("/v1/sessions", json=session)).status_code == 200
    keyed = {"JWT_SECRET": server.settings.identity.jwt_secret}
    hapta("user", "delete", "ada@example.org", "--yes", "--data", ".", env=keyed)
    async with TestHapta(folder) as server:
        left = await server.app.services.db.read(
            lambda tx: tx.fetch_one(
                "SELECT (SELECT count(*) FROM res_files), (SELECT count(*) FROM res_relay_sessions)"
            )
        )
    assert left == (0, 0)
