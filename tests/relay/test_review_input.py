"""Whatever clients send, no route answers with a defect and no event of a socket fails unexpectedly: every one is tried with values
that it cannot mean. Each gets its share of them, and `RELAY_ALL_INPUT=1` gives all to all."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.relay.house import A, Closed, Guest, House

pytestmark = pytest.mark.anyio

SHARE = 1 if os.environ.get("RELAY_ALL_INPUT") else 6
PARAMS = (
    "%00",
    "%ED%A0%80",
    "%FF%FE",
    "a%2Fb",
    "%F0%9F%98%80",
    "x" * 3000,
    "..%2f..",
    "-1",
    "%20",
    "%25",
    "'%22%5C",
    "a%0D%0Ab",
)
"""Path parameters, as they stand in the request line."""
DEEP = "[" * 400 + "]" * 400
VALUES: tuple[str, ...] = (
    "null", "true", "0", "-1", "1.5", "5.0", "1e308", "-1e308", "9007199254740993", "1" * 400, "NaN", "Infinity", '""', '"\\u0000"',
    '"\\ud800"', '"a\\u0000b"', '"\u0130\u212a\U0001f600"', "[]", "{}", "[null]", '{"a":null}', '{"\\u0000":1}', DEEP, '"' + "x" * 5000 + '"',
    '"1e5"', '"2020-01-01"', '["a","a"]', '[{"key":"k","value":"!","version":-1}]', '"////"', '"-_-="',
)  # fmt: skip
"""Members of bodies and of events, as JSON or nearly."""
NAMES = (
    "id", "tag", "metadata", "agentState", "daemonState", "dataEncryptionKey", "localId", "content", "messages", "key", "keys",
    "mutations", "settings", "expectedVersion", "username", "firstName", "uid", "token", "data", "kind", "title", "body", "header",
    "expectedHeaderVersion", "expectedBodyVersion", "sid", "sessionId", "machineId", "time", "thinking", "message", "artifactId",
    "tokens", "cost", "sessions", "machines", "artifacts", "limitsAvailable", "weeklyLimits", "reason", "active", "startTime",
    "groupBy", "permission", "userId", "email", "password", "enabled", "filename", "size", "ref", "method", "params", "platform",
    "version", "app_id", "agentId", "type", "mode", "filter", "lastName", "bio", "profileVisibility", "showOnlineStatus",
)  # fmt: skip
QUERIES = (
    "", "limit=0", "limit=-1", "limit=1e9", "limit=99999999999999999999", "limit=5&limit=6", "cursor=cursor_v1_%00", "cursor=%FF",
    "cursor=cursor_v1_" + "f" * 32, "cursor=cursor_v1_" + "0x" * 16, "changedSince=99999999999999999999", "changedSince=0001-01-01T00:00:00Z",
    "changedSince=2020-01-01T00:00:00%2B23:59", "changedSince=%C2%B2", "after_seq=-1", "after_seq=9007199254740991", "before_seq=0",
    "before=0-999999999999999999", "after=cursor_%D9%A1", "prefix=%00", "prefix=%F4%8F%BF%BF", "prefix=%ED%9F%BF", "query=%00",
    "query=%25_", "since_seq=1.5", "sinceSeq=9007199254740991", "state=%00&code=%FF", "state=AAAA&code=x&error=%0d%0a", "&&==&=%",
    "active_only=2", "revenueCatPublicKey=a%0d%0ab",
)  # fmt: skip
MEANT = {("POST", "/v1/connect/github/webhook"): 500, ("GET", "/ready"): 503, ("GET", "/health/messages"): 503}
"""What the contract itself answers with such a status, where this server is not set up for it."""


def bodies() -> Iterator[str]:
    """Bodies of objects: all members with one strange value, and each strange value by itself."""
    yield from VALUES
    for value in VALUES:
        yield "{" + ",".join(f'"{name}":{value}' for name in NAMES) + "}"
    yield '{"a":' * 2000 + "1" + "}" * 2000
    yield '{"id":"1","id":"2"}'
    yield ""


def filled(path: str, params: dict[str, str]) -> str:
    return "/".join(params.get(part[1:-1], "x") if part.startswith("{") else part for part in path.split("/"))


async def all_of(requests: list[tuple[str, str, str, Any]], guest: Guest) -> list[str]:
    """Sends them, some at once; those that were answered with a defect."""
    wrong: list[str] = []
    turns = asyncio.Semaphore(16)

    async def one(method: str, entry: str, url: str, body: Any) -> None:
        headers = {"authorization": f"Bearer {guest.token}", "content-type": "application/json"}
        content = None if body is None else body.encode("utf-8", "surrogatepass")
        async with turns:
            answer = await guest.house.http.request(
                method, httpx.URL(f"https://hapta.test{url}"), headers=headers, content=content
            )
        if answer.status_code >= 500 and MEANT.get((method, entry)) != answer.status_code:
            wrong.append(f"{answer.status_code} {method} {url[:80]} {(body or '')[:200]} {answer.text[:200]}")

    await asyncio.gather(*[one(*request) for request in requests])
    return wrong


async def things(a: Guest) -> dict[str, str]:
    """Something of everything, so that strange values get past the first look."""
    session_id = (await a.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]["id"]
    await a.post("/v1/machines", json={"id": "m", "metadata": "m"})
    await a.post(f"/v3/sessions/{session_id}/messages", json={"messages": [{"content": "c", "localId": "l"}]})
    artifact_id = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
    artifact = {"id": artifact_id, "header": "AAAA", "body": "AAAA", "dataEncryptionKey": "AAAA"}
    assert (await a.post("/v1/artifacts", json=artifact)).status_code == 200
    return {"sessionId": session_id, "machineId": "m", "artifactId": artifact_id, "vendor": "openai", "key": "k"}


async def test_no_route_answers_strange_input_with_a_defect(a: Guest, house: House) -> None:
    known = await things(a)
    requests: list[tuple[str, str, str, Any]] = []
    for number, endpoint in enumerate(house.relay.endpoints):
        if endpoint.method in ("WEBSOCKET", "WS") or endpoint.method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            continue
        method, path = endpoint.method, endpoint.path
        if method != "DELETE":
            right = filled(path, known)
            if endpoint.body_type is not None:
                requests += [(method, path, right, body) for body in [*bodies()][number % SHARE :: SHARE]]
            requests += [
                (method, path, f"{right}?{query}", "{}" if method != "GET" else None)
                for query in QUERIES[number % SHARE :: SHARE]
            ]
        if "{" in path:
            names = endpoint.path_params
            for value in PARAMS:
                requests += [
                    (method, path, filled(path, {**known, name: value}), "{}" if method != "GET" else None)
                    for name in names
                ]
    assert len(requests) > 500
    assert await all_of(requests, a) == []


async def test_no_event_fails_whatever_it_carries(a: Guest, house: House) -> None:
    known = await things(a)
    names = [
        *house.relay.dispatch.handled,
        "unknown",
        "x" * 200,
        "\u0130",
        "rpc-call",
        "rpc-register",
        "rpc-unregister",
        "rpc-cancel",
    ]
    ids = json.dumps(
        {
            "sid": known["sessionId"],
            "sessionId": known["sessionId"],
            "machineId": "m",
            "artifactId": known["artifactId"],
        }
    )[1:-1]
    async with a.socket(), a.socket(session=known["sessionId"]) as socket:
        for number, name in enumerate(names):
            for value in VALUES[number % SHARE :: SHARE]:
                if value in ("NaN", "Infinity") or value == '"\\ud800"':
                    continue  # no JSON
                every = ",".join(f'"{member}":{value}' for member in NAMES)
                others = ",".join(f'"{member}":{value}' for member in NAMES if f'"{member}"' not in ids)
                for data in (value, f"{{{every}}}", f"{{{ids},{others}}}"):
                    await socket.send(f'{{"event":{json.dumps(name)},"data":{data},"ackId":"x"}}')
            await socket.seen()
            assert house.relay.dispatch.failed == 0, name


async def test_a_body_at_the_edge_of_what_can_be_nested_is_refused_or_taken(a: Guest, house: House) -> None:
    known = await things(a)
    url = f"/v1/sessions/{known['sessionId']}/messages"
    async with a.socket() as watcher:
        for depth in (*range(150, 900, 50), *range(930, 1005, 3)):
            content = "[" * depth + "]" * depth
            answer = await a.post(url, content=f'{{"content":{content}}}', headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400), (depth, answer.text)
            await watcher.send(f'{{"event":"broadcast","data":{content}}}')
        await watcher.seen()
    assert house.relay.dispatch.failed == 0


async def test_handshakes_with_strange_ids_are_answered(house: House, a: Guest) -> None:
    wrong: list[str] = []
    for value in ("\0", "\U0001f600", "x" * 5000, "a/b", "%", "\r\n"):
        for kind, name in (("session-scoped", "sessionId"), ("machine-scoped", "machineId")):
            socket = house.socket(f"/v1/websocket?clientType={kind}&{name}={quote(value)}", token="a")
            try:
                async with socket:
                    pass
            except Closed as closed:  # anything else is a defect
                wrong += [f"{value[:9]!r} {closed}"] if closed.status >= 500 else []
    assert wrong == []
    await house.db.write(lambda tx: house.removal.purge(tx, A))


async def test_acknowledgements_under_strange_numbers(a: Guest, house: House) -> None:
    async with a.socket() as socket:
        for ack_id in ("1" * 19, "1" * 20, "1" * 30, "-" + "9" * 30, "1e400", "1.5", "true", "[]", '"\U0001f600"'):
            await socket.send(f'{{"event":"access-key-get","data":{{}},"ackId":{ack_id}}}')
        assert (await socket.emit("access-key-get", {}, ack=True))["ok"] is False
