"""The two ways in which Hapta runs, as tests see them: one worker on SQLite; two on PostgreSQL and Redis.

The two workers are processes of their own on ports of their own, so that a test can speak to either and kill either.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import httpx

from hapta.cli import no_skip
from tests.servers import HaptaServer, PostgresServer

PASSWORD = "correct horse battery staple"

NewHapta = Callable[..., HaptaServer]


@dataclass(frozen=True, slots=True)
class Topology:
    """Running servers over one database."""

    workers: list[HaptaServer]
    postgres: PostgresServer | None = None

    @property
    def urls(self) -> list[str]:
        return [worker.url for worker in self.workers]

    async def account(self) -> str:
        """A new account's token."""
        email = f"{secrets.token_hex(8)}@example.org"
        return await no_skip.register_or_login(self.urls[0], email, PASSWORD, register=True)

    async def verify(self) -> str:
        """What `hapta verify` says beside the running servers; fails if it finds anything wrong."""
        done = await anyio.to_thread.run_sync(
            lambda: self.workers[0].command("verify", "--data", str(self.workers[0].data), check=False)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def on_sqlite(new_hapta: NewHapta, **settings: str) -> Topology:
    """One worker on a SQLite file."""
    server = new_hapta(env={"HAPTA_RATELIMIT_ENABLED": "false", **settings})
    server.start()
    return Topology([server])


def on_postgres(
    new_hapta: NewHapta, database_url: str, redis_url: str, postgres: PostgresServer | None = None, **settings: str
) -> Topology:
    """Two workers on one PostgreSQL and one Redis."""
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "JWT_SECRET": secrets.token_hex(32),
        "HAPTA_RATELIMIT_ENABLED": "false",
        **settings,
    }
    workers = [new_hapta(env=env) for _ in range(2)]
    for worker in workers:
        worker.launch()
    for worker in workers:
        worker.wait_ready()
    return Topology(workers, postgres)


async def post(url: str, path: str, token: str, body: dict[str, object]) -> dict[str, object]:
    """One POST that must succeed."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(url + path, json=body, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code < 300, answer.text
    return answer.json()
