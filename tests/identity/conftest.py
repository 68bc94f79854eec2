"""Identity on a real database of each engine, with a clock moved by hand, a cheap hash and as many workers as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hapta.bus.bus import Bus
from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.identity.admin import AccountAdmin
from hapta.identity.passwords import Passwords
from hapta.identity.revocations import RevocationWatch
from hapta.identity.service import AccountService
from hapta.identity.sessions import SessionService
from hapta.kit.access import Caller
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.tokens import Hs256Key
from hapta.settings import DatabaseSettings, IdentitySettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only tests know, long enough"
PASSWORD = "correct horse battery staple"
CHEAP = IdentitySettings(argon2_memory_kib=8, argon2_iterations=1, bcrypt_cost=4)


class LossyBus(MemoryBus):
    """The bus of one process, with the one thing that only a bus between processes does: it may lose messages."""

    def lose_messages(self) -> None:
        """Tells all subscribers that messages may have been missed."""
        self._subscribers.tell_of_gap()


@dataclass
class Worker:
    """The identity services of one worker process."""

    db: Database
    sessions: SessionService
    accounts: AccountService
    passwords: Passwords
    watch: RevocationWatch
    admin: AccountAdmin
    ended: list[tuple[str, str]]

    async def caller(self, token: str) -> Caller:
        return await self.sessions.verify(token)


NewWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def new_worker(database_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[NewWorker]:
    """Makes workers over one database. Each has its own bus unless given one: only the table joins them then."""
    made: list[Worker] = []

    async def new(bus: Bus | None = None, *, accounts: dict[str, Any] | None = None, **settings: Any) -> Worker:
        db = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
        await migrate(db, SystemClock())
        ids, bus, identity = RandomIds(), bus or MemoryBus(), replace(CHEAP, **settings)
        sessions = SessionService(db, bus, clock, ids, identity, Hs256Key.for_access_tokens(SECRET))
        passwords = Passwords(identity)
        service = AccountService(db, clock, ids, sessions, passwords, identity, SECRET, **(accounts or {}))
        watch = RevocationWatch(sessions, db, bus, clock)
        worker = Worker(db, sessions, service, passwords, watch, AccountAdmin(db, service, sessions), [])
        sessions.on_revoked(lambda user, session: worker.ended.append((user, session)))
        await watch.open()
        made.append(worker)
        return worker

    yield new
    for worker in made:
        await worker.watch.close()
        await worker.sessions.close()
        await worker.passwords.close()
        await worker.db.close()


@pytest.fixture
async def worker(new_worker: NewWorker) -> Worker:
    return await new_worker()


async def outcomes(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """The results and errors of calls made all at once."""
    return await asyncio.gather(*calls, return_exceptions=True)
