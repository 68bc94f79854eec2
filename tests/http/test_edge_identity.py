"""What the edge does for identity and OAuth: cookies, envelopes, forms, internal callers, methods and cross-origin rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest

from hapta.http.api import Form, Reply, Request, Table
from hapta.http.application import Application
from hapta.http.caller import InternalVerifier
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.errors import ENVELOPE, OAUTH, SYNC
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.validate import Wire
from hapta.kit.access import CLIENT, INTERNAL, PAGE, PUBLIC, SESSION, Caller, SessionId, UserId, role, scope
from hapta.kit.errors import Forbidden, InvalidToken, MissingToken
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock


class Who(Wire, frozen=True):
    user: str
    client_id: str | None = None


class ForeignPage(Forbidden):
    code = "csrf_failed"
    message = "This request may come from another site"


CALLERS = {
    "own": Caller(UserId("alice"), SessionId("s1"), 1, None, 4e9, roles=frozenset({"admin"})),
    "app": Caller(UserId("alice"), SessionId("s1"), 1, None, 4e9, frozenset({"read"}), client_id="app"),
}


class Tokens:
    def cached(self, token: str) -> Caller | None:
        return CALLERS.get(token)

    async def verify(self, token: str) -> Caller:
        raise InvalidToken


class Cookies:
    """A cookie `sid` with the name of a person; whatever is not a GET needs a header that a foreign page cannot send."""

    async def verify(self, request: Request) -> Caller:
        name = request.cookies.get("sid")
        if name is None:
            raise MissingToken
        if request.method != "GET" and request.header("x-csrf-token") is None:
            raise ForeignPage
        return Caller(UserId(name), SessionId("of a browser"), 1, None, 4e9)


class Peer:
    async def verify(self, request: Request, body: bytes) -> None:
        if request.header("x-signature-of") != body.decode():
            raise InvalidToken


async def who(caller: Caller) -> Who:
    return Who(user=caller.user_id, client_id=caller.client_id)


async def said(caller: Caller) -> Reply:
    return Reply(201, Who(user=caller.user_id), ((b"set-cookie", b"a=b"),), message="Done")


async def form(body: Form) -> Reply:
    return Reply(200, repr(sorted(body)).encode(), (), "text/plain")


async def peer(body: bytes) -> Reply:
    return Reply(200, body, (), "text/plain")


async def page(request: Request) -> Reply:
    values = request.header_values("dpop")
    return Reply(200, repr((dict(request.cookies), values)).encode(), (), "text/html")


def table() -> list[Any]:
    v1 = Table(dialect=ENVELOPE, access=SESSION, cookies=True)
    oauth = Table(dialect=OAUTH, access=CLIENT, cors="open")
    sync = Table(dialect=SYNC, access=SESSION)
    return [
        v1.get("/identity/v1/me", who, summary="Me", answers={200: Who}),
        v1.post("/identity/v1/me", said, summary="Change", answers={201: Who}),
        oauth.post("/oauth/form", form, summary="Form", answers={200: None}),
        oauth.get("/oauth/page", page, summary="Page", answers={200: None}, access=PAGE, cors="none"),
        oauth.get("/oauth/open", page, summary="Open", answers={200: None}, access=PUBLIC),
        sync.get("/plain", who, summary="Plain", answers={200: Who}),
        sync.get("/read", who, summary="Read", answers={200: Who}, access=scope("read")),
        sync.get("/write", who, summary="Write", answers={200: Who}, access=scope("write")),
        sync.get("/role", who, summary="Role", answers={200: Who}, access=role("admin")),
        sync.post("/peer", peer, summary="Peer", answers={200: None}, access=INTERNAL),
    ]


def edge(internal: InternalVerifier | None = None) -> Edge:
    return Edge(
        ServerSettings(),
        Tokens(),
        Limits(None, {"default": LimitClass("default", Rate(600, 60, 200), "address")}),
        Cors(["https://app.example"]),
        Metrics(),
        FakeClock(),
        None,
        Cookies(),
        internal,
    )


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = cast(Any, Application(table(), edge(Peer())))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server.test") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_an_answer_of_a_wrapping_dialect_stands_in_an_envelope(client: httpx.AsyncClient) -> None:
    answer = await client.get("/identity/v1/me", headers=bearer("own"))
    body = answer.json()
    assert body.pop("timestamp").endswith("Z")
    assert body == {"status": "success", "message": "OK", "code": 200, "data": {"user": "alice", "clientId": None}}
    changed = await client.post("/identity/v1/me", headers=bearer("own"))
    assert (changed.status_code, changed.json()["code"], changed.json()["message"]) == (201, 201, "Done")


async def test_an_answer_with_headers_of_its_own_is_still_not_kept(client: httpx.AsyncClient) -> None:
    answer = await client.post("/identity/v1/me", headers=bearer("own"))
    assert answer.headers["set-cookie"] == "a=b"
    assert answer.headers["cache-control"] == "no-store"


async def test_a_cookie_counts_where_no_token_was_sent(client: httpx.AsyncClient) -> None:
    mine = {"cookie": "other=1; sid=bob"}
    assert (await client.get("/identity/v1/me", headers=mine)).json()["data"]["user"] == "bob"
    with_both = await client.get("/identity/v1/me", headers={**mine, **bearer("own")})
    assert with_both.json()["data"]["user"] == "alice"
    assert (await client.get("/identity/v1/me", headers={**mine, **bearer("bad")})).status_code == 401
    assert (await client.get("/plain", headers=mine)).status_code == 401


async def test_a_change_by_cookie_passes_the_checks_of_the_cookie_verifier(client: httpx.AsyncClient) -> None:
    refused = await client.post("/identity/v1/me", headers={"cookie": "sid=bob"})
    assert (refused.status_code, refused.json()["details"]["issue"]) == (403, "csrf_failed")
    allowed = await client.post("/identity/v1/me", headers={"cookie": "sid=bob", "x-csrf-token": "t"})
    assert allowed.status_code == 201


async def test_a_third_party_token_opens_only_what_its_scopes_name(client: httpx.AsyncClient) -> None:
    def status(path: str, token: str) -> Any:
        return client.get(path, headers=bearer(token))

    assert (await status("/read", "app")).json() == {"user": "alice", "clientId": "app"}
    refused = await status("/write", "app")
    assert refused.status_code == 403
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="write"'
    assert (await status("/plain", "app")).status_code == 403
    assert [(await status(path, "own")).status_code for path in ("/read", "/write", "/plain", "/role")] == [200] * 4
    assert (await status("/role", "app")).status_code == 403


async def test_a_form_is_read_as_such_and_nothing_else_is(client: httpx.AsyncClient) -> None:
    answer = await client.post("/oauth/form", data={"b": "2", "a": "1"})
    assert answer.text == "[('a', '1'), ('b', '2')]"
    refused = await client.post("/oauth/form", json={"a": 1})
    assert (refused.status_code, refused.json()["error"]) == (415, "invalid_request")
    broken = await client.post(
        "/oauth/form", content=b"a=%zz", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert (broken.status_code, broken.json()["error"]) == (400, "invalid_request")
    large = await client.post("/oauth/form", data={"a": "x" * 70_000})
    assert large.status_code == 413


async def test_another_method_is_told_which_ones_there_are(client: httpx.AsyncClient) -> None:
    refused = await client.get("/oauth/form")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, OPTIONS")
    assert refused.json()["error"] == "invalid_request"
    wrapped = await client.put("/identity/v1/me")
    assert (wrapped.status_code, wrapped.headers["allow"]) == (405, "GET, POST, HEAD, OPTIONS")
    assert (await client.put("/plain")).status_code == 404


async def test_pages_of_other_origins_read_what_is_open_and_nothing_that_is_closed(client: httpx.AsyncClient) -> None:
    foreign, listed = {"origin": "https://evil.example"}, {"origin": "https://app.example"}
    allow = "access-control-allow-origin"
    assert (await client.post("/oauth/form", data={"a": "1"}, headers=foreign)).headers[allow] == "*"
    assert allow not in (await client.get("/oauth/page", headers=listed)).headers
    assert allow not in (await client.get("/identity/v1/me", headers={**bearer("own"), **foreign})).headers
    mine = await client.get("/identity/v1/me", headers={**bearer("own"), **listed})
    assert mine.headers[allow] == "https://app.example"
    asks = {"access-control-request-method": "POST"}
    assert (await client.options("/oauth/form", headers={**foreign, **asks})).headers[allow] == "*"
    assert allow not in (await client.options("/oauth/page", headers={**listed, **asks})).headers


async def test_the_other_server_is_judged_by_its_body(client: httpx.AsyncClient) -> None:
    assert (await client.post("/peer", content=b"body", headers={"x-signature-of": "body"})).text == "body"
    assert (await client.post("/peer", content=b"bodY", headers={"x-signature-of": "body"})).status_code == 401
    assert (await client.post("/peer", content=b"", headers=bearer("own"))).status_code == 401


async def test_an_internal_endpoint_without_a_judge_does_not_start() -> None:
    with pytest.raises(TypeError, match="internal"):
        Application(table(), edge(None))


async def test_a_page_sees_cookies_and_every_line_of_a_header(client: httpx.AsyncClient) -> None:
    headers = [("cookie", 'a=1; b="2"; a=3'), ("dpop", "x"), ("dpop", "y")]
    answer = await client.get("/oauth/page", headers=headers)
    assert answer.text == "({'a': '1', 'b': '2'}, ['x', 'y'])"
    assert answer.headers["cache-control"] == "no-store"
    assert "cache-control" not in (await client.get("/oauth/open")).headers
