"""The folder of a PocketBase of Hapta's own: its data, its superuser's secret, its port, and who of several workers minds it.

A lock on a file says who does; the system releases it with its holder, however that ends. The port is chosen once and kept,
so that all workers know it from the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

try:
    import fcntl
except ImportError:  # Windows, where one process serves
    fcntl = None

NOTE = "hapta-pocketbase.json"
LOCK = "hapta-pocketbase.lock"
SETTLED = b"settled"
EMAIL = "hapta@hapta.invalid"


class Credentials(NamedTuple):
    """A superuser's."""

    email: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.email!r})"


class _Note(msgspec.Struct):
    """What is kept in the folder beside PocketBase's own files."""

    port: int = 0
    email: str = ""
    password: str = ""


class Home:
    """The folder. All methods block for a moment.

    Args:
        folder: made when it is missing, closed to other users.
        email, password: of the superuser, when the operator chose them; made and kept here otherwise.
    """

    def __init__(self, folder: Path, email: str = "", password: str = "") -> None:
        self.folder = folder
        self._email = email
        self._password = password
        self._lock: int | None = None
        self.port = 0
        self.credentials = Credentials("", "")

    @property
    def data(self) -> Path:
        """PocketBase's data folder: this one, if somebody points us at one that is, else `pb_data` in it."""
        return self.folder if (self.folder / "data.db").exists() else self.folder / "pb_data"

    @property
    def empty(self) -> bool:
        """Whether PocketBase was never started here."""
        return not (self.data / "data.db").exists()

    def hold(self) -> bool:
        """Whether this process is the one that minds PocketBase, from now on at least. Settles port and credentials then."""
        if self._lock is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                return False
            self._lock = lock
            self._settle(lock)
        return True

    def read(self) -> bool:
        """Takes port and credentials from what the holder wrote; whether it has written them."""
        note = self._read()
        # Written by the one who holds the lock after it chose the port.
        with contextlib.suppress(OSError):
            if (self.folder / LOCK).read_bytes() != SETTLED:
                return False
        if not note.port:
            return False
        self.port = note.port
        self.credentials = self._credentials(note)
        return True

    def release(self) -> None:
        """Leaves PocketBase to the next one."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _settle(self, lock: int) -> None:
        note = self._read()
        if not (self._email and self._password) and not note.password:
            note.email, note.password = EMAIL, secrets.token_urlsafe(32)
        # Once told, the port does not change: those who wait for the next start wait there.
        note.port = self.port or (note.port if _bindable(note.port) else _free_port())
        self._write(note)
        self.port = note.port
        self.credentials = self._credentials(note)
        os.ftruncate(lock, 0)
        os.pwrite(lock, SETTLED, 0)

    def _credentials(self, note: _Note) -> Credentials:
        if self._email and self._password:
            return Credentials(self._email, self._password)
        return Credentials(note.email, note.password)

    def _read(self) -> _Note:
        try:
            return msgspec.json.decode((self.folder / NOTE).read_bytes(), type=_Note)
        except FileNotFoundError:
            return _Note()

    def _write(self, note: _Note) -> None:
        # A file of mkstemp is its owner's alone, and a rename leaves the old or the new one, whatever happens.
        number, name = tempfile.mkstemp(dir=self.folder, prefix=f".{NOTE}-")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(msgspec.json.encode(note))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.folder / NOTE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _bindable(port: int) -> bool:
    if not port:
        return False
    with socket.socket() as probe:
        # As servers do: a port whose connections linger is free.
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
