"""The gateway's own client for browsers, in a browser, from an app's page on another origin."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from tests.clients.node import Browser
from tests.gateway.conftest import _pocketbase, _pocketbase_mails, _pocketbase_template, new_pocketbase, pocketbase
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.socket_house import _gateway, environment, server
from tests.gateway.test_oauth2 import connect_provider, provider
from tests.servers import HaptaServer

__all__ = [
    "_gateway",
    "_pocketbase",
    "_pocketbase_mails",
    "_pocketbase_template",
    "new_pocketbase",
    "pocketbase",
    "server",
]

SIZE = 9 * 1024 * 1024 + 77
"""More than fits into the window of an upload or a download."""


def test_the_client_module_works_from_a_page_of_another_origin(
    browser: Browser, server: HaptaServer, pocketbase: PocketBaseHouse, new_origin: Callable[[], str]
) -> None:
    alice = pocketbase.person()
    person = {"id": alice.id, "email": alice.email, "password": alice.password}
    found = browser.visit("gateway_socket.mjs", origin=new_origin(), url=server.url, alice=person, size=SIZE)
    heard = found.pop("heard")
    assert heard[:2] == ["open", "token"]
    assert heard[-3:] == ["close", "token", "signedout"]
    # Of the answer 401 the browser itself says something.
    assert found.pop("violations") == []
    assert [text for text in found.pop("errors") if "401" not in text] == []
    del found["origins"]
    assert found == {
        "nobody": [True, 304],
        "wrong": [200, 400],
        "record": alice.id,
        "changed": "two",
        "listed": ["two"],
        "read": alice.id,
        "invalid": "validation_required",
        "events": ["create one", "update two", "delete two"],
        "sent": SIZE,
        "size": SIZE,
        "same": True,
        "part": True,
        "aborted": "AbortError",
        "refused": 1007,
        "rolled": True,
        "again": "again",
        "over": 401,
        "token": "",
    }


def test_a_provider_signs_in_through_a_window_of_its_own(
    browser: Browser,
    new_pocketbase: Callable[[], PocketBaseHouse],
    new_hapta: Callable[..., HaptaServer],
    new_origin: Callable[[], str],
) -> None:
    house = new_pocketbase()
    server = new_hapta(env=environment(house))
    server.start()
    with provider("erin", f"{server.url}/api/oauth2-redirect") as issuer:
        connect_provider(house, issuer)
        found = browser.visit("gateway_socket_oauth.mjs", origin=new_origin(), url=server.url)
    assert found["email"] == "erin@example.test"
    assert found["meta"]["isNew"] is True
    assert "accessToken" not in found["meta"]
    assert found["windows"] == 1


def test_the_client_module_is_handed_out_to_any_page_and_is_not_sent_twice(server: HaptaServer) -> None:
    address = f"{server.url}/gateway/v1/client.js"
    answer = httpx.get(address, headers={"origin": "https://app.example"})
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "export class HaptaGateway" in answer.text
    again = httpx.get(address, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
