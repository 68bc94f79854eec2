"""The machine under the benchmarks: which core does what, how much CPU time and memory a process tree has used."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil


@cache
def cores() -> tuple[int, int]:
    """The cores of server and of load, out of those that this process may use when it first asks.

    With one core only both share it, and the table says so.
    """
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[-1])


@contextmanager
def on_core(core: int) -> Generator[None, None, None]:
    """This thread, and every process that it starts meanwhile, stays on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """CPU time used so far by a process, its threads and its children, in seconds (from the scheduler, in nanoseconds)."""
    return sum(_thread_times(pid)) / 1e9


def _thread_times(pid: int) -> Iterator[int]:
    for one in _tree(pid):
        for thread in Path(f"/proc/{one}/task").iterdir():
            try:
                yield int((thread / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):  # a thread that ended between the two looks
                continue


def memory_bytes(pid: int) -> tuple[int, int]:
    """Resident and proportional memory of a process and its children (RSS, PSS), in bytes."""
    rss = pss = 0
    for one in _tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Rss":
                rss += int(rest.split()[0]) * 1024
            elif name == "Pss":
                pss += int(rest.split()[0]) * 1024
    return rss, pss


def start_peak(pid: int) -> int:
    """Forgets the peak of a process's resident memory (not of its children); what it has now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process has had since `start_peak`, in bytes."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _tree(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def describe() -> str:
    """The machine in one line."""
    model = "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = psutil.virtual_memory().total // 2**30
    return f"{model}, {os.cpu_count()} cores, {memory} GiB, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
