"""The rules of HTTP that hold for every endpoint of identity and OAuth: headers, methods, origins, tokens in their place, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.http.api import Endpoint
from hapta.kit.access import HANDLER_DECIDES
from hapta.testing.server import Account, SocketClosed, TestHapta
from tests.flows.identity_story import URL, visitor_of

LISTED, FOREIGN = "https://pages.example", "https://evil.example"
ID = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
PREFIXES = ("/identity/", "/oauth/", "/.well-known/", "/v1/auth")
CACHEABLE = ("/.well-known/", "/oauth/jwks")
METADATA = ("oauth-authorization-server", "openid-configuration")


@pytest.fixture
async def hapta(tmp_path: Path) -> AsyncIterator[TestHapta]:
    environ = {"HAPTA_SERVER_CORS_ORIGIN": LISTED, "HAPTA_OAUTH_REGISTRATION": "open"}
    async with TestHapta(tmp_path, environ) as server:
        yield server


def own(hapta: TestHapta) -> list[Endpoint]:
    """The endpoints that the contract of identity is about."""
    return [one for one in hapta.app.endpoints if one.kind == "http" and one.path.startswith(PREFIXES)]


def path_of(endpoint: Endpoint) -> str:
    return endpoint.path.format(**dict.fromkeys(endpoint.path_params, ID))


async def call(hapta: TestHapta, endpoint: Endpoint, **options: Any) -> httpx.Response:
    return await hapta.http.request(endpoint.method, path_of(endpoint), **options)


def bearer(account: Account) -> dict[str, str]:
    return {"authorization": f"Bearer {account.token}"}


# --- what every answer carries ---


async def test_no_answer_is_kept_or_guessed_at(hapta: TestHapta) -> None:
    alice = await hapta.register("alice@example.org")
    for endpoint in own(hapta):
        ends_the_session = "logout" in endpoint.path or endpoint.method == "DELETE"
        for headers in ({}, {} if ends_the_session else bearer(alice)):
            answer = await call(hapta, endpoint, headers=headers)
            assert answer.headers["x-content-type-options"] == "nosniff", endpoint.name
            kept = endpoint.path.startswith(CACHEABLE)
            assert ("no-store" in answer.headers.get("cache-control", "")) is not kept, (endpoint.name, answer.headers)
            if answer.headers.get("content-type", "").startswith("text/html"):
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'"), endpoint.name
                assert "frame-ancestors 'none'" in policy, endpoint.name
                assert answer.headers["x-frame-options"] == "DENY", endpoint.name
                assert answer.headers["referrer-policy"] == "no-referrer", endpoint.name


async def test_another_method_is_told_which_ones_there_are(hapta: TestHapta) -> None:
    told = {endpoint.path for endpoint in own(hapta) if endpoint.dialect.tells_methods}
    assert len(told) > 60
    methods = {path: {one.method for one in own(hapta) if one.path == path} for path in told}
    for endpoint in own(hapta):
        if endpoint.path not in told:
            continue
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods[endpoint.path]:
            answer = await hapta.http.request(method, path_of(endpoint))
            assert answer.status_code == 405, (method, endpoint.path)
            allowed = {name.strip() for name in answer.headers["allow"].split(",")}
            assert allowed - {"HEAD", "OPTIONS"} == methods[endpoint.path]
        if "GET" in methods[endpoint.path]:
            with_body, without = [await hapta.http.request(m, path_of(endpoint)) for m in ("GET", "HEAD")]
            assert (without.status_code, without.content) == (with_body.status_code, b""), endpoint.path


# --- other origins (contract identity, section 29) ---


async def test_other_origins_get_exactly_what_the_table_gives_them(hapta: TestHapta) -> None:
    for endpoint in own(hapta):
        for origin in (LISTED, FOREIGN, "null"):
            asked = {"origin": origin, "access-control-request-method": endpoint.method}
            preflight = await hapta.http.options(path_of(endpoint), headers=asked)
            actual = await call(hapta, endpoint, headers={"origin": origin})
            for answer in (preflight, actual):
                allowed = answer.headers.get("access-control-allow-origin")
                credentials = answer.headers.get("access-control-allow-credentials")
                match endpoint.cors:
                    case "open":
                        assert (allowed, credentials) == ("*", None), endpoint.name
                    case "none":
                        assert (allowed, credentials) == (None, None), endpoint.name
                    case "listed" if origin == LISTED:
                        cookies = endpoint.path.startswith("/identity/v1/")
                        admin = endpoint.access.kind == "role"
                        assert allowed == LISTED, endpoint.name
                        assert admin or credentials == ("true" if cookies else None), endpoint.name
                    case "listed":
                        assert (allowed, credentials) == (None, None), endpoint.name


async def test_the_endpoints_of_the_standards_are_open_and_the_pages_are_closed(hapta: TestHapta) -> None:
    policies: Mapping[str, str] = {endpoint.path: endpoint.cors for endpoint in own(hapta)}
    for name in ("token", "revoke", "userinfo", "jwks", "register", "par"):
        assert policies[f"/oauth/{name}"] == "open", name
    for name in ("authorize", "device", "logout", "introspect"):
        assert policies[f"/oauth/{name}"] == "none", name
    assert all(policies[f"/.well-known/{name}"] == "open" for name in METADATA)


async def test_no_origin_gets_credentials_where_all_may_call(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        for endpoint in own(hapta):
            answer = await call(hapta, endpoint, headers={"origin": FOREIGN})
            assert "access-control-allow-credentials" not in answer.headers, endpoint.name


async def test_a_page_on_another_port_of_the_same_host_shares_cookies_and_nothing_else(hapta: TestHapta) -> None:
    browser = visitor_of(hapta)
    await hapta.http.post("/identity/v1/register", json={"email": "a@example.org", "password": "words and more words"})
    assert (await browser.sign_in("a@example.org", "words and more words")).status_code == 303
    assert all(name.startswith(("__Host-", "__Secure-")) or name == "csrf" for name in browser.cookies)
    headers = {"sec-fetch-site": "same-site", "origin": URL + ":5001", "x-csrf-token": await browser.token()}
    body = {"name": "Eve"}
    refused = await browser.http.patch("/identity/v1/me", json=body, headers=headers)
    assert (refused.status_code, refused.json()["details"]["issue"]) == (403, "csrf_failed")
    assert "access-control-allow-origin" not in refused.headers
    without_hint = {name: value for name, value in headers.items() if name != "sec-fetch-site"}
    assert (await browser.http.patch("/identity/v1/me", json=body, headers=without_hint)).status_code == 403
    ours = {**headers, "sec-fetch-site": "same-origin", "origin": URL}
    assert (await browser.http.patch("/identity/v1/me", json=body, headers=ours)).status_code == 200


@pytest.mark.parametrize(
    ("origin", "accepted"), [(None, True), (LISTED, True), (URL, True), (FOREIGN, False), ("null", False)]
)
async def test_a_socket_is_opened_for_pages_of_listed_origins_and_for_apps(
    hapta: TestHapta, origin: str | None, accepted: bool
) -> None:
    alice = await hapta.register("alice@example.org")
    headers = {} if origin is None else {"origin": origin}
    if not accepted:
        with pytest.raises(SocketClosed):
            await hapta.socket("/sync/ws", headers).__aenter__()
        return
    async with hapta.socket("/sync/ws", headers) as socket:
        await socket.send({"type": "auth", "token": alice.token})
        await socket.send({"type": "ping"})
        assert (await socket.receive())["type"] == "pong"


# --- tokens in their place (section 18) ---


async def test_a_token_in_the_address_and_two_tokens_are_refused_wherever_a_token_counts(hapta: TestHapta) -> None:
    alice = await hapta.register("alice@example.org")
    two = [("authorization", f"Bearer {alice.token}"), ("authorization", "Bearer other")]
    guarded = [one for one in hapta.app.endpoints if one.kind == "http" and one.access.kind not in HANDLER_DECIDES]
    assert len(guarded) > 50
    for endpoint in guarded:
        for options in (
            {"params": {"access_token": alice.token}},
            {"params": {"x": "1", "access_token": alice.token}, "headers": bearer(alice)},
            {"headers": two},
        ):
            answer = await call(hapta, endpoint, **options)
            assert answer.status_code == 400, (endpoint.name, answer.text)
            assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_request"')
            assert alice.token not in answer.text
    assert (await alice.get("/auth/me", params={"not_access_token": "1"})).status_code != 400


async def test_a_stale_login_is_told_how_fresh_it_has_to_be(tmp_path: Path) -> None:
    from hapta.testing.clock import FakeClock

    clock = FakeClock()
    async with TestHapta(tmp_path, clock=clock) as hapta:
        alice = await hapta.register("alice@example.org")
        clock.advance(minutes=6)
        answer = await alice.post("/identity/v1/mfa/totp")
        challenge = answer.headers["www-authenticate"]
        assert answer.status_code == 401
        assert challenge.startswith('Bearer error="insufficient_user_authentication"')
        assert "max_age=" in challenge
        assert f'resource_metadata="{URL}/.well-known/oauth-protected-resource"' in challenge


# --- bodies ---


@pytest.mark.parametrize("path", ["/identity/v1/login", "/identity/v1/register", "/identity/v1/refresh"])
async def test_json_is_strict_and_bounded(hapta: TestHapta, path: str) -> None:
    json = {"content-type": "application/json"}
    twice = b'{"identifier":"a","identifier":"b","password":"x","email":"a@example.org","refreshToken":"x"}'
    assert (await hapta.http.post(path, content=twice, headers=json)).status_code == 400
    large = b'{"identifier":"' + b"a" * (256 * 1024) + b'"}'
    answer = await hapta.http.post(path, content=large, headers=json)
    assert (answer.status_code, answer.json()["code"]) == (413, 413)
    latin = {"content-type": "application/json; charset=utf-8"}
    assert (await hapta.http.post(path, content=b'{"identifier":"\xe4"}', headers=latin)).status_code == 400


@pytest.mark.parametrize("name", ["token", "revoke", "introspect", "par", "device_authorization"])
async def test_forms_are_in_utf_8_and_bounded(hapta: TestHapta, name: str) -> None:
    form = "application/x-www-form-urlencoded"
    for charset, status in (("utf-8", (400, 401)), ("iso-8859-1", (415,))):
        headers = {"content-type": f"{form}; charset={charset}"}
        answer = await hapta.http.post(f"/oauth/{name}", content=b"a=b", headers=headers)
        assert answer.status_code in status, (charset, answer.text)
    answer = await hapta.http.post(f"/oauth/{name}", content=b"a=" + b"b" * 65_536, headers={"content-type": form})
    assert (answer.status_code, answer.json()["error"]) == (413, "invalid_request")


async def test_whoever_asks_for_problem_json_is_told_the_same_facts_in_it(hapta: TestHapta) -> None:
    ask = {"accept": "application/problem+json"}
    body = {"email": "no address", "password": "short"}
    answer = await hapta.http.post("/identity/v1/register", json=body, headers=ask)
    plain = (await hapta.http.post("/identity/v1/register", json=body)).json()
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Bad Request", 400)
    assert problem["detail"] == plain["message"]
    assert problem["code"] == "validation_error"
    assert problem["errors"] == plain["details"]["errors"]
    assert {one["field"] for one in problem["errors"]} == {"email", "password"}
    assert plain["details"]["field"] == plain["details"]["errors"][0]["field"]
    token = await hapta.http.post("/oauth/token", headers=ask)
    assert token.headers["content-type"] == "application/json"  # an endpoint of a standard keeps its own form


# --- limits (section 28) ---

CLASSES = {
    "POST /identity/v1/login": "login",
    "POST /identity/login": "login",
    "POST /identity/v1/register": "register",
    "POST /identity/register": "register",
    "POST /oauth/register": "register",
    "POST /oauth/token": "token",
    "POST /oauth/par": "authorize",
    "GET /oauth/authorize": "authorize",
    "POST /oauth/introspect": "introspect",
    "POST /identity/v1/refresh": "token",
    "GET /identity/v1/me": "account",
}


async def test_each_endpoint_draws_on_the_budget_that_the_contract_names(tmp_path: Path) -> None:
    async with TestHapta(tmp_path, {"HAPTA_RATELIMIT_ENABLED": "true", "HAPTA_OAUTH_REGISTRATION": "open"}) as hapta:
        alice = await hapta.register("alice@example.org")
        by_name = {endpoint.name: endpoint for endpoint in own(hapta)}
        for name, limit in CLASSES.items():
            answer = await call(hapta, by_name[name], headers=bearer(alice) if limit == "account" else {})
            assert answer.headers["ratelimit-policy"].startswith(f'"{limit}";q='), name
            assert answer.headers["ratelimit"].startswith(f'"{limit}";r='), name


async def test_the_count_against_one_account_is_published_to_nobody(tmp_path: Path) -> None:
    environ = {"HAPTA_RATELIMIT_ENABLED": "true", "HAPTA_RATELIMIT_LOGIN": "1000/60:1000"}
    async with TestHapta(tmp_path, environ) as hapta:
        await hapta.register("alice@example.org")
        seen: list[list[tuple[int, str, set[str]]]] = []
        for email in ("alice@example.org", "nobody@example.org"):
            answers = [
                await hapta.http.post("/identity/v1/login", json={"identifier": email, "password": "wrong words"})
                for _ in range(7)
            ]
            assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
            for number, answer in enumerate(answers):
                assert answer.headers["ratelimit-policy"].startswith('"login";q=1000')
                assert int(answer.headers["ratelimit"].partition("r=")[2].partition(";")[0]) > 900, number
            seen.append([(answer.status_code, answer.json()["message"], {*answer.headers}) for answer in answers])
        assert seen[0] == seen[1]


# --- the documents tell of what is there (sections 13 and 25) ---


async def test_every_address_in_the_metadata_is_served(hapta: TestHapta) -> None:
    table = {(endpoint.method, endpoint.path) for endpoint in hapta.app.endpoints}
    documents = [(await hapta.http.get(f"/.well-known/{name}")).json() for name in METADATA]
    assert documents[0] == documents[1]
    named = {name: value for name, value in documents[0].items() if name.endswith(("_endpoint", "_uri"))}
    assert named.keys() >= {"authorization_endpoint", "token_endpoint", "jwks_uri", "registration_endpoint"}
    for name, address in named.items():
        assert address.startswith(URL + "/"), name
        path = address.removeprefix(URL)
        methods = {method for method, known in table if known == path}
        gets = name in ("jwks_uri", "authorization_endpoint", "userinfo_endpoint", "end_session_endpoint")
        assert ("GET" if gets else "POST") in methods, name
    resource = (await hapta.http.get("/.well-known/oauth-protected-resource")).json()
    assert resource["authorization_servers"] == [documents[0]["issuer"]]
    assert resource["scopes_supported"] == documents[0]["scopes_supported"]


async def test_the_api_document_lists_every_route_and_every_scope(hapta: TestHapta) -> None:
    document = (await hapta.http.get("/openapi.json")).json()
    shown = {(one.method.lower(), one.path) for one in hapta.app.endpoints if not one.hidden}
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == shown
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "security" in operation, (method, path)
    metadata = (await hapta.http.get("/.well-known/openid-configuration")).json()
    flow = document["components"]["securitySchemes"]["oauth"]["flows"]["authorizationCode"]
    assert [*flow["scopes"]] == metadata["scopes_supported"]
    assert URL + flow["tokenUrl"] == metadata["token_endpoint"]
    userinfo = document["paths"]["/oauth/userinfo"]["get"]
    assert userinfo["security"] == [{"oauth": ["openid"]}]
