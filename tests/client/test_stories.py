"""The client against the real server: accounts, vaults, devices, hints, password changes, kills."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hapta.client import AlreadyThere, Hapta, Hints, NotLoggedIn, NotThere, VaultBusy, WrongPassphrase, live
from hapta.client.files import FolderReport
from tests.servers import REPOSITORY, HaptaServer

EMAIL, PASSWORD = "ada@example.org", "correct horse battery staple"


@pytest.fixture
def server(new_hapta: Callable[..., HaptaServer]) -> HaptaServer:
    started = new_hapta(env={"HAPTA_RATELIMIT_ENABLED": "false"})
    started.start()
    return started


@pytest.fixture
async def device(server: HaptaServer, tmp_path: Path) -> AsyncIterator[Callable[..., Hapta]]:
    """Makes devices: an account's state on a disk of its own."""
    opened: list[Hapta] = []

    def new(name: str, **options: Any) -> Hapta:
        made = Hapta(server.url, state_dir=tmp_path / name, **options)
        opened.append(made)
        return made

    yield new
    for each in opened:
        await each.close()


async def test_rows_files_rotation_and_snapshots_travel_between_two_devices(
    device: Callable[[str], Hapta], tmp_path: Path
) -> None:
    a, b = device("a"), device("b")
    await a.register(EMAIL, PASSWORD)
    with pytest.raises(AlreadyThere):
        await device("x").register(EMAIL, PASSWORD)
    vault_a = await a.create_vault("notes")
    await b.login(EMAIL, PASSWORD)
    assert [vault.name for vault in await b.vaults()] == ["notes"]
    vault_b = await b.open_vault("notes")
    vault_a.put("note", "1", {"title": "Hello", "raw": bytes(range(256))})
    await vault_a.sync()
    await vault_b.sync()
    assert vault_b.get("note", "1") == {"title": "Hello", "raw": bytes(range(256))}
    await vault_b.rotate_key()
    vault_b.delete("note", "1")
    vault_b.put("note", "2", {"title": "Under the new key"})
    await vault_b.sync()
    await vault_a.sync()
    assert vault_a.rows("note") == {"2": {"title": "Under the new key"}}
    await vault_a.create_snapshot()
    c = device("c")
    await c.login(EMAIL, PASSWORD)
    vault_c = await c.open_vault("notes")
    assert await vault_c.load_snapshot() == vault_a.cursor
    await vault_c.sync()
    assert vault_c.rows("note") == vault_a.rows("note")
    for vault in (vault_a, vault_b, vault_c):
        assert vault.status().quarantined == 0
    assert {entry["deviceId"] for entry in await a.api.devices()} >= {a.device_id, b.device_id}


async def test_wrong_passwords_and_foreign_vaults_are_refused(device: Callable[[str], Hapta]) -> None:
    a, b = device("a"), device("b")
    await a.register(EMAIL, PASSWORD)
    await a.create_vault("own", passphrase="a passphrase of its own")
    with pytest.raises(NotLoggedIn):
        await b.login(EMAIL, PASSWORD + "!")
    with pytest.raises(NotLoggedIn):
        await b.login("nobody@example.org", PASSWORD)
    await b.login(EMAIL, PASSWORD)
    (summary,) = await b.vaults()
    assert summary.name is None
    with pytest.raises(WrongPassphrase):
        await b.open_vault(summary.id)
    with pytest.raises(WrongPassphrase):
        await b.open_vault(summary.id, passphrase="another")
    assert await b.open_vault(summary.id, passphrase="a passphrase of its own")
    with pytest.raises(NotThere):
        await b.open_vault("no such vault")


