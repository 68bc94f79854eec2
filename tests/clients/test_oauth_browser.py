"""A person in a real browser, from the sign-up to the sign-out; every page is readable for everybody (contract identity, section 32)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.node import Browser
from tests.clients.oauth_house import BYE, CALLBACK, PASSWORD, SCOPES, OAuthServer
from tests.servers import Run


@pytest.fixture
def house(server_run: Run) -> Iterator[OAuthServer]:
    oauth = OAuthServer(server_run)
    with oauth.server:
        yield oauth
        print(oauth.server.log_tail())


def test_a_person_signs_up_allows_an_app_some_things_connects_a_device_and_leaves(
    browser: Browser, house: OAuthServer
) -> None:
    outbox = house.server.data / "outbox"
    outbox.mkdir(exist_ok=True)
    shots = os.environ.get("SCREENSHOTS")  # a folder, to look at the pages
    found = browser.visit(
        "oauth_pages.mjs",
        url=house.url,
        client=house.client("public"),
        telly=house.client("device"),
        callback=CALLBACK,
        bye=BYE,
        email="ada@example.org",
        password=PASSWORD,
        scope=SCOPES,
        outbox=str(outbox),
        shots=str(Path(shots)) if shots else None,
    )

    assert found["faults"] == []
    assert found["violations"] == []
    assert all(title.strip() and "·" in title for _, title in found["seen"]), found["seen"]
    assert (found["back"]["state"], found["back"]["iss"]) == ("s", house.url)
    assert "posts:write" not in found["tokens"]["scope"].split()
    assert set(found["tokens"]["scope"].split()) == set(SCOPES.split()) - {"posts:write"}
    assert found["device"]["scope"] == SCOPES
    assert found["account"]["account"] == 200
    assert "ada@example.org" in found["account"]["text"]
    assert "The public app" in found["account"]["text"]
    assert found["left"] == f"{BYE}?state=x"
    assert found["silent"] == "login_required"
    assert found["without"] == "access_denied"
    # Besides the wrong codes and passwords, which browsers note down as errors, nothing went wrong.
    assert all("status of 4" in error for error in found["errors"]), found["errors"]
