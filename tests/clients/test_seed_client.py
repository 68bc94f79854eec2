"""A client of the base protocol in Node against the server, and against the Python client: the same vault in both."""

from __future__ import annotations

import asyncio
import json
import uuid
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.client import Hapta
from hapta.client.envelope import Entry, KeyRing, SealedLog, WrappedKey, unwrap_with_passphrase
from tests.clients.conftest import PASSWORD, Account
from tests.clients.node import Node
from tests.servers import HaptaServer

pytestmark = pytest.mark.anyio

SCRIPT = "seed_steps.mjs"

# The published vector: salt is bytes 00..1f, nonce 00..0b, vault key 20..3f.
VECTOR_KEK = "613a4c3411394e24fffe6c51994307724572e574bcd98ea8cf457c64899bfbfe"
VECTOR_VAULT_KEY = "ovClWGOEK6DBj9S9fwelVgQqjXnaB/7r1Ev2NdpxMTnW3HRtNdcr+dk1fa2T8BF/"
VECTOR_PLAINTEXT = (
    '{"id":"0b5b6f0e-4a7e-4c0e-9a4e-0d7c3f2a1b00",'
    '"haexTimestamp":"7558151829870018560/b1a2f3c4d5e6f708192a3b4c5d6e7f80"}'
)
VECTOR_LOG = (
    "J3A0w2gPydzezKvwQEM7EScR3gFHJcUhQSDq24/k5qhI6XEOfS0l1IhLytrg6ULQV3G5lzc2hPHHUHyLH59UmnD/ui/H5Y7ga1amQ2hBzqO3Ev2D"
    "oS80KAjreT7mb512dx5otRcDf+/KOPOF0noeDejNJAsAW1q2QsLAfHhTxmwG8Lxi"
)

# An insert or update causes a log for each column and one for the column of its stamp; a delete causes one.
STATEMENTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("INSERT", "note", "1", {"title": "Grüße 👋", "done": False, "count": 1.5}),
    ("INSERT", "note", "2", {"title": "gone soon"}),
    ("UPDATE", "note", "1", {"done": True}),
    ("DELETE", "note", "2", {}),
]
LOGS = (3 + 1) + (1 + 1) + (1 + 1) + 1
ROWS = {"1": {"title": "Grüße 👋", "done": True, "count": 1.5}}


def given(hapta: HaptaServer, email: str, vault: str) -> dict[str, str]:
    return {"url": hapta.url, "email": email, "password": PASSWORD, "vaultId": vault}


def test_node_and_python_agree_with_the_published_vector(node: Node) -> None:
    said = node.run(
        SCRIPT,
        step="vector",
        password=PASSWORD,
        plaintext=VECTOR_PLAINTEXT,
        encryptedVaultKey=VECTOR_VAULT_KEY,
        encryptedData=VECTOR_LOG,
    )
    key, nonce, salt = bytes(range(0x20, 0x40)), bytes(range(12)), bytes(range(32))
    assert said == {
        "kek": VECTOR_KEK,
        "encryptedVaultKey": VECTOR_VAULT_KEY,
        "encryptedData": VECTOR_LOG,
        "vaultKey": key.hex(),
        "plaintext": VECTOR_PLAINTEXT,
    }
    wrapped = WrappedKey(VECTOR_VAULT_KEY, b64encode(salt).decode(), b64encode(nonce).decode())
    assert unwrap_with_passphrase(wrapped, PASSWORD) == key
    ring = KeyRing(str(uuid.uuid4()), {0: key}, random=lambda count: bytes(range(count)))
    entry = msgspec.json.decode(VECTOR_PLAINTEXT, type=Entry)
    assert ring.seal(entry, version=1).encrypted_data == VECTOR_LOG
    assert ring.open(SealedLog(None, VECTOR_LOG, wrapped.nonce, ""))[0] == entry


def test_a_seed_client_registers_makes_its_key_and_reads_back_all_it_pushed(node: Node, hapta: HaptaServer) -> None:
    vault = str(uuid.uuid4())
    who = given(hapta, f"{uuid.uuid4().hex}@example.org", vault)
    wrote = node.run(SCRIPT, step="write", register=True, statements=STATEMENTS, limit=4, **who)
    assert (wrote["entered"], wrote["key"]) == (201, "made")
    # All logs of a statement share its stamp, and what the client counted itself changes nothing.
    stamps = [log["haexTimestamp"] for log in wrote["sent"]]
    assert (len(stamps), len(set(stamps))) == (LOGS, len(STATEMENTS))
    assert [log["sequence"] for log in wrote["stored"]] == list(range(1, LOGS + 1))
    assert [log["haexTimestamp"] for log in wrote["stored"]] == stamps
    # A push whose answer was lost is sent again, and stored once.
    assert [log["sequence"] for log in wrote["again"]] == [log["sequence"] for log in wrote["stored"]]
    assert [log["id"] for log in wrote["again"]] == [log["id"] for log in wrote["stored"]]
    assert [len(page) for page in wrote["pages"]] == [4, 4, 1]
    assert wrote["rows"] == {"note": ROWS}

    for limit in (1, LOGS):
        read = node.run(SCRIPT, step="read", limit=limit, **who)
        assert (read["entered"], read["key"]) == (200, "fetched")
        assert [len(page) for page in read["pages"]] == _pages(limit)
        assert [log["sequence"] for page in read["pages"] for log in page] == list(range(1, LOGS + 1))
        assert read["rows"] == {"note": ROWS}


