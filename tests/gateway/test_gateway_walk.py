"""The generated walk over the gateway's endpoints: as nobody, with tokens that do not count, as somebody else, and without the
operator's key. What none of them may ever see is one record, marked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.http.api import Endpoint
from hapta.testing.server import TestHapta
from tests.gateway.pocketbase_house import Person, PocketBaseHouse

pytestmark = pytest.mark.anyio

MARKER = "only-alice-may-see-this"
KEY = "an operator's key that nobody guesses"
PUBLIC = {
    "GET /api/health",
    "GET /api/oauth2-redirect",
    "GET /api/oauth2-redirect/failure",
    "GET /api/oauth2-redirect/success",
    "GET /gateway/v1/client.js",
    "POST /api/oauth2-redirect",
}
"""Who adds an endpoint that anybody may call adds it here, on purpose."""
IGNORE_STALE_TOKENS = (
    "auth-methods",
    "auth-with-password",
    "auth-with-oauth2",
    "auth-with-otp",
    "request-otp",
    "request-verification",
    "request-password-reset",
    "confirm-verification",
    "confirm-password-reset",
    "confirm-email-change",
)
"""An old token in the header must not keep anybody from signing in anew (contract gateway, B.2)."""
AS_NOBODY = ("/api/files/{collection}/{record}/{name}", "GET /api/realtime")
"""Where PocketBase itself reads no Authorization header."""


@pytest.fixture
async def hapta(tmp_path: Path, pocketbase: PocketBaseHouse) -> AsyncIterator[TestHapta]:
    environ = {
        "HAPTA_GATEWAY_ENABLED": "on",
        "DB_URL": pocketbase.url,
        "ADMIN_EMAIL": pocketbase.email,
        "ADMIN_PASSWORD": pocketbase.password,
        "HAPTA_ADMIN_KEY": KEY,
    }
    async with TestHapta(tmp_path, environ) as server:
        yield server


def of_gateway(hapta: TestHapta, *kinds: str) -> list[Endpoint]:
    found = [
        endpoint
        for endpoint in hapta.app.endpoints
        if endpoint.kind == "http" and endpoint.path.startswith(("/api/", "/gateway/"))
    ]
    return [endpoint for endpoint in found if not kinds or endpoint.access.kind in kinds]


async def call(hapta: TestHapta, endpoint: Endpoint, record_id: str, headers: dict[str, str]) -> httpx.Response:
    values = dict.fromkeys(endpoint.path_params, "none") | {"collection": "private", "record": record_id}
    options: dict[str, Any] = {}
    if endpoint.path == "/api/batch":
        inner = {"method": "PATCH", "url": f"/api/collections/private/records/{record_id}", "body": {"text": "x"}}
        options["json"] = {"requests": [inner]}
    elif endpoint.path == "/gateway/v1/admin/cache/purge":
        options["json"] = {"tag": "c:none"}
    elif endpoint.body_type is not None:
        options["json"] = {"text": "x", "identity": "x", "password": "x", "email": "x@example.org"}
    path = endpoint.path.format(**values)
    if (endpoint.method, endpoint.path) == ("GET", "/api/realtime"):
        async with hapta.http.stream(endpoint.method, path, headers=headers) as answer:
            return httpx.Response(answer.status_code, headers=answer.headers)
    return await hapta.http.request(endpoint.method, path, headers=headers, **options)


async def signed_in(hapta: TestHapta, person: Person) -> dict[str, str]:
    login = {"identity": person.email, "password": person.password}
    answer = await hapta.http.post("/api/collections/users/auth-with-password", json=login)
    assert answer.status_code == 200, answer.text
    return {"authorization": answer.json()["token"]}


async def test_every_endpoint_says_who_may_call_it_and_the_public_ones_stand_in_a_list(hapta: TestHapta) -> None:
    assert {endpoint.name for endpoint in of_gateway(hapta, "public")} == PUBLIC
    assert {endpoint.access.kind for endpoint in of_gateway(hapta)} == {"public", "visitor", "operator"}
    admin = {e.name for e in of_gateway(hapta) if e.path.startswith("/gateway/v1/admin/")}
    assert admin == {e.name for e in of_gateway(hapta, "operator")}


@pytest.mark.parametrize("who", ["nobody", "somebody else"])
async def test_nobody_and_somebody_else_neither_see_nor_change_anything(
    hapta: TestHapta, pocketbase: PocketBaseHouse, who: str
) -> None:
    alice, bob = pocketbase.person("alice"), pocketbase.person("bob")
    record = pocketbase.create("private", owner=alice.id, text=MARKER)
    headers: dict[str, str] = {} if who == "nobody" else await signed_in(hapta, bob)
    last = "POST /gateway/v1/logout-all"
    endpoints = [e for e in of_gateway(hapta, "public", "visitor") if "realtime" not in e.path]
    for endpoint in sorted(endpoints, key=lambda e: (e.name == last, "logout" in e.path)):
        answer = await call(hapta, endpoint, record["id"], headers)
        assert answer.status_code < 500, (endpoint.name, answer.text)
        assert MARKER not in answer.text, endpoint.name
        assert alice.email not in answer.text, endpoint.name
    assert [kept["text"] for kept in pocketbase.records("private") if kept["id"] == record["id"]] == [MARKER]


async def test_a_token_that_does_not_count_is_refused_wherever_a_token_is_read(
    hapta: TestHapta, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person("alice")
    record = pocketbase.create("private", owner=alice.id, text=MARKER)
    ended = await signed_in(hapta, alice)
    assert (await hapta.http.post("/gateway/v1/logout", headers=ended)).status_code < 300
    head, payload, signature = ended["authorization"].split(".")
    wrong = {
        "ended": ended["authorization"],
        "PocketBase's own": alice.token,
        "the superuser's": pocketbase.token,
        "garbage": "abc",
        "unsigned": f"{head}.{payload}.",
        "changed": f"{head}.{payload[:-4]}AAAA.{signature}",
    }
    for endpoint in of_gateway(hapta, "visitor"):
        if endpoint.path.endswith(IGNORE_STALE_TOKENS) or endpoint.path in AS_NOBODY or endpoint.name in AS_NOBODY:
            continue
        for name, token in wrong.items():
            for header in (token, f"Bearer {token}"):
                answer = await call(hapta, endpoint, record["id"], {"authorization": header})
                assert answer.status_code == 401, (endpoint.name, name, answer.text)
                assert MARKER not in answer.text


async def test_the_operators_endpoints_take_the_key_in_its_header_and_nothing_else(
    hapta: TestHapta, pocketbase: PocketBaseHouse
) -> None:
    token = await signed_in(hapta, pocketbase.person("alice"))
    endpoints = of_gateway(hapta, "operator")
    assert len(endpoints) > 5
    for endpoint in endpoints:
        for headers in (
            {},
            token,
            {"authorization": KEY},
            {"authorization": f"Bearer {KEY}"},
            {"x-hapta-admin-key": KEY[:-1]},
            {"x-hapta-admin-key": KEY + "x"},
            {"cookie": f"x-hapta-admin-key={KEY}"},
        ):
            answer = await call(hapta, endpoint, "none", headers)
            assert answer.status_code in (401, 403), (endpoint.name, headers.keys(), answer.status_code)
        answer = await call(hapta, endpoint, "none", {"x-hapta-admin-key": KEY})
        assert answer.status_code in (200, 204, 404), (endpoint.name, answer.text)
