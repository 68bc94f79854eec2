"""What the relay's tests stand on: the feature over a real database and bus, behind the real edge, with two accounts.

async def test_something(house: House, a: Guest, b: Guest) -> None:
    answer = await a.post("/v1/sessions", json={...})
    async with a.socket() as watcher:                        # native, user-scoped, `connected` already read
        async with a.socket(session="...") as agent:         # session-scoped; machine="..." for a machine's
            await agent.emit("update-metadata", {...}, ack=True)   # the acknowledgement
            update = await watcher.update()                  # data of the next `update`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote, urlencode

import httpx

from hapta.bus.bus import Bus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.fetch import GuardedFetch
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import SystemClock
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import RandomIds
from hapta.kit.keyring import Keyring
from hapta.kit.ratelimit import Limiter, MemoryLimiter, Rate
from hapta.relay.feature import Relay, open_relay
from hapta.relay.models import Audience, Update
from hapta.relay.personal import Surroundings
from hapta.relay.removal.service import Removal
from hapta.settings import DatabaseSettings, ServerSettings
from hapta.settings.relay import RelaySettings
from hapta.testing.clock import FakeClock
from hapta.testing.server import SocketClosed as Closed
from hapta.testing.server import TestSocket

A = "01900000-0000-7000-8000-00000000000a"
B = "01900000-0000-7000-8000-00000000000b"
SECRET = "a secret for tests only, thirty-two bytes or more"
SECONDS = 120.0
"""So long a test waits for what has to come: far longer than it takes, on however busy a machine."""

PATIENT = {"auth_seconds": SECONDS, "rpc_seconds": SECONDS, "rpc_reconnect_seconds": SECONDS}
"""What a worker of the tests waits for at least as long as a test does."""

UPDATES = "/v1/websocket"

__all__ = ["A", "B", "Closed", "Guest", "House", "NativeSocket", "OpenHouse", "Tokens", "open_house", "until"]


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until something has happened."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions of code that has no reason to offer an event
            await asyncio.sleep(0)


class Tokens:
    """A verifier whose tokens are names: a test adds and revokes them. `a` and `b` are of the accounts A and B."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}
        self.add("a", A)
        self.add("b", B)

    def add(self, token: str, account_id: str, *, expires_at: float = 4e9, **more: Any) -> Caller:
        """A further token; its session is `session of <token>`."""
        caller = Caller(UserId(account_id), SessionId(f"session of {token}"), 1, None, expires_at, **more)
        self.callers[token] = caller
        return caller

    async def knows(self, account_id: str) -> bool:
        """Whether a token leads to this account."""
        return any(caller.user_id == account_id for caller in self.callers.values())

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        try:
            return self.callers[token]
        except KeyError:
            raise InvalidToken from None