def _pages(limit: int) -> list[int]:
    return [min(limit, LOGS - start) for start in range(0, LOGS, limit)]


def test_devices_that_open_a_new_vault_at_once_end_up_with_one_key(
    node: Node, hapta: HaptaServer, account: Account
) -> None:
    raced = node.run(SCRIPT, step="race", **given(hapta, account.email, str(uuid.uuid4())))
    assert sorted(raced["outcomes"]) == ["fetched", "fetched", "fetched", "made"]
    assert raced["keys"] == 1


async def test_the_python_client_continues_a_vault_of_the_seed_client_and_the_other_way_round(
    node: Node, hapta: HaptaServer, account: Account, tmp_path: Path
) -> None:
    vault_id = str(uuid.uuid4())
    who = given(hapta, account.email, vault_id)
    await asyncio.to_thread(node.run, SCRIPT, step="write", statements=STATEMENTS, limit=100, **who)

    async with Hapta(hapta.url, state_dir=tmp_path, split=False) as python:
        await python.login(account.email, PASSWORD)
        vault = await python.open_vault(vault_id, envelope_version=1)
        report = await vault.sync()
        assert (report.pulled, report.quarantined) == (LOGS, 0)
        seen = vault.rows("note")
        assert {name: value for name, value in seen.pop("1").items() if name != "haex_timestamp"} == ROWS["1"]
        assert seen == {}
        vault.put("note", "1", {"title": "from Python", "tags": ["a", None]})
        vault.put("note", "3", {"title": "new"})
        vault.delete("note", "3")
        vault.put("note", "4", {"title": "stays"})
        assert (await vault.sync()).pushed == 5

    read = await asyncio.to_thread(node.run, SCRIPT, step="read", limit=100, **who)
    assert read["rows"] == {
        "note": {
            "1": {"title": "from Python", "done": True, "count": 1.5, "tags": ["a", None]},
            "4": {"title": "stays"},
        }
    }


async def test_a_seed_client_opens_the_vault_of_an_account_that_the_python_client_made(
    node: Node, hapta: HaptaServer, tmp_path: Path
) -> None:
    email = f"{uuid.uuid4().hex}@example.org"
    async with Hapta(hapta.url, state_dir=tmp_path, split=False) as python:
        await python.register(email, PASSWORD)
        vault_id = (await python.create_vault("notes")).id
    async with Hapta(hapta.url, state_dir=tmp_path, split=False) as python:
        await python.login(email, PASSWORD)
        vault = await python.open_vault("notes", envelope_version=1)
        vault.put("note", "1", {"title": "from Python"})
        await vault.sync()
    read = await asyncio.to_thread(node.run, SCRIPT, step="read", limit=100, **given(hapta, email, vault_id))
    assert read["key"] == "fetched"
    assert read["rows"] == {"note": {"1": {"title": "from Python"}}}


async def test_a_seed_client_hears_of_a_push_of_the_python_client(
    node: Node, hapta: HaptaServer, account: Account, tmp_path: Path
) -> None:
    vault_id = str(uuid.uuid4())
    async with Hapta(hapta.url, state_dir=tmp_path, split=False) as python:
        await python.login(account.email, PASSWORD)
        with node.start(SCRIPT, step="listen", limit=100, **given(hapta, account.email, vault_id)) as listening:
            try:
                assert listening.stdout is not None
                subscribed = json.loads(await asyncio.to_thread(listening.stdout.readline))
                assert (subscribed["type"], subscribed["vaultId"], subscribed["head"]) == ("subscribed", vault_id, 0)
                vault = await python.open_vault(vault_id, envelope_version=1)
                vault.put("note", "1", {"title": "heard"})
                await vault.sync()
                told = json.loads(await asyncio.to_thread(listening.stdout.readline))
            finally:
                listening.kill()
    assert (told["hint"]["type"], told["hint"]["vaultId"], told["hint"]["head"]) == ("logs", vault_id, 1)
    assert told["hint"]["deviceId"] == python.device_id
    assert told["rows"] == {"note": {"1": {"title": "heard"}}}
