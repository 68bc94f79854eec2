"""What the steps of `hapta demo` share: a server as a process, two devices, and what is told at the end."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console

import hapta
from hapta.client import FolderReport, Hapta, Vault

START_SECONDS = 30.0
STOP_SECONDS = 15.0


class DemoFailed(Exception):
    """A step did not hold."""


@dataclass(slots=True)
class Device:
    """One device: its account, its vault and its folder."""

    name: str
    folder: Path
    hapta: Hapta
    vault: Vault

    async def sync(self) -> FolderReport:
        report = await self.vault.folder(self.folder, device_name=self.name).sync()
        check(not report.problems, f"device {self.name}: {'; '.join(report.problems)}")
        return report


@dataclass(slots=True)
class Server:
    """`hapta serve` as a process."""

    data: Path
    port: int
    log: Path
    settings: Mapping[str, str]
    """By their names in the environment; nothing else of it reaches the server."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        command = [sys.executable, "-m", "hapta", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = await asyncio.to_thread(self._spawn, [*command, "--data", str(self.data)])
        deadline = time.monotonic() + START_SECONDS
        async with httpx.AsyncClient() as client:
            while not await self._is_ready(client):
                ended = self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    tail = self.log.read_text(errors="replace")[-2000:]
                    raise DemoFailed(f"the server {'ended' if ended else 'did not get ready'}:\n{tail}")
                await asyncio.sleep(0.05)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=_environment() | dict(self.settings),
            )

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Ends it as an operator would; by force only if it does not go."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@dataclass(slots=True)
class Stage:
    """What the steps share."""

    source: Path
    home: Path
    server: Server
    console: Console
    email: str = field(default_factory=lambda: f"ada-{secrets.token_hex(4)}@example.org")
    password: str = field(default_factory=lambda: f"pass-{secrets.token_hex(12)}")
    marker: str = field(default_factory=lambda: f"marker-{secrets.token_hex(12)}")
    """Planted in contents, in a file's name and as the vault's name: must never be found at the server."""
    devices: list[Device] = field(default_factory=list[Device])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    """Lines of the summary."""
    pushed: int = 0
    show: Callable[[str], object] = lambda text: None
    """Tells what is going on inside a step."""

    def join(self, device: Device) -> None:
        """Takes a device in, and shows what it sends and receives."""

        def report(what: str, done: int, left: int) -> None:
            verb = "sends" if what == "push" else "receives"
            self.show(f"device {device.name} {verb}, {done} logs, {left} to go")

        device.vault.on_progress = report
        self.devices.append(device)

    @property
    def a(self) -> Device:
        return self.devices[0]

    @property
    def b(self) -> Device:
        return self.devices[1]

    async def sync(self, *names: str) -> FolderReport:
        """Syncs devices in turn; gives the last report."""
        report = FolderReport()
        for name in names:
            report = await (self.a if name == "A" else self.b).sync()
            self.pushed += report.logs_pushed
        return report


@dataclass(frozen=True, slots=True)
class Step:
    """One thing the demo does; `run` answers with what to show beside the title."""

    title: str
    run: Callable[[Stage], Awaitable[str]]


def check(held: bool, otherwise: str) -> None:
    if not held:
        raise DemoFailed(otherwise)


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """The developer's own settings must not lead the demo's server to another database."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONPATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path(hapta.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        )
    }
