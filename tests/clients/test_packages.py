"""What the clients and peers from npm are made of is named exactly, and no machine's registry with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "folder", ["tests/clients", "tests/clients/happy", "bench/peers/oidc_provider", "bench/peers/relay_node"]
)
def test_packages_are_pinned_by_hash_and_without_addresses(folder: str) -> None:
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    package = json.loads((ROOT / folder / "package.json").read_text())
    wanted = {**package.get("dependencies", {}), **package.get("devDependencies", {})}
    assert wanted
    own = lock.pop("")
    assert {**own.get("dependencies", {}), **own.get("devDependencies", {})} == wanted
    assert {name: lock[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, entry in lock.items() if "resolved" in entry] == []
    assert [name for name, entry in lock.items() if not entry["integrity"].startswith("sha512-")] == []
