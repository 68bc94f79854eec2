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
from hapta.db.connect import connect, connect_auth
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.identity.admin import AccountAdmin
from hapta.identity.core import Core, build_core
from hapta.identity.passwords import Passwords
from hapta.identity.people_store import LocalIdentityStore
from hapta.identity.revocations import RevocationWatch
from hapta.identity.service import AccountService
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SignInService
from hapta.kit.access import Caller
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
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
    auth_db: Database
    core: Core
    people: LocalIdentityStore
    signin: SignInService
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

    async def new(
        bus: Bus | None = None, *, accounts: dict[str, Any] | None = None, auth_url: str = "", **settings: Any
    ) -> Worker:
        urls = DatabaseSettings(url=database_url, auth_url=auth_url)
        db = await connect(urls, tmp_path, SystemClock())
        await migrate(db, SystemClock())
        auth_db = await connect_auth(urls, db, tmp_path, SystemClock())
        if auth_db is not db:
            await migrate(auth_db, SystemClock())
        core = build_core(
            db, auth_db, bus or MemoryBus(), clock, RandomIds(), replace(CHEAP, **settings), SECRET, **(accounts or {})
        )
        worker = Worker(
            db,
            auth_db,
            core,
            core.people,
            core.signin,
            core.sessions,
            core.accounts,
            core.passwords,
            core.watch,
            core.admin,
            [],
        )
        sessions = core.sessions
        sessions.on_revoked(lambda user, session: worker.ended.append((user, session)))
        await core.watch.open()
        made.append(worker)
        return worker

    yield new
    for worker in made:
        await worker.watch.close()
        await worker.core.close()
        await worker.db.close()
        if worker.auth_db is not worker.db:
            await worker.auth_db.close()


@pytest.fixture
async def worker(new_worker: NewWorker) -> Worker:
    return await new_worker()


async def outcomes(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """The results and errors of calls made all at once."""
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.fixture
def database_url(migrated_url: str) -> str:
    """Nothing here is about migrations, so each test gets a copy of a migrated database."""
    return migrated_url
