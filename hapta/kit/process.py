"""Settings of the Python process that serves. Only the commands that start a server call this; a library must not."""

from __future__ import annotations

import gc
import sys
from typing import Any

SWITCH_SECONDS = 0.0005
"""A database thread that waits for the interpreter beside a busy event loop gets it after this time, not after 5 ms: with
three statements in a transaction a lone write took 3 to 71 ms before, and about 1 ms since."""

GC_THRESHOLD = 20_000
"""New objects before the collector looks at the youngest; requests free almost all of theirs by counting."""


def tune() -> None:
    """Makes threads take turns sooner, and the collector look less often and not at what lives as long as the process."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(GC_THRESHOLD, 50, 50)
    gc.collect()
    gc.freeze()


def leave_out_rich() -> None:
    """Imports structlog without rich, which it otherwise loads wherever it is installed: 5 MB of a server, for tracebacks in colours
    that show what variables held. Ours are plain. Later imports of rich work as ever."""
    modules: dict[str, Any] = sys.modules
    if "structlog" not in modules and "rich" not in modules:
        modules["rich"] = None  # an import of it raises ImportError, as if it were not installed
        try:
            import structlog  # noqa: F401  # pyright: ignore[reportUnusedImport]
        finally:
            del modules["rich"]
