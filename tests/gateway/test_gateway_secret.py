"""The secret is replaced while people stay signed in at the gateway: their tokens and PocketBase's sealed ones outlive it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.servers import HaptaServer

OLD, NEW = "an old secret of more than 32 bytes, 1", "a new secret of more than 32 bytes, 22"


def test_a_session_outlives_the_change_of_the_secret_and_not_the_end_of_the_old_one(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer], tmp_path: Path
) -> None:
    alice = pocketbase.person("alice")
    database = f"sqlite:///{tmp_path / 'hapta.db'}"
    people = "/api/collections/users"

    server = new_gateway(pocketbase, DATABASE_URL=database, JWT_SECRET=OLD)
    login = {"identity": alice.email, "password": alice.password}
    first = httpx.post(f"{server.url}{people}/auth-with-password", json=login).json()["token"]
    server.stop()

    server = new_gateway(pocketbase, DATABASE_URL=database, JWT_SECRET=NEW, JWT_SECRET_PREVIOUS=OLD)
    own = f"{people}/records/{alice.id}"
    assert httpx.get(server.url + own, headers={"authorization": first}).json()["email"] == alice.email
    second = httpx.post(f"{server.url}{people}/auth-refresh", headers={"authorization": first}).json()["token"]
    server.stop()

    server = new_gateway(pocketbase, DATABASE_URL=database, JWT_SECRET=NEW)
    assert httpx.get(server.url + own, headers={"authorization": first}).status_code == 401
    assert httpx.get(server.url + own, headers={"authorization": second}).json()["email"] == alice.email
