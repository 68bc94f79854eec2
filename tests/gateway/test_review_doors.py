"""What a second reader tried on the doors of the whole server, in front of a real PocketBase."""

from __future__ import annotations

import json
import re
import socket
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.gateway.sessions.service import AGAIN_MS
from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.gateway.rules_house import house_file
from tests.servers import HaptaServer

NewGateway = Callable[..., HaptaServer]
BATCH = "/api/batch"
POSTS = "/api/collections/posts/records"


def signed_in(http: httpx.Client, person: Person) -> dict[str, str]:
    login = {"identity": person.email, "password": person.password}
    answer = http.post(f"/api/collections/{person.collection}/auth-with-password", json=login)
    assert answer.status_code == 200, answer.text
    return {"authorization": answer.json()["token"]}


def batch(http: httpx.Client, headers: dict[str, str], *requests: dict[str, Any]) -> httpx.Response:
    return http.post(BATCH, json={"requests": list(requests)}, headers=headers)


def test_the_query_of_an_inner_request_brings_no_fields_past_the_rules(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway, tmp_path: Path
) -> None:
    rules = house_file(
        tmp_path,
        """
        @before(("create", "update"), "posts")
        def unpublished(ctx):
            return deny(ErrorCodes.USER_NOT_AUTHORIZED) if ctx.touches("published") else allow()
        """,
    )
    alice = pocketbase.person("alice")
    server = new_gateway(pocketbase, HAPTA_GATEWAY_RULES=str(rules), HAPTA_GATEWAY_RULES_TIMEOUT_MS="60000")
    with httpx.Client(base_url=server.url) as http:
        alices = signed_in(http, alice)
        made = {"owner": alice.id, "title": "x"}
        plain = batch(http, alices, {"method": "POST", "url": POSTS, "body": made | {"published": True}})
        assert plain.status_code == 400
        batch(http, alices, {"method": "POST", "url": POSTS + "?published=true", "body": made})
        batch(
            http,
            alices,
            {"method": "POST", "url": POSTS + "?%40jsonPayload=%7B%22published%22%3Atrue%7D", "body": made},
        )
    assert [record["published"] for record in pocketbase.records("posts") if record["published"]] == []


def test_a_record_that_its_own_batch_deletes_first_is_not_made_anew_past_the_rule_of_creating(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway, tmp_path: Path
) -> None:
    rules = house_file(
        tmp_path,
        """
        @before("create", "posts")
        def nobody_makes_posts(ctx):
            return deny(ErrorCodes.USER_NOT_AUTHORIZED)
        """,
    )
    alice = pocketbase.person("alice")
    post = pocketbase.create("posts", owner=alice.id, title="old")
    server = new_gateway(pocketbase, HAPTA_GATEWAY_RULES=str(rules), HAPTA_GATEWAY_RULES_TIMEOUT_MS="60000")
    with httpx.Client(base_url=server.url) as http:
        alices = signed_in(http, alice)
        put = {"method": "PUT", "url": POSTS, "body": {"id": post["id"], "owner": alice.id, "title": "new"}}
        answer = batch(http, alices, {"method": "DELETE", "url": f"{POSTS}/{post['id']}"}, put)
        assert answer.status_code in (400, 403), answer.text
        assert batch(http, alices, put).status_code == 200
    assert [record["created"] for record in pocketbase.records("posts")] == [post["created"]]


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\0b"])
def test_a_line_end_in_a_header_of_an_inner_request_is_a_bad_body(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway, value: str
) -> None:
    note = pocketbase.create("notes", title="x")
    server = new_gateway(pocketbase)
    with httpx.Client(base_url=server.url) as http:
        put = {"method": "PUT", "url": "/api/collections/notes/records", "body": {"id": note["id"], "title": "y"}}
        answer = batch(http, {}, put | {"headers": {"X-Team": value}})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("name", ["Fly-Client-IP", "X_Forwarded_For", "X-Client-IP"])
def test_an_inner_request_does_not_say_from_where_it_comes(
    new_pocketbase: Callable[[], PocketBaseHouse], new_gateway: NewGateway, name: str
) -> None:
    house = new_pocketbase()
    spelt = name.lower().replace("-", "_")
    house.request("PATCH", "/api/collections/notes", {"createRule": f'@request.headers.{spelt} = "192.0.2.66"'})
    server = new_gateway(house)
    with httpx.Client(base_url=server.url) as http:
        address = "/api/collections/notes/records"
        assert http.post(address, json={"title": "x"}, headers={name: "192.0.2.66"}).status_code == 400
        inner = {"method": "POST", "url": address, "body": {"title": "x"}, "headers": {name: "192.0.2.66"}}
        assert batch(http, {}, inner).status_code == 400


@pytest.mark.parametrize("given", [0, False, 0.0])
def test_the_id_of_an_upsert_is_a_text_or_nothing(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway, given: object
) -> None:
    server = new_gateway(pocketbase)
    with httpx.Client(base_url=server.url) as http:
        put = {"method": "PUT", "url": "/api/collections/notes/records", "body": {"id": given, "title": "y"}}
        assert batch(http, {}, put).status_code == 400
    assert pocketbase.records("notes") == []


