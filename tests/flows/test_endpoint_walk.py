"""The generated walk: every endpoint of the table, as nobody, with tokens that do not count, and as another account."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.http.api import Endpoint
from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta

pytestmark = pytest.mark.anyio

VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
DEVICE = "alices-laptop"
MARKER = "only-alice-may-see-this"

PUBLIC = {
    "GET /",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /docs",
    "GET /api-reference",
    "GET /openapi.json",
    "GET /assets/{name}",
    "POST /auth/register",
    "POST /auth/login",
    "POST /auth/prelogin",
    "GET /.well-known/oauth-authorization-server",
    "GET /.well-known/oauth-protected-resource",
    "GET /.well-known/openid-configuration",
    "GET /oauth/jwks",
    "GET /v1/auth/request/status",
    "GET /files/avatars/{userId}/{fileName}",
    "GET /v1/uploads/{fileId}/signed",
    "OPTIONS /v1/uploads/tus",
    "OPTIONS /v1/uploads/tus/{uploadId}",
    "GET /health",
    "GET /health/messages",
    "GET /ready",
    "GET /v1/connect/github/callback",
    "GET /v1/updates",
    "GET /v1/updates/",
    "GET /v1/websocket",
    "OPTIONS /v1/updates",
    "OPTIONS /v1/updates/",
    "OPTIONS /v1/websocket",
    "POST /logs-combined-from-cli-and-mobile-for-simple-ai-debugging",
    "POST /v1/ci/metrics",
    "POST /v1/connect/github/callback",
    "POST /v1/connect/github/webhook",
    "POST /v1/sessions/shared/{token}",
    "POST /v1/updates",
    "POST /v1/updates/",
    "POST /v1/version",
    "POST /v1/websocket",
    "POST /v1/auth",
    "POST /v1/auth/account/request",
    "POST /v1/auth/request",
    "POST /identity/v1/email/confirm",
    "POST /identity/v1/email/undo",
    "POST /identity/v1/login",
    "POST /identity/v1/login/code/confirm",
    "POST /identity/v1/login/code/start",
    "POST /identity/v1/login/passkey",
    "POST /identity/v1/login/passkey/start",
    "POST /identity/v1/login/second",
    "POST /identity/v1/login/second/passkey",
    "POST /identity/v1/login/second/passkey/start",
    "POST /identity/v1/login/second/send",
    "POST /identity/v1/password/forgot",
    "POST /identity/v1/password/reset",
    "POST /identity/v1/refresh",
    "POST /identity/v1/register",
    "POST /identity/v1/register/verify",
}
"""Who adds an endpoint that anybody may call adds it here, on purpose."""

CLIENT = {
    "GET /oauth/userinfo",
    "POST /oauth/userinfo",
    "POST /oauth/device_authorization",
    "POST /oauth/introspect",
    "POST /oauth/par",
    "POST /oauth/revoke",
    "POST /oauth/token",
}
"""Endpoints whose handlers authenticate a client, or judge a token, by themselves."""
IN_BAND = {"POST /v1/auth/refresh"}
HANDLER_DECIDES = ("public", "page", "client", "in_band", "visitor", "operator")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def hapta(tmp_path: Path, clock: FakeClock) -> AsyncIterator[TestHapta]:
    # So long a socket of the relay waits for somebody who signs in by no message of its own.
    async with TestHapta(tmp_path, {"HAPTA_RELAY_AUTH_SECONDS": "0.5"}, clock=clock) as server:
        yield server


async def with_data(hapta: TestHapta, email: str, marker: str) -> Account:
    """An account that has one of everything, all of it marked."""
    account = await hapta.register(email, deviceId=DEVICE)
    key = {"vaultId": VAULT, "encryptedVaultKey": marker, "salt": marker, "nonce": marker}
    assert (await account.post("/sync/vault-key", json=key)).status_code == 201
    log = {"encryptedData": marker, "nonce": marker, "haexTimestamp": marker}
    pushed = await account.post("/sync/push", json={"vaultId": VAULT, "deviceId": DEVICE, "logs": [log]})
    assert pushed.status_code == 200
    return account


def paths(endpoint: Endpoint, session_id: str) -> str:
    """The endpoint's path with real values in it."""
    others = ("clientId", "passkeyId", "webhookId", "messageId", "linkId", "provider", "subject", "fileId", "uploadId")
    others += ("artifactId", "invitationId", "machineId", "shareId", "userId", "file", "key", "token", "vendor")
    values = {"vaultId": VAULT, "deviceId": DEVICE, "sessionId": session_id, "name": "none.js"}
    values["sha256"] = "0" * 64
    values |= dict.fromkeys(others, VAULT)
    return endpoint.path.format(**values)


