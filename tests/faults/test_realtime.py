"""Realtime hints across workers: none is lost, a reader that does not read costs no memory, and revocation closes sockets."""

from __future__ import annotations

import json
import socket
import uuid
from contextlib import AsyncExitStack
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.faults.topologies import NewHapta, Topology, on_postgres, on_sqlite, post

ROUNDS = 1_000


@pytest.fixture(params=["sqlite", "postgres"])
def topology(request: pytest.FixtureRequest, new_hapta: NewHapta) -> Topology:
    """Each topology in turn."""
    if request.param == "sqlite":
        return on_sqlite(new_hapta)
    return on_postgres(new_hapta, request.getfixturevalue("postgres_url"), request.getfixturevalue("redis_url"))


async def receive(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of that type; others are passed over."""
    while True:
        message = json.loads(await connection.recv())
        if message["type"] == kind:
            return message


async def subscribe(connection: ClientConnection, token: str, vault: str, **more: object) -> dict[str, Any]:
    await connection.send(json.dumps({"type": "auth", "token": token}))
    await connection.send(json.dumps({"type": "subscribe", "vaultId": vault, **more}))
    return await receive(connection, "subscribed")


def one_log(size: int = 16) -> dict[str, str]:
    return {"id": str(uuid.uuid4()), "encryptedData": "A" * size, "nonce": "B" * 16, "haexTimestamp": "1/1"}


def ws_url(topology: Topology, worker: int) -> str:
    return topology.workers[worker % len(topology.workers)].ws_url + "/sync/ws"


async def test_a_thousand_pushes_on_one_worker_wake_a_socket_on_another_a_thousand_times(topology: Topology) -> None:
    token, vault = await topology.account(), str(uuid.uuid4())
    headers = {"authorization": f"Bearer {token}"}
    async with (
        connect(ws_url(topology, 0)) as listening,
        httpx.AsyncClient(base_url=topology.urls[-1], headers=headers, trust_env=False) as pushing,
    ):
        subscribed = await subscribe(listening, token, vault)
        assert subscribed["head"] == 0
        for round_number in range(1, ROUNDS + 1):
            body = {"vaultId": vault, "deviceId": "other-device", "logs": [one_log()]}
            answer = await pushing.post("/sync/push", json=body)
            assert answer.json()["head"] == round_number
            hint = await receive(listening, "logs")
            while hint["head"] < round_number:
                hint = await receive(listening, "logs")
            assert hint["vaultId"] == vault


async def test_log_out_everywhere_closes_the_sockets_of_every_worker(topology: Topology) -> None:
    token, vault = await topology.account(), str(uuid.uuid4())
    bystander, other_vault = await topology.account(), str(uuid.uuid4())
    async with AsyncExitStack() as sockets:
        mine = [await sockets.enter_async_context(connect(ws_url(topology, n))) for n in range(4)]
        theirs = await sockets.enter_async_context(connect(ws_url(topology, 0)))
        for connection in mine:
            await subscribe(connection, token, vault)
        await subscribe(theirs, bystander, other_vault)

        await post(topology.urls[0], "/auth/logout-all", token, {})

        for connection in mine:
            with pytest.raises(ConnectionClosed) as closed:
                await receive(connection, "never")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        await theirs.send(json.dumps({"type": "ping"}))
        await receive(theirs, "pong")


async def test_readers_that_do_not_read_cost_the_server_no_memory(new_hapta: NewHapta) -> None:
    topology = on_sqlite(new_hapta)
    server = topology.workers[0]
    token, vault = await topology.account(), str(uuid.uuid4())
    headers = {"authorization": f"Bearer {token}"}
    async with (
        AsyncExitStack() as sockets,
        httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as pushing,
    ):
        for _ in range(20):
            slow = await sockets.enter_async_context(_slow_reader(server.ws_url))
            await subscribe(slow, token, vault, inline=True)
            slow.transport.pause_reading()

        async def push(times: int) -> int:
            head = 0
            for _ in range(times):
                body = {"vaultId": vault, "deviceId": "other-device", "logs": [one_log(40_000)]}
                head = (await pushing.post("/sync/push", json=body)).json()["head"]
            return head

        await push(50)  # what sockets, caches and the allocator take in any case
        before = psutil.Process(server.pid).memory_info().rss
        head = await push(400)  # 20 readers x 400 x 40 kB would be 320 MB
        grown = psutil.Process(server.pid).memory_info().rss - before

        assert grown < 32 * 1024 * 1024
        async with connect(server.ws_url + "/sync/ws") as quick:
            assert (await subscribe(quick, token, vault))["head"] == head


def _slow_reader(ws_url: str) -> connect:
    host, _, port = ws_url.removeprefix("ws://").partition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the kernel must not swallow it all either
    sock.connect((host, int(port)))
    return connect(ws_url + "/sync/ws", sock=sock, max_queue=1, close_timeout=0.1)
