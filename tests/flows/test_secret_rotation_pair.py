"""The secret of a pair is replaced, one server at a time: at every point between two restarts they understand each other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.faults.pair import PASSWORD, NewHapta, Pair, new_pair
from tests.servers import HaptaServer


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=120) as client:
        yield client


def restarted(new_hapta: NewHapta, server: HaptaServer, role: str, secret: str, previous: str) -> HaptaServer:
    server.stop()
    env = {**server.env, "JWT_SECRET": secret, "JWT_SECRET_PREVIOUS": previous}
    again = new_hapta(port=server.port, env=env, args=["--role", role], data=server.data)
    again.start()
    return again


def statuses(http: httpx.Client, pair: Pair, token: str) -> list[int]:
    """Of a request that the resource server judges itself, one that is relayed, and one that asks both."""
    headers = {"authorization": f"Bearer {token}"}
    return [
        http.get(pair.url + path, headers=headers).status_code for path in ("/devices", "/auth/me", "/auth/sessions")
    ]


@pytest.mark.parametrize("check", ["local", "delegate"])
def test_a_pair_changes_its_secret_one_server_after_the_other(
    new_hapta: NewHapta, http: httpx.Client, new_postgres_url: Callable[[], str], check: str
) -> None:
    databases = {}
    if check == "delegate":
        databases = {"DATABASE_URL": new_postgres_url(), "HAPTA_DATABASE_AUTH_URL": new_postgres_url()}
    pair = new_pair(new_hapta, HAPTA_IDENTITY_TOKEN_CHECK=check, **databases)
    old, new = pair.auth.env["JWT_SECRET"], secrets.token_hex(32)
    account = pair.account(http)
    login = {"email": account["email"], "password": PASSWORD}
    salt = http.post(pair.url + "/auth/prelogin", json={"email": "nobody@example.org"}).text
    token = account["token"]
    working = statuses(http, pair, token)
    assert not {401, 503} & {*working}
    for secret, previous in ((old, new), (new, old), (new, "")):
        if not previous:  # a token of the sync dialect is not renewed: the operator waits until the last one is over
            token = http.post(pair.url + "/auth/login", json=login).json()["token"]
        pair = Pair(restarted(new_hapta, pair.auth, "auth", secret, previous), pair.resource, pair.internal_url)
        assert statuses(http, pair, token) == working
        fresh = http.post(pair.url + "/auth/login", json=login)
        assert fresh.status_code == 200, fresh.text
        assert statuses(http, pair, fresh.json()["token"]) == working
        pair = Pair(pair.auth, restarted(new_hapta, pair.resource, "resource", secret, previous), pair.internal_url)
        assert statuses(http, pair, token) == working
        assert statuses(http, pair, fresh.json()["token"]) == working
        assert http.post(pair.url + "/auth/prelogin", json={"email": "nobody@example.org"}).text == salt
    assert statuses(http, pair, account["token"])[:2] == [401, 401]
