"""Tokens of vendors: kept sealed, given back in clear, to their account alone; and sealed anew when the master secret changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hapta.db.database import Database
from hapta.kit.keyring import Keyring
from hapta.relay.account.service import AccountService
from hapta.relay.connect import reseal
from hapta.relay.connect.models import github_path, vendor_path
from hapta.relay.connect.reseal import Reseal
from hapta.relay.connect.service import VendorTokens
from hapta.relay.connect.vault import CannotOpen, Vault, master_key, own_secret, path_key, vault_of
from hapta.settings import SettingsError
from hapta.settings.relay import RelaySettings
from tests.relay.house import SECRET, A, B, Guest, House, OpenHouse
from tests.relay.test_account import OCTOCAT

pytestmark = pytest.mark.anyio

VECTOR: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "vendor-seal.json").read_text())
FIRST, SECOND = "the first master secret, long enough", "the second master secret, long enough"


async def sealed_tokens(db: Database) -> dict[tuple[str, str], bytes]:
    rows = await db.read(
        lambda tx: tx.fetch_all("SELECT account_id, vendor, token FROM res_relay_vendor_tokens ORDER BY 1, 2")
    )
    return {(account_id, vendor): bytes(token) for account_id, vendor, token in rows}


# --- the seal ---


def test_the_keys_are_those_of_the_servers_that_clients_were_written_for() -> None:
    master = master_key(VECTOR["master_secret"])
    assert master.hex() == VECTOR["master_key_hex"]
    assert path_key(master, VECTOR["path"].split("/")).hex() == VECTOR["path_key_hex"]


def test_what_such_a_server_sealed_is_opened_with_its_secret() -> None:
    vault = Vault(VECTOR["master_secret"])
    path = VECTOR["path"].split("/")
    assert tuple(path) == vendor_path(path[1], "openai")
    assert vault.open(path, bytes.fromhex(VECTOR["blob_hex"])) == VECTOR["plaintext"]
    assert vault.open(path, vault.seal(path, "ключ\U0001f511")) == "ключ\U0001f511"


def test_a_seal_is_for_one_place_and_one_secret() -> None:
    vault = Vault(FIRST)
    path = vendor_path(A, "openai")
    sealed = vault.seal(path, "sk-one")
    assert b"sk-one" not in sealed
    assert sealed != vault.seal(path, "sk-one")
    for other, where in ((Vault(SECOND), path), (vault, vendor_path(B, "openai")), (vault, vendor_path(A, "gemini"))):
        with pytest.raises(CannotOpen):
            other.open(where, sealed)
    for broken in (b"", sealed[:20], sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        with pytest.raises(CannotOpen):
            vault.open(path, broken)


def test_many_places_do_not_fill_the_memory() -> None:
    vault = Vault(FIRST)
    sealed = {number: vault.seal(vendor_path(str(number), "openai"), str(number)) for number in range(1100)}
    assert len(vault._boxes) == 1000  # pyright: ignore[reportPrivateUsage]
    assert all(vault.open(vendor_path(str(number), "openai"), blob) == str(number) for number, blob in sealed.items())


def test_a_short_master_secret_is_refused_before_anything_is_sealed() -> None:
    with pytest.raises(SettingsError, match=r"relay\.master_secret"):
        vault_of(RelaySettings(master_secret="x" * 31), Keyring.of(SECRET))
    vault_of(RelaySettings(master_secret="x" * 32), Keyring.of(SECRET))


def test_without_a_master_secret_the_key_outlives_the_servers_secret() -> None:
    lasting = {"relay-vault": b"\1" * 32}
    before, after = Keyring("old", lasting=lasting), Keyring("new", "old", lasting=lasting)
    path = vendor_path(A, "openai")
    sealed = vault_of(RelaySettings(), before).seal(path, "sk-one")
    assert vault_of(RelaySettings(), after).open(path, sealed) == "sk-one"


# --- the routes ---


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "gemini"])
async def test_a_token_is_kept_replaced_and_forgotten(house: House, a: Guest, vendor: str) -> None:
    path = f"/v1/connect/{vendor}"
    assert (await a.get(f"{path}/token")).json() == {"token": None}
    credentials = json.dumps({"access": "sk-1", "ünï": "\U0001f511"})
    for token in ("sk-first", credentials):
        answer = await a.post(f"{path}/register", json={"token": token})
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert (await a.get(f"{path}/token")).json() == {"token": token}
    assert all(b"sk-" not in sealed for sealed in (await sealed_tokens(house.db)).values())
    for _ in range(2):
        answer = await a.delete(path)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert (await a.get(f"{path}/token")).json() == {"token": None}


async def test_all_tokens_are_listed_and_named_in_the_profile(a: Guest) -> None:
    assert (await a.get("/v1/connect/tokens")).json() == {"tokens": []}
    for vendor in ("openai", "anthropic"):
        await a.post(f"/v1/connect/{vendor}/register", json={"token": f"of {vendor}"})
    assert (await a.get("/v1/connect/tokens")).json() == {
        "tokens": [
            {"vendor": "anthropic", "token": "of anthropic"},
            {"vendor": "openai", "token": "of openai"},
        ]
    }
    assert (await a.get("/v1/account/profile")).json()["connectedServices"] == ["anthropic", "openai"]


async def test_nobody_sees_the_tokens_of_another_account(house: House, a: Guest, b: Guest) -> None:
    await a.post("/v1/connect/openai/register", json={"token": "of a"})
    assert (await b.get("/v1/connect/openai/token")).json() == {"token": None}
    assert (await b.get("/v1/connect/tokens")).json() == {"tokens": []}
    assert (await b.delete("/v1/connect/openai")).status_code == 200
    assert (await a.get("/v1/connect/openai/token")).json() == {"token": "of a"}
    for method, path in (("GET", "openai/token"), ("POST", "openai/register"), ("DELETE", "openai"), ("GET", "tokens")):
        answer = await house.http.request(method, f"/v1/connect/{path}", json={"token": "x"})
        assert answer.status_code == 401


async def test_a_row_moved_to_another_account_opens_for_nobody(house: House, a: Guest, b: Guest) -> None:
    await a.post("/v1/connect/openai/register", json={"token": "of a"})
    moved = "UPDATE res_relay_vendor_tokens SET account_id = :b WHERE account_id = :a"
    await house.db.write(lambda tx: tx.execute(moved, a=A, b=B))
    assert (await b.get("/v1/connect/openai/token")).json() == {"token": None}
    assert (await b.get("/v1/connect/tokens")).json() == {"tokens": []}


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        ("mistral", {"token": "x"}),
        ("OpenAI", {"token": "x"}),
        ("openai", {"token": ""}),
        ("openai", {"token": None}),
        ("openai", {"token": 5}),
        ("openai", {}),
        ("openai", []),
        ("openai", {"token": "x" * 65_537}),
    ],
    ids=["vendor", "case", "empty", "null", "number", "nothing", "list", "long"],
)
async def test_a_bad_registration_is_refused(a: Guest, vendor: str, body: Any) -> None:
    answer = await a.post(f"/v1/connect/{vendor}/register", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Invalid request data"


async def test_an_unknown_vendor_has_no_token_to_ask_for_or_forget(a: Guest) -> None:
    assert (await a.get("/v1/connect/mistral/token")).status_code == 400
    assert (await a.delete("/v1/connect/mistral")).status_code == 400


# --- another master secret ---


async def test_tokens_of_a_former_secret_are_sealed_anew_batch_by_batch(
    new_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reseal, "BATCH", 2)
    house = await new_house(master_secret=FIRST)
    former = VendorTokens(house.db, house.clock, Vault(FIRST))
    accounts = [f"account-{number}" for number in range(5)]
    for account_id in accounts:
        await former.register(account_id, "openai", f"of {account_id}")
        await former.register(account_id, "gemini", f"gemini of {account_id}")
    github = AccountService(house.db, house.relay.heads, house.relay.updates, house.clock)
    for number, account_id in enumerate(accounts):
        token = Vault(FIRST).seal(github_path(account_id), "gho_one")
        await github.change_github(account_id, {**OCTOCAT, "id": number + 1, "login": f"cat-{number}"}, token)

    now = Vault(SECOND)
    later = VendorTokens(house.db, house.clock, now)
    await later.register("account-1", "openai", "came meanwhile")
    assert await later.find("account-0", "openai") is None
    assert await later.list("account-1") == [("openai", "came meanwhile")]

    found = await Reseal(house.db, now, Vault(FIRST)).run()
    assert (found.sealed, found.kept, found.foreign) == (14, 1, 0)
    assert await later.find("account-0", "openai") == "of account-0"
    assert await later.find("account-1", "openai") == "came meanwhile"
    assert [one.token for one in await later.list("account-4")] == ["gemini of account-4", "of account-4"]
    sealed = await house.db.read(lambda tx: github.github_token(tx, "account-3"))
    assert sealed is not None
    assert now.open(github_path("account-3"), sealed) == "gho_one"

    before = await sealed_tokens(house.db)
    again = await Reseal(house.db, now, Vault(FIRST)).run()
    assert (again.sealed, again.kept, again.foreign) == (0, 15, 0)
    assert await sealed_tokens(house.db) == before


async def test_a_run_that_is_cut_off_goes_on_where_it_was(
    new_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reseal, "BATCH", 1)
    house = await new_house()
    for account_id in ("one", "two", "three"):
        await VendorTokens(house.db, house.clock, Vault(FIRST)).register(account_id, "openai", account_id)

    class CutOff(Exception):
        pass

    def cut_off(found: reseal.Resealed) -> None:
        if found.sealed == 2:
            raise CutOff

    with pytest.raises(CutOff):
        await Reseal(house.db, Vault(SECOND), Vault(FIRST), cut_off).run()
    rest = await Reseal(house.db, Vault(SECOND), Vault(FIRST)).run()
    assert (rest.sealed, rest.kept, rest.foreign) == (1, 2, 0)


async def test_what_neither_secret_opens_stays_as_it_is(new_house: OpenHouse) -> None:
    house = await new_house()
    await VendorTokens(house.db, house.clock, Vault("a third secret that nobody has any more")).register(
        A, "openai", "x"
    )
    before = await sealed_tokens(house.db)
    found = await Reseal(house.db, Vault(SECOND), Vault(own_secret(Keyring.of(SECRET)))).run()
    assert (found.sealed, found.kept, found.foreign) == (0, 0, 1)
    assert await sealed_tokens(house.db) == before
