"""One account of the relay under many hands, over real processes: sockets drop, a worker is killed, and nobody misses an update.

Each client changes things at random and keeps a picture of the account from what it hears; after a break it asks what it missed.
In the end every connection must have heard what was its to hear, once and in order, and every picture must be the server's.
"""

from __future__ import annotations

import asyncio
import base64
import random
import uuid
from bisect import bisect_right
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.to_thread import run_sync

from hapta.db.connect import connect
from hapta.db.database import ReadTx
from hapta.kit.clock import SystemClock
from hapta.settings import DatabaseSettings
from tests.faults.relay_ends import PARTS, REFUSED, SECONDS, Ended, Line, Place, Protocol, View, opened
from tests.faults.topologies import NewHapta, Topology, on_postgres, on_sqlite
from tests.servers import HaptaServer

BEFORE_THE_FAULT = 150
"""Changes that must have been acknowledged before a worker is killed."""
AFTER_THE_FAULT = 150
"""And as many once it is back."""
DROP = 0.04
"""Share of turns in which a client loses its connection."""


class World:
    """The account, its servers, and what was acknowledged.

    Args:
        struck: number of the worker that is killed in the middle.
    """

    def __init__(self, topology: Topology, token: str, seed: int, struck: int) -> None:
        self.topology = topology
        self.token = token
        self.seed = seed
        self.struck = topology.workers[struck]
        self.up = set(topology.workers)
        self.back = asyncio.Event()
        self.due = asyncio.Event()
        self.done = asyncio.Event()
        self.acknowledged = 0
        self.enough = 0
        self.messages: dict[tuple[str, str], tuple[int, str]] = {}
        """(session, local id) -> (number, text)."""
        self.values: dict[tuple[Place, int], Any] = {}
        self.lines: list[Line] = []
        self.makers: dict[str, set[str]] = {}
        """Connections that sent the message of a local id; of several it is not known whose try was stored."""
        headers = {"authorization": f"Bearer {token}"}
        self.http = httpx.AsyncClient(headers=headers, timeout=SECONDS, trust_env=False)

    async def worker(self, chance: random.Random) -> HaptaServer:
        """One that is not known to be down."""
        while not self.up:
            self.back.clear()
            await self.back.wait()
        return chance.choice([worker for worker in self.topology.workers if worker in self.up])

    async def strike(self) -> None:
        """Kills a worker when there is enough to lose, and starts it again."""
        await self.due.wait()
        self.up.discard(self.struck)
        await run_sync(self.struck.kill)
        await run_sync(self.struck.start)
        self.up.add(self.struck)
        self.back.set()
        self.enough = self.acknowledged + AFTER_THE_FAULT

    def _count(self) -> None:
        self.acknowledged += 1
        if self.acknowledged >= BEFORE_THE_FAULT:
            self.due.set()
        if self.enough and self.acknowledged >= self.enough:
            self.done.set()

    def wrote(self, place: Place, version: int, value: Any) -> None:
        """A version of a value was acknowledged; no other writer may have got the same one."""
        assert (place, version) not in self.values, f"{place}: version {version} was given twice"
        self.values[place, version] = value
        self._count()

    def posted(self, session_id: str, local_id: str, seq: int, text: str) -> None:
        """A message was acknowledged, perhaps for the second time: under the same number."""
        assert self.messages.setdefault((session_id, local_id), (seq, text)) == (seq, text)
        self._count()

    async def ask(self, chance: random.Random, method: str, path: str, body: object = None) -> Any:
        """One request to some worker; None when it broke, so that nobody knows what came of it."""
        worker = await self.worker(chance)
        try:
            answer = await self.http.request(method, worker.url + path, json=body)
        except httpx.TransportError:
            return None
        assert answer.status_code in (200, 409), (method, path, answer.status_code, answer.text)
        return answer.json()

    async def insist(self, chance: random.Random, method: str, path: str, body: object = None) -> Any:
        """The same until it is answered."""
        while (answer := await self.ask(chance, method, path, body)) is None:
            pass
        return answer

    async def whole(self, chance: random.Random) -> View:
        """The account as the server has it."""
        view = View()
        await self.read_things(chance, view)
        await self.read_rest(chance, view)
        return view

    async def read_things(self, chance: random.Random, view: View) -> None:
        for session in (await self.insist(chance, "GET", "/v1/sessions"))["sessions"]:
            view.learn_thing("session", session)
        for machine in (await self.insist(chance, "GET", "/v1/machines?limit=200"))["machines"]:
            view.learn_thing("machine", machine)
        for artifact in (await self.insist(chance, "GET", "/v1/artifacts"))["artifacts"]:
            view.learn_thing("artifact", await self.insist(chance, "GET", f"/v1/artifacts/{artifact['id']}"))

    async def read_rest(self, chance: random.Random, view: View) -> None:
        """What `request-updates-since` does not tell: keys and messages."""
        for item in (await self.insist(chance, "GET", "/v1/kv?limit=1000"))["items"]:
            view.learn(("kv", item["key"], "value"), item["version"], item["value"])
        for session_id in view.ids("session"):
            after, more = 0, True
            while more:
                path = f"/v3/sessions/{session_id}/messages?after_seq={after}&limit=500"
                page = await self.insist(chance, "GET", path)
                for message in page["messages"]:
                    view.learn_message(session_id, message)
                    after = message["seq"]
                more = page["hasMore"]

    async def head(self, chance: random.Random) -> int:
        return (await self.insist(chance, "GET", "/v1/artifacts?limit=1"))["maxSeq"]


