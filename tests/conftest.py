"""Fixtures that every test may use: real PostgreSQL and Redis, one run of them for all workers of pytest-xdist.

A test gets a database of its own and an empty Redis; nothing it leaves behind reaches the next one. Servers start when
the first test asks for them, and `tests/servers.py` ends them with the run.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import asyncpg
import hypothesis
import pytest
import websockets
from anyio.from_thread import BlockingPortal, start_blocking_portal
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from hapta.db.connect import connect
from hapta.db.migrate import migrate
from hapta.kit.clock import SystemClock
from hapta.settings import DatabaseSettings
from tests.s3 import SeaweedServer
from tests.servers import HaptaServer, PostgresServer, RedisServer, Run

RUN = pytest.StashKey[Run]()
if importlib.util.find_spec("sniffio") is None:
    # httpx looks for it before each request to an application in its own process; this way it finds out faster.
    sys.modules["sniffio"] = cast("Any", None)
STUCK_SECONDS = 600
"""Longer than the slowest test on a busy machine takes."""
PATIENCE_SECONDS = 120.0
"""Of clients that say nothing else. Their own five and ten seconds would be a test of how busy the machine is."""
for _part in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _part, PATIENCE_SECONDS)
cast("dict[str, Any]", websockets.connect.__init__.__kwdefaults__).update(
    open_timeout=PATIENCE_SECONDS, ping_timeout=PATIENCE_SECONDS
)

# Properties are asked for however long an example takes; nothing else of Hypothesis changes.
hypothesis.settings.register_profile(
    "patient", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    handed_down: dict[str, str] | None = getattr(config, "workerinput", None)
    if handed_down is not None:
        config.stash[RUN] = Run(Path(handed_down["hapta_run"]))
    elif not config.option.collectonly:
        config.stash[RUN] = Run.begin()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by pytest-xdist in the first process, once for each worker."""
    node.workerinput["hapta_run"] = str(node.config.stash[RUN].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        run.end()


def pytest_collection_finish() -> None:
    """Ten thousand tests and all that they import stay until the end: to look through them again and again for garbage took a
    third of the time of tests that open servers in this process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 5)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """A test that never ends is told by its name and stopped, instead of holding up the whole run."""
    faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run on the loop that production runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def server_run(request: pytest.FixtureRequest) -> Run:
    """The run that servers of this test session belong to."""
    return request.config.stash[RUN]


# --- PostgreSQL ---


class _Admin:
    """A connection to the shared PostgreSQL on a loop in its own thread: usable beside any test's loop."""

    def __init__(self, portal: BlockingPortal, url: str) -> None:
        self.url = url
        self._portal = portal
        self._connection: asyncpg.Connection = portal.call(asyncpg.connect, url)

    def execute(self, sql: str) -> None:
        self._portal.call(self._connection.execute, sql)

    def drop(self, name: str) -> None:
        """Drops a database, and ends whoever still uses it: PostgreSQL itself waits five seconds for that and then refuses."""
        for _ in range(20):
            try:
                self.execute(f"drop database {name} with (force)")
            except asyncpg.ObjectInUseError:
                continue
            return
        self.execute(f"drop database {name} with (force)")

    def run(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Runs a coroutine function on that loop."""
        self._portal.call(work, *arguments)

    def close(self) -> None:
        self._portal.call(self._connection.close)


@pytest.fixture(scope="session")
def _postgres_admin(server_run: Run) -> Iterator[_Admin]:
    url = server_run.shared("postgres", lambda: PostgresServer(server_run))
    with start_blocking_portal() as portal:
        admin = _Admin(portal, url)
        yield admin
        admin.close()


@pytest.fixture
def new_postgres_url(_postgres_admin: _Admin) -> Iterator[Callable[[], str]]:
    """Makes as many fresh, empty PostgreSQL databases as the test asks for; they go with the test."""
    names: list[str] = []

    def new() -> str:
        name = f"test_{secrets.token_hex(8)}"
        _postgres_admin.execute(f"create database {name} template template0")
        names.append(name)
        return f"{_postgres_admin.url.rpartition('/')[0]}/{name}"

    yield new
    for name in names:
        _postgres_admin.drop(name)


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """A fresh, empty PostgreSQL database."""
    return new_postgres_url()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database of each engine in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hapta.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each engine in turn, without a schema, also where `database_url` has one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(scope="session")
def _migrated_postgres(_postgres_admin: _Admin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with the whole schema and no rows, from which others are copied."""
    name = f"migrated_{secrets.token_hex(8)}"
    _postgres_admin.execute(f"create database {name} template template0")
    url = f"{_postgres_admin.url.rpartition('/')[0]}/{name}"
    _postgres_admin.run(_migrate, url, tmp_path_factory.mktemp("migrated"))
    yield name
    _postgres_admin.drop(name)


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    folder = tmp_path_factory.mktemp("migrated")
    path = folder / "hapta.db"
    with start_blocking_portal() as portal:
        portal.call(_migrate, f"sqlite:///{path}", folder)
    return path


async def _migrate(url: str, folder: Path) -> None:
    db = await connect(DatabaseSettings(url=url), folder, SystemClock())
    await migrate(db, SystemClock())
    await db.close()


@pytest.fixture(params=["sqlite", "postgres"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of each engine in turn, with the whole schema: a copy, which is much faster than to migrate."""
    if request.param == "sqlite":
        path = tmp_path / "hapta.db"
        shutil.copyfile(request.getfixturevalue("_migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    reused: _Reused = request.getfixturevalue("_reused_postgres")
    yield reused.take()
    reused.give_back()


class _Reused:
    """One migrated PostgreSQL database for test after test of a worker: to empty it costs a few milliseconds, to make one a
    hundred. A test that changed its tables leaves it to be made anew."""

    def __init__(self, portal: BlockingPortal, admin: _Admin, template: str) -> None:
        self._portal = portal
        self._admin = admin
        self._template = template
        self._name = ""
        self._cleaner: asyncpg.Connection | None = None
        self._tables: list[Any] = []

    def take(self) -> str:
        """The URL of an empty, migrated database."""
        if self._cleaner is None:
            self._name = f"test_{secrets.token_hex(8)}"
            self._admin.execute(f"create database {self._name} template {self._template}")
            cleaner: asyncpg.Connection = self._portal.call(asyncpg.connect, self._url)
            self._tables = self._portal.call(cleaner.fetch, _COLUMNS)
            self._cleaner = cleaner
        return self._url

    @property
    def _url(self) -> str:
        return f"{self._admin.url.rpartition('/')[0]}/{self._name}"

    def give_back(self) -> None:
        """Ends what still uses the database, and empties it."""
        assert self._cleaner is not None
        self._portal.call(self._cleaner.execute, _END_OTHERS)
        if self._portal.call(self._cleaner.fetch, _COLUMNS) != self._tables:
            self.close()
            return
        self._portal.call(self._cleaner.execute, _EMPTY)

    def close(self) -> None:
        if self._cleaner is not None:
            self._portal.call(self._cleaner.close)
            self._cleaner = None
            self._admin.drop(self._name)


_COLUMNS = """
    select table_name, column_name, data_type from information_schema.columns where table_schema = 'public' order by 1, 2"""
_END_OTHERS = """
    select pg_terminate_backend(pid, 60000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()"""
_EMPTY = """
    do $$ declare t text; begin
        for t in select tablename from pg_tables where schemaname = 'public' and tablename <> 'schema_migrations' loop
            execute format('delete from %I', t);
        end loop;
    end $$"""


@pytest.fixture(scope="session")
def _reused_postgres(_postgres_admin: _Admin, _migrated_postgres: str) -> Iterator[_Reused]:
    with start_blocking_portal() as portal:
        reused = _Reused(portal, _postgres_admin, _migrated_postgres)
        yield reused
        reused.close()


@pytest.fixture
def own_postgres(server_run: Run) -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, to be killed, frozen and started again."""
    with PostgresServer(server_run) as server:
        yield server


# --- Redis ---


@pytest.fixture(scope="session")
def worker_redis(server_run: Run) -> Iterator[RedisServer]:
    # A server for each worker and not a numbered database: publish and subscribe cross the numbers.
    with RedisServer(server_run) as server:
        yield server


@pytest.fixture
def redis_url(worker_redis: RedisServer) -> str:
    """A Redis that holds nothing and that no other test uses meanwhile."""
    assert worker_redis.command("FLUSHALL") == "+OK"
    return worker_redis.url


@pytest.fixture
def own_redis(server_run: Run) -> Iterator[RedisServer]:
    """A Redis for this test alone, to be killed, frozen and started again."""
    with RedisServer(server_run) as server:
        yield server


# --- S3 ---


@pytest.fixture(scope="session")
def s3_url(server_run: Run) -> str:
    """The run's S3 service, for `tests.s3.s3_settings`: each store gets a prefix of its own."""
    return server_run.shared("seaweedfs", lambda: SeaweedServer(server_run))


# --- Hapta as a process ---


@pytest.fixture
def new_hapta(server_run: Run) -> Iterator[Callable[..., HaptaServer]]:
    """Makes servers from the arguments of `HaptaServer`; the test starts them, the fixture ends them.

    The log of each is shown when the test fails.
    """
    servers: list[HaptaServer] = []

    def new(**arguments: Any) -> HaptaServer:
        server = HaptaServer(server_run, **arguments)
        servers.append(server)
        return server

    yield new
    for server in servers:
        server.kill()
        print(f"--- log of {server.url}\n{server.log_tail()}")


@pytest.fixture(autouse=True)
def _no_settings_from_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no setting that the developer's shell happens to carry."""
    for name in [*os.environ]:
        if name.startswith("HAPTA_") or name in {"DATABASE_URL", "REDIS_URL", "JWT_SECRET", "NODE_ENV"}:
            monkeypatch.delenv(name)