class NativeSocket(TestSocket):
    """The client's end of a native socket. Frames that nobody has asked for yet wait in order, `kept`.

    Whoever enters it is online: who hears of that in this worker has been told.
    """

    def __init__(self, house: House, path: str, headers: Mapping[str, str], *, address: str = "127.0.0.1") -> None:
        super().__init__(house.app, path, headers, answers=True, address=address, seconds=SECONDS)
        self._house = house
        self.connected: dict[str, Any] = {}
        """Data of the server's first word."""
        self.kept: list[dict[str, Any]] = []
        self._acks = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            self.connected = await self.event("connected")
            await self._house.settled()
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def id(self) -> str:
        return self.connected["connectionId"]

    # -- sending ---------------------------------------------------------------------------------------------------------

    async def emit(self, event: str, data: Any = None, *, ack: bool = False) -> Any:
        """Sends an event.

        Args:
            ack: waits for the acknowledgement and gives it back.
        """
        if not ack:
            await self.send({"event": event, "data": data})
            return None
        self._acks += 1
        ack_id = f"ack-{self._acks}"
        await self.send({"event": event, "data": data, "ackId": ack_id})
        return (await self.frame(lambda frame: frame.get("event") == "ack" and frame.get("ackId") == ack_id))["ack"]

    # -- receiving -------------------------------------------------------------------------------------------------------

    async def receive(self) -> Any:
        """The next frame, whatever it is.

        Raises:
            Closed: the server closed instead.
        """
        if self.kept:
            return self.kept.pop(0)
        return await super().receive()

    async def frame(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next frame that is wanted; those before it are kept."""
        for index, kept in enumerate(self.kept):
            if wanted(kept):
                return self.kept.pop(index)
        while True:
            frame = await super().receive()
            if wanted(frame):
                return frame
            self.kept.append(frame)

    async def event(self, name: str) -> Any:
        """Data of the next frame with this event."""
        return (await self.frame(lambda frame: frame.get("event") == name))["data"]

    async def update(self, t: str = "") -> dict[str, Any]:
        """Data of the next update `{id, seq, body, createdAt}`; with `t` of the next one of that kind."""

        def wanted(frame: dict[str, Any]) -> bool:
            return frame.get("event") == "update" and (not t or frame["data"]["body"]["t"] == t)

        return (await self.frame(wanted))["data"]

    async def ephemeral(self, type_: str = "") -> dict[str, Any]:
        """Data of the next ephemeral; with `type_` of the next one of that type."""

        def wanted(frame: dict[str, Any]) -> bool:
            return frame.get("event") == "ephemeral" and (not type_ or frame["data"]["type"] == type_)

        return (await self.frame(wanted))["data"]

    async def seen(self) -> list[dict[str, Any]]:
        """Every frame up to now that nobody has asked for: what is on its way in this worker has arrived by then, and with it
        what is told of sockets that came and went."""
        await self._house.settled()
        for _ in range(2):  # what is announced goes out on the next turn, and what answers it on the one after
            await self.send({"event": "ping"})
            await self.frame(lambda frame: frame.get("event") == "pong")
        kept, self.kept = self.kept, []
        return kept

    async def closed(self) -> int:
        """Waits until the server closes, whatever it sends before; the close code."""
        self.kept.clear()
        return await super().closed()


@dataclass(repr=False)
class Guest:
    """Somebody with a token: calls and sockets go out with it."""

    house: House
    id: str
    token: str

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return await self.house.http.request(method, path, headers=headers, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("DELETE", path, **options)

    def socket(self, *, session: str = "", machine: str = "", path: str = "", **query: str) -> NativeSocket:
        """A native socket; enter it to connect.

        Args:
            session: makes it session-scoped; `machine` machine-scoped.
            query: further parameters of the handshake.
        """
        said = dict(query)
        if session:
            said |= {"clientType": "session-scoped", "sessionId": session}
        if machine:
            said |= {"clientType": "machine-scoped", "machineId": machine}
        return self.house.socket(f"{path or UPDATES}?{urlencode(said, quote_via=quote)}", token=self.token)


@dataclass(repr=False)
class House:
    """One worker: the relay over a database and a bus, behind an edge."""

    db: Database
    bus: Bus
    clock: FakeClock
    relay: Relay
    tokens: Tokens
    app: Application
    http: httpx.AsyncClient
    metrics: Metrics
    removal: Removal

    def guest(self, token: str) -> Guest:
        """Whoever has this token."""
        return Guest(self, self.tokens.callers[token].user_id, token)

    def socket(
        self, path: str, *, token: str = "", headers: Mapping[str, str] | None = None, address: str = "127.0.0.1"
    ) -> NativeSocket:
        """A native socket with whatever credentials; `open()` it, or enter it when `connected` is to be read."""
        given = {"authorization": f"Bearer {token}"} if token else {}
        return NativeSocket(self, path, {**given, **(headers or {})}, address=address)

    async def settled(self) -> None:
        """Returns when all that this worker has heard of sockets up to now is written and told: it does that by itself too,
        yet in the background and whenever the database lets it."""
        await self.relay.presence.connections.settle()
        await self.relay.online.settle()

    async def commit(
        self, account_id: str, *bodies: Mapping[str, object], audience: Audience | None = None, **more: Any
    ) -> list[Update]:
        """Numbers updates without telling them, as a worker does that is killed between its commit and its word."""

        async def body(tx: Any) -> list[Update]:
            head = await self.relay.heads.locked(tx, account_id)
            for one in bodies:
                head.add(one, audience or Audience("user"), **more)
            await head.save(tx)
            return head.updates

        return await self.db.write(body)

    async def tell(
        self, account_id: str, *bodies: Mapping[str, object], audience: Audience | None = None, **more: Any
    ) -> list[Update]:
        """Numbers updates and tells them."""
        updates = await self.commit(account_id, *bodies, audience=audience, **more)
        await self.relay.updates.announce(updates)
        return updates


OpenHouse = Callable[..., Awaitable[House]]


@asynccontextmanager
async def open_house(
    database_url: str,
    folder: Path,
    bus: Bus,
    *,
    clock: FakeClock | None = None,
    tokens: Tokens | None = None,
    limiter: Limiter | None = None,
    relay: Mapping[str, Any] | None = None,
    edge_limits: bool = False,
    **settings: Any,
) -> AsyncGenerator[House]:
    """Opens one worker over a migrated database.

    Args:
        folder: for files of the database's own.
        bus: shared by the workers of a test; the caller closes it.
        tokens: shared by them too, where a token is to count on both.
        limiter: for what the feature limits itself.
        relay: further arguments of `open_relay`, or others than the usual ones.
        settings: of `RelaySettings`, where they differ.
    """
    clock = clock or FakeClock()
    tokens = tokens or Tokens()
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    try:
        arguments: dict[str, Any] = {
            "verifier": tokens,
            "keyring": Keyring.of(SECRET),
            "limiter": limiter,
            "run_upkeep": False,
            "around": Surroundings(exists=tokens.knows, fetch=GuardedFetch(allow_private=True), production=False),
            **(relay or {}),
        }
        own = replace(RelaySettings(), **{**PATIENT, **settings})
        opening = open_relay(db, bus, clock, RandomIds(), own, **arguments)
        async with opening as feature:
            metrics = Metrics()
            feature.publish(metrics)
            rate = Rate(6000, 60, 6000)
            classes = {name: LimitClass(name, rate, "address") for name in ("default", "token", "poll")}
            classes["account"] = LimitClass("account", rate, "account")
            edge = Edge(
                ServerSettings(),
                tokens,
                Limits(MemoryLimiter(clock.monotonic) if edge_limits else None, classes),
                Cors(["*"]),
                metrics,
                clock,
                None,
            )
            app = Application(feature.endpoints, edge)
            transport = httpx.ASGITransport(cast(Any, app), raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="https://hapta.test", timeout=SECONDS) as http:
                yield House(db, bus, clock, feature, tokens, app, http, metrics, Removal(db, clock))
    finally:
        await db.close()
