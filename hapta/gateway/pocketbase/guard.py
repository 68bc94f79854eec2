"""A program that starts PocketBase so that it ends with Hapta, also when Hapta is killed: `guard.py PARENT COMMAND...`.

On Linux the system itself is told, and the guard becomes PocketBase; elsewhere the guard stays and waits for the end of its
input, which the system closes with Hapta. It is run by itself, so it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> int:
    """Runs PocketBase until it ends or `parent`, the process that started the guard, does.

    Returns:
        The exit code of the program, where the guard stays.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        # The parent may have ended before it was asked for.
        if os.getppid() != parent:
            return 1
        os.execv(command[0], command)  # noqa: S606
    return stay(command)


def stay(command: list[str]) -> int:
    """Runs a program until it ends or the standard input does; passes on the signal to end."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda _number, _frame: program.terminate())

    def wait_for_the_parent() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        program.kill()

    threading.Thread(target=wait_for_the_parent, daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
