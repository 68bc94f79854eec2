"""The official SDKs, unchanged, call by call: PocketBase itself and the gateway in front of it give the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.node import Node
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.sdk.scene import Json, furnish, mailbox, picture, plain
from tests.servers import HaptaServer

PYTHON_SCRIPT = Path(__file__).parent / "sdk/python_sdk.py"

Run = Callable[..., Json]
Found = dict[str, Any]


@pytest.fixture(scope="module")
def directly() -> dict[Run, Found]:
    """What each SDK found in PocketBase itself, for both tests of a worker."""
    return {}


def javascript(**given: Json) -> Json:
    return Node().run("gateway_sdk.mjs", **given)


def python(**given: Json) -> Json:
    done = subprocess.run(
        [sys.executable, PYTHON_SCRIPT, json.dumps(given)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run(script: Run, house: PocketBaseHouse, base: str) -> Found:
    with mailbox(house.mails) as mails:
        return plain(script(base=base, mailbox=mails, picture=picture()), base)


SOONER = frozenset({"every mistake", "mistake in owner"})
"""Bodies that the gateway refuses by the schema before PocketBase is asked (contract gateway, B.6): it tells of what it can judge
alone, where PocketBase would also look into other records, or name its own rule first."""


@pytest.mark.parametrize("prefix", ["", "/pb"])
@pytest.mark.parametrize("script", [javascript, python])
def test_an_sdk_finds_behind_the_gateway_what_it_finds_in_pocketbase(
    script: Run,
    prefix: str,
    new_pocketbase: Callable[[], PocketBaseHouse],
    new_gateway: Callable[..., HaptaServer],
    directly: dict[Run, Found],
) -> None:
    def furnished() -> PocketBaseHouse:
        house = new_pocketbase()
        furnish(house)
        return house

    if script not in directly:
        house = furnished()
        directly[script] = run(script, house, house.url)
    expected = directly[script]
    assert len(expected) > 60
    house = furnished()
    server = new_gateway(house, HAPTA_RATELIMIT_ENABLED="false", HAPTA_GATEWAY_PREFIX=prefix)
    found = run(script, house, server.url + prefix)
    assert found.keys() == expected.keys()
    different = {name: (expected[name], found[name]) for name in expected if expected[name] != found[name]}
    sooner = {name: different.pop(name) for name in SOONER & different.keys()}
    assert different == {}
    assert all(there["threw"] == here["threw"] == 400 for there, here in sooner.values())
