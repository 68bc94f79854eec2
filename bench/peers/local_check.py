"""Checks of a first-party token inside one process, without HTTP: from memory, and with nothing in memory.

Prints one JSON line with microseconds of CPU time for each check. The services are the product's own, over a SQLite database.
`one` is a single server, whose cold check verifies the signature and reads the session's row; `pair` is the resource server of a
pair, whose cold check verifies the signature and holds the token against the feed of revocations.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from hapta.app import Services, create_app
from hapta.cli.context import read_settings
from hapta.db.database import WriteTx
from hapta.identity.internal.checks import LocalCheck
from hapta.identity.internal.feed import RevocationFeed
from hapta.identity.internal.schemas import Pulled
from hapta.identity.internal.tokens import Finding
from hapta.identity.models import Change, NewPerson, Origin
from hapta.identity.session_tokens import SessionTokens
from hapta.kit.access import UserId
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Unavailable
from hapta.kit.ids import RandomIds
from hapta.kit.process import tune
from hapta.settings import with_secret

SESSIONS = 64
CHUNK = 500


async def _tokens(services: Services) -> list[str]:
    person = await services.identity.people.create(NewPerson(email="bench@example.org", email_verified=True))

    async def start(tx: WriteTx) -> str:
        started, _ = await services.sessions.start(tx, person, Origin(), amr=("pwd",))
        return services.sessions.mint(started)

    return [await services.auth_db.write(start) for _ in range(SESSIONS)]


async def _measure(folder: Path, rounds: int, seconds: float) -> None:
    settings, _ = with_secret(read_settings(folder, log__access=False))
    async with create_app(settings).opened() as services:
        tokens, sessions = await _tokens(services), services.sessions

        async def warm() -> int:
            for _ in range(CHUNK // SESSIONS):
                for token in tokens:
                    _ = sessions.cached(token) or await sessions.verify(token)
            return CHUNK // SESSIONS * SESSIONS

        async def cold() -> int:
            for token in tokens:
                sessions.cache.clear()
                _ = sessions.cached(token) or await sessions.verify(token)
            return SESSIONS

        clock, secret = SystemClock(), settings.identity.jwt_secret
        reader = SessionTokens(secret, clock, RandomIds(), settings.server.public_address)
        auth = _QuietAuthSide()
        feed = RevocationFeed(auth, services.bus, clock)
        await feed.open()
        check = LocalCheck(reader, auth, feed, clock)

        async def pair_warm() -> int:
            for _ in range(CHUNK // SESSIONS):
                for token in tokens:
                    _ = check.cached(token) or await check.verify(token)
            await feed.pull_once()
            return CHUNK // SESSIONS * SESSIONS

        async def pair_cold() -> int:
            fresh = LocalCheck(reader, auth, feed, clock)  # one that knows no token yet
            for token in tokens:
                _ = fresh.cached(token) or await fresh.verify(token)
            return SESSIONS

        answer = {
            "one": {"warm": await _each(warm, rounds, seconds), "cold": await _each(cold, rounds, seconds)},
            "pair": {"warm": await _each(pair_warm, rounds, seconds), "cold": await _each(pair_cold, rounds, seconds)},
        }
        await feed.close()
    print(json.dumps(answer), flush=True)


class _QuietAuthSide:
    """An auth server that has nothing to tell: no token of this run is ever asked about."""

    async def authenticate(self, token: str) -> Finding:
        raise Unavailable("a token had to be asked about")

    async def pull(self, since: int | None) -> Pulled:
        return Pulled(SystemClock().now_ms(), [], [], [])

    async def settle(self, change: Change) -> None:
        raise Unavailable

    async def revoke_device(self, user_id: UserId, device_id: str) -> None:
        raise Unavailable


async def _each(checks: Callable[[], Awaitable[int]], rounds: int, seconds: float) -> list[float]:
    """Microseconds of this process' CPU time for one check, in every round but the first."""
    found: list[float] = []
    for _ in range(rounds + 1):
        until, count = time.perf_counter() + seconds, 0
        cpu = time.process_time()
        while time.perf_counter() < until:
            count += await checks()
            await asyncio.sleep(0)  # the watch of revocations has its turn, as under a server
        found.append((time.process_time() - cpu) / count * 1e6)
    return found[1:]


if __name__ == "__main__":
    tune()
    uvloop.run(_measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
