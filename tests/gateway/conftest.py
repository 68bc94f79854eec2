"""Fixtures of the gateway's tests: a real PocketBase with records of nobody, and as many further ones as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.pocketbase_house import Mails, PocketBaseHouse, PocketBaseServer, make_template
from tests.servers import HaptaServer, Run


@pytest.fixture(scope="session")
def _pocketbase_mails() -> Iterator[Mails]:
    mails = Mails()
    mails.start()
    yield mails
    mails.stop()


@pytest.fixture(scope="session")
def _pocketbase_template(server_run: Run, _pocketbase_mails: Mails) -> Path:
    return make_template(server_run, _pocketbase_mails)


@pytest.fixture(scope="session")
def _pocketbase(server_run: Run, _pocketbase_template: Path, _pocketbase_mails: Mails) -> Iterator[PocketBaseHouse]:
    """The PocketBase that all tests of one worker share."""
    with PocketBaseServer(server_run, template=_pocketbase_template) as server:
        house = PocketBaseHouse(server, _pocketbase_mails)
        yield house
        house.close()


@pytest.fixture
def pocketbase(_pocketbase: PocketBaseHouse) -> Iterator[PocketBaseHouse]:
    """A real PocketBase without records; they go after the test. Whoever changes its schema or kills it, takes one of
    his own: `new_pocketbase`."""
    yield _pocketbase
    _pocketbase.empty()


@pytest.fixture
def new_pocketbase(
    server_run: Run, _pocketbase_template: Path, _pocketbase_mails: Mails
) -> Iterator[Callable[[], PocketBaseHouse]]:
    """Starts as many PocketBases of their own as the test asks for, with the same collections: to change, pause, kill."""
    houses: list[PocketBaseHouse] = []

    def new() -> PocketBaseHouse:
        server = PocketBaseServer(server_run, template=_pocketbase_template)
        server.start()
        houses.append(PocketBaseHouse(server, _pocketbase_mails))
        return houses[-1]

    yield new
    for house in houses:
        house.close()
        house.server.kill()


@pytest.fixture
def new_gateway(new_hapta: Callable[..., HaptaServer]) -> Callable[..., HaptaServer]:
    """Starts whole servers in front of a PocketBase: `new_gateway(house, HAPTA_GATEWAY_PREFIX="/pb")`."""

    def new(house: PocketBaseHouse, **env: str) -> HaptaServer:
        server = new_hapta(
            env={
                "HAPTA_GATEWAY_ENABLED": "on",
                "DB_URL": house.url,
                "ADMIN_EMAIL": house.email,
                "ADMIN_PASSWORD": house.password,
                "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
                "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
                **env,
            }
        )
        server.start()
        return server

    return new
