"""Names and places of synced files: which paths are allowed, and writing them without ever leaving the folder.

Every step below the folder's root is opened relative to its parent, without following links, so that neither a hostile
peer's path nor a link placed meanwhile can lead a write outside. Invariant: a reader sees the old file or the new file,
never a part.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from hapta.client.errors import UnsafePath

TEMP_PREFIX = ".hapta-tmp-"
MARKER = ".hapta-folder"
"""A file in the folder's root that names the vault; its absence tells an unmounted disk from a deleted tree."""
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
WINDOWS_FORBIDDEN = set('\\:*?"<>|')
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789")}


def check_path(path: str, *, windows: bool = os.name == "nt") -> tuple[str, ...]:
    """The components of a relative POSIX path in NFC.

    Raises:
        UnsafePath: absolute, climbing, empty, over-long or with NUL; a name the folder keeps for itself; on Windows
            also what means something else there (drives, backslashes, device names).
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise UnsafePath("A file name is not valid Unicode") from error
    parts = tuple(path.split("/"))
    if len(encoded) > MAX_PATH_BYTES or path != unicodedata.normalize("NFC", path):
        raise UnsafePath(f"Not a synced path: {path[:80]!r}")
    for part in parts:
        if part in ("", ".", "..") or "\0" in part or len(part.encode()) > MAX_NAME_BYTES:
            raise UnsafePath(f"Not a path below the folder: {path[:80]!r}")
        if part == MARKER or part.startswith(TEMP_PREFIX):
            raise UnsafePath(f"Reserved name: {part[:80]!r}")
        if windows and (
            WINDOWS_FORBIDDEN & set(part)
            or part[-1] in " ."
            or part.split(".")[0].lower() in WINDOWS_DEVICES
            or any(character < " " for character in part)
        ):
            raise UnsafePath(f"Not a file name on this system: {part[:80]!r}")
    return parts


def conflict_name(path: str, device: str, when: str, taken: Callable[[str], bool]) -> str:
    """`name (conflict <device> <when>).ext` beside `path`, numbered while the name is taken."""
    folder, _, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".") if "." in name[1:] else (name, "", "")
    number = 1
    while True:
        mark = f" (conflict {device} {when}{'' if number == 1 else f' {number}'})"
        room = MAX_NAME_BYTES - len((mark + dot + extension).encode())
        kept = stem.encode()[: max(room, 0)].decode(errors="ignore")
        candidate = unicodedata.normalize("NFC", f"{folder + '/' if folder else ''}{kept}{mark}{dot}{extension}")
        if not taken(candidate):
            return candidate
        number += 1


class Root:
    """The folder on disk. All paths are tuples of names below it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _parent(self, parts: tuple[str, ...], *, create: bool = False) -> Generator[int]:
        """A descriptor of the directory that holds the last part.

        Raises:
            OSError: a parent is missing, is no directory, or is a link (ELOOP or ENOTDIR).
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        current = os.open(self.path, flags)
        try:
            for part in parts[:-1]:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o777, dir_fd=current)
                below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    def open(self, parts: tuple[str, ...]) -> int:
        """A descriptor for reading a regular file; never follows a link, never blocks on a pipe."""
        with self._parent(parts) as parent:
            return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)

    def stat(self, parts: tuple[str, ...]) -> os.stat_result | None:
        """The entry itself (a link is not followed), or None when there is none."""
        try:
            with self._parent(parts) as parent:
                return os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(
        self,
        parts: tuple[str, ...],
        content: Iterable[bytes],
        mode: int,
        before_replace: Callable[[], bool] = lambda: True,
    ) -> os.stat_result | None:
        """Replaces a file in one step: written beside it, flushed to disk, renamed.

        Args:
            content: the bytes, in pieces; when it raises, nothing has changed.
            mode: permission bits.
            before_replace: asked last; False leaves everything as it is, and None is returned.
        """
        temporary = TEMP_PREFIX + secrets.token_hex(8)
        with self._parent(parts, create=True) as parent:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    for piece in content:
                        file.write(piece)
                    file.flush()
                    os.fchmod(file.fileno(), mode & 0o777)
                    os.fsync(file.fileno())
                    written = os.fstat(file.fileno())
                if not before_replace():
                    os.unlink(temporary, dir_fd=parent)
                    return None
                os.replace(temporary, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)
        return written

    def remove(self, parts: tuple[str, ...]) -> None:
        """Removes a file, and the directories above it that became empty; the root stays."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._parent(parts) as parent:
            os.unlink(parts[-1], dir_fd=parent)
        for depth in range(len(parts) - 1, 0, -1):
            try:
                with self._parent(parts[:depth]) as parent:
                    os.rmdir(parts[depth - 1], dir_fd=parent)
            except OSError:
                return

    def files(self, problem: Callable[[str], None]) -> Iterator[tuple[str, os.stat_result]]:
        """Every regular file below the root: its path as the disk spells it, and its state. Links are not followed."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(self.path / folder), key=lambda entry: entry.name)
            except FileNotFoundError:
                if not folder:
                    raise
                continue
            except OSError as error:
                # An unreadable directory must not look like one whose files were all deleted.
                raise UnsafePath(f"Cannot read the directory {folder or '.'!r}: {error.strerror}") from error
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith(TEMP_PREFIX):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
                    continue
                if entry.is_symlink():
                    problem(f"{printable(path)}: links are not synced")
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        state = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(state.st_mode):
                            yield path, state
                        else:
                            problem(f"{printable(path)}: not a regular file")


def printable(path: str) -> str:
    """A path that is safe to show: bytes that are no text, and control characters, as escapes."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in path)