def bodies(endpoint: Endpoint) -> dict[str, Any]:
    """A body that the endpoint would take, so that nothing but the token can be what refuses it."""
    if endpoint.body_type is None:
        return {}
    if endpoint.path == "/import":
        return {"content": b"", "headers": {"content-type": "application/x-ndjson"}}
    log = {"encryptedData": "x", "nonce": "x", "haexTimestamp": "x"}
    every_field = {
        "vaultId": VAULT,
        "deviceId": DEVICE,
        "logs": [log],
        "encryptedVaultKey": "x",
        "encryptedVaultName": "x",
        "vaultNameNonce": "x",
        "salt": "x",
        "nonce": "x",
        "version": 1,
        "uptoSequence": 1,
        "snapshotId": VAULT,
        "parts": [{"encryptedData": "x", "nonce": "x"}],
        "sequence": 1,
        "hashes": ["0" * 64],
        "password": "not the right one",
        "currentPassword": "not the right one",
        "newPassword": "another long password",
        "email": "nobody@example.org",
    }
    return {"json": every_field}


async def call(hapta: TestHapta, endpoint: Endpoint, token: str | None, session_id: str = VAULT) -> httpx.Response:
    options = bodies(endpoint)
    headers = {**options.pop("headers", {}), **({} if token is None else {"authorization": f"Bearer {token}"})}
    return await hapta.http.request(endpoint.method, paths(endpoint, session_id), headers=headers, **options)


def assert_refused(endpoint: Endpoint, answer: httpx.Response, code: str, message: str) -> None:
    """The refusal, in the words of the endpoint's dialect."""
    if endpoint.method == "HEAD":  # which has no words
        assert answer.content == b""
        return
    body = answer.json()
    match endpoint.dialect.name:
        case "sync":
            assert body == {"error": message, "code": code}, endpoint.name
        case "relay":
            assert body == {"error": message}, endpoint.name
        case "envelope":
            assert body.pop("timestamp").endswith("Z")
            expected = {"status": "error", "message": message, "code": 401, "details": {"issue": code}}
            assert body == expected, endpoint.name
        case other:
            raise AssertionError(f"{endpoint.name}: no form is known for {other}")


def http_endpoints(hapta: TestHapta) -> list[Endpoint]:
    return [endpoint for endpoint in hapta.app.endpoints if endpoint.kind == "http"]


async def test_only_the_endpoints_of_the_list_are_public(hapta: TestHapta) -> None:
    public = {endpoint.name for endpoint in http_endpoints(hapta) if endpoint.access.kind == "public"}
    assert public == PUBLIC


async def test_handlers_that_authenticate_by_themselves_stand_in_a_list_and_let_nobody_in(hapta: TestHapta) -> None:
    deciding = {e.name: e for e in http_endpoints(hapta) if e.access.kind in ("client", "in_band")}
    assert deciding.keys() == CLIENT | IN_BAND
    for endpoint in deciding.values():
        for token in (None, "abc"):
            answer = await call(hapta, endpoint, token)
            form = await hapta.http.request(
                endpoint.method, endpoint.path, headers={} if token is None else {"authorization": f"Bearer {token}"}
            )
            for refused in (answer, form):
                assert refused.status_code in (400, 401, 415), (endpoint.name, refused.status_code, refused.text)
                assert "access_token" not in refused.text
                assert refused.headers["cache-control"] == "no-store", endpoint.name


async def test_pages_show_nobody_more_than_the_way_in(hapta: TestHapta) -> None:
    alice = await with_data(hapta, "alice@example.org", MARKER)
    pages = [e for e in http_endpoints(hapta) if e.access.kind == "page"]
    assert len(pages) > 40
    for endpoint in pages:
        assert endpoint.cors == "none" or endpoint.path == "/identity/v1/csrf", endpoint.name
        answer = await hapta.http.request(endpoint.method, paths(endpoint, VAULT))
        unknown = {404} if endpoint.path_params else set[int]()
        assert answer.status_code in {200, 303, 400, 403} | unknown, (endpoint.name, answer.status_code)
        assert "no-store" in answer.headers["cache-control"], endpoint.name
        assert alice.email not in answer.text
        waits_for_an_attempt = endpoint.path == "/identity/account/connect"  # at a provider, and nobody has begun one
        if endpoint.method == "GET" and endpoint.path.startswith("/identity/account") and not waits_for_an_attempt:
            assert answer.status_code == 303, endpoint.name
            assert answer.headers["location"].startswith("/identity/login?"), endpoint.name
        if endpoint.method == "POST" and endpoint.path not in ("/oauth/authorize", "/oauth/logout"):
            to_login = answer.headers.get("location", "").startswith("/identity/login?")
            refused = answer.status_code in {400, 403} | unknown  # not from a page of ours
            assert refused or to_login, (endpoint.name, answer.status_code)


