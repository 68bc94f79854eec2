"""The routes of the audit log and of webhooks behind the real edge: who may call, and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from hapta.db.connect import connect
from hapta.db.migrate import migrate
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.fetch import GuardedFetch
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.identity.audit import routes as audit_routes
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.service import AuditLog
from hapta.identity.event_log import EventRecorder
from hapta.identity.events import Event
from hapta.identity.models import Origin
from hapta.identity.webhooks import routes as webhook_routes
from hapta.identity.webhooks.deliverer import Deliverer
from hapta.identity.webhooks.queue import WebhookQueue
from hapta.identity.webhooks.sealing import WebhookSecrets
from hapta.identity.webhooks.service import WebhookService
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import SystemClock
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import RandomIds
from hapta.kit.ratelimit import Rate
from hapta.kit.seal import Sealer
from hapta.settings import DatabaseSettings, ServerSettings, WebhookSettings
from hapta.testing.clock import FakeClock

ROOT = "/identity/v1/admin/webhooks"
ADMIN = {"authorization": "Bearer admin"}
ADA = {"authorization": "Bearer ada"}
APP = {"authorization": "Bearer app"}


class Known:
    """A verifier of three tokens: an admin's, a user's, and one that an app holds for that user."""

    def cached(self, token: str) -> Caller | None:
        return None

    async def verify(self, token: str) -> Caller:
        if token not in ("admin", "ada", "app"):
            raise InvalidToken
        user = UserId("ada" if token == "app" else token)
        roles = frozenset({"admin"}) if token == "admin" else frozenset[str]()
        app = "c-1" if token == "app" else None
        return Caller(user, SessionId("s"), 1, None, 4e9, roles=roles, client_id=app)


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    db = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    await migrate(db, SystemClock())
    clock, ids = FakeClock(), RandomIds()
    audit = AuditLog(db, clock, ids, AuditKeys("secret"), "secret")
    queue, secrets = WebhookQueue(db, clock, ids), WebhookSecrets(Sealer.of(bytes(32)))
    recorder = EventRecorder(audit, queue)
    service = WebhookService(db, clock, ids, secrets, recorder, allow_private=True)
    settings = WebhookSettings(allow_private=True)
    deliverer = Deliverer(db, clock, ids, GuardedFetch(allow_private=True), queue, secrets, settings)
    classes = {name: LimitClass(name, Rate.parse("60/60"), "address") for name in ("default", "account")}
    edge = Edge(ServerSettings(), Known(), Limits(None, classes), Cors(["*"]), Metrics(), clock, None)
    app = Application([*audit_routes.routes(audit), *webhook_routes.routes(service, deliverer)], edge)
    origin = Origin(address="198.51.100.7")
    for user in ("ada", "bob", "ada"):
        event = Event("auth.login.succeeded", UserId(user), origin)
        await db.write(lambda tx, event=event: recorder.record(tx, event))
    transport = httpx.ASGITransport(cast("Any", app))
    async with httpx.AsyncClient(transport=transport, base_url="http://server.test") as made:
        yield made
    await db.close()


async def data(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == "success"
    return answer.json()["data"]


async def test_only_admins_see_everything_and_keep_webhooks(client: httpx.AsyncClient) -> None:
    calls = [
        ("GET", "/identity/v1/admin/events"),
        ("GET", ROOT),
        ("POST", ROOT),
        ("GET", f"{ROOT}/x"),
        ("PATCH", f"{ROOT}/x"),
        ("DELETE", f"{ROOT}/x"),
        ("POST", f"{ROOT}/x/rotate"),
        ("POST", f"{ROOT}/x/ping"),
        ("GET", f"{ROOT}/x/deliveries"),
        ("GET", f"{ROOT}/x/deliveries/y"),
        ("POST", f"{ROOT}/x/deliveries/y/replay"),
    ]
    for method, path in calls:
        assert (await client.request(method, path)).status_code == 401, path
        for headers in (ADA, APP):
            assert (await client.request(method, path, headers=headers, json={})).status_code == 403, path


async def test_people_see_their_own_activity_and_apps_do_not(client: httpx.AsyncClient) -> None:
    mine = await data(await client.get("/identity/v1/events", headers=ADA))
    assert [event["type"] for event in mine["events"]] == ["auth.login.succeeded"] * 2
    assert mine["events"][0]["byUser"] is True
    assert mine["next"] is None
    assert (await client.get("/identity/v1/events", headers=APP)).status_code == 403
    assert (await client.get("/identity/v1/events")).status_code == 401
    other = await data(await client.get("/identity/v1/events?userId=bob", headers=ADA))
    assert len(other["events"]) == 2


async def test_admins_filter_and_page(client: httpx.AsyncClient) -> None:
    path = "/identity/v1/admin/events"
    first = await data(await client.get(f"{path}?limit=2", headers=ADMIN))
    rest = await data(await client.get(f"{path}?limit=2&cursor={first['next']}", headers=ADMIN))
    assert [event["userId"] for event in first["events"] + rest["events"]] == ["ada", "bob", "ada"]
    assert (first["next"], rest["next"]) == ("21915.2", None)
    only = await data(await client.get(f"{path}?userId=bob", headers=ADMIN))
    assert [event["number"] for event in only["events"]] == [2]
    for query in ("cursor=x", "limit=0", "limit=201", "outcome=maybe", "since=yesterday"):
        assert (await client.get(f"{path}?{query}", headers=ADMIN)).status_code == 400, query


async def test_a_webhook_from_beginning_to_end(client: httpx.AsyncClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    asked = {"url": url, "types": ["auth.*"], "ed25519": True}
    issued = await data(await client.post(ROOT, headers=ADMIN, json=asked), 201)
    one = f"{ROOT}/{issued['webhook']['id']}"
    assert issued["secret"].startswith("whsec_")
    assert issued["webhook"]["publicKey"].startswith("whpk_")
    listed = await client.get(ROOT, headers=ADMIN)
    assert issued["secret"] not in listed.text
    assert [webhook["url"] for webhook in (await data(listed))["webhooks"]] == [url]
    assert (await data(await client.post(f"{one}/ping", headers=ADMIN)))["status"] == 200
    rotated = await data(await client.post(f"{one}/rotate", headers=ADMIN, json={}))
    assert rotated["secret"] != issued["secret"]
    assert rotated["webhook"]["previousSecretUntil"] == "2030-01-02T00:00:00.000Z"
    [delivery] = (await data(await client.get(f"{one}/deliveries", headers=ADMIN)))["deliveries"]
    assert delivery["state"] == "delivered"
    message = f"{one}/deliveries/{delivery['messageId']}"
    details = await data(await client.get(message, headers=ADMIN))
    assert details["body"]["type"] == "webhook.ping"
    assert [attempt["status"] for attempt in details["log"]] == [200]
    assert (await data(await client.post(f"{message}/replay", headers=ADMIN), 202))["state"] == "pending"
    changed = await data(await client.patch(one, headers=ADMIN, json={"state": "disabled"}))
    assert (changed["state"], changed["disabledReason"]) == ("disabled", "an admin disabled it")
    assert (await client.post(f"{one}/ping", headers=ADMIN)).status_code == 409
    assert (await data(await client.delete(one, headers=ADMIN)))["id"] == issued["webhook"]["id"]
    assert (await client.get(one, headers=ADMIN)).status_code == 404
    server.close()
    await server.wait_closed()
    actions = await data(await client.get("/identity/v1/admin/events?type=admin.action", headers=ADMIN))
    assert [event["data"]["action"] for event in actions["events"]] == [
        "webhook.removed",
        "webhook.changed",
        "webhook.replayed",
        "webhook.rotated",
        "webhook.added",
    ]
    assert {event["actor"] for event in actions["events"]} == {"admin"}


@pytest.mark.parametrize("asked", [{"url": "https://10.0.0.1.5/"}, {"url": "https://a.example/", "types": ["x"]}, {}])
async def test_what_cannot_be_registered_is_a_400(client: httpx.AsyncClient, asked: dict[str, Any]) -> None:
    assert (await client.post(ROOT, headers=ADMIN, json=asked)).status_code == 400
