"""The wire contract row by row, with its exact words, over HTTP: sections 1 and 2.1: conventions, CORS and health."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta
from tests.flows.contract.rows import (
    INSTANT,
    KEY,
    ODD_STRINGS,
    SECOND_VAULT,
    SECRET,
    VAULT,
    issues,
    logs,
    pulled,
    push_of,
    pushed,
    refused,
)

pytestmark = pytest.mark.anyio


# --- 1 conventions ---


async def test_unknown_fields_are_ignored_also_those_that_the_seeds_client_sends_in_each_log(alice: Account) -> None:
    further = {"vaultId": SECOND_VAULT, "sequence": 4711, "createdAt": "never", "nested": {"a": [1, None]}}
    body = {"vaultId": VAULT, "logs": logs(2, **further), "sequence": 9, "x": {"y": 1}}
    assert [entry["sequence"] for entry in (await pushed(alice, body))["logs"]] == [1, 2]
    assert [log["sequence"] for log in (await pulled(alice, unknown=[1]))["logs"]] == [1, 2]
    assert (await pulled(alice, SECOND_VAULT))["logs"] == []
    assert (await alice.post("/sync/vault-key", json={**KEY, "unknown": 1})).status_code == 201


@pytest.mark.parametrize(
    ("seconds", "ending"), [(0.0, "00:00:00.000Z"), (0.007, "00:00:00.007Z"), (1.5, "00:00:01.500Z")]
)
async def test_instants_have_three_digits_and_a_z(tmp_path: Path, seconds: float, ending: str) -> None:
    clock = FakeClock()
    clock.advance(seconds=seconds)
    async with TestHapta(tmp_path, clock=clock) as hapta:
        instants = await every_instant(hapta)
    assert instants == [f"2030-01-01T{ending}"] * 9


async def every_instant(hapta: TestHapta) -> list[str]:
    """An instant of each endpoint that answers one."""
    account = await hapta.register("carol@example.org")
    key = (await account.post("/sync/vault-key", json=KEY)).json()["vaultKey"]
    read = (await account.get(f"/sync/vault-key/{VAULT}")).json()
    entry = (await pushed(account, push_of(1)))["logs"][0]
    log = (await pulled(account))["logs"][0]
    vault = (await account.get("/sync/vaults")).json()["vaults"][0]
    root = (await hapta.http.get("/")).json()
    me = (await account.get("/auth/me")).json()["user"]
    return [
        key["createdAt"], read["createdAt"], read["vaultKey"]["createdAt"], entry["createdAt"], log["createdAt"],
        vault["createdAt"], vault["lastPushAt"], root["serverTime"], me["createdAt"],
    ]  # fmt: skip


async def test_instants_of_the_machines_clock_have_the_form_too(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    assert INSTANT.fullmatch((await pushed(account, push_of(1)))["logs"][0]["createdAt"])
    assert INSTANT.fullmatch((await pulled(account))["logs"][0]["createdAt"])


async def test_binary_strings_of_logs_come_back_as_they_were(on_both: TestHapta) -> None:
    account = await on_both.register("carol@example.org")
    sent = [{"encryptedData": text, "nonce": text[:256], "haexTimestamp": text[:256]} for text in ODD_STRINGS]
    await pushed(account, {"vaultId": VAULT, "logs": sent})
    read = (await pulled(account))["logs"]
    assert [{name: log[name] for name in sent[0]} for log in read] == sent


@pytest.mark.parametrize("text", ODD_STRINGS)
async def test_binary_strings_of_a_vault_key_come_back_as_they_were(alice: Account, text: str) -> None:
    key = {"encryptedVaultKey": text, "salt": text, "nonce": text}
    assert (await alice.post("/sync/vault-key", json={"vaultId": VAULT, **key})).status_code == 201
    read = (await alice.get(f"/sync/vault-key/{VAULT}")).json()
    assert {name: read[name] for name in key} == key
    assert {name: read["vaultKey"][name] for name in key} == key


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_of_the_token_may_have_any_case(hapta: TestHapta, alice: Account, scheme: str) -> None:
    answer = await hapta.http.get("/sync/vaults", headers={"authorization": f"{scheme} {alice.token}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/sync/push", "/sync/pull", "/sync/vault-key"])
@pytest.mark.parametrize("content", [b"{", b"{}", b'{"vaultId":5}', b"\xff", b""])
async def test_the_token_is_looked_at_before_the_body(hapta: TestHapta, path: str, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await hapta.http.post(path, content=content, headers=headers)
    assert refused(answer, 401, "Unauthorized - Missing or invalid token", "missing_token")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    answer = await hapta.http.post(path, content=content, headers={**headers, "authorization": "Bearer a.b.c"})
    assert answer.json() == {"error": "Unauthorized - Invalid token", "code": "invalid_token"}
    assert answer.status_code == 401


async def test_the_token_is_looked_at_before_the_size_of_the_body(hapta: TestHapta) -> None:
    answer = await hapta.http.post("/sync/push", content=b"", headers={"content-length": str(10**12)})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON;charset=UTF-8",
        "application/problem+json",
    ],
)
async def test_json_is_read_with_any_parameters_of_its_type(alice: Account, content_type: str) -> None:
    body = json.dumps(push_of(1)).encode()
    answer = await alice.post("/sync/push", content=body, headers={"content-type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "json", "text/json-not"]
)
async def test_a_body_of_another_type_counts_as_empty_so_its_fields_are_missing(
    alice: Account, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    body = json.dumps(push_of(1)).encode()
    assert issues(await alice.post("/sync/push", content=body, headers=headers)) == {("vaultId",), ("logs",)}
    assert issues(await alice.post("/sync/pull", content=body, headers=headers)) == {("vaultId",)}
    assert (await pulled(alice))["logs"] == []


async def test_every_answer_with_a_body_is_json_by_its_type(hapta: TestHapta, alice: Account) -> None:
    answers = [
        await hapta.http.get("/"),
        await hapta.http.get("/nowhere"),
        await hapta.http.post("/sync/push"),
        await alice.post("/sync/push", json={}),
        await alice.post("/sync/push", json=push_of(1)),
        await alice.post("/sync/pull", json={"vaultId": VAULT}),
        await alice.get(f"/sync/vault-key/{VAULT}"),
    ]
    assert [answer.headers["content-type"] for answer in answers] == ["application/json"] * len(answers)


@pytest.mark.parametrize(
    "content", [b"{", b"", b"{'a':1}", b'{"vaultId":}', b"[1,]", b'{"a":NaN}', b"{}x", b'{"a":"\xff"}']
)
async def test_malformed_json_is_a_400_with_a_code(alice: Account, content: bytes) -> None:
    answer = await alice.post("/sync/push", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("content", [b"[]", b"null", b"5", b'"text"', b"true"])
async def test_json_that_is_no_object_violates_the_schema(alice: Account, content: bytes) -> None:
    answer = await alice.post("/sync/push", content=content, headers={"content-type": "application/json"})
    assert issues(answer) == {()}


async def test_a_bad_field_inside_a_list_is_named_with_its_place(alice: Account) -> None:
    body = {"vaultId": VAULT, "logs": [*logs(1), {"encryptedData": 1, "haexTimestamp": None}]}
    assert issues(await alice.post("/sync/push", json=body)) == {
        ("logs", 1, "encryptedData"), ("logs", 1, "nonce"), ("logs", 1, "haexTimestamp"),
    }  # fmt: skip
    assert (await pulled(alice))["head"] == 0


@pytest.mark.parametrize(
    "path", ["/nowhere", "/sync", "/sync/", "/sync/push/", "//sync/push", "/auth/register/x", "/SYNC/push"]
)
async def test_an_unknown_route_is_a_404_with_and_without_a_token(hapta: TestHapta, alice: Account, path: str) -> None:
    for answer in (await hapta.http.get(path), await alice.post(path, json=push_of(1))):
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


async def test_a_known_route_with_another_method_is_a_404(hapta: TestHapta, alice: Account) -> None:
    methods: dict[str, set[str]] = {}
    for endpoint in hapta.app.endpoints:
        if endpoint.kind == "http" and endpoint.dialect.name == "sync":
            methods.setdefault(endpoint.path.replace("{vaultId}", VAULT), set()).add(endpoint.method)
    for path, known in methods.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - known:
            answer = await alice.request(method, path)
            assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"}), (method, path)
    assert (await hapta.http.get("/sync/pull")).json() == {"error": "Not Found"}


# --- 1 CORS ---

PREFLIGHT = {
    "origin": "https://app.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def listed(header: str) -> set[str]:
    return {part.strip() for part in header.split(",")}


async def test_by_default_any_origin_may_call_and_never_with_credentials(hapta: TestHapta, alice: Account) -> None:
    origin = {"origin": "https://anywhere.example"}
    for answer in (
        await hapta.http.get("/", headers=origin),
        await hapta.http.get("/nowhere", headers=origin),
        await hapta.http.post("/sync/push", headers=origin),
        await alice.post("/sync/pull", json={"vaultId": VAULT}, headers=origin),
        await alice.get("/export", headers=origin),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/sync/push", f"/sync/vault-key/{VAULT}", "/nowhere"])
async def test_a_preflight_is_a_204_that_needs_no_token(hapta: TestHapta, path: str) -> None:
    answer = await hapta.http.options(path, headers=PREFLIGHT)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert listed(answer.headers["access-control-allow-methods"]) == {"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"}
    assert listed(answer.headers["access-control-allow-headers"]) == {"authorization", "content-type"}
    assert "access-control-allow-credentials" not in answer.headers


async def test_with_a_list_only_its_origins_are_echoed_and_caches_are_told(tmp_path: Path) -> None:
    environ = {"CORS_ORIGIN": " https://app.example , https://other.example"}
    async with TestHapta(tmp_path, environ) as hapta:
        for origin in ("https://app.example", "https://other.example"):
            for path in ("/", "/nowhere", "/sync/vaults"):
                answer = await hapta.http.get(path, headers={"origin": origin})
                assert answer.headers["access-control-allow-origin"] == origin
                assert "Origin" in listed(answer.headers["vary"])
                assert "access-control-allow-credentials" not in answer.headers
            answer = await hapta.http.options("/sync/push", headers={**PREFLIGHT, "origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, origin)
        for origin in ("https://evil.example", "http://app.example", "https://app.example.evil.example", "null"):
            for answer in (
                await hapta.http.get("/", headers={"origin": origin}),
                await hapta.http.options("/sync/push", headers={**PREFLIGHT, "origin": origin}),
            ):
                assert "access-control-allow-origin" not in answer.headers
                assert "Origin" in listed(answer.headers["vary"])
        assert "Origin" in listed((await hapta.http.get("/")).headers["vary"])


# --- 2.1 health ---


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_the_root_says_name_version_status_and_environment(tmp_path: Path, environment: str) -> None:
    async with TestHapta(tmp_path, {"NODE_ENV": environment, "JWT_SECRET": SECRET}) as hapta:
        answer = await hapta.http.get("/")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["name"], body["status"], body["env"]) == ("hapta", "ok", environment)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", body["version"])
    assert body["limits"] == {
        "maxLogsPerPush": 10_000, "maxBodyBytes": 32 * 2**20, "maxLogBytes": 2**20, "maxPullLimit": 1000,
    }  # fmt: skip


async def test_the_root_is_alive_without_its_database(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        await hapta.app.services.db.close()
        assert (await hapta.http.get("/")).json()["status"] == "ok"
        assert (await hapta.http.get("/healthz")).status_code == 200
        assert (await hapta.http.get("/readyz")).status_code == 503
