"""`hapta verify` finds what is wrong with stored logs, and `hapta new-epoch` changes what devices compare."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from hapta.settings.loading import development_secret
from hapta.testing.server import TestHapta
from tests.cli.conftest import Command


def pushed(data: Path) -> None:
    """An account with one vault and three logs, made by the real application."""

    async def story() -> None:
        secret, _ = development_secret(data)  # the one that commands find in this folder
        async with TestHapta(data, {"JWT_SECRET": secret}) as server:
            ada = await server.register("ada@example.org")
            logs = [
                {"encryptedData": "AAAA", "nonce": f"AAA{number}", "haexTimestamp": f"2030-01-01T00:00:0{number}Z/1"}
                for number in range(3)
            ]
            vault = "0b6f2f0e-6f43-4bd5-9c3f-2f7d0f1c9a51"
            answer = await ada.post("/sync/push", json={"vaultId": vault, "logs": logs})
            assert answer.status_code == 200, answer.text

    asyncio.run(story())


@pytest.fixture
def data(folder: Path) -> Path:
    data = folder / "hapta_data"
    data.mkdir()
    pushed(data)
    return data


def change(data: Path, sql: str) -> None:
    with sqlite3.connect(data / "hapta.db") as database:
        assert database.execute(sql).rowcount == 1
    database.close()


def test_what_the_server_stored_verifies(hapta: Command, data: Path) -> None:
    assert hapta("verify").stdout == (
        "1 account(s), 1 vault(s), 3 log(s): sequences gap-free, chains match, counters right.\n"
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM sync_logs WHERE sequence = 2", "unaccounted for"),
        ("UPDATE sync_streams SET bytes = bytes + 1", "bytes"),
        ("UPDATE sync_logs SET dedupe_key = zeroblob(33) WHERE sequence = 2", "chain breaks at sequence 2"),
    ],
)
def test_damage_is_found_and_named(hapta: Command, data: Path, damage: str, said: str) -> None:
    change(data, damage)
    assert said in hapta("verify", status=1).stdout


def test_a_backup_verifies_by_itself(hapta: Command, data: Path) -> None:
    hapta("backup", "copy")
    assert "3 log(s): sequences gap-free" in hapta("verify", "--data", "copy").stdout


def epochs(data: Path) -> list[tuple[str]]:
    with sqlite3.connect(data / "hapta.db") as database:
        found = database.execute("SELECT epoch FROM sync_streams").fetchall()
    database.close()
    return found


def test_a_new_epoch_is_given_to_all_or_to_one_account(hapta: Command, data: Path) -> None:
    first = epochs(data)
    assert hapta("new-epoch").stdout.startswith("1 account(s) have a new epoch")
    second = epochs(data)
    hapta("new-epoch", "--user", "ada@example.org")
    third = epochs(data)
    assert len({*first, *second, *third}) == 3
    hapta("new-epoch", "--user", "nobody@example.org", status=1)
    assert epochs(data) == third
