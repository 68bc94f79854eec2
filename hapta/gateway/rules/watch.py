"""Reads the file of rules again when it has changed, in a thread of its own: loading runs the owner's code, which may take its time.

A changed file is read once it has stood still from one look to the next, so that one which is being written is not taken for whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from hapta.gateway.rules.declare import Problem
from hapta.gateway.rules.loader import RulesBroken, load
from hapta.gateway.rules.ruleset import RuleSet

LOOK_SECONDS = 0.25

Found = Callable[[RuleSet | RulesBroken], None]
Stamp = tuple[int, int, int, int] | None


class Watcher:
    """Loads a file, and does so again when it changes.

    Args:
        found: is told, in the watcher's thread, what each attempt to load came to.
    """

    def __init__(self, path: Path, found: Found) -> None:
        self._path = path
        self._found = found
        self._seen: Stamp = None
        self._loaded: Stamp = None
        self._wanted = False
        self._over = False
        self._woken = threading.Event()

    def start(self) -> None:
        """Loads the file, and looks at it from now on."""
        self._wanted = True
        threading.Thread(target=self._run, name="hapta-rules-watch", daemon=True).start()

    def stop(self) -> None:
        """Looks no more. Nobody waits for a load that is under way."""
        self._over = True
        self._woken.set()

    def load_now(self) -> None:
        """Loads the file whether it has changed or not."""
        self._wanted = True
        self._woken.set()

    def look(self) -> None:
        """One look at the file."""
        stamp = self._stamp()
        if self._wanted:
            self._wanted = False
        elif stamp == self._loaded or stamp != self._seen:
            self._seen = stamp
            return
        self._seen = self._loaded = stamp
        try:
            found = load(self._path)
        except RulesBroken as broken:
            found = broken
        if not self._over:
            self._found(found)

    def _run(self) -> None:
        while not self._over:
            try:
                self.look()
            except Exception as error:  # boundary: the rules in force stay, and the watch goes on
                self._found(RulesBroken(self._path, [Problem(0, f"{type(error).__name__}: {error}")]))
            self._woken.wait(LOOK_SECONDS)
            self._woken.clear()

    def _stamp(self) -> Stamp:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino
