"""What stays of an answer to a login: a choice of fields, and what another provider says (contract gateway, A.2, A.3, B.2)."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hapta.gateway.fields import pick
from tests.gateway.auth_house import AuthHouse, NewAuthHouse, house, new_house
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.sessions_house import claims_of

__all__ = ["house", "new_house"]

# --- fields ---


async def test_a_choice_of_fields_keeps_the_token_out_of_nothing_but_the_answer(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    for fields in ("token,record.id", "record.id", "*,record.name", "record.name:excerpt(2,true),token", "nothing"):
        path = f"/api/collections/users/auth-with-password?fields={fields}"
        body = {"identity": alice.email, "password": alice.password}
        direct = house.upstream.http.post(path, json=body).json()
        answer = (await house.post(path, body)).json()
        token = answer.pop("token", None)
        direct.pop("token", None)
        assert answer == direct, fields
        assert (token is None) is ("token" not in fields and "*" not in fields)
        if token is not None:
            assert claims_of(token)["iss"] == "hapta"
    assert len(await house.sessions.page()) == 5


async def test_fields_and_expand_hold_for_a_refresh_too(house: AuthHouse) -> None:
    bob = house.upstream.person("bob")
    alice = house.upstream.person("alice", following=[bob.id])
    token = await house.token_of(alice)
    answer = await house.refresh(token, params={"expand": "following", "fields": "token,record.expand.following.id"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["record"] == {"expand": {"following": [{"id": bob.id}]}}


async def test_fields_that_cannot_be_read_are_refused_as_by_pocketbase(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    body = {"identity": alice.email, "password": alice.password}
    for fields in ("record.name:excerpt(0)", "record.name:upper", "record.name:excerpt()"):
        path = f"/api/collections/users/auth-with-password?fields={fields}"
        direct, answer = house.upstream.http.post(path, json=body), await house.post(path, body)
        assert answer.status_code == direct.status_code == 400, fields


async def test_the_picker_leaves_what_pocketbases_own_leaves(house: AuthHouse) -> None:
    text = "<p>Hello  <b>big</b> &amp; wide<style>x{}</style></p><div>world\n of <i>wonders</i></div> without end"
    alice = house.upstream.person("alice")
    post = house.upstream.create(
        "posts", owner=alice.id, title="T", published=True, text=text, meta={"a": {"b": 1, "c": [2]}}
    )
    whole = house.upstream.request("GET", f"/api/collections/posts/records/{post['id']}?expand=owner")
    for raw in (
        "*",
        "id",
        "id,title",
        "id,expand.owner.name",
        "expand.*,title",
        "*,expand.owner.id",
        "expand.owner",
        "text:excerpt(10)",
        "text:excerpt(12,true),id",
        "text:excerpt(30, true)",
        "text:excerpt(3000,true)",
        "meta.a.b",
        "meta.a.c",
        "title.more",
        " id , title ",
        "id,,title",
        "*:excerpt(3)",
    ):
        direct = house.upstream.request(
            "GET", f"/api/collections/posts/records/{post['id']}", params={"expand": "owner", "fields": raw}
        )
        assert pick(copy.deepcopy(whole), raw) == direct, raw


# --- another provider ---


class Provider(BaseHTTPRequestHandler):
    """An OAuth2 provider that knows one person."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"access_token": "the provider's token", "token_type": "Bearer", "expires_in": 3600})

    def do_GET(self) -> None:
        person = {"sub": "42", "name": "Carol", "email": "carol@example.com", "email_verified": True, "extra": "raw"}
        self._answer(person)

    def _answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing, in place of lines on the standard error."""


@pytest.fixture
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def with_provider(upstream: PocketBaseHouse, url: str) -> None:
    given = {
        "name": "oidc",
        "clientId": "id",
        "clientSecret": "secret",
        "authURL": f"{url}/auth",
        "tokenURL": f"{url}/token",
        "userInfoURL": f"{url}/userinfo",
    }
    oauth2 = {"enabled": True, "providers": [given]}
    upstream.request("PATCH", "/api/collections/users", {"oauth2": oauth2})


GUARDED = """
from hapta.rules import ErrorCodes, allow, before, deny

@before("create", collection="users")
def nobody_chooses_to_be_blocked(ctx):
    return deny(ErrorCodes.AUTHORIZATION_FAILED) if "blocked" in ctx.data else allow()
"""


async def test_a_login_by_a_provider_keeps_its_meta_and_swaps_the_token(
    new_house: NewAuthHouse, new_pocketbase: Any, provider: str, tmp_path: Path
) -> None:
    upstream: PocketBaseHouse = new_pocketbase()
    with_provider(upstream, provider)
    path = tmp_path / "rules.py"
    path.write_text(GUARDED)
    house = await new_house(upstream=upstream, rules=path)
    url = "/api/collections/users/auth-with-oauth2"
    body: dict[str, Any] = {
        "provider": "oidc",
        "code": "code",
        "codeVerifier": "v" * 43,
        "redirectUrl": "http://server.test/api/oauth2-redirect",
    }
    refused = await house.post(url, {**body, "createData": {"blocked": True}})
    assert refused.status_code == 403
    assert upstream.records("users") == []
    answer = await house.post(url, {**body, "createData": {"name": "Chosen"}})
    assert answer.status_code == 200, answer.text
    signed_in = answer.json()
    assert signed_in["meta"]["accessToken"] == "the provider's token"
    assert signed_in["meta"]["rawUser"]["extra"] == "raw"
    assert signed_in["meta"]["isNew"] is True
    assert signed_in["record"]["name"] == "Chosen"
    assert claims_of(signed_in["token"])["iss"] == "hapta"
    assert house.changed == [(signed_in["record"]["collectionId"], signed_in["record"]["id"], "update")]
    assert (await house.refresh(signed_in["token"])).status_code == 200
    # Somebody who is signed in adds the provider to their own record.
    upstream.delete("users", signed_in["record"]["id"])
    alice = upstream.person("alice")
    added = await house.post(url, body, token=await house.token_of(alice))
    assert added.json()["record"]["id"] == alice.id
