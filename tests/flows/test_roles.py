"""Which of the two servers of a pair serves what: together they serve what one server for everything does, and no path twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from hapta.roles import OPEN_AT_AUTH, create_server, is_relayed
from hapta.settings import SettingsError, load
from hapta.testing.server import TestHapta

SECRET = "a secret for tests only, thirty-two bytes or more"


async def paths(folder: Path, role: str) -> set[str]:
    given = {
        "HAPTA_DATA_DIR": str(folder),
        "JWT_SECRET": SECRET,
        "HAPTA_SERVER_ROLE": role,
        "HAPTA_LOG_ACCESS": "false",
    }
    server = create_server(load(given, cwd=folder))
    async with server.opened():
        return {endpoint.name for endpoint in server.endpoints}


async def test_the_pair_serves_together_what_one_server_does(tmp_path: Path) -> None:
    auth, resource = await paths(tmp_path / "pair", "auth"), await paths(tmp_path / "pair", "resource")
    async with TestHapta(tmp_path / "one") as one:
        whole = {endpoint.name for endpoint in one.app.endpoints}
    assert auth | resource >= whole
    more = {name for name in auth - whole if " /internal/v1/" not in name}
    assert not more
    for name in auth:
        path = name.partition(" ")[2]
        if not path.startswith("/internal/") and path not in OPEN_AT_AUTH and path != "/":
            assert is_relayed(path), name
    assert not [name for name in resource if is_relayed(name.partition(" ")[2])]
    assert {name.partition(" ")[2] for name in auth & resource} <= {"/", *OPEN_AT_AUTH}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"HAPTA_SERVER_ROLE": "resource", "PORT": "5002"}, "server.internal_port"),
        ({"HAPTA_SERVER_ROLE": "auth", "HAPTA_SERVER_RESOURCE_URL": "127.0.0.1:5002"}, "server.resource_url"),
        ({"HAPTA_SERVER_ROLE": "auth", "NODE_ENV": "production", "JWT_SECRET": SECRET}, "server.public_url"),
        ({"HAPTA_SERVER_ROLE": "both"}, "server.role"),
    ],
)
def test_a_pair_that_could_not_work_does_not_start(given: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=named):
        load(given, cwd=tmp_path)