async def test_a_changed_password_opens_the_vaults_and_the_old_one_nothing(device: Callable[[str], Hapta]) -> None:
    a, b, c = device("a"), device("b"), device("c")
    await a.register(EMAIL, PASSWORD)
    vault = await a.create_vault("notes")
    vault.put("t", "1", {"x": 1})
    await vault.sync()
    with pytest.raises(NotLoggedIn):
        await a.change_password("not the password", "new password 2")
    await b.login(EMAIL, PASSWORD)
    await b.open_vault("notes")
    await b.close()
    await a.change_password(PASSWORD, "new password 2")
    await vault.rotate_key()
    vault.put("t", "2", {"x": 2})
    await vault.sync()
    with pytest.raises(NotLoggedIn):
        await c.login(EMAIL, PASSWORD)
    # One device that never opened the vault, and one that keeps its key as the old password wrapped it.
    for other in (c, device("b")):
        await other.login(EMAIL, "new password 2")
        opened = await other.open_vault("notes")
        await opened.sync()
        assert opened.rows("t") == {"1": {"x": 1}, "2": {"x": 2}}


@pytest.mark.parametrize("keep_plain", [False, True])
async def test_a_changed_password_gives_a_plain_account_the_login_split_unless_asked_not_to(
    device: Callable[..., Hapta], keep_plain: bool
) -> None:
    """What `hapta user add` makes: the server has seen the password, and must not see the next one."""
    plain = device("a", split=False)
    await plain.register(EMAIL, PASSWORD)
    vault = await plain.create_vault("notes")
    vault.put("t", "1", {"x": 1})
    await vault.sync()
    await plain.change_password(PASSWORD, "new password 2", keep_plain=keep_plain)
    vault.put("t", "2", {"x": 2})
    await vault.sync()
    with pytest.raises(NotLoggedIn):
        await device("b", split=keep_plain).login(EMAIL, "new password 2")
    other = device("c", split=not keep_plain)
    await other.login(EMAIL, "new password 2")
    opened = await other.open_vault("notes")
    await opened.sync()
    assert opened.rows("t") == {"1": {"x": 1}, "2": {"x": 2}}


async def test_a_dead_session_is_renewed_without_the_user(device: Callable[[str], Hapta]) -> None:
    a = device("a")
    await a.register(EMAIL, PASSWORD)
    vault = await a.create_vault("notes")
    dead = a.api.token
    await a.api.logout_all()
    a.api.token = dead
    vault.put("t", "1", {"x": 1})
    await vault.sync()
    assert a.api.token != dead


async def test_a_vault_opens_offline_and_by_one_process_only(
    device: Callable[[str], Hapta], server: HaptaServer, tmp_path: Path
) -> None:
    a = device("a")
    await a.register(EMAIL, PASSWORD)
    await a.create_vault("notes")
    again = device("a")
    again.resume(a.session())
    with pytest.raises(VaultBusy):
        await again.open_vault("notes")
    await a.close()
    await asyncio.to_thread(server.kill)
    vault = await again.open_vault("notes")
    vault.put("t", "1", {"x": 1})
    assert again.local_status()[0].outbox == 1


async def test_the_other_devices_change_wakes_a_listener(device: Callable[[str], Hapta]) -> None:
    a, b = device("a"), device("b")
    await a.register(EMAIL, PASSWORD)
    vault_a = await a.create_vault("notes")
    await b.login(EMAIL, PASSWORD)
    vault_b = await b.open_vault("notes")
    async with asyncio.timeout(120), Hints(vault_b) as hints:
        for number in range(5):
            vault_a.put("t", str(number), {"x": number})
            await vault_a.sync()
            await hints.changed.wait()
            hints.changed.clear()
            await vault_b.sync()
            assert vault_b.get("t", str(number)) == {"x": number}
        assert hints.by == "socket"


async def test_watching_brings_changes_of_both_sides_over(device: Callable[[str], Hapta], tmp_path: Path) -> None:
    a, b = device("a"), device("b")
    await a.register(EMAIL, PASSWORD)
    vault_a = await a.create_vault("notes")
    await b.login(EMAIL, PASSWORD)
    folder_a, folder_b = tmp_path / "folder-a", tmp_path / "folder-b"
    synced: asyncio.Queue[FolderReport | Exception] = asyncio.Queue()
    stop = asyncio.Event()
    watching = asyncio.create_task(vault_a.folder(folder_a).watch(synced.put_nowait, stop))
    async with asyncio.timeout(120):
        assert isinstance(await synced.get(), FolderReport)
        vault_b = await b.open_vault("notes")
        folder_b.mkdir()
        (folder_b / "from-b").write_bytes(b"b")
        await vault_b.folder(folder_b).sync()
        while not (folder_a / "from-b").exists():
            await synced.get()
        (folder_a / "from-a").write_bytes(b"a")
        while not (folder_b / "from-a").exists():
            await synced.get()
            await vault_b.folder(folder_b).sync()
        stop.set()
        await watching
    assert (folder_b / "from-a").read_bytes() == b"a"


