"""What the clients are made of is named exactly, and no machine's registry with it."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def test_packages_are_pinned_by_hash_and_without_addresses() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text())["packages"]
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]
    assert lock.pop("")["devDependencies"] == wanted
    assert {name: lock[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, entry in lock.items() if "resolved" in entry] == []
    assert [name for name, entry in lock.items() if not entry["integrity"].startswith("sha512-")] == []
