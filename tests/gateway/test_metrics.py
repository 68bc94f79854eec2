"""Every call of visitors is counted by its class of limits and its collection, whichever door it came by (contract gateway, B.11)."""

from __future__ import annotations

import re
from collections import Counter

import httpx
import pytest

from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Outcome
from hapta.http.metrics import Metrics
from hapta.kit.errors import NotFound
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.socket_house import _gateway, open_socket, server, sign_in
from tests.servers import HaptaServer

__all__ = ["_gateway", "server"]

SERIES = re.compile(r'hapta_gateway_requests_total\{class="(\w+)",collection="(\w*)",status="(\dxx)"[^}]*\} ([\d.]+)')

Counted = Counter[tuple[str, str, str]]


def counted(server: HaptaServer) -> Counted:
    """How many calls were answered, by class, collection and status."""
    page = httpx.get(server.url + "/metrics").text
    return Counter({(name, where, status): int(float(count)) for name, where, status, count in SERIES.findall(page)})


def test_calls_over_http_are_counted_as_what_they_are(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    record = pocketbase.create("files", files={"documents": ("a.txt", b"first")}, owner=alice.id)
    before = counted(server)
    users = "/api/collections/users"
    with httpx.Client(base_url=server.url) as http:
        login = {"identity": alice.email, "password": alice.password}
        signed_in = http.post(f"{users}/auth-with-password", json=login)
        assert http.post(f"{users}/auth-with-password", json={**login, "password": "another one"}).status_code == 400
        http.headers["authorization"] = signed_in.json()["token"]
        http.headers["authorization"] = http.post(f"{users}/auth-refresh").json()["token"]
        assert http.post(f"{users}/request-password-reset", json={"email": "nobody@example.com"}).status_code == 204
        assert http.post("/api/files/token").status_code == 200
        assert http.get(f"/api/files/FILES/{record['id']}/{record['documents'][0]}").content == b"first"
        assert http.get(f"/api/files/files/{record['id']}/none.txt").status_code == 404
        write = {"method": "POST", "url": "/api/collections/notes/records", "body": {"title": "x"}}
        assert http.post("/api/batch", json={"requests": [write, write]}).status_code == 200
        with http.stream("GET", "/api/realtime") as stream:
            assert stream.status_code == 200
        assert http.post("/api/realtime", json={"clientId": "nobody's", "subscriptions": []}).status_code == 404
    assert counted(server) - before == Counter(
        {
            ("auth", "users", "2xx"): 1,
            ("auth", "users", "4xx"): 1,
            ("authRefresh", "users", "2xx"): 1,
            ("mail", "users", "2xx"): 1,
            ("fileToken", "", "2xx"): 1,
            ("file", "files", "2xx"): 1,
            ("file", "files", "4xx"): 1,
            ("batch", "", "2xx"): 1,
            ("connect", "", "2xx"): 1,
            ("subscribe", "", "4xx"): 1,
        }
    )


async def test_messages_of_a_socket_are_counted_as_the_same_calls(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    record = pocketbase.create("files", files={"documents": ("a.txt", b"first")}, owner=alice.id)
    before = counted(server)
    async with open_socket(server) as talk:
        login = {"collection": "users", "identity": alice.email, "password": alice.password}
        await talk.done("authWithPassword", login)
        await talk.done("subscribe", {"collection": "notes"})
        where = {"collection": "files", "record": record["id"], "filename": record["documents"][0]}
        assert (await talk.download(where))[1] == b"first"
        assert await talk.refused("file.get", {**where, "filename": "none.txt"}) == (404, 404)
        await talk.refused("read", {"collection": "notes", "id": "none"})
    async with open_socket(server, sign_in(server, alice)) as talk:
        await talk.done("auth_roll_token")
    assert counted(server) - before == Counter(
        {
            ("connect", "", "2xx"): 2,
            ("auth", "users", "2xx"): 2,  # one of them over HTTP
            ("authRefresh", "users", "2xx"): 1,
            ("subscribe", "", "2xx"): 1,
            ("file", "files", "2xx"): 1,
            ("file", "files", "4xx"): 1,
            ("view", "notes", "4xx"): 1,
        }
    )


async def test_a_call_has_the_status_of_what_it_came_to_or_of_its_error() -> None:
    metrics, own = Metrics(7), GatewayMetrics()
    metrics.counters("calls", "", ("class", "collection", "status"), lambda: own._answers)  # pyright: ignore[reportPrivateUsage]

    async def fails(error: BaseException) -> Outcome:
        raise error

    async def succeeds() -> Outcome:
        return Outcome(304, b"")

    assert (await own.counted("view", "posts", succeeds())).status == 304
    for error in (NotFound("none"), RuntimeError("broken")):
        with pytest.raises(type(error)):
            await own.counted("view", "posts", fails(error))
    with own.call("connect"):
        pass
    page = metrics.render().decode()
    for where, status in (("posts", "3xx"), ("posts", "4xx"), ("posts", "5xx"), ("", "2xx")):
        name = "view" if where else "connect"
        assert f'calls_total{{class="{name}",collection="{where}",status="{status}",worker="7"}} 1.0' in page
