"""Clients of the relay for tests that break things: connections of both protocols over real sockets, and what each has heard.

A connection notes every update in the order in which it came; what a client knows of its account (`View`) is judged apart from it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

Protocol = Literal["native", "socketio"]
SECONDS = 120.0
"""So long a test waits for what has to come."""
REFUSED = (OSError, InvalidHandshake, ConnectionClosed, TimeoutError)
"""What opening a connection may end in while servers come and go."""


class Ended(Exception):
    """The connection is gone, and with it the answer that was waited for."""


class Line:
    """One open connection. Made by `opened`.

    Args:
        session: the session that it is for; empty: it is the account's.
        hear: is told each update as it comes.
    """

    def __init__(
        self,
        connection: ClientConnection,
        protocol: Protocol,
        session: str,
        hear: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.protocol: Protocol = protocol
        self.session = session
        self.id = ""
        self.account_id = ""
        self.heard: list[int] = []
        """Numbers of the updates, as they came."""
        self.events: list[tuple[str, Any]] = []
        """All other events."""
        self.head_at_open = 0
        """A number that the account had when the connection was open: all later ones are for it to hear."""
        self.close_code: int | None = None
        self._connection = connection
        self._hear = hear
        self._asked = 0
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        if self._reader is None or not self._reader.done():
            return False
        self._reader.result()  # what was heard may have contradicted what was known
        return True

    async def sign_in(self, auth: dict[str, str]) -> None:
        """Completes the greeting and begins to read."""
        if self.protocol == "socketio":
            await self._connection.recv()
            await self._connection.send(f"40{json.dumps(auth)}")
            greeting = str(await self._connection.recv())
            assert greeting.startswith("40"), greeting
            self.id = json.loads(greeting[2:])["sid"]
        else:
            connected = json.loads(await self._connection.recv())["data"]
            self.id, self.account_id = connected["connectionId"], connected["userId"]
        self._reader = asyncio.create_task(self._read())

    async def send(self, event: str, data: object, ack_id: str = "") -> None:
        """Sends an event; what it is answered with is not waited for."""
        if self.protocol == "socketio":
            text = f"42{ack_id}{json.dumps([event, data])}"
        else:
            text = json.dumps({"event": event, "data": data} | ({"ackId": ack_id} if ack_id else {}))
        try:
            await self._connection.send(text)
        except (ConnectionClosed, OSError):
            raise Ended from None

    async def emit(self, event: str, data: object) -> Any:
        """Sends an event; the acknowledgement.

        Raises:
            Ended: the connection ended first.
        """
        self._asked += 1
        ack_id = str(self._asked)
        if self.ended:
            raise Ended
        answer = self._answers[ack_id] = asyncio.get_running_loop().create_future()
        await self.send(event, data, ack_id)
        async with asyncio.timeout(SECONDS):
            return await answer

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when something holds that what comes over this connection changes.

        Raises:
            Ended: the connection ended first.
        """
        async with asyncio.timeout(SECONDS):
            while not condition():
                if self.ended:
                    raise Ended
                self._news.clear()
                await self._news.wait()

    async def event(self, wanted: Callable[[str, Any], bool]) -> Any:
        """The data of the first event of this kind, even if it came before."""
        await self.until(lambda: any(wanted(*event) for event in self.events))
        return next(data for name, data in self.events if wanted(name, data))

    async def gone(self) -> int | None:
        """Waits until the server closes; its close code."""
        assert self._reader is not None
        async with asyncio.timeout(SECONDS):
            await asyncio.wait([self._reader])
        return self.close_code

    def stall(self) -> None:
        """Reads nothing more."""
        self._connection.transport.pause_reading()

    def abort(self) -> None:
        """Goes without a word."""
        self._connection.transport.abort()

    async def close(self) -> None:
        """Goes at once, and returns when nothing of it runs any more."""
        self.abort()
        if self._reader is not None:
            await self._reader

    async def _read(self) -> None:
        try:
            async for frame in self._connection:
                await self._take(str(frame))
                self._news.set()
        except (ConnectionClosed, OSError):
            pass
        finally:
            self.close_code = self._connection.close_code
            self._news.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(Ended())
                    answer.exception()  # nobody may wait for it any more

    async def _take(self, frame: str) -> None:
        if self.protocol == "native":
            message = json.loads(frame)
            if message["event"] == "ack":
                self._answer(message["ackId"], message["ack"])
            else:
                self._note(message["event"], message.get("data"))
        elif frame == "2":
            await self._connection.send("3")
        elif frame.startswith("42"):
            self._note(*json.loads(frame[frame.index("[") :]))
        elif frame.startswith("43"):
            number, _, rest = frame[2:].partition("[")
            self._answer(number, json.loads("[" + rest)[0])

    def _answer(self, ack_id: str, answer: Any) -> None:
        waiting = self._answers.pop(ack_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _note(self, name: str, data: Any = None) -> None:
        if name != "update":
            self.events.append((name, data))
            return
        self.heard.append(data["seq"])
        if self._hear is not None:
            self._hear(data)


async def opened(
    ws_url: str,
    token: str,
    protocol: Protocol = "native",
    *,
    session: str = "",
    machine: str = "",
    hear: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Line:
    """Opens a connection.

    Raises:
        one of REFUSED: the server is not there, or goes away meanwhile.
    """
    scope: dict[str, str] = {}
    if session:
        scope = {"clientType": "session-scoped", "sessionId": session}
    if machine:
        scope = {"clientType": "machine-scoped", "machineId": machine}
    if protocol == "native":
        query = "&".join(f"{name}={value}" for name, value in scope.items())
        path, headers = f"/v1/websocket?{query}", {"authorization": f"Bearer {token}"}
    else:
        path, headers = "/v1/updates/?EIO=4&transport=websocket", {}
    connection = await connect(
        ws_url + path, additional_headers=headers, compression=None, max_size=None, ping_interval=None, **options
    )
    line = Line(connection, protocol, session, hear)
    try:
        await line.sign_in({"token": token, **scope})
    except BaseException:
        connection.transport.abort()
        raise
    return line


@asynccontextmanager
async def line(ws_url: str, token: str, protocol: Protocol = "native", **more: Any) -> AsyncGenerator[Line]:
    """A connection for as long as the context lasts."""
    one = await opened(ws_url, token, protocol, **more)
    try:
        yield one
    finally:
        await one.close()


Place = tuple[str, str, str]
"""(kind, id, part) of a value with versions."""


class View:
    """What a client knows of its account. Of each value the highest version counts."""

    def __init__(self) -> None:
        self.values: dict[Place, tuple[int, Any]] = {}
        self.messages: dict[tuple[str, int], str] = {}

    def version(self, place: Place) -> int:
        return self.values.get(place, (0, None))[0]

    def ids(self, kind: str) -> list[str]:
        return sorted({place[1] for place in self.values if place[0] == kind})

    def learn(self, place: Place, version: int, value: Any) -> None:
        known = self.values.get(place)
        if known is None or known[0] < version:
            self.values[place] = version, value
        else:
            assert known[0] > version or known[1] == value, (place, version, known[1], value)

    def learn_thing(self, kind: str, thing: dict[str, Any]) -> None:
        """A whole thing, as lists and `new-...` have it."""
        thing_id = thing.get("artifactId") or thing.get("machineId") or thing["id"]
        for part in PARTS[kind]:
            if part in thing:
                self.learn((kind, thing_id, part), thing[f"{part}Version"], thing[part])

    def learn_message(self, session_id: str, message: dict[str, Any]) -> None:
        text = message["content"]["c"]
        assert self.messages.setdefault((session_id, message["seq"]), text) == text

    def apply(self, body: dict[str, Any]) -> None:
        """The body of an update."""
        told, _, kind = body["t"].partition("-")
        match body["t"]:
            case "new-message":
                self.learn_message(body["sid"], body["message"])
            case "kv-batch-update":
                for change in body["changes"]:
                    self.learn(("kv", change["key"], "value"), change["version"], change["value"])
            case _ if told == "new":
                self.learn_thing(kind, body)
            case _:
                assert told == "update", body
                thing_id = body.get("artifactId") or body.get("machineId") or body["id"]
                for part in PARTS[kind]:
                    if part in body:
                        self.learn((kind, thing_id, part), body[part]["version"], body[part]["value"])


PARTS = {
    "session": ("metadata", "agentState"),
    "machine": ("metadata", "daemonState"),
    "artifact": ("header", "body"),
}
