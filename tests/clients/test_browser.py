"""A real browser with the server's own pages, and with an app's page on another origin."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx

from tests.clients.conftest import Account, register
from tests.clients.node import Browser
from tests.servers import HaptaServer

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


def operations(server: HaptaServer) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of all that the server says it can do."""
    document = httpx.get(f"{server.url}/openapi.json").json()
    return [
        (method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
        if method in METHODS
    ]


def assert_quiet(found: dict[str, Any], server: HaptaServer) -> None:
    """Nothing went wrong on the page, nothing was forbidden, and nobody else was asked for anything."""
    assert found["errors"] == []
    assert found["violations"] == []
    assert found["origins"] == [server.url]


def test_a_browser_is_sent_to_docs_that_show_every_operation_and_try_it_out(
    browser: Browser, hapta: HaptaServer, account: Account
) -> None:
    found = browser.visit("docs_swagger.mjs", url=hapta.url, token=account.token)
    assert_quiet(found, hapta)
    assert found["landed"] == f"{hapta.url}/docs"
    shown = [(method, path) for method, path in found["operations"]]
    assert ("POST", "/sync/push") in shown
    assert sorted(shown) == sorted((method, path) for method, path, _ in operations(hapta))
    assert found["health"]["status"] == 200
    assert (found["health"]["body"]["name"], found["health"]["body"]["status"]) == ("hapta", "ok")
    assert found["me"]["status"] == 200
    assert account.email in str(found["me"]["body"])


def test_the_api_reference_shows_every_operation(browser: Browser, hapta: HaptaServer) -> None:
    described = operations(hapta)
    groups = sorted({tag for _, _, operation in described for tag in operation["tags"]})
    found = browser.visit("docs_scalar.mjs", url=hapta.url, groups=groups)
    assert_quiet(found, hapta)
    assert "sync" in groups
    assert [
        operation["summary"] for _, _, operation in described if operation["summary"] not in found["contents"]
    ] == []


def test_the_policy_of_the_docs_stops_what_somebody_smuggled_in(
    browser: Browser, hapta: HaptaServer, new_origin: Callable[[], str]
) -> None:
    other = new_origin()
    found = browser.visit("docs_policy.mjs", url=hapta.url, other=other)
    assert (found["ran"], found["sent"]) == (False, False)
    assert found["violations"] == ["script-src-elem inline", f"connect-src {other}/"]
    assert len(found["errors"]) >= 2


def test_any_page_may_call_the_api_while_all_origins_are_allowed(
    browser: Browser, hapta: HaptaServer, account: Account, new_origin: Callable[[], str]
) -> None:
    call_from(browser, hapta, account, new_origin())


def call_from(browser: Browser, hapta: HaptaServer, account: Account, origin: str) -> None:
    """Calls from a page of this origin; each goes through."""
    vault = str(uuid.uuid4())
    found = browser.visit("cors.mjs", origin=origin, url=hapta.url, token=account.token, vaultId=vault)
    answers = found["answers"]
    assert {name: answer.get("status") for name, answer in answers.items()} == {
        "plain": 200, "push": 200, "pull": 200, "vaults": 200, "remove": 200, "error": 404
    }  # fmt: skip
    assert [log["encryptedData"] for log in answers["pull"]["body"]["logs"]] == ["aGk="]
    # A page also reads why it was refused, and the id to ask about.
    assert answers["error"]["body"]["error"] == "Vault key not found"
    assert answers["error"]["requestId"]
    assert set(found["preflights"]) == {
        "/sync/push", "/sync/pull", "/sync/vaults", f"/sync/vault/{vault}", "/sync/vault-key/none"
    }  # fmt: skip


def test_a_list_of_origins_lets_their_pages_in_and_no_other(
    browser: Browser, new_hapta: Callable[..., HaptaServer], new_origin: Callable[[], str]
) -> None:
    ours, another = new_origin(), new_origin()
    hapta = new_hapta(env={"CORS_ORIGIN": f"https://app.example, {ours}"})
    hapta.start()
    account = register(hapta)
    call_from(browser, hapta, account, ours)
    vault = str(uuid.uuid4())
    found = browser.visit("cors.mjs", origin=another, url=hapta.url, token=account.token, vaultId=vault)
    assert found["answers"] == {name: {"refused": "TypeError"} for name in found["answers"]}
    assert f"/sync/vault/{vault}" in found["preflights"]
    # Refused before it was sent: the push has not happened.
    headers = {"authorization": f"Bearer {account.token}"}
    assert vault not in httpx.get(f"{hapta.url}/sync/vaults", headers=headers).text


def test_a_page_hears_over_its_socket_that_another_device_pushed(
    browser: Browser, hapta: HaptaServer, account: Account, new_origin: Callable[[], str]
) -> None:
    vault = str(uuid.uuid4())
    found = browser.visit("socket.mjs", origin=new_origin(), url=hapta.url, token=account.token, vaultId=vault)
    assert found["refused"] == [{"type": "closed", "code": 4401}]
    assert [(frame["type"], frame["head"]) for frame in found["subscribed"]] == [("subscribed", 0)]
    assert found["pushed"] == 1
    assert found["hint"] == {"type": "logs", "vaultId": vault, "head": 1, "deviceId": "another-device"}
