"""What sync's tests stand on: logs, tokens, and one worker as a value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from hapta.bus.memory import MemoryBus
from hapta.db.database import Database
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.errors import Unauthenticated
from hapta.kit.ids import RandomIds
from hapta.sync.feature import Sync
from hapta.sync.models import Page, Pushed
from hapta.testing.clock import FakeClock

USER = "01900000-0000-7000-8000-000000000001"
OTHER = "01900000-0000-7000-8000-000000000002"
VAULT = "01900000-0000-7000-8000-00000000000a"
SECOND_VAULT = "01900000-0000-7000-8000-00000000000b"


@dataclass(frozen=True)
class Log:
    encrypted_data: str
    nonce: str = "bm9uY2U="
    haex_timestamp: str = "7558151829870018560/807f6e5d"
    id: str | None = None
    key_epoch: int = 0


def new_logs(count: int, tag: str = "log") -> list[Log]:
    """Logs with ids of their own."""
    ids = RandomIds()
    return [Log(f"{tag} {number}", id=ids.uuid()) for number in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until something has happened."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - conditions of code that has no reason to offer an event
            await asyncio.sleep(0)


class Tokens:
    """A verifier whose tokens are the names of callers; a test adds and revokes them."""

    def __init__(self) -> None:
        self.callers: dict[str, Caller] = {}

    def add(self, token: str, user_id: str = USER, *, expires_at: float = 4e9, device_id: str | None = None) -> Caller:
        caller = Caller(UserId(user_id), SessionId(f"session of {token}"), 1, device_id, expires_at)
        self.callers[token] = caller
        return caller

    def cached(self, token: str) -> Caller | None:
        return self.callers.get(token)

    async def verify(self, token: str) -> Caller:
        try:
            return self.callers[token]
        except KeyError:
            raise Unauthenticated from None


@dataclass
class House:
    """One worker: a database, a bus and sync on them."""

    db: Database
    bus: MemoryBus
    clock: FakeClock
    sync: Sync
    tokens: Tokens
    revoked: list[tuple[str, str]] = field(default_factory=list)

    async def push(self, logs: list[Log], *, user: str = USER, vault: str = VAULT, device: str | None = None) -> Pushed:
        return await self.sync.service.push(user, vault, logs, device)

    async def pull(
        self, *, user: str = USER, vault: str = VAULT, after: int = 0, limit: int = 100, **more: Any
    ) -> Page:
        return await self.sync.service.pull(user, vault, after=after, limit=limit, **more)

    async def pull_all(self, *, user: str = USER, vault: str = VAULT, limit: int = 1000) -> list[tuple[int, str]]:
        """(sequence, encrypted data) of every visible log, by following the cursor."""
        found: list[tuple[int, str]] = []
        after = 0
        while True:
            page = await self.pull(user=user, vault=vault, after=after, limit=limit)
            found += [(row[0], row[1]) for row in page.rows]
            after = page.last_sequence
            if not page.has_more:
                return found


Open = Callable[..., Awaitable[House]]
