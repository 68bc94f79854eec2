"""Sessions of the gateway on a real database, with a clock moved by hand and a PocketBase that knows one thing: which tokens count."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.bus.bus import Bus
from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.gateway.errors import UpstreamAway
from hapta.gateway.models import Client, Visitor
from hapta.gateway.sessions.models import Refreshed, Started
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.sessions.tokens import GatewayTokens
from hapta.identity.events import Event
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.tokens import Hs256Key, sign
from hapta.settings import DatabaseSettings
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only tests know, long enough"
USERS = "_pb_users_auth_"
PHONE = Client("192.0.2.7", "request-1", headers={"user-agent": "phone/1.0"})
LAPTOP = Client("2001:db8:1:2::3", "request-2", headers={"user-agent": "laptop/1.0"})


class TokenMaker:
    """PocketBase's side of tokens: gives them out, and says whether one counts. `away` and `forbids` are its bad days.

    Not the real one, since its clock cannot be moved.
    """

    def __init__(self, clock: FakeClock, life_seconds: float = 5 * 86_400) -> None:
        self._clock = clock
        self._keys: dict[tuple[str, str], int] = {}
        self._alive: dict[str, tuple[str, str, int, float]] = {}
        self.life_seconds = life_seconds
        self.asked = 0
        self.away = False
        self.forbids = False

    def login(self, record_id: str, collection_id: str = USERS) -> str:
        """A token, as a login gives it; the same one within a second."""
        end = int(self._clock.now() + self.life_seconds)
        claims = {"id": record_id, "collectionId": collection_id, "type": "auth", "refreshable": True, "exp": end}
        token = sign(claims, Hs256Key("upstream", b"k" * 32), typ="JWT")
        key = self._keys.setdefault((collection_id, record_id), 1)
        self._alive[token] = collection_id, record_id, key, end
        return token

    def change_key(self, record_id: str, collection_id: str = USERS) -> None:
        """As a new password does: no token from before counts any more."""
        self._keys[collection_id, record_id] = self._keys.get((collection_id, record_id), 1) + 1

    def takes(self, token: str) -> bool:
        """Whether PocketBase would let the holder of this token in."""
        collection_id, record_id, key, end = self._alive.get(token, ("", "", 0, 0.0))
        return self._keys.get((collection_id, record_id)) == key and end > self._clock.now()

    async def refresh(self, collection_id: str, token: str) -> Refreshed:
        self.asked += 1
        if self.away:
            raise UpstreamAway
        if self.forbids:
            return Refreshed(403)
        if not self.takes(token):
            return Refreshed(401)
        record_id = self._alive[token][1]
        return Refreshed(200, self.login(record_id, collection_id), {"id": record_id, "collectionId": collection_id})


@dataclass
class SessionsWorker:
    """The sessions of one worker process."""

    sessions: Sessions
    tokens: GatewayTokens
    upstream: TokenMaker
    db: Database
    clock: FakeClock
    ended: list[str] = field(default_factory=list[str])
    events: list[Event] = field(default_factory=list[Event])

    async def login(self, record_id: str = "alice", client: Client = PHONE, **further: Any) -> Started:
        return await self.sessions.start(USERS, record_id, self.upstream.login(record_id), client, **further)

    async def visit(self, token: str) -> Visitor:
        return await self.sessions.visitor(token.encode(), PHONE)

    async def refresh(self, token: str) -> str:
        """An `auth-refresh` as the handler does it."""
        visitor = await self.visit(token)
        refreshed = await self.upstream.refresh(visitor.collection_id, visitor.upstream_token)
        return (await self.sessions.roll(visitor, refreshed.token, PHONE)).token


NewSessions = Callable[..., Awaitable[SessionsWorker]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def new_sessions(migrated_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[NewSessions]:
    """Makes workers over one database and one PocketBase. Each has its own bus unless given one: only the table joins them then."""
    made: list[SessionsWorker] = []
    upstream = TokenMaker(clock)

    async def new(bus: Bus | None = None, **settings: Any) -> SessionsWorker:
        db = await connect(DatabaseSettings(url=migrated_url), tmp_path, SystemClock())
        await migrate(db, SystemClock())
        tokens = GatewayTokens(SECRET, clock)
        events: list[Event] = []

        async def report(event: Event) -> None:
            events.append(event)

        sessions = Sessions(
            db, bus or MemoryBus(), clock, RandomIds(), GatewaySettings(**settings), tokens, upstream, report=report
        )
        worker = SessionsWorker(sessions, tokens, upstream, db, clock, events=events)
        sessions.on_ended(worker.ended.extend)
        await sessions.open()
        made.append(worker)
        # What began before a worker is looked at anew by it; what begins now is its own.
        clock.advance(seconds=1)
        return worker

    yield new
    for worker in made:
        await worker.sessions.close()
        await worker.db.close()


@pytest.fixture
async def worker(new_sessions: NewSessions) -> SessionsWorker:
    return await new_sessions()


def claims_of(token: str) -> dict[str, Any]:
    """What an SDK reads from a token."""
    payload = token.split(".")[1]
    return msgspec.json.decode(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
