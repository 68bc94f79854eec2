"""The relay inside the whole server: what ends a session, an account and the server also ends here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hapta.db.database import ReadTx
from hapta.kit.access import UserId
from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta, TestSocket
from tests.relay.house import until

PATH = "/v1/websocket"


def socket_of(hapta: TestHapta, account: Account) -> TestSocket:
    return hapta.socket(PATH, {"authorization": f"Bearer {account.token}"})


async def new_session(account: Account) -> str:
    answer = await account.post("/v1/sessions", json={"tag": "t", "metadata": "{}"})
    assert answer.status_code == 200
    return answer.json()["session"]["id"]


async def test_who_logs_out_loses_the_sockets_of_that_session(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        phone = await hapta.login("alice@example.org")
        async with socket_of(hapta, alice) as first, socket_of(hapta, phone) as second:
            await first.receive()
            await second.receive()
            assert (await alice.post("/auth/logout")).status_code < 300

            assert await first.closed() == 4001
            await second.send({"event": "ping"})
            assert (await second.receive())["event"] == "pong"


async def test_an_update_goes_from_a_route_to_a_socket(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        bob = await hapta.register("bob@example.org")
        async with socket_of(hapta, alice) as watcher, socket_of(hapta, bob) as stranger:
            await watcher.receive()
            await stranger.receive()
            session = await new_session(alice)

            update = (await watcher.receive())["data"]
            assert (update["seq"], update["body"]["t"], update["body"]["sid"]) == (1, "new-session", session)
            await stranger.send({"event": "ping"})
            assert (await stranger.receive())["event"] == "pong"


async def test_a_deleted_account_leaves_nothing_in_the_relay(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        bob = await hapta.register("bob@example.org")
        for account in (alice, bob):
            await new_session(account)
            assert (await account.post("/v1/machines", json={"id": "m", "metadata": "{}"})).status_code == 200
        async with socket_of(hapta, alice) as socket:
            await socket.receive()
            answer = await alice.request("DELETE", "/auth/account", json={"password": alice.password})
            assert answer.status_code == 200

            assert await socket.closed() == 4001
        rows = await hapta.app.services.db.read(rows_by_account)
        assert {account_id for table, account_id in rows if table != "res_relay_departed"} == {bob.id}


async def rows_by_account(tx: ReadTx) -> list[Any]:
    """(table, account) of every row that the relay keeps."""
    tables = await tx.fetch_all(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'res_relay_%' ORDER BY name"
    )
    found: list[Any] = []
    for (table,) in tables:
        rows = await tx.fetch_all(f"SELECT account_id FROM {table}")
        found += [(table, account_id) for (account_id,) in rows]
    return found


async def test_a_server_that_stops_says_so_to_its_sockets(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        async with socket_of(hapta, alice) as socket:
            await socket.receive()
            hapta.app.begin_stop()

            assert await socket.closed() == 1012


async def test_a_relay_that_is_switched_off_is_not_there(tmp_path: Path) -> None:
    async with TestHapta(tmp_path, {"HAPTA_RELAY_ENABLED": "false"}) as hapta:
        alice = await hapta.register("alice@example.org")

        assert (await alice.get("/v1/sessions")).status_code == 404
        assert hapta.app.services.relay is None


async def test_an_account_leaves_nothing_in_a_relay_that_was_switched_off_since(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        await new_session(alice)
    clock = FakeClock()
    async with TestHapta(tmp_path, {"HAPTA_RELAY_ENABLED": "false"}, clock=clock) as hapta:
        assert await hapta.app.services.db.read(rows_by_account)
        assert await hapta.app.services.identity.people.delete(UserId(alice.id))
        rows = await hapta.app.services.db.read(rows_by_account)
        assert rows == [("res_relay_departed", alice.id)]
    clock.advance(minutes=15)
    async with TestHapta(tmp_path, {"HAPTA_RELAY_ENABLED": "false"}, clock=clock) as hapta:  # it begins with a sweep
        db = hapta.app.services.db
        async with asyncio.timeout(120):
            while await db.read(rows_by_account):
                pass


async def test_sockets_that_were_closed_leave_the_hub(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        async with socket_of(hapta, alice) as socket:
            await socket.receive()
        relay = hapta.app.services.relay
        assert relay is not None
        await until(lambda: not relay.hub.all())
