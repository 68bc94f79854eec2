"""The relay when servers end, by kill -9 or in order, and when clients are many or do not read.

`test_relay_sequence.py` proves the order of updates under such faults; here is what else may not go wrong.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest
from anyio.to_thread import run_sync

from hapta.bus.redis import open_redis
from hapta.db.connect import connect
from hapta.db.database import ReadTx, WriteTx
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.relay.models import USERS
from hapta.relay.updates.heads import Heads
from hapta.settings import DatabaseSettings
from hapta.testing.clock import FakeClock
from tests.faults.relay_ends import SECONDS, Ended, Line, line, opened
from tests.faults.topologies import NewHapta, Topology, on_postgres, on_sqlite
from tests.relay.house import Tokens, open_house, until
from tests.servers import HaptaServer, RedisServer

DISCONNECTED = {"ok": False, "error": "RPC target disconnected"}


def client_of(server: HaptaServer, token: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=SECONDS, trust_env=False)


async def posted(http: httpx.AsyncClient, path: str, body: object) -> Any:
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def no_errors(server: HaptaServer) -> None:
    """Nothing in a server's log that anybody would have to look into."""
    lines = server.log.read_text().splitlines()
    assert [text for text in lines if '"level":"error"' in text.replace(" ", "") or "Traceback" in text] == []


# -- kill -9 ----------------------------------------------------------------------------------------------------------------


