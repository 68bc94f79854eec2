"""A PocketBase of Hapta's own: started, made ready, killed, handed over, and gone with the process that minds it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from hapta.gateway.pocketbase import guard
from hapta.gateway.pocketbase.binary import find_binary
from hapta.gateway.pocketbase.home import LOCK, NOTE
from hapta.gateway.pocketbase.minder import Minded, PocketBaseMissing
from hapta.gateway.pocketbase.settle import trusts_addresses
from hapta.gateway.pocketbase.superuser import Superuser
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.clock import SystemClock
from tests.servers import REPOSITORY

CLOCK = SystemClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pocketbase"


@asynccontextmanager
async def opened(folder: Path, email: str = "", password: str = "") -> AsyncIterator[Minded]:
    minded = Minded(folder, CLOCK, email=email, password=password)
    try:
        await minded.open()
        yield minded
    finally:
        await minded.close()


@asynccontextmanager
async def superuser_of(minded: Minded) -> AsyncIterator[Superuser]:
    pb = PocketBase(minded.url)
    try:
        yield Superuser(pb, *minded.credentials, CLOCK)
    finally:
        await pb.close()


async def answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/api/health")).status_code == 200


def started(minded: Minded) -> asyncio.Event:
    event = asyncio.Event()
    minded.on_started(event.set)
    return event


def gone(pid: int) -> bool:
    """Whether a process ends."""
    try:
        return psutil.wait_procs([psutil.Process(pid)], timeout=120)[1] == []
    except psutil.NoSuchProcess:
        return True


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_first_start_makes_everything_and_closes_it_to_others(folder: Path) -> None:
    async with opened(folder) as minded:
        async with superuser_of(minded) as superuser:
            found = await superuser.request("GET", "/api/collections/_superusers/records")
            assert [one["email"] for one in found["items"]] == [minded.credentials.email]
            assert await trusts_addresses(superuser)
        assert len(minded.credentials.password) >= 40
        assert minded.credentials.password not in repr(minded.credentials)
        assert (mode(folder), mode(folder / NOTE), mode(folder / LOCK)) == (0o700, 0o600, 0o600)
        assert minded.url.startswith("http://127.0.0.1:")
        pid = minded.pid
        assert pid is not None
        listens = [one.laddr for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listens] == ["127.0.0.1"]
        # The arguments of a program can be read by everybody.
        assert minded.credentials.password not in " ".join(psutil.Process(pid).cmdline())
    assert gone(pid)


async def test_a_second_start_finds_what_the_first_left(folder: Path) -> None:
    async with opened(folder) as minded:
        before = (minded.url, minded.credentials)
        async with superuser_of(minded) as superuser:
            await superuser.request("POST", "/api/collections", {"name": "kept", "type": "base"})
    async with opened(folder) as minded:
        assert (minded.url, minded.credentials) == before
        async with superuser_of(minded) as superuser:
            assert (await superuser.request("GET", "/api/collections/kept"))["name"] == "kept"


async def test_the_operators_own_credentials_are_taken_and_may_change(folder: Path) -> None:
    for password in ("first-password", "second-password"):
        async with opened(folder, "root@example.com", password) as minded:
            assert minded.credentials == ("root@example.com", password)
            async with superuser_of(minded) as superuser:
                found = await superuser.request("GET", "/api/collections/_superusers/records")
            assert [one["email"] for one in found["items"]] == ["root@example.com"]
    assert "password" not in (folder / NOTE).read_text().replace('"password":""', "")


async def test_an_existing_data_folder_is_used_as_it_is(folder: Path) -> None:
    binary = find_binary()
    assert binary is not None
    subprocess.run(
        [binary, "superuser", "upsert", "old@example.com", "old-password", f"--dir={folder}"],
        check=True,
        capture_output=True,
    )
    async with opened(folder) as minded, superuser_of(minded) as superuser:
        found = await superuser.request("GET", "/api/collections/_superusers/records")
        assert {one["email"] for one in found["items"]} == {"old@example.com", minded.credentials.email}
    assert not (folder / "pb_data").exists()


async def test_a_killed_pocketbase_is_started_again_at_the_same_address(folder: Path) -> None:
    async with opened(folder) as minded, superuser_of(minded) as superuser:
        await superuser.token()
        for _ in range(2):
            pid, again = minded.pid, started(minded)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(again.wait(), 120)
            assert minded.pid != pid
            assert (await superuser.request("GET", "/api/collections"))["items"]
        assert minded.starts == 3


async def test_a_port_that_was_taken_meanwhile_is_replaced(folder: Path) -> None:
    async with opened(folder) as minded:
        url = minded.url
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", int(url.rpartition(":")[2]))
    async with taken, opened(folder) as minded:
        assert minded.url != url
        assert await answers(minded.url)


async def test_of_two_workers_one_minds_it_and_the_other_takes_over(folder: Path) -> None:
    first, second = Minded(folder, CLOCK), Minded(folder, CLOCK)
    try:
        await asyncio.gather(first.open(), second.open())
        assert (first.url, first.credentials) == (second.url, second.credentials)
        assert sorted([first.starts, second.starts]) == [0, 1]
        minds, waits = (first, second) if first.starts else (second, first)
        again = started(waits)
        await minds.close()
        await asyncio.wait_for(again.wait(), 120)
        assert waits.starts == 1
        assert await answers(waits.url)
    finally:
        await first.close()
        await second.close()


async def test_a_stranger_at_the_port_is_never_told_the_password(folder: Path) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(65536))
        writer.close()

    async with opened(folder) as minded:
        port = int(minded.url.rpartition(":")[2])
        stranger = None
        while stranger is None:
            with contextlib.suppress(ProcessLookupError):
                if (
                    minded.pid is not None
                ):  # on a busy machine perhaps the next one already, which was quicker than we are
                    os.kill(minded.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):  # not dead yet
                stranger = await asyncio.start_server(listen, "127.0.0.1", port)
        again, before = started(minded), minded.starts
        async with asyncio.timeout(120):
            while minded.starts < before + 2:  # noqa: ASYNC110 - it is started again in vain, which it tells nobody
                await asyncio.sleep(0)
        assert not again.is_set()
        stranger.close()
        await asyncio.wait_for(again.wait(), 120)
        assert await answers(minded.url)
    assert b"".join(heard) == b""


SCRIPT = """
import asyncio, sys
import structlog
from pathlib import Path
from hapta.gateway.pocketbase.minder import Minded
from hapta.kit.clock import SystemClock

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    minded = Minded(Path(sys.argv[1]), SystemClock())
    await minded.open()
    print(minded.pid, minded.url, flush=True)
    await asyncio.Event().wait()

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_killed_hapta_takes_pocketbase_with_it(folder: Path, loop: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, folder, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    ) as hapta:
        assert hapta.stdout is not None
        pid, url = hapta.stdout.readline().split()
        assert httpx.get(f"{url}/api/health").status_code == 200
        hapta.kill()
    assert gone(int(pid))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/api/health")


STAY = "import sys; sys.path.insert(0, sys.argv[1]); import guard; sys.exit(guard.stay(sys.argv[2:]))"
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_where_the_system_cannot_be_told_the_guard_stays_and_does_it(how: str) -> None:
    where = str(Path(guard.__file__).parent)
    # The test holds the guard's input, as Hapta does; whoever is killed lets go of it.
    with subprocess.Popen(
        [sys.executable, "-c", STAY, where, sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        pid = int(process.stdout.readline())
        if how == "killed":
            process.stdin.close()
        else:
            process.terminate()
        assert gone(pid)
        assert process.wait(120) != 0


async def test_without_the_program_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.gateway.pocketbase.minder.find_binary", lambda: None)
    with pytest.raises(PocketBaseMissing, match=r"hapta\[pocketbase\]"):
        await Minded(folder, CLOCK).open()
