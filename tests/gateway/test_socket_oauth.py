"""Signing in by a provider of somebody else's making, over the socket of a whole server (contract gateway, B.9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.socket_house import environment, open_socket
from tests.gateway.test_oauth2 import connect_provider, provider
from tests.servers import HaptaServer

NewPocketBase = Callable[[], PocketBaseHouse]
NewHapta = Callable[..., HaptaServer]


@contextmanager
def signing_in(
    new_pocketbase: NewPocketBase, new_hapta: NewHapta, account: str, **env: str
) -> Iterator[tuple[HaptaServer, PocketBaseHouse]]:
    """A server in front of a PocketBase of its own that knows a provider at which everybody is this account."""
    house = new_pocketbase()
    server = new_hapta(env=environment(house) | env)
    server.start()
    with provider(account, f"{server.url}/api/oauth2-redirect") as issuer:
        connect_provider(house, issuer)
        yield server, house


def browse(address: str) -> str:
    """The page on which a browser ends."""
    with httpx.Client(follow_redirects=True) as http:
        return http.get(address).text


@pytest.mark.parametrize("meta", ["false", "true"])
async def test_a_sign_in_streams_over_the_socket_and_keeps_the_providers_tokens(
    new_pocketbase: NewPocketBase, new_hapta: NewHapta, meta: str
) -> None:
    with signing_in(new_pocketbase, new_hapta, "carol", HAPTA_GATEWAY_OAUTH_META=meta) as (server, _):
        async with open_socket(server) as talk:
            asked = await talk.send("oauth.start", {"provider": "oidc", "scopes": ["openid", "email", "profile"]})
            told = await talk.answer(asked)
            assert told["type"] == "oauth.url"
            query = parse_qs(urlsplit(told["payload"]["url"]).query)
            assert query["redirect_uri"] == [f"{server.url}/api/oauth2-redirect"]
            assert query["scope"] == ["openid email profile"]
            assert len(query["state"][0]) >= 32
            assert "codeVerifier" not in str(told)
            assert "You can go back" in await asyncio.to_thread(browse, told["payload"]["url"])
            done = await talk.answer(asked)
            assert (done["type"], done["ok"]) == ("oauth.done", True), done
            found: dict[str, Any] = done["payload"]
            assert found["record"]["email"] == "carol@example.test"
            assert found["meta"]["isNew"] is True
            assert ("accessToken" in found["meta"], "rawUser" in found["meta"]) == ((meta == "true"),) * 2
            assert (await talk.done("authUpdate"))["id"] == found["record"]["id"]
            # Whose it is, it stays.
            assert await talk.refused("oauth.start", {"provider": "oidc"}) == (106, 403)
        async with open_socket(server, found["token"]) as again:
            await again.done("ping")


async def test_a_provider_that_says_no_and_a_state_of_somebody_else_sign_nobody_in(
    new_pocketbase: NewPocketBase, new_hapta: NewHapta
) -> None:
    with signing_in(new_pocketbase, new_hapta, "", TRUST_PROXY="1") as (server, _):
        async with open_socket(server) as talk:
            asked = await talk.send("oauth", data={"provider": "oidc"})
            url = (await talk.answer(asked))["payload"]["url"]
            state = parse_qs(urlsplit(url).query)["state"][0]
            back = f"{server.url}/api/oauth2-redirect"
            async with httpx.AsyncClient() as http:
                for given, address in ((state, "192.0.2.7"), (state[:-1], "127.0.0.1"), ("", "127.0.0.1")):
                    answer = await http.get(
                        back, params={"state": given, "code": "c"}, headers={"x-forwarded-for": address}
                    )
                    assert answer.headers["location"].endswith("failure")
            assert "That did not work" in await asyncio.to_thread(browse, url)
            told = await talk.answer(asked)
            assert (told["type"], told["error"]["code"]) == ("oauth.error", 200)
            assert told["error"]["data"] == {"provider": "access_denied"}
            # Once, and no more.
            async with httpx.AsyncClient() as http:
                answer = await http.get(back, params={"state": state, "code": "c"})
                assert answer.headers["location"].endswith("failure")
            assert await talk.refused("ping") == (304, 401)


async def test_a_second_try_takes_the_place_of_the_first_and_wishes_are_bounded(
    new_pocketbase: NewPocketBase, new_hapta: NewHapta
) -> None:
    with signing_in(new_pocketbase, new_hapta, "dora") as (server, _):
        async with open_socket(server) as talk:
            assert await talk.refused("oauth.start", {"provider": "nobody"}) == (103, 400)
            assert await talk.refused("oauth.start", {}) == (1000, 400)
            elsewhere = {"provider": "oidc", "redirectUrl": "https://elsewhere.example/api/oauth2-redirect"}
            assert await talk.refused("oauth.start", elsewhere) == (103, 400)
            assert await talk.refused("oauth.start", {"provider": "oidc", "scopes": ["a b"]}) == (1003, 400)
            first = await talk.send("oauth.start", {"provider": "oidc"})
            assert (await talk.answer(first))["ok"]
            second = await talk.send("oauth.start", {"provider": "oidc"})
            url = (await talk.answer(second))["payload"]["url"]
            assert (await talk.answer(first))["type"] == "oauth.error"
            await asyncio.to_thread(browse, url)
            assert (await talk.answer(second))["payload"]["record"]["email"] == "dora@example.test"