async def test_updates_whose_worker_died_before_it_told_them_are_heard_at_the_next_look(
    new_hapta: NewHapta, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """The dying worker is this process: it commits as a worker does, and never says a word on the bus."""
    server = new_hapta(env={"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "JWT_SECRET": "s" * 64})
    server.start()
    token = await Topology([server]).account()
    db = await connect(DatabaseSettings(url=postgres_url), tmp_path, SystemClock())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(db.close)
        native = await stack.enter_async_context(line(server.ws_url, token))
        engine = await stack.enter_async_context(line(server.ws_url, token, "socketio"))
        http = await stack.enter_async_context(client_of(server, token))
        heads = Heads(SystemClock(), RandomIds())

        async def body(tx: WriteTx) -> None:
            head = await heads.locked(tx, native.account_id)
            for _ in range(3):
                head.add({"t": "update-account", "id": native.account_id}, USERS)
            await head.save(tx)

        await posted(http, "/v1/machines", {"id": "m-1", "metadata": "before"})  # two updates
        await db.write(body)
        for one in (native, engine):
            await one.until(lambda one=one: len(one.heard) >= 5)
        # The next time somebody speaks: what is missing is heard before his word.
        await db.write(body)
        await posted(http, "/v1/machines", {"id": "m-2", "metadata": "after"})
        for one in (native, engine):
            await one.until(lambda one=one: len(one.heard) >= 10)
            assert one.heard == list(range(1, 11))


async def test_of_a_killed_worker_calls_are_answered_and_machines_go_offline(
    new_hapta: NewHapta, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    """A dead worker's machines are ended after 65 seconds. Nobody waits for them here: a third worker, whose clock is ahead by as
    much, ends them, and the real one that is left tells its clients."""
    topology = on_postgres(new_hapta, postgres_url, redis_url)
    dying, left = topology.workers
    token = await topology.account()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client_of(left, token))
        await posted(http, "/v1/machines", {"id": "m-1", "metadata": "m"})
        app = await stack.enter_async_context(line(left.ws_url, token))
        engine = await stack.enter_async_context(line(left.ws_url, token, "socketio"))
        machine = await stack.enter_async_context(line(dying.ws_url, token, machine="m-1"))
        await app.event(lambda name, data: name == "ephemeral" and data["type"] == "machine-status" and data["online"])
        await machine.send("rpc-register", {"method": "m-1:sleep"})
        await machine.send("ping", {})
        await machine.event(lambda name, _: name == "pong")

        answers: list[Any] = []

        async def call(caller: Line) -> None:
            answers.append(await caller.emit("rpc-call", {"method": "m-1:sleep", "params": "for ever"}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, app)
            tasks.start_soon(call, engine)
            await machine.until(lambda: [name for name, _ in machine.events].count("rpc-request") == 2)
            await run_sync(dying.kill)
        assert answers == [DISCONNECTED, DISCONNECTED]

        bus = await open_redis(redis_url)
        stack.push_async_callback(bus.close)
        ahead = FakeClock(SystemClock().now() + 70)
        async with open_house(postgres_url, tmp_path, bus=bus, tokens=Tokens(), clock=ahead) as house:
            await house.relay.presence.sweep()
        told = await app.event(
            lambda name, data: name == "ephemeral" and data["type"] == "machine-status" and not data["online"]
        )
        assert told["machineId"] == "m-1"
        assert (await http.get("/v1/machines/m-1")).json()["machine"]["active"] is False
        no_errors(left)


# -- many, and slow ---------------------------------------------------------------------------------------------------------

SOCKETS = 500
SLOW = 20
GROWTH_BYTES = 48 * 1024 * 1024


async def test_a_storm_of_clients_and_readers_that_do_not_read_leave_nothing_behind(new_hapta: NewHapta) -> None:
    settings = {"HAPTA_RELAY_MAX_SOCKETS_PER_ACCOUNT": "2000", "HAPTA_RELAY_MAX_QUEUED_BYTES": "262144"}
    topology = on_sqlite(new_hapta, **settings)
    server = topology.workers[0]
    token = await topology.account()
    async with client_of(server, token) as http:
        made = await posted(http, "/v1/sessions", {"tag": "t", "metadata": "m"})
        session_id = made["session"]["id"]

        async def post(size: int) -> None:
            message = {"localId": RandomIds().uuid(), "content": "A" * size}
            await posted(http, f"/v3/sessions/{session_id}/messages", {"messages": [message]})

        async def storm() -> None:
            """All come at once, hear one update, and are gone without a word."""
            lines: list[Line] = []

            async def come(number: int) -> None:
                lines.append(await opened(server.ws_url, token, ("native", "socketio")[number % 2]))

            async with anyio.create_task_group() as tasks:
                for number in range(SOCKETS):
                    tasks.start_soon(come, number)
            await post(1000)
            for one in lines:
                await one.until(lambda one=one: bool(one.heard))
                one.abort()
            for one in lines:
                await one.close()

        async def stalls() -> None:
            """Readers who stop reading, while much is said; each is closed, and the one who reads hears everything."""
            async with AsyncExitStack() as stack:
                reader = await stack.enter_async_context(line(server.ws_url, token))
                for number in range(SLOW):
                    slow = await opened(
                        server.ws_url, token, ("native", "socketio")[number % 2], sock=_narrow(server), max_queue=1
                    )
                    stack.push_async_callback(slow.close)
                    slow.stall()
                for _ in range(40):
                    await post(200_000)  # 20 readers x 40 x 200 kB would be 160 MB
                await reader.until(lambda: len(reader.heard) >= 40)
                assert reader.heard == list(range(reader.heard[0], reader.heard[0] + 40))

        await storm()  # what sockets, caches and the allocator take in any case
        await stalls()
        before = psutil.Process(server.pid).memory_info().rss
        for _ in range(2):
            await storm()
        await stalls()
        assert psutil.Process(server.pid).memory_info().rss - before < GROWTH_BYTES
        assert (await http.get("/v1/websocket/stats")).status_code == 200
    no_errors(server)


def _narrow(server: HaptaServer) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the kernel must not swallow it all
    sock.connect(("127.0.0.1", server.port))
    return sock


# -- an orderly stop --------------------------------------------------------------------------------------------------------

IN_FLIGHT = 80
"""Messages that must have been acknowledged before each server is told to stop."""


class Writers:
    """Clients that send message after message until their server goes."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.acknowledged: dict[str, int] = {}
        self._enough = asyncio.Event()
        self._at = 0

    async def many(self) -> None:
        """Returns when some more have been acknowledged."""
        self._enough.clear()
        self._at = len(self.acknowledged) + IN_FLIGHT
        await self._enough.wait()

    def _note(self, local_id: str, seq: int) -> None:
        self.acknowledged[local_id] = seq
        if len(self.acknowledged) >= self._at:
            self._enough.set()

    async def over_socket(self, one: Line, name: str) -> None:
        number = 0
        while True:
            local_id = f"{name}-{number}"
            data = {"sid": self.session_id, "message": local_id, "localId": local_id}
            try:
                ack = await one.emit("message", data)
            except Ended:
                return
            if ack["result"] == "success":
                self._note(local_id, ack["seq"])
            number += 1

    async def over_rest(self, http: httpx.AsyncClient, name: str) -> None:
        number = 0
        while True:
            body = {"messages": [{"localId": f"{name}-{number}", "content": "x"}]}
            try:
                answer = await http.post(f"/v3/sessions/{self.session_id}/messages", json=body)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                (message,) = answer.json()["messages"]
                self._note(message["localId"], message["seq"])
            number += 1


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
async def test_a_server_that_is_told_to_stop_loses_nothing_that_it_acknowledged(
    new_hapta: NewHapta, request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    """Of two workers the first one stops while all is well, and the last one when Redis has gone away as well."""
    redis: RedisServer | None = None
    patience = {"HAPTA_SERVER_SHUTDOWN_SECONDS": "600", "HAPTA_RELAY_RPC_SECONDS": "600"}
    if where == "sqlite":
        topology = on_sqlite(new_hapta, **patience)
        database_url = f"sqlite:///{topology.workers[0].data / 'hapta.db'}"
    else:
        redis, database_url = request.getfixturevalue("own_redis"), request.getfixturevalue("postgres_url")
        assert redis is not None
        topology = on_postgres(new_hapta, database_url, redis.url, None, **patience)
    workers = topology.workers
    token = await topology.account()
    async with AsyncExitStack() as stack:
        https = [await stack.enter_async_context(client_of(worker, token)) for worker in workers]
        made = await posted(https[0], "/v1/sessions", {"tag": "t", "metadata": "m"})
        await posted(https[0], "/v1/machines", {"id": "m-1", "metadata": "m"})
        writers = Writers(made["session"]["id"])
        lines: dict[HaptaServer, list[Line]] = {worker: [] for worker in workers}
        for worker in workers:
            for protocol in ("native", "socketio", "native"):
                one = await stack.enter_async_context(line(worker.ws_url, token, protocol))
                lines[worker].append(one)
        machine = await stack.enter_async_context(line(workers[-1].ws_url, token, machine="m-1"))
        await machine.send("rpc-register", {"method": "m-1:sleep"})
        await machine.send("ping", {})
        await machine.event(lambda name, _: name == "pong")
        # Calls that nobody will answer are under way too, from each worker.
        callers = {
            worker: await stack.enter_async_context(line(worker.ws_url, token, "socketio")) for worker in workers
        }
        for caller in callers.values():
            await caller.send("rpc-call", {"method": "m-1:sleep", "params": {}}, "1")
        await machine.until(lambda: [name for name, _ in machine.events].count("rpc-request") == len(callers))

        async with anyio.create_task_group() as tasks:
            for number, one in enumerate(one for ours in lines.values() for one in ours):
                tasks.start_soon(writers.over_socket, one, f"socket-{number}")
            for number, http in enumerate(https):
                tasks.start_soon(writers.over_rest, http, f"rest-{number}")
            for worker in workers:
                await writers.many()
                if redis is not None and worker is workers[-1]:
                    await run_sync(redis.kill)
                async with asyncio.timeout(SECONDS):  # less than the server's own patience, and than that of a call
                    assert await run_sync(worker.stop) == 0
                ending = [*lines[worker], callers[worker], *([machine] if worker is workers[-1] else [])]
                assert [await one.gone() for one in ending] == [1012] * len(ending)
                no_errors(worker)

    stored, is_active = await _kept(database_url, tmp_path, writers.session_id)
    assert sorted(stored.values()) == list(range(1, len(stored) + 1))
    assert writers.acknowledged.items() <= stored.items()
    assert is_active == 0  # it let go of its machine before it ended


async def _kept(database_url: str, folder: Path, session_id: str) -> tuple[dict[str, int], int]:
    """Numbers of the session's messages by their local ids, and whether the machine is active."""
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    try:

        async def body(tx: ReadTx) -> tuple[dict[str, int], int]:
            rows = await tx.fetch_all(
                "SELECT local_id, seq FROM res_relay_messages WHERE session_id = :session", session=session_id
            )
            machine = await tx.fetch_one("SELECT active FROM res_relay_machines WHERE id = 'm-1'")
            assert machine is not None
            return {str(local_id): int(seq) for local_id, seq in rows}, int(machine[0])

        return await db.read(body)
    finally:
        await db.close()


async def test_a_relay_ends_even_when_its_bus_was_closed_before_it(
    migrated_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Whatever it still wants to say opens no new connection, which would hold up the end of the loop for ever."""
    tokens = Tokens()
    buses = [await open_redis(redis_url) for _ in range(2)]
    async with AsyncExitStack() as stack:
        houses = [
            await stack.enter_async_context(open_house(migrated_url, tmp_path, bus=bus, tokens=tokens)) for bus in buses
        ]
        await until(lambda: all(house.relay.rpc.workers for house in houses))
        here, there = (house.guest("a") for house in houses)
        await here.post("/v1/machines", json={"id": "m-1", "metadata": "m"})
        machine = await stack.enter_async_context(here.socket(machine="m-1"))
        app = await stack.enter_async_context(there.socket())
        await machine.emit("rpc-register", {"method": "m-1:sleep"})
        await machine.emit("ping")
        await machine.event("pong")
        await app.send({"event": "rpc-call", "ackId": "1", "data": {"method": "m-1:sleep", "params": {}}})
        await machine.event("rpc-request")
        for bus in buses:
            await bus.close()
    assert sum(bus.dropped for bus in buses) > 0
