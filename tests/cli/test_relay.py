"""`hapta relay` and what `hapta doctor` says of the relay and of files."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from hapta.relay.connect.models import vendor_path
from hapta.relay.connect.vault import Vault
from tests.cli.conftest import Command

FIRST, SECOND = "the first master secret, long enough", "the second master secret, long enough"


@pytest.fixture
def account(hapta: Command, folder: Path) -> str:
    """The id of the one account of an installation."""
    hapta("user", "add", "ada@example.org", "--password-stdin", stdin="correct horse battery staple\n")
    with sqlite3.connect(folder / "hapta_data" / "hapta.db") as database:
        (account_id,) = database.execute("SELECT id FROM res_accounts").fetchone()
    database.close()
    return account_id


def put_token(folder: Path, account_id: str, token: bytes) -> None:
    with sqlite3.connect(folder / "hapta_data" / "hapta.db") as database:
        database.execute(
            "INSERT OR REPLACE INTO res_relay_vendor_tokens (account_id, vendor, token, created_at, updated_at)"
            " VALUES (?, 'openai', ?, 1, 1)",
            (account_id, token),
        )
    database.close()


def get_token(folder: Path) -> bytes:
    with sqlite3.connect(folder / "hapta_data" / "hapta.db") as database:
        (token,) = database.execute("SELECT token FROM res_relay_vendor_tokens").fetchone()
    database.close()
    return token


def test_tokens_are_sealed_anew_under_the_configured_secret(hapta: Command, folder: Path, account: str) -> None:
    path = vendor_path(account, "openai")
    put_token(folder, account, Vault(FIRST).seal(path, "sk-one"))
    words = ("relay", "reseal", "--previous-secret-stdin")
    said = hapta(*words, stdin=f"{FIRST}\n", env={"HAPPY_MASTER_SECRET": SECOND})
    assert said.stdout == "1 sealed anew, 0 were right already.\n"
    assert Vault(SECOND).open(path, get_token(folder)) == "sk-one"
    again = hapta(*words, stdin=f"{FIRST}\n", env={"HAPPY_MASTER_SECRET": SECOND})
    assert again.stdout == "0 sealed anew, 1 were right already.\n"
    assert FIRST not in said.stdout + said.stderr
    # Back to a key of the server's own, and from there to a secret again.
    assert "1 sealed anew" in hapta(*words, stdin=f"{SECOND}\n").stdout
    own = hapta("relay", "reseal", "--previous-own", env={"HAPPY_MASTER_SECRET": FIRST})
    assert "1 sealed anew" in own.stdout
    assert Vault(FIRST).open(path, get_token(folder)) == "sk-one"


def test_the_servers_own_key_outlives_a_rotation_of_the_secret(hapta: Command, folder: Path, account: str) -> None:
    put_token(folder, account, Vault(FIRST).seal(vendor_path(account, "openai"), "sk-one"))
    hapta("relay", "reseal", "--previous-secret-stdin", stdin=f"{FIRST}\n")
    hapta("secret", "rotate")
    assert "still sealed under the previous one" in hapta("doctor").stdout
    hapta("audit", "verify")  # a start of the auth side
    assert "1 were right already" in hapta("relay", "reseal", "--previous-own").stdout
    hapta("secret", "forget", "--now")
    assert "1 were right already" in hapta("relay", "reseal", "--previous-own").stdout


def test_a_wrong_former_secret_changes_nothing(hapta: Command, folder: Path, account: str) -> None:
    put_token(folder, account, Vault(FIRST).seal(vendor_path(account, "openai"), "sk-one"))
    before = get_token(folder)
    words = ("relay", "reseal", "--previous-secret-stdin")
    assert "1 can be opened by neither" in hapta(*words, stdin=f"{SECOND}\n", status=1).stderr
    assert "fewer than 32" in hapta(*words, stdin="short\n", status=1).stderr
    assert "no secret on standard input" in hapta(*words, status=1).stderr
    assert "Say which secret" in hapta("relay", "reseal", status=1).stderr
    assert get_token(folder) == before


def test_an_account_is_exported_by_its_address_or_its_id(hapta: Command, folder: Path, account: str) -> None:
    put_token(folder, account, Vault(FIRST).seal(vendor_path(account, "openai"), "sk-one"))
    for name in ("Ada@example.org", account):
        found = json.loads(hapta("relay", "export", name).stdout)
        assert found["accountId"] == account
        assert found["vendorTokens"] == [{"vendor": "openai", "created_at": 1, "updated_at": 1}]
    assert "There is no account" in hapta("relay", "export", "eve@example.org", status=1).stderr
    assert "There is no account" in hapta("relay", "export", "none", status=1).stderr


def test_doctor_tells_what_contradicts_itself(hapta: Command) -> None:
    hapta("migrate")
    said = hapta("doctor").stdout
    assert "ok    relay" in said
    assert "ok    files" in said
    said = hapta("doctor", status=1, env={"HAPPY_MASTER_SECRET": "too-short", "GITHUB_CLIENT_ID": "x"}).stdout
    assert "BAD   relay     relay.master_secret has fewer than 32 characters" in said
    assert "BAD   relay     GitHub is half configured" in said
    assert "too-short" not in said
    said = hapta("doctor", env={"GITHUB_CLIENT_ID": "x", "GITHUB_CLIENT_SECRET": "y"}).stdout
    assert "GitHub sends people back to this machine's own address" in said
    said = hapta("doctor", env={"GITHUB_WEBHOOK_SECRET": "x", "HAPTA_RELAY_VOICE_REQUIRES_SUBSCRIPTION": "true"}).stdout
    assert "GitHub is off" in said
    assert "voice asks for a subscription" in said
    assert "relay" not in hapta("doctor", env={"GITHUB_CLIENT_ID": "x", "HAPTA_RELAY_ENABLED": "false"}).stdout


def test_doctor_looks_at_where_files_lie(hapta: Command, folder: Path) -> None:
    hapta("migrate")
    said = hapta("doctor", status=1, env={"HAPTA_BLOBS_URL": "ftp://x"}).stdout
    assert "BAD   files     blobs.url names no store" in said
    said = hapta("doctor", status=1, env={"HAPTA_BLOBS_URL": "s3://bucket", "HAPTA_BLOBS_ACCESS_KEY_ID": "x"}).stdout
    assert "half of the key to the bucket" in said
    said = hapta("doctor", env={"HAPTA_FILES_MAX_ATTACHMENT_BYTES": "99000000"}).stdout
    assert "an attachment may be larger than a request" in said
    said = hapta("doctor", env={"HAPTA_BLOBS_URL": f"disk://{folder}/elsewhere"}).stdout
    assert f"they lie in {folder}/elsewhere" in said
