"""A change of a person whose process dies between its two databases: it holds at once on its own side, and a real server takes
it in on the other one before it serves."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from hapta.db.connect import connect
from hapta.identity.passwords import Passwords
from hapta.identity.people_store import LocalIdentityStore
from hapta.kit.access import UserId
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import DatabaseSettings, IdentitySettings
from tests.faults.topologies import PASSWORD, NewHapta

NEW = "another password that fits"
CREDENTIALS = {"email": "alice@example.org", "password": PASSWORD}


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Of the resource side and of the auth side."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'people.db'}", f"sqlite:///{tmp_path / 'sessions.db'}"
    new: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return new(), new()


async def change_and_die(resource_url: str, folder: Path, user_id: str) -> None:
    """What a process does that is killed right after the commit on the resource side: nothing hears of the change."""
    db = await connect(DatabaseSettings(url=resource_url), folder, SystemClock())
    passwords = Passwords(IdentitySettings())
    people = LocalIdentityStore(db, SystemClock(), RandomIds(), passwords, IdentitySettings())
    await people.set_password(UserId(user_id), NEW, if_version=0)
    await passwords.close()
    await db.close()


async def test_a_password_change_cut_in_two_is_whole_after_the_restart(
    new_hapta: NewHapta, urls: tuple[str, str], tmp_path: Path
) -> None:
    server = new_hapta(
        env={
            "DATABASE_URL": urls[0],
            "HAPTA_DATABASE_AUTH_URL": urls[1],
            "HAPTA_RATELIMIT_ENABLED": "false",
            "JWT_SECRET": secrets.token_hex(32),
        }
    )
    server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        made = (await http.post("/auth/register", json=CREDENTIALS)).json()
        headers = {"authorization": f"Bearer {made['token']}"}
        assert (await http.get("/auth/me", headers=headers)).status_code == 200
    server.kill()
    await change_and_die(urls[0], tmp_path, made["user"]["id"])
    server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        assert (await http.get("/auth/me", headers=headers)).status_code == 401
        assert (await http.post("/auth/login", json=CREDENTIALS)).status_code == 401
        assert (await http.post("/auth/login", json={**CREDENTIALS, "password": NEW})).status_code == 200
