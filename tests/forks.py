"""Programs of Hapta as processes of their own, without the second that each would spend on importing Hapta anew.

A worker of pytest-xdist starts one process that imports all of the command line and of the server, and does nothing else. Each
program is a fork of it: a process with a number, an environment, a folder, streams and signals of its own, that runs
`hapta.cli.main.run` and may be killed like any other. Where programs cannot be forked safely (Windows, macOS), and where a test
is about the start itself, the memory or the modules of a program, it is started as people start it: `python -m hapta`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

import hapta

REPOSITORY = Path(__file__).resolve().parent.parent
POSSIBLE = sys.platform == "linux"
MESSAGE_BYTES = 1024 * 1024


class Program(Protocol):
    """What a test needs of a running program: the part of `subprocess.Popen` that a fork has too."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...


class Forked:
    """A fork of the prepared process. Methods as those of `subprocess.Popen`."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._told = b""
        self.returncode: int | None = None
        self.pid = int(self._next())

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                self.returncode = int(self._next())
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0) from None
            self._line.close()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _next(self) -> bytes:
        while b"\n" not in self._told:
            part = self._line.recv(64)
            if not part:
                raise RuntimeError("the process that programs are forked from has ended")
            self._told += part
        line, _, self._told = self._told.partition(b"\n")
        return line


class Forks:
    """The prepared process of this worker; it starts with the first program and ends with the worker."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(
        self, words: Sequence[str], *, env: Mapping[str, str], cwd: Path, streams: tuple[int, int, int]
    ) -> Forked:
        """Starts `hapta WORDS...` as the leader of a session of its own.

        Args:
            words: the arguments after `hapta`.
            env: the whole environment.
            cwd: the working folder.
            streams: file descriptors that become standard input, output and error.
        """
        line, far = socket.socketpair()
        with self._lock, far:
            message = json.dumps({"words": [*words], "env": {**env}, "cwd": str(cwd)}).encode()
            socket.send_fds(self._prepared(), [message], [*streams, far.fileno()])
        return Forked(line)

    def run(
        self, words: Sequence[str], *, env: Mapping[str, str], cwd: Path, given: str = "", timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs `hapta WORDS...` to its end.

        Args:
            given: what it reads from its standard input.
            timeout: seconds after which it is killed.

        Raises:
            subprocess.TimeoutExpired: it was killed.
        """
        with (
            tempfile.TemporaryFile("w+") as stdin,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            stdin.write(given)
            stdin.seek(0)
            program = self.start(words, env=env, cwd=cwd, streams=(stdin.fileno(), out.fileno(), err.fileno()))
            try:
                status = program.wait(timeout)
            except subprocess.TimeoutExpired:
                program.send_signal(signal.SIGKILL)
                program.wait()
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(["hapta", *words], status, out.read(), err.read())

    def _prepared(self) -> socket.socket:
        if self._control is None:
            self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with far:
                # It ends when our end of the control socket closes, whichever way we end.
                self._process = subprocess.Popen(
                    [sys.executable, "-c", f"from tests.forks import prepare; prepare({far.fileno()})"],
                    env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "PYTHONPATH": str(REPOSITORY)},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    pass_fds=[far.fileno()],
                    start_new_session=True,
                )
            atexit.register(self._end)
        return self._control

    def _end(self) -> None:
        assert self._control is not None
        assert self._process is not None
        self._control.close()
        self._process.wait()


forks = Forks()
"""Of this worker."""


# --- The prepared process ---


def prepare(number: int) -> NoReturn:
    """Imports Hapta, then forks a program for each message that arrives.

    Args:
        number: the file descriptor of the control socket.
    """
    _import_everything()
    # What is imported stays where it is: a collection in a child would copy the pages of all of it.
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=number)
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is control:
                message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 4)
                if not message:
                    os._exit(0)
                _fork(json.loads(message), descriptors, waiting)
            else:
                pid, line = key.data
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                with suppress(OSError), line:  # whoever asked may be gone
                    line.sendall(b"%d\n" % status)


def _import_everything() -> None:
    for module in pkgutil.walk_packages(hapta.__path__, "hapta."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _LATE:
        importlib.import_module(name)


_LATE = (
    "encodings.idna", "redis.asyncio", "rich.traceback", "typer._adapters", "uvicorn.lifespan.on", "uvicorn.loops.uvloop",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)  # fmt: skip
"""What libraries import when they are first used."""


def _fork(asked: Mapping[str, Any], descriptors: Sequence[int], waiting: selectors.BaseSelector) -> None:
    line = socket.socket(fileno=descriptors[3])
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = _become(asked, descriptors[:3])
        finally:
            os._exit(status)
    for descriptor in descriptors[:3]:
        os.close(descriptor)
    with suppress(OSError):
        line.sendall(b"%d\n" % pid)
    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, line))


def _become(asked: Mapping[str, Any], streams: Sequence[int]) -> int:
    """The child: what the interpreter does before and after `python -m hapta`; the status it ends with."""
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 1 + max(int(name) for name in os.listdir("/proc/self/fd")))
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["cwd"])
    sys.argv = ["hapta", *asked["words"]]
    buffered = not asked["env"].get("PYTHONUNBUFFERED")
    reader = io.BufferedReader(io.FileIO(0, "rb", closefd=False))
    out, err = (io.BufferedWriter(io.FileIO(number, "wb", closefd=False)) for number in (1, 2))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(reader, "utf-8")
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(out, "utf-8", "strict", write_through=not buffered)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(err, "utf-8", "backslashreplace", line_buffering=True)
    status = _status(asked["words"])
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter waits for threads
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


class _Serves(BaseException):
    """`hapta serve` would now become the process that serves."""


def _status(words: Sequence[str]) -> int:
    from hapta.cli import server_process
    from hapta.cli.main import run

    def execv(_program: str, arguments: Sequence[str]) -> NoReturn:
        assert arguments[1:4] == ["-P", "-m", server_process.__name__]
        raise _Serves(arguments[4:])

    os.execv = execv
    try:
        try:
            run(words)
        except _Serves as serves:  # its traceback keeps the listening sockets open
            return server_process.main(serves.args[0])
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1
