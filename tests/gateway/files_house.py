"""Files behind the real edge and a real PocketBase, with a cache and limits of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from hapta.gateway.closed import is_superusers
from hapta.gateway.errors import CollectionMissing, RuleDenied, TokenRefused
from hapta.gateway.files.routes import FileRoutes
from hapta.gateway.files.service import Files
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import NOBODY, Collection, Operation, Visitor
from hapta.gateway.upstream.client import PocketBase
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.gateway.cache_house import Schema, collection_of, new_cache
from tests.gateway.limits_house import new_limits
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.http.house import Handlers, House, Known, serving


class Collections(Schema):
    """The collections of a PocketBase as they were a moment ago."""

    def __init__(self, pocketbase: PocketBaseHouse) -> None:
        answer = pocketbase.http.get("/api/collections?perPage=500", headers={"authorization": pocketbase.token})
        super().__init__([collection_of(raw) for raw in answer.json()["items"]])

    def resolve(self, segment: str) -> Collection:
        for one in self.all():
            if not is_superusers(segment) and (one.id == segment or one.name.casefold() == segment.casefold()):
                return one
        raise CollectionMissing


@dataclass
class Owner:
    """The owner's rules: records whose files nobody gets."""

    denied: set[str] = field(default_factory=set[str])
    on: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def has(self, phase: Any, action: Any, collection: Collection) -> bool:
        return self.on and (phase, action) == ("before", "file")

    async def before(self, operation: Operation) -> None:
        self.asked.append((operation.visitor.scope, operation.record_id, operation.filenames[0][1]))
        if operation.record_id in self.denied:
            raise RuleDenied

    async def after(self, operation: Operation, result: Any) -> Any:
        raise AssertionError("there is no such rule")


class Tokens:
    """File tokens of the gateway: a name for a visitor with PocketBase's own file token."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Visitor, str]] = {}

    async def unwrap(self, token: str) -> tuple[Visitor, str]:
        if token not in self.known:
            raise TokenRefused
        return self.known[token]


@dataclass
class FilesHouse:
    files: Files
    collections: Collections
    pb: PocketBase
    owner: Owner
    tokens: Tokens
    http: httpx.AsyncClient
    cache: Any


async def _nobody(authorization: bytes | None) -> Visitor:
    return NOBODY


NewFiles = Callable[..., Any]


@asynccontextmanager
async def files_of(
    pocketbase: PocketBaseHouse, *, keep_bytes: int = 64 * 1024, limits: dict[str, Any] | None = None
) -> AsyncIterator[FilesHouse]:
    clock = FakeClock()
    collections, owner, tokens = Collections(pocketbase), Owner(), Tokens()
    cache = new_cache(collections, clock)
    cache.resume()
    pb = PocketBase(pocketbase.url)
    files = Files(pb, new_limits(clock, limits or {}), owner, cache, tokens.unwrap, keep_bytes=keep_bytes)
    routes = FileRoutes(files, collections, _nobody, GatewayMetrics())
    default = LimitClass("default", Rate.parse("600/60"), "address")
    metrics = Metrics()
    edge = Edge(ServerSettings(), Known(), Limits(None, {"default": default}), Cors(["*"]), metrics, clock, None)
    house = House(Application([*routes.endpoints(), *routes.endpoints("/pb")], edge), Handlers(), metrics, clock)
    try:
        async with serving(house) as url, httpx.AsyncClient(base_url=url) as http:
            yield FilesHouse(files, collections, pb, owner, tokens, http, cache)
    finally:
        await pb.close()
        await cache.close()


def told(answer: httpx.Response) -> dict[str, Any]:
    return json.loads(answer.content)