class Client:
    """Somebody who changes the account and listens to it.

    Args:
        session: the session whose agent it is; empty: an app, which sees all.
    """

    def __init__(self, world: World, number: int, protocol: Protocol, session: str = "") -> None:
        self.world = world
        self.chance = random.Random(f"{world.seed}/{number}")
        self.protocol: Protocol = protocol
        self.session = session
        self.name = f"client-{number}"
        self.view = View()
        self.line: Line | None = None
        self._known = 0
        self._count = 0

    async def run(self) -> None:
        """Acts until there is enough, then catches up."""
        while not self.world.done.is_set():
            try:
                connection = await self.connected()
                if self.chance.random() < DROP:
                    await connection.close()
                else:
                    await self.act(connection)
            except Ended:
                continue
        await self.connected()

    async def connected(self) -> Line:
        """The open connection, with nothing missed before it."""
        while self.line is None or self.line.ended:
            try:
                self.line = await self._opened()
            except Ended:
                self.line = None
        return self.line

    async def _opened(self) -> Line:
        world = self.world
        worker = await world.worker(self.chance)
        try:
            connection = await opened(
                worker.ws_url,
                world.token,
                self.protocol,
                session=self.session,
                hear=lambda update: self.view.apply(update["body"]),
            )
        except REFUSED:
            raise Ended from None
        world.lines.append(connection)
        connection.head_at_open = await world.head(self.chance)
        if not self.session:
            known = self._known
            missed = await connection.emit(
                "request-updates-since", {"sessions": known, "machines": known, "artifacts": known}
            )
            if missed["success"]:
                for update in missed["updates"]:
                    self.view.apply(update["body"])
            else:
                await world.read_things(self.chance, self.view)
            await world.read_rest(self.chance, self.view)
            self._known = connection.head_at_open
        return connection

    # -- what it does ----------------------------------------------------------------------------------------------------

    async def act(self, connection: Line) -> None:
        """One change."""
        if self.session:
            await self._compare_and_set(connection, "session", self.session, self.chance.choice(PARTS["session"]))
            await self._send(connection, self.session)
            return
        sessions, machines = self.view.ids("session"), self.view.ids("machine")
        artifacts = self.view.ids("artifact")
        match self.chance.choices(range(9), [3, 30, 30, 30, 3, 15, 3, 15, 25])[0]:
            case 0 if len(sessions) < 12:
                body = {"tag": self._text(), "metadata": self._text(), "agentState": self._text()}
                await self._create("session", "/v1/sessions", body)
            case 1:
                await self._send(connection, self.chance.choice(sessions))
            case 2:
                await self._post(self.chance.choice(sessions))
            case 3:
                part = self.chance.choice(PARTS["session"])
                await self._compare_and_set(connection, "session", self.chance.choice(sessions), part)
            case 4 if len(machines) < 8:
                body = {"id": self._text(), "metadata": self._text(), "daemonState": self._text()}
                await self._create("machine", "/v1/machines", body)
            case 5 if machines:
                part = self.chance.choice(PARTS["machine"])
                await self._compare_and_set(connection, "machine", self.chance.choice(machines), part)
            case 6 if len(artifacts) < 12:
                body = {"id": str(uuid.UUID(int=self.chance.getrandbits(128), version=4)), "dataEncryptionKey": "AAAA"}
                body |= {"header": self._base64(), "body": self._base64()}
                await self._create("artifact", "/v1/artifacts", body)
            case 7 if artifacts:
                await self._edit_artifact(connection, self.chance.choice(artifacts))
            case 8:
                await self._write_keys()
            case _:
                return

    def _text(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    def _base64(self) -> str:
        return base64.b64encode(self._text().encode()).decode()

    def _won(self, place: Place, version: int, value: Any) -> None:
        self.world.wrote(place, version, value)
        self.view.learn(place, version, value)

    async def _create(self, kind: str, path: str, body: dict[str, Any]) -> None:
        answer = await self.world.ask(self.chance, "POST", path, body)
        if answer is not None:
            thing = answer.get(kind, answer)
            self.view.learn_thing(kind, thing)
            for part in PARTS[kind]:
                assert thing[part] == body[part]
                self.world.wrote((kind, thing["id"], part), thing[f"{part}Version"], thing[part])

    async def _send(self, connection: Line, session_id: str) -> None:
        local_id, text = self._text(), self._text()
        try:
            self.world.makers.setdefault(local_id, set()).add(connection.id)
            ack = await connection.emit("message", {"sid": session_id, "message": text, "localId": local_id})
        except Ended:
            # As clients do: once more, under the same name.
            await self._post(session_id, {local_id: text})
            return
        assert ack["result"] == "success", ack
        self._posted(session_id, local_id, ack["seq"], text)

    async def _post(self, session_id: str, texts: dict[str, str] | None = None) -> None:
        texts = texts or {self._text(): self._text() for _ in range(self.chance.randint(1, 3))}
        body = {"messages": [{"localId": local_id, "content": text} for local_id, text in texts.items()]}
        answer = await self.world.insist(self.chance, "POST", f"/v3/sessions/{session_id}/messages", body)
        for message in answer["messages"]:
            self._posted(session_id, message["localId"], message["seq"], texts[message["localId"]])

    def _posted(self, session_id: str, local_id: str, seq: int, text: str) -> None:
        self.world.posted(session_id, local_id, seq, text)
        self.view.learn_message(session_id, {"seq": seq, "content": {"c": text}})

    async def _compare_and_set(self, connection: Line, kind: str, thing_id: str, part: str) -> None:
        place, text = (kind, thing_id, part), self._text()
        data: dict[str, Any] = {part: text, "expectedVersion": self.view.version(place)}
        if kind == "session":
            event = "update-metadata" if part == "metadata" else "update-state"
            data["sid"] = thing_id
        else:
            event = "machine-update-metadata" if part == "metadata" else "machine-update-state"
            data["machineId"] = thing_id
        ack = await connection.emit(event, data)
        if ack["result"] == "success":
            self._won(place, ack["version"], text)
        else:
            assert ack["result"] == "version-mismatch", ack
            self.view.learn(place, ack["version"], ack[part])

    async def _edit_artifact(self, connection: Line, artifact_id: str) -> None:
        part, value = self.chance.choice(PARTS["artifact"]), self._base64()
        place = ("artifact", artifact_id, part)
        edit = {"data": value, "expectedVersion": self.view.version(place)}
        ack = await connection.emit("artifact-update", {"artifactId": artifact_id, part: edit})
        if ack["result"] == "success":
            self._won(place, ack[part]["version"], value)
        else:
            assert ack["result"] == "version-mismatch", ack
            self.view.learn(place, ack[part]["currentVersion"], ack[part]["currentData"])

    async def _write_keys(self) -> None:
        keys = self.chance.sample([f"key-{number}" for number in range(8)], self.chance.randint(1, 3))
        places: list[Place] = [("kv", key, "value") for key in keys]
        values = {key: self._base64() for key in keys}
        mutations = [
            {"key": place[1], "value": values[place[1]], "version": self.view.values.get(place, (-1, None))[0]}
            for place in places
        ]
        answer = await self.world.ask(self.chance, "POST", "/v1/kv", {"mutations": mutations})
        if answer is None:
            return
        for result in answer.get("results", []):
            self._won(("kv", result["key"], "value"), result["version"], values[result["key"]])
        for conflict in answer.get("errors", []):
            if conflict["version"] >= 0:
                self.view.learn(("kv", conflict["key"], "value"), conflict["version"], conflict["value"])


# -- the judgement ---------------------------------------------------------------------------------------------------------

Row = tuple[int, str, str, frozenset[str]]
"""(number, kind of audience, its id, sender or those that may be it) of an update."""

NOBODY: frozenset[str] = frozenset()


def due_to(line: Line, rows: list[Row]) -> list[int]:
    """The numbers that a connection is to hear (contract relay, section 14.4)."""
    due: list[int] = []
    for seq, kind, audience_id, senders in rows:
        if line.session:
            hears = kind == "all" or (kind in ("session", "only-session") and audience_id == line.session)
        else:
            hears = not kind.startswith("only-")
        if hears and not (line.protocol == "socketio" and line.id in senders):
            due.append(seq)
    return due


def complaints(line: Line, rows: list[Row], last: int) -> list[str]:
    """What a connection missed, heard twice or heard too early. `last`: a number that whoever lives has heard; 0: it was cut."""
    # A connection that is one of several which tried to send the same may hear it or not.
    unsure = {seq for seq, _, _, senders in rows if len(senders) > 1 and line.id in senders}
    due, heard = due_to(line, rows), [seq for seq in line.heard if seq not in unsure]
    name = f"{line.protocol} {line.session or 'app'}"
    first = bisect_right(due, line.head_at_open)
    if not heard:
        return [f"{name}: heard nothing after {line.head_at_open}"] if last and due[first:] else []
    if heard[0] not in due:
        return [f"{name}: heard {heard[0]}, which was not for it"]
    begin = due.index(heard[0])
    found: list[str] = []
    if begin > first:
        found.append(f"{name}: began with {heard[0]} although {due[first]} came after {line.head_at_open}")
    if heard != due[begin : begin + len(heard)]:
        at = next(n for n, seq in enumerate(heard) if due[begin + n : begin + n + 1] != [seq])
        found.append(f"{name}: heard {heard[max(0, at - 2) : at + 3]} instead of {due[begin + max(0, at - 2) :][:5]}")
    if last and heard[-1] < last:
        found.append(f"{name}: stopped at {heard[-1]} of {last}")
    return found


async def numbered(database_url: str, folder: Path, world: World, account_id: str) -> tuple[int, list[Row]]:
    """The account's head, and all updates that have a number. The only worker of an SQLite file logs no messages: theirs are the
    numbers that the log leaves out, in the order in which they were stored."""
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    try:

        async def body(tx: ReadTx) -> tuple[int, list[Row]]:
            head = await tx.fetch_one("SELECT seq FROM res_relay_heads WHERE account_id = :account", account=account_id)
            rows = await tx.fetch_all(
                "SELECT seq, audience, audience_id, sender FROM res_relay_updates WHERE account_id = :account ORDER BY seq",
                account=account_id,
            )
            assert head is not None
            found: list[Row] = [(seq, kind, id_, frozenset({sender})) for seq, kind, id_, sender in rows]
            if tx.engine == "sqlite":
                messages = await tx.fetch_all(
                    "SELECT session_id, local_id FROM res_relay_messages WHERE account_id = :account ORDER BY rowid",
                    account=account_id,
                )
                left_out = sorted(set(range(1, head[0] + 1)) - {row[0] for row in found})
                assert messages
                found += [
                    (seq, "session", session_id, frozenset(world.makers.get(local_id, ())))
                    for seq, (session_id, local_id) in zip(left_out, messages, strict=True)
                ]
            return int(head[0]), sorted(found, key=lambda row: row[0])

        return await db.read(body)
    finally:
        await db.close()


async def prove(topology: Topology, database_url: str, folder: Path, *, struck: int, seed: int) -> None:
    print(f"seed {seed}")  # pytest shows it when the test fails
    chance = random.Random(seed)
    world = World(topology, await topology.account(), seed, struck)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(world.http.aclose)
        made = await world.insist(chance, "POST", "/v1/sessions", {"tag": "first", "metadata": "m"})
        first: str = made["session"]["id"]
        clients = [Client(world, number, ("native", "socketio")[number % 2]) for number in range(6)]
        clients += [Client(world, 6, "native", first), Client(world, 7, "socketio", first)]
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(client.run)
            tasks.start_soon(world.strike)

        # The last word, which all of them hear.
        body = {"messages": [{"localId": "the last word", "content": "good-bye"}]}
        await world.insist(chance, "POST", f"/v3/sessions/{first}/messages", body)
        last = await world.head(chance)
        living = [await client.connected() for client in clients]
        for line in living:
            await line.until(lambda line=line: line.heard[-1:] == [last] or line.head_at_open >= last)
        truth = await world.whole(chance)
        for line in world.lines:
            await line.close()
    for worker in topology.workers:
        assert await run_sync(worker.stop) == 0
        assert "Traceback" not in worker.log.read_text()

    account_id = next(line.account_id for line in world.lines if line.account_id)
    head, rows = await numbered(database_url, folder, world, account_id)
    assert head == last
    assert [row[0] for row in rows] == list(range(1, head + 1))
    found = [text for line in world.lines for text in complaints(line, rows, last if line in living else 0)]
    assert found == []
    assert len(world.lines) > len(clients)  # some did break
    for client in clients:
        if not client.session:
            assert client.view.values == truth.values, client.name
            assert client.view.messages == truth.messages, client.name
    for (session_id, _), (seq, text) in world.messages.items():
        assert truth.messages[session_id, seq] == text
    for (place, version), value in world.values.items():
        assert truth.values[place][0] >= version
        assert truth.values[place][0] > version or truth.values[place][1] == value


@pytest.mark.parametrize("seed", [5])
async def test_two_workers_tell_every_update_once_and_in_order_while_one_is_killed(
    new_hapta: NewHapta, postgres_url: str, redis_url: str, tmp_path: Path, seed: int
) -> None:
    await prove(on_postgres(new_hapta, postgres_url, redis_url), postgres_url, tmp_path, struck=1, seed=seed)


@pytest.mark.parametrize("seed", [5])
async def test_one_worker_on_sqlite_tells_every_update_once_and_in_order_while_it_is_killed(
    new_hapta: NewHapta, tmp_path: Path, seed: int
) -> None:
    topology = on_sqlite(new_hapta)
    url = f"sqlite:///{topology.workers[0].data / 'hapta.db'}"
    await prove(topology, url, tmp_path, struck=0, seed=seed)


@pytest.mark.parametrize(
    ("heard", "complaint"),
    [
        ([3, 4, 6], "instead of"),
        ([3, 4, 4, 5, 6], "instead of"),
        ([4, 3, 5, 6], "began with 4"),
        ([5, 6], "began with 5"),
        ([3, 4, 5], "stopped at 5"),
        ([], "heard nothing"),
        ([9], "not for it"),
    ],
)
def test_every_way_of_missing_an_update_has_a_complaint_of_its_own(heard: list[int], complaint: str) -> None:
    line = Line(None, "native", "", None)  # pyright: ignore[reportArgumentType]  (it never opens)
    line.head_at_open, line.heard = 2, heard
    rows: list[Row] = [(seq, "user", "", NOBODY) for seq in range(1, 7)]

    found = complaints(line, rows, 6)

    assert any(complaint in text for text in found), found


def test_a_connection_that_heard_what_was_its_to_hear_draws_no_complaint() -> None:
    line = Line(None, "socketio", "s", None)  # pyright: ignore[reportArgumentType]
    line.id, line.head_at_open, line.heard = "me", 2, [2, 4, 6]
    rows: list[Row] = [(seq, "session", "s" if seq % 2 == 0 else "t", NOBODY) for seq in range(1, 7)]
    rows.insert(4, (5, "session", "s", frozenset({"me"})))

    assert complaints(line, rows, 6) == []


def test_of_a_second_try_nobody_can_say_whether_its_sender_hears_it() -> None:
    line = Line(None, "socketio", "", None)  # pyright: ignore[reportArgumentType]
    line.id = "me"
    rows: list[Row] = [(seq, "user", "", NOBODY) for seq in range(1, 5)]
    rows[1] = (2, "user", "", frozenset({"me", "me before"}))

    for line.heard in ([1, 2, 3, 4], [1, 3, 4]):
        assert complaints(line, rows, 4) == []
    line.heard = [1, 4]
    assert complaints(line, rows, 4)
