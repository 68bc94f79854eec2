"""Operators: their key opens their routes and nothing else, and what they ask for is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from hapta.gateway.admin.routes import HEADER, AdminRoutes
from hapta.gateway.errors import CollectionMissing
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Collection, Visitor
from hapta.gateway.sessions.models import SessionInfo
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass
from hapta.http.limits import Limits as EdgeLimits
from hapta.http.metrics import Metrics
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings, Settings
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.cache_house import new_cache
from tests.gateway.limits_house import ADDRESS, POSTS, USERS, draw, new_limits, visitor
from tests.http.house import Known

KEY = "the key of the operators"
ROOT = "/gateway/v1/admin"


class Sessions:
    """Sessions of two people, in memory."""

    def __init__(self) -> None:
        self.counts = {"started": 2, "rolled": 1}
        self.live = {
            name: SessionInfo(name, USERS.id, name.partition("-")[0], "", 0, 1000, 2000, "agent", "192.0.2.0/24")
            for name in ("alice-1", "alice-2", "bob-1")
        }

    async def list(self, visitor: Visitor) -> Sequence[SessionInfo]:
        whose = visitor.collection_id, visitor.record_id
        return [one for one in self.live.values() if (one.collection_id, one.record_id) == whose]

    async def page(self, *, after: str = "", limit: int = 100) -> Sequence[SessionInfo]:
        return [self.live[name] for name in sorted(self.live) if name > after][:limit]

    async def revoke(self, session_id: str, reason: str) -> bool:
        return self.live.pop(session_id, None) is not None

    async def revoke_record(self, collection_id: str, record_id: str, reason: str) -> int:
        found = [name for name, one in self.live.items() if one.record_id == record_id]
        for name in found:
            del self.live[name]
        return len(found)


@dataclass
class Rules:
    reloads: int = 0

    def status(self) -> Mapping[str, Any]:
        return {"generation": self.reloads, "problems": []}

    async def reload(self) -> Mapping[str, Any]:
        self.reloads += 1
        return self.status()


class Collections:
    def resolve(self, segment: str) -> Collection:
        if segment.casefold() != "users":
            raise CollectionMissing
        return USERS


@dataclass
class House:
    client: Callable[..., httpx.AsyncClient]
    sessions: Sessions = field(default_factory=Sessions)
    rules: Rules = field(default_factory=Rules)


def new_house(clock: FakeClock, key: str = KEY, purged: list[str] | None = None) -> House:
    house = House(httpx.AsyncClient)
    own = GatewaySettings(admin_key=key, admin_password="the superuser's", db_url="http://u:pass@127.0.0.1:1")
    limits = new_limits(clock)

    async def tell(tag: str) -> None:
        if purged is not None:
            purged.append(tag)

    routes = AdminRoutes(Settings(gateway=own), house.sessions, new_cache(), limits, house.rules, Collections(), tell)
    default = LimitClass("default", Rate.parse("600/60"), "address")
    edge_limits = EdgeLimits(None, {"default": default})
    edge = Edge(ServerSettings(), Known(), edge_limits, Cors(["*"]), Metrics(), clock, None)
    app: Any = Application(routes.endpoints(), edge)

    def client(given: str | None = KEY, address: str = ADDRESS) -> httpx.AsyncClient:
        headers = {} if given is None else {HEADER: given}
        transport = httpx.ASGITransport(app, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://server.test" + ROOT, headers=headers)

    house.client = client
    return house


@pytest.fixture
def house() -> House:
    return new_house(FakeClock())


ALL = [
    ("GET", "/sessions"),
    ("DELETE", "/sessions/alice-1"),
    ("DELETE", "/records/users/alice/sessions"),
    ("GET", "/cache"),
    ("POST", "/cache/purge"),
    ("GET", "/limits"),
    ("GET", "/rules"),
    ("POST", "/rules/reload"),
    ("GET", "/config"),
]
BODY = {"tag": "*"}


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_without_the_key_nothing_is_told_or_done(house: House, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": BODY} if path.endswith("purge") else {}
    attempts: list[tuple[str | None, dict[str, Any]]] = [
        (None, {}),
        ("", {}),
        (KEY[:-1], {}),
        (KEY + " x", {}),
        (KEY.upper(), {}),
        (None, {"headers": {"authorization": f"Bearer {KEY}"}}),
        (None, {"headers": {"cookie": f"{HEADER}={KEY}"}}),
        (None, {"params": {HEADER: KEY, "key": KEY}}),
        (None, {"headers": [(HEADER, KEY), (HEADER, KEY)]}),
    ]
    for given, options in attempts:
        async with house.client(given) as client:
            answer = await client.request(method, path, **{**body, **options})
        assert answer.status_code == 403, (given, options)
        assert answer.json()["status"] == "error"
        assert "access-control-allow-origin" not in answer.headers
        assert KEY not in answer.text
    assert (len(house.sessions.live), house.rules.reloads) == (3, 0)


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_with_the_key_each_route_answers_and_is_kept_nowhere(house: House, method: str, path: str) -> None:
    async with house.client() as client:
        answer = await client.request(method, path, json=BODY if path.endswith("purge") else None)
    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["ratelimit"].startswith('"admin";')


async def test_guesses_at_the_key_are_limited_by_address(house: House) -> None:
    async with house.client("wrong") as client:
        statuses = [(await client.get("/cache")).status_code for _ in range(70)]
    assert statuses == [403] * 60 + [429] * 10
    async with house.client() as client:
        assert (await client.get("/cache")).status_code == 429
    async with house.client(address="192.0.2.99") as client:
        assert (await client.get("/cache")).status_code == 200


async def test_without_a_key_in_the_settings_the_routes_are_not_there() -> None:
    house = new_house(FakeClock(), key="")
    for given in (None, ""):
        async with house.client(given) as client:
            assert (await client.get("/cache")).status_code == 404


def test_a_key_that_can_be_guessed_stops_the_start() -> None:
    with pytest.raises(ValueError, match=r"gateway\.admin_key") as refused:
        new_house(FakeClock(), key="short key")
    assert "short key" not in str(refused.value)


async def test_sessions_are_listed_page_by_page_and_by_record_and_ended(house: House) -> None:
    async with house.client() as client:
        page = (await client.get("/sessions", params={"limit": 2})).json()["data"]
        assert ([one["id"] for one in page["sessions"]], page["next"]) == (["alice-1", "alice-2"], "alice-2")
        page = (await client.get("/sessions", params={"limit": 2, "after": page["next"]})).json()["data"]
        assert ([one["id"] for one in page["sessions"]], page["next"]) == (["bob-1"], None)
        of_bob = (await client.get("/sessions", params={"collection": "USERS", "record": "bob"})).json()["data"]
        assert of_bob["sessions"][0]["network"] == "192.0.2.0/24"
        assert (await client.get("/sessions", params={"collection": "_superusers", "record": "x"})).status_code == 404
        assert (await client.delete("/sessions/bob-1")).json()["data"] == {"ended": 1}
        assert (await client.delete("/sessions/bob-1")).status_code == 404
        assert (await client.delete("/records/users/alice/sessions")).json()["data"] == {"ended": 2}
    assert house.sessions.live == {}


async def test_a_purge_reaches_the_other_workers() -> None:
    purged: list[str] = []
    async with new_house(FakeClock(), purged=purged).client() as client:
        assert (await client.post("/cache/purge", json={"tag": "u/alice"})).json()["data"] == {"dropped": 0}
        assert (await client.post("/cache/purge", json={"tag": ""})).status_code == 400
    assert purged == ["u/alice"]


async def test_the_settings_are_shown_without_secrets(house: House) -> None:
    async with house.client() as client:
        answer = await client.get("/config")
    assert answer.json()["data"]["settings"]["gateway.admin_key"] == "(set, not shown)"
    assert answer.json()["data"]["settings"]["gateway.db_url"] == "http://u:***@127.0.0.1:1"
    for secret in (KEY, "the superuser's", "pass@"):
        assert secret not in answer.text


# --- numbers ---


@dataclass
class Changes:
    live: bool = True
    lag_seconds: float = 0.5
    gaps: int = 2
    echoes: int = 7


class Realtime:
    def stats(self) -> SessionInfo:
        return SessionInfo("", "", "", "", 3, 4, 5, "", "")


async def test_the_page_of_numbers_has_all_of_the_gateway_by_class_and_collection() -> None:
    clock, metrics, own = FakeClock(), Metrics(7), GatewayMetrics()
    limits = new_limits(clock, {"list": {"limit": 1, "every": 1000}})
    cache = new_cache()
    cache.bump_all("schema")
    own.publish(metrics, cache=cache, limits=limits, sessions=Sessions(), changes=Changes(), realtime=Realtime())
    own.answered("view", "posts", 200, 0.002)
    own.answered("view", "posts", 404, 0.002)
    own.upstream("send", "2xx", 0.01)
    own.ruled("before", "list", "posts", "denied", 0.001)
    own.reloaded(ok=False)
    await draw(limits, where=POSTS, who=visitor("alice"))
    with pytest.raises(Exception, match="Too Many"):
        await draw(limits, where=POSTS, who=visitor("alice"))
    page = metrics.render().decode()
    for line in (
        'hapta_gateway_requests_total{class="view",collection="posts",status="2xx",worker="7"} 1.0',
        'hapta_gateway_requests_total{class="view",collection="posts",status="4xx",worker="7"} 1.0',
        'hapta_gateway_duration_seconds_count{class="view",collection="posts",worker="7"} 2.0',
        'hapta_gateway_upstream_total{kind="send",outcome="2xx",worker="7"} 1.0',
        'hapta_gateway_rules_total{action="list",collection="posts",outcome="denied",phase="before",worker="7"} 1.0',
        'hapta_gateway_rule_reloads_total{outcome="broken",worker="7"} 1.0',
        'hapta_gateway_refused_total{class="list",collection="posts",worker="7"} 1.0',
        'hapta_gateway_cache_lookups_total{result="hits",worker="7"} 0.0',
        'hapta_gateway_cache_invalidations_total{reason="schema",worker="7"} 1.0',
        'hapta_gateway_sessions_total{event="started",worker="7"} 2.0',
        'hapta_gateway_changes_lag_seconds{worker="7"} 0.5',
        'hapta_gateway_changes_gaps_total{worker="7"} 2.0',
        'hapta_gateway_realtime{what="created_at",worker="7"} 3.0',
    ):
        assert line in page, line
    assert "alice" not in page