async def test_nobody_gets_401_before_anything_else_is_looked_at(hapta: TestHapta) -> None:
    for endpoint in http_endpoints(hapta):
        if endpoint.access.kind in HANDLER_DECIDES:
            continue
        answer = await call(hapta, endpoint, None)
        assert answer.status_code == 401, endpoint.name
        assert_refused(endpoint, answer, "missing_token", "Unauthorized - Missing or invalid token")
        assert answer.headers["www-authenticate"].startswith('Bearer realm="hapta", resource_metadata="')


async def test_tokens_that_do_not_count_are_refused_everywhere(
    hapta: TestHapta, clock: FakeClock, tmp_path: Path
) -> None:
    alice = await with_data(hapta, "alice@example.org", MARKER)
    revoked = await hapta.login("alice@example.org")
    assert (await revoked.post("/auth/logout")).status_code == 200
    (tmp_path / "other").mkdir()
    elsewhere = {"JWT_SECRET": "the secret of another server, also thirty-two bytes"}
    async with TestHapta(tmp_path / "other", elsewhere, clock=clock) as other:
        foreign = await other.register("alice@example.org")
    head, payload, signature = alice.token.split(".")
    wrong = {
        "revoked": revoked.token,
        "foreign": foreign.token,
        "garbage": "abc",
        "unsigned": f"{head}.{payload}.",
        "swapped": f"{head}.{foreign.token.split('.')[1]}.{signature}",
    }
    for endpoint in http_endpoints(hapta):
        if endpoint.access.kind in HANDLER_DECIDES:
            continue
        for name, token in wrong.items():
            answer = await call(hapta, endpoint, token)
            assert answer.status_code == 401, (endpoint.name, name)
            assert_refused(endpoint, answer, "invalid_token", "Unauthorized - Invalid token")
            assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    clock.advance(seconds=8 * 86_400)
    for endpoint in http_endpoints(hapta):
        if endpoint.access.kind not in HANDLER_DECIDES:
            assert (await call(hapta, endpoint, alice.token)).status_code == 401, (endpoint.name, "expired")


async def test_another_account_neither_sees_nor_changes_anything(hapta: TestHapta) -> None:
    alice = await with_data(hapta, "alice@example.org", MARKER)
    mallory = await hapta.register("mallory@example.org")
    session_id = (await alice.get("/auth/sessions")).json()["sessions"][0]["id"]
    before = (await alice.get("/export")).text
    assert MARKER in before
    ends_mallory = {
        "POST /auth/logout",
        "POST /auth/logout-all",
        "DELETE /auth/account",
        "POST /identity/v1/logout",
        "POST /identity/v1/logout-all",
    }
    endpoints = [e for e in http_endpoints(hapta) if e.access.kind not in HANDLER_DECIDES]
    for endpoint in sorted(endpoints, key=lambda e: e.name in ends_mallory):
        answer = await call(hapta, endpoint, mallory.token, session_id)
        assert answer.status_code < 500, (endpoint.name, answer.text)
        assert MARKER not in answer.text, endpoint.name
        assert alice.id not in answer.text, endpoint.name
        if endpoint.name in ends_mallory:
            mallory = await hapta.login("mallory@example.org")
    after = (await alice.get("/export")).text
    assert [json.loads(line) for line in after.splitlines()] == [json.loads(line) for line in before.splitlines()]


async def test_a_socket_without_a_token_that_counts_is_closed_with_a_code_of_its_own(hapta: TestHapta) -> None:
    sockets = [endpoint for endpoint in hapta.app.endpoints if endpoint.kind == "websocket"]
    assert sockets
    for endpoint in sockets:
        assert endpoint.access.kind == "in_band", endpoint.name
        async with hapta.socket(endpoint.path) as socket:
            await socket.send({"type": "auth", "token": "abc"})
            assert await socket.closed() == (4007 if endpoint.path.startswith("/v1/") else 4401)
