"""The house of the edge's tests, and a client that calls it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import httpx
import pytest

from hapta.http.answering import access_lines
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.kit.logs import AccessLog
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.http.house import MAX_BODY, Handlers, House, Known, NewHouse, endpoints


@pytest.fixture
def new_house() -> Iterable[NewHouse]:
    """Makes edges; `limits` are rates by class name, and without any the limits are off."""
    made: list[House] = []

    def new(limits: dict[str, str] | None = None, *, origins: Sequence[str] = ("*",), **server: Any) -> House:
        clock, api, metrics, lines = FakeClock(), Handlers(), Metrics(), io.BytesIO()
        rates = {"default": "600/60:200", "account": "600/60:200", **(limits or {})}
        classes = {
            name: LimitClass(name, Rate.parse(rate), "account" if name == "account" else "address")
            for name, rate in rates.items()
        }
        limiter = MemoryLimiter(clock.monotonic) if limits else None
        access_log = AccessLog(lines, encode=access_lines)
        settings = ServerSettings(**{"max_body_bytes": MAX_BODY, **server})
        edge = Edge(settings, Known(), Limits(limiter, classes), Cors(origins), metrics, clock, access_log)
        house = House(Application(endpoints(api), edge), api, metrics, clock, lines, access_log)
        made.append(house)
        return house

    yield new
    for house in made:
        if house.access_log is not None:
            house.access_log.close()


@pytest.fixture
def house(new_house: NewHouse) -> House:
    return new_house()


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        yield client
