"""A passkey in a real browser with a virtual authenticator, on the pages as they are served."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from tests.clients.conftest import PASSWORD
from tests.clients.node import Browser
from tests.servers import HaptaServer, Run, free_port

EMAIL = "ada@example.org"


@pytest.fixture
def house(server_run: Run) -> Iterator[HaptaServer]:
    """A server that people reach as `localhost`: passkeys need a name, and no address of digits has one."""
    port = free_port()
    env = {"HAPTA_RATELIMIT_ENABLED": "false", "HAPTA_SERVER_PUBLIC_URL": f"http://localhost:{port}"}
    with HaptaServer(server_run, port=port, env=env) as server:
        yield server
        print(server.log_tail())


def test_a_passkey_is_made_and_signs_in_by_button_by_offer_and_as_second_step(
    browser: Browser, house: HaptaServer
) -> None:
    url = f"http://localhost:{house.port}"
    made = httpx.post(f"{house.url}/auth/register", json={"email": EMAIL, "password": PASSWORD}, timeout=120)
    assert made.status_code == 201, made.text
    found = browser.visit(
        "passkeys.mjs", url=url, email=EMAIL, password=PASSWORD, shots=os.environ.get("SCREENSHOTS", "")
    )
    assert (found["added"], found["kept"], found["resident"], found["codes"]) == (1, 1, True, 10)
    assert found["violations"] == []
    assert found["errors"] == []
    assert found["origins"] == [url]
