"""The servers that other tests rely on do what those tests take for granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

import hapta
from tests import servers
from tests.forks import POSSIBLE
from tests.servers import REPOSITORY, HaptaServer, PostgresServer, RedisServer, Run


async def test_each_postgres_url_is_a_database_of_its_own(new_postgres_url: Callable[[], str]) -> None:
    for url in (new_postgres_url(), new_postgres_url()):
        connection = await asyncpg.connect(url)
        await connection.execute("create table only_here (id bigint)")
        assert await connection.fetchval("select count(*) from only_here") == 0
        assert await connection.fetchval("show server_encoding") == "UTF8"
        await connection.close()


async def test_a_killed_postgres_starts_again_with_what_it_had_committed(server_run: Run) -> None:
    with PostgresServer(server_run, durable=True) as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("create table kept as select 7 as number")
        server.kill()
        assert not server.running
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetchval("select number from kept")
        connection.terminate()
        server.start()
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("select number from kept") == 7
        await connection.close()


def test_a_test_finds_redis_empty(redis_url: str, worker_redis: RedisServer) -> None:
    assert redis_url == worker_redis.url
    assert worker_redis.command("DBSIZE") == ":0"
    assert worker_redis.command("SET", "left", "behind") == "+OK"


def test_another_test_finds_redis_empty_too(redis_url: str, worker_redis: RedisServer) -> None:
    test_a_test_finds_redis_empty(redis_url, worker_redis)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_servers_die_with_the_process_that_began_the_run(end: signal.Signals) -> None:
    script = """if True:
        import signal
        from tests.servers import RedisServer, Run
        run = Run.begin()
        server = RedisServer(run)
        server.start()
        print(run.folder, server.pid, flush=True)
        signal.pause()
    """
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        server = psutil.Process(int(pid))
        guards = [child for child in psutil.Process(process.pid).children() if child.pid != server.pid]
        process.send_signal(end)
        process.wait()
    assert psutil.wait_procs([server, *guards], timeout=120)[1] == []
    assert not Path(folder).exists()


# --- programs that are forked off a prepared process (tests/forks.py) ---


@pytest.mark.parametrize(
    "words", [("--version",), ("settings",), ("migrate",), ("user", "list"), ("no-such-command",)], ids=" ".join
)
def test_a_forked_command_says_and_does_what_a_started_one_does(tmp_path: Path, words: tuple[str, ...]) -> None:
    found: list[tuple[int, str, str, list[str]]] = []
    for name, run in (("forked", servers.hapta), ("started", servers.started_hapta)):
        (tmp_path / name).mkdir()
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "COLUMNS": "100", "PORT": "4000"}
        done = run(*words, env=env, cwd=tmp_path / name)
        left = sorted(path.name for path in (tmp_path / name).rglob("*"))
        found.append((done.returncode, done.stdout, done.stderr, left))
    assert found[0] == found[1]


@pytest.mark.skipif(not POSSIBLE, reason="programs are started here")
def test_a_forked_program_is_a_process_of_its_own(server_run: Run, tmp_path: Path) -> None:
    def version(**env: str) -> tuple[int, str]:
        done = servers.hapta("--version", env=env, cwd=tmp_path)
        return done.returncode, done.stdout

    with HaptaServer(server_run) as one, HaptaServer(server_run) as other:
        processes = [psutil.Process(server.pid) for server in (one, other)]
        assert len({process.pid for process in [*processes, psutil.Process()]}) == 3
        assert [os.getsid(process.pid) for process in processes] == [process.pid for process in processes]
        assert [process.cwd() for process in processes] == [str(one.folder), str(other.folder)]
        one.kill()
        assert not processes[0].is_running()
        assert version() == (0, hapta.__version__ + "\n")  # the others live on, and further ones are made
        assert processes[1].is_running()
        assert other.stop() == 0
