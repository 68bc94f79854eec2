"""Resumable uploads by the official client of tus, in a browser, from an app's page on another origin."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from tests.clients.conftest import Account, register
from tests.clients.node import Browser
from tests.servers import HaptaServer

SIZE = 2_000_000


def test_the_official_client_uploads_and_takes_up_what_was_cut_off(
    browser: Browser, hapta: HaptaServer, account: Account, new_origin: Callable[[], str]
) -> None:
    found = browser.visit("tus.mjs", origin=new_origin(), server=hapta.url, token=account.token, size=SIZE)
    assert found["violations"] == []
    for name in ("whole", "resumed", "retried", "deferred"):
        assert found[f"{name}Same"] is True, found[name]
        assert found[name]["file"]
    assert found["whole"]["statuses"].count("POST 201") == 1
    assert found["cut"]["cut"] is True
    # Of what had come through before the cut nothing was sent twice.
    assert "POST 201" not in found["resumed"]["statuses"]
    assert found["resumed"]["offsets"][-1] > 0
    assert found["refused"] == 400
    assert found["ended"] == 404
    files = httpx.get(f"{hapta.url}/v1/uploads", headers={"authorization": f"Bearer {account.token}"}).json()["files"]
    assert [(file["originalName"], file["size"]) for file in files] == [("notes.txt", SIZE)] * 4


def test_an_upload_outlives_kill_9_of_the_server(
    browser: Browser, new_hapta: Callable[..., HaptaServer], new_origin: Callable[[], str]
) -> None:
    server = new_hapta(env={"HAPTA_RATELIMIT_ENABLED": "false"})
    server.start()
    account, origin = register(server), new_origin()
    given = {"origin": origin, "server": server.url, "token": account.token, "size": SIZE}
    left = browser.visit("tus.mjs", leave=True, **given)["left"]
    assert left["cut"] is True
    server.kill()
    server.start()
    found = browser.visit("tus.mjs", url=left["url"], **given)
    assert found["same"] is True
    assert found["resumed"]["offsets"][0] >= SIZE // 4
    assert found["errors"] == []
