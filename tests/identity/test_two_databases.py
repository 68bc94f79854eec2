"""Accounts, sessions and sync over two databases, from each of which the other side's tables are gone (contract identity,
section 1): whatever crossed from one side to the other would fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hapta.app import Services
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.testing.server import PASSWORD, TestHapta
from tests.identity.conftest import NewWorker

VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
_TABLES = """
    SELECT name FROM /*sqlite: (SELECT name FROM sqlite_schema WHERE type = 'table') AS tables */
    /*postgres: (SELECT tablename AS name FROM pg_tables WHERE schemaname = current_schema()) AS tables */"""


async def drop(db: Database, prefixes: tuple[str, ...]) -> int:
    """Drops every table of one side; how many."""

    async def body(tx: WriteTx) -> int:
        names = [name for (name,) in await tx.fetch_all(_TABLES) if name.startswith(prefixes)]
        for name in names:
            await tx.execute(f"DROP TABLE {name}")
        return len(names)

    return await db.write(body)


async def split(db: Database, auth_db: Database) -> None:
    assert db is not auth_db
    assert await drop(db, ("auth_",)) > 5
    assert await drop(auth_db, ("res_", "sync_")) > 5


@pytest.fixture
def auth_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> str:
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'auth.db'}"
    new: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return new()


async def test_accounts_and_sync_live_in_two_databases(tmp_path: Path, database_url: str, auth_url: str) -> None:
    environ = {"DATABASE_URL": database_url, "HAPTA_DATABASE_AUTH_URL": auth_url}
    async with TestHapta(tmp_path, environ) as hapta:
        services: Services = hapta.app.services
        await split(services.db, services.auth_db)
        alice, other = (
            await hapta.register("alice@example.org", deviceId="phone-1"),
            await hapta.login("alice@example.org"),
        )
        log = {"encryptedData": "sealed", "nonce": "n", "haexTimestamp": "1/a"}
        assert (await alice.post("/sync/push", json={"vaultId": VAULT, "logs": [log]})).status_code == 200
        assert len((await alice.post("/sync/pull", json={"vaultId": VAULT})).json()["logs"]) == 1
        assert len((await alice.get("/auth/sessions")).json()["sessions"]) == 2
        key = {"vaultId": VAULT, "encryptedVaultKey": "old", "salt": "s", "nonce": "n"}
        assert (await alice.post("/sync/vault-key", json=key)).status_code == 201
        change = {"currentPassword": PASSWORD, "newPassword": "another password"}
        changed = await alice.put("/auth/password", json={**change, "vaultKeys": [{**key, "version": 1}]})
        assert changed.status_code == 200
        assert (await other.get("/auth/me")).status_code == 401
        alice.token = changed.json()["token"]
        assert (await alice.get("/auth/me")).status_code == 200
        assert (await alice.post("/auth/logout-all")).status_code == 200
        again = await hapta.login("alice@example.org", "another password")
        gone = await again.delete("/auth/account", json={"password": "another password"})
        assert gone.status_code == 200
        assert (await again.post("/sync/pull", json={"vaultId": VAULT})).status_code == 401
        assert (await hapta.http.get("/readyz")).status_code == 200


async def test_rolling_sessions_and_operators_live_in_two_databases(new_worker: NewWorker, auth_url: str) -> None:
    worker = await new_worker(auth_url=auth_url)
    await split(worker.db, worker.auth_db)
    person = await worker.admin.add("alice@example.org", PASSWORD)
    from hapta.identity.models import Origin, SignedIn

    done = await worker.signin.complete(person, Origin(), amr=("pwd",), provider="password")
    assert isinstance(done, SignedIn)
    done = await worker.sessions.refresh(done.refresh_token)
    done = await worker.sessions.step_up(await worker.sessions.verify(done.access_token), ("otp",))
    await worker.admin.set_roles("alice@example.org", ["user", "mod"])
    assert await worker.sessions.list_sessions(person.user_id) == []
    await worker.admin.set_disabled("alice@example.org", True)
    await worker.admin.delete("alice@example.org")
    await worker.sessions.sweep()
    await worker.sessions.erase_successors()
    await worker.watch.poll_once()
    assert await worker.people.catch_up(everything=True) == 0

    async def left(tx: ReadTx) -> int:
        return await tx.fetch_value("SELECT count(*) FROM res_pending")

    assert await worker.db.read(left) == 0