async def test_a_folder_that_is_not_there_yet_is_watched_once_it_is(
    device: Callable[..., Hapta], tmp_path: Path
) -> None:
    """The watcher starts beside the first sync, which makes the folder: whichever is first, later changes are noticed."""
    a = device("a")
    await a.register(EMAIL, PASSWORD)
    path = tmp_path / "later"
    folder = (await a.create_vault("notes")).folder(path)
    changed = asyncio.Event()
    watching = asyncio.create_task(live.local_changes(folder, changed))
    async with asyncio.timeout(120):
        done, _ = await asyncio.wait(
            (watching,), timeout=0.2
        )  # long enough to find nothing there; it must not end by that
        assert not done
        path.mkdir()
        await changed.wait()
        for number in range(3):
            changed.clear()
            (path / f"file-{number}").write_bytes(b"x")
            await changed.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_an_account_moves_to_another_server_by_export_and_import(
    device: Callable[[str], Hapta], new_hapta: Callable[..., HaptaServer], tmp_path: Path
) -> None:
    a = device("a")
    await a.register(EMAIL, PASSWORD)
    vault = await a.create_vault("notes", passphrase="moves along")
    vault.put("t", "1", {"x": 1})
    await vault.sync()
    other = new_hapta()
    await asyncio.to_thread(other.start)
    async with Hapta(other.url, state_dir=tmp_path / "other") as moved:
        await moved.register(EMAIL, "another password")
        answer = await moved.api.import_(a.api.export())
        assert answer["inserted"] == 1
        opened = await moved.open_vault(vault.id, passphrase="moves along")
        await opened.sync()
        assert opened.get("t", "1") == {"x": 1}


async def test_nothing_readable_reaches_the_server(device: Callable[[str], Hapta], server: HaptaServer) -> None:
    a = device("a")
    await a.register(EMAIL, PASSWORD)
    vault = await a.create_vault("marker-vault-name")
    vault.put("marker-table", "marker-row", {"marker-column": "marker-value"})
    await vault.sync()
    content = b"".join(path.read_bytes() for path in server.data.rglob("*") if path.is_file())
    content += server.log.read_bytes()
    assert EMAIL.encode() in content
    assert b"marker-" not in content
    assert PASSWORD.encode() not in content
    assert a.session().auth.encode() not in content


KILLED = """
    import asyncio, sys
    from hapta.client import Hapta

    async def main():
        async with Hapta(sys.argv[1], state_dir=sys.argv[2]) as hapta:
            await hapta.login(sys.argv[3], sys.argv[4])
            vault = await hapta.open_vault("notes")
            for number in range(10**9):
                vault.put("t", str(number), {"x": number})
                print(number, flush=True)
                if number % 3 == 2:
                    await vault.sync()

    asyncio.run(main())
"""


async def test_a_client_killed_again_and_again_loses_no_write(
    device: Callable[[str], Hapta], server: HaptaServer, tmp_path: Path
) -> None:
    a = device("a")
    await a.register(EMAIL, PASSWORD)
    await a.create_vault("notes")
    last = -1
    for lines in (2, 5, 9):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), server.url, str(tmp_path / "b"), EMAIL, PASSWORD]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        for _ in range(lines):
            last = max(last, int(await child.stdout.readline()))
        child.send_signal(signal.SIGKILL)
        await child.communicate()
    b = device("b")
    await b.login(EMAIL, PASSWORD)
    vault = await b.open_vault("notes")
    await vault.sync()
    reader = device("c")
    await reader.login(EMAIL, PASSWORD)
    read = await reader.open_vault("notes")
    await read.sync()
    assert read.rows("t") == vault.rows("t")
    assert {str(number) for number in range(last + 1)} <= set(read.rows("t"))