def test_tokens_die_with_the_key_of_their_collection(
    new_pocketbase: Callable[[], PocketBaseHouse], new_gateway: NewGateway
) -> None:
    house = new_pocketbase()
    alice = house.person("alice")
    server = new_gateway(house, HAPTA_GATEWAY_SCHEMA_SECONDS="0.1")
    with httpx.Client(base_url=server.url) as http:
        alices = signed_in(http, alice)
        assert http.get("/gateway/v1/sessions", headers=alices).status_code == 200
        house.request("PATCH", "/api/collections/users", {"authToken": {"secret": "x" * 40, "duration": 3600}})
        until = time.monotonic() + 120
        while http.get("/gateway/v1/sessions", headers=alices).status_code != 401:
            assert time.monotonic() < until, "the session goes on"


@pytest.mark.parametrize("path", [POSTS, BATCH])
def test_a_body_that_arrives_after_its_session_has_ended_writes_nothing(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway, path: str
) -> None:
    alice = pocketbase.person("alice")
    server = new_gateway(pocketbase, HAPTA_RATELIMIT_ENABLED="false")
    post = {"owner": alice.id, "title": "x"}
    body = json.dumps(
        post if path == POSTS else {"requests": [{"method": "POST", "url": POSTS, "body": post}]}
    ).encode()
    with httpx.Client(base_url=server.url) as http:
        token = signed_in(http, alice)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            line.settimeout(120)
            line.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token['authorization']}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body[:5]
            )
            # Long enough for nobody to remember who it was.
            until = time.monotonic() + AGAIN_MS / 1000 + 0.1
            while time.monotonic() < until:
                assert http.get("/api/health").status_code == 200
            assert http.post("/gateway/v1/logout", headers=token).status_code == 200
            line.sendall(body[5:])
            answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert pocketbase.records("posts") == []


JWT = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")


def test_no_answer_and_no_line_of_the_log_holds_a_token_of_pocketbase(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway
) -> None:
    alice = pocketbase.person("alice")
    key = "a key of operators that only tests know"
    server = new_gateway(pocketbase, HAPTA_ADMIN_KEY=key, HAPTA_LOG_LEVEL="debug")
    users = f"/api/collections/users/records/{alice.id}"
    with httpx.Client(base_url=server.url) as http:
        login = {"identity": alice.email, "password": alice.password}
        answers = [http.post("/api/collections/users/auth-with-password", json=login)]
        token = {"authorization": answers[0].json()["token"]}
        answers += [
            http.get(users, headers=token),
            http.patch(users, json={"name": "x"}, headers=token),
            http.post("/api/files/token", headers=token),
            http.post("/api/collections/users/auth-refresh", headers=token),
            http.get(POSTS, headers=token),
            batch(http, token, {"method": "POST", "url": POSTS, "body": {"owner": alice.id, "title": "x"}}),
            http.get("/gateway/v1/sessions", headers=token),
            http.get("/gateway/v1/admin/sessions", headers={"x-hapta-admin-key": key}),
            http.get("/gateway/v1/admin/config", headers={"x-hapta-admin-key": key}),
            http.get("/api/collections/users/auth-methods", headers=token),
            # What ends in an error, too.
            http.get(POSTS, headers={"authorization": alice.token}),
            http.post("/api/collections/staff/auth-refresh", headers=token),
            http.get(POSTS + "?filter=)(", headers=token),
            http.get(f"/api/files/users/{alice.id}/x.png", params={"token": token["authorization"]}),
        ]
    told = "\n".join([f"{answer.headers}\n{answer.text}" for answer in answers])
    found = JWT.findall(told)
    assert len(found) >= 3
    for one in found:
        payload = one.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert claims["iss"] == "hapta", claims
    assert alice.token not in told
    assert pocketbase.password not in told
    log = server.log_text()
    assert JWT.findall(log) == []
    assert alice.password not in log
    assert pocketbase.password not in log


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("field", ["image", "protected"])
def test_a_file_passes_the_rules_of_both_phases_however_it_is_asked_for(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway, tmp_path: Path, phase: str, field: str
) -> None:
    rules = house_file(
        tmp_path,
        f"""
        @{phase}("file", "files")
        def nobody(ctx):
            return deny(ErrorCodes.USER_NOT_AUTHORIZED) if ctx.auth.id is None else allow()
        """,
    )
    alice = pocketbase.person("alice")
    png = b"\x89PNG\r\n\x1a\n" + b"x" * 100
    record = pocketbase.create("files", files={field: ("a.png", png, "image/png")}, owner=alice.id, open=True)
    address = f"/api/files/files/{record['id']}/{record[field]}"
    server = new_gateway(pocketbase, HAPTA_GATEWAY_RULES=str(rules), HAPTA_GATEWAY_RULES_TIMEOUT_MS="60000")
    with httpx.Client(base_url=server.url) as http:
        file_token = http.post("/api/files/token", headers=signed_in(http, alice)).json()["token"]
        assert http.get(address, params={"token": file_token}).content == png
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"range": "bytes=0-3"}), ("GET", {})):
            refused = http.request(method, address, headers=headers)
            assert refused.status_code in (403, 404), refused.text
            assert b"PNG" not in refused.content
