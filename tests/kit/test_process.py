"""What a process that serves does not carry along, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from hapta.kit.process import leave_out_rich
leave_out_rich()
import structlog, structlog.dev
assert structlog.dev.rich is None
assert "rich" not in sys.modules
import rich.console  # whoever wants it has it
leave_out_rich()
assert sys.modules["rich"] is rich
print("done")
"""


def test_structlog_comes_without_rich_which_others_can_still_import() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
