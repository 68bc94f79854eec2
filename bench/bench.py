"""What every case is handed: how long to measure, where to work, and the servers it may start."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine, servers
from bench.load import Check, Load, Source
from bench.machine import cores, on_core
from bench.report import Effort, Row, Sample


@dataclass(slots=True)
class Bench:
    """One run of the benchmarks.

    Args:
        folder: a folder on the disk under test.
        say: is told what is being measured.
    """

    effort: Effort
    folder: Path
    say: Callable[[str], None]
    _stack: contextlib.ExitStack
    _postgres: str = ""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def new_folder(self, name: str) -> Path:
        return self.folder / f"{name}-{next(self._numbers)}"

    def postgres_url(self) -> str:
        """A fresh, empty database on the run's one PostgreSQL, which starts when it is first asked for."""
        if not self._postgres:
            self._postgres = self._stack.enter_context(servers.postgres(self.folder))
        name = f"bench_{next(self._numbers)}"
        servers.create_database(self._postgres, name)
        return self._postgres.replace("/postgres?", f"/{name}?")


Case = Callable[[Bench], list[Row]]


def timed(
    server: servers.Server,
    load: Load,
    source: Source,
    seconds: float,
    units: int = 1,
    check: Check | None = None,
    behind: servers.Server | None = None,
    ahead: bool = False,
) -> Sample:
    """One round of load against a server. `units` is the work in one request; `check` sees every answer.

    Args:
        behind: a server that the first one asks; its CPU time counts too.
        ahead: see `Load.run`.
    """
    pids = [server.pid] if behind is None else [server.pid, behind.pid]
    cpu = sum(machine.cpu_seconds(pid) for pid in pids)
    run = load.run(source, seconds=seconds, check=check, awake=not server.beside_load, ahead=ahead)
    used = sum(machine.cpu_seconds(pid) for pid in pids) - cpu
    return Sample(
        rate=run.per_second * units,
        per_core_second=run.requests * units / used,
        load_share=run.load_share,
        latency_ms=run.latency_ms,
        p99_ms=run.p99_ms,
    )


class BareDriver:
    """The process of a bare database driver on the server's core (see peers/bare_drivers.py)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def round(self, *, batch: int, seconds: float, streams: int = 1, connections: int = 1) -> Sample:
        """Writes batches for that long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"batch": batch, "seconds": seconds, "streams": streams, "connections": connections}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise servers.DidNotStart("the bare driver ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return Sample(rate=answer["rate"], per_core_second=answer["per_core_second"])


@contextlib.contextmanager
def bare_driver(*arguments: str) -> Generator[BareDriver, None, None]:
    """Starts the driver with `sqlite PATH SYNCHRONOUS` or `postgres URL`."""
    with on_core(cores()[0]):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.bare_drivers", *arguments],
            cwd=servers.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        yield BareDriver(process)
    finally:
        process.kill()
        process.communicate()
