"""The way back from OAuth2 providers, with the official SDK and a provider of somebody else's making."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hapta.bus.memory import MemoryBus
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request, Table
from hapta.http.errors import POCKETBASE
from hapta.kit.access import VISITOR
from tests.clients.node import Node
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.realtime_house import PATIENCE_SECONDS, RealtimeHouse
from tests.servers import free_port

NewPocketBase = Callable[[], PocketBaseHouse]
HERE = {"x-forwarded-for": "192.0.2.1"}


@pytest.fixture
async def house(pocketbase: PocketBaseHouse) -> AsyncIterator[RealtimeHouse]:
    async with RealtimeHouse(pocketbase).serving() as house:
        yield house


class WithLogins(RealtimeHouse):
    """And what is not the subject here, passed on to PocketBase as it is."""

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        table = Table(dialect=POCKETBASE, access=VISITOR, limit="handler", cors="open")
        path = prefix + "/api/collections/{collection}/{action}"
        answers = {200: Content("application/json")}
        return [
            *super().endpoints(prefix),
            table.get(path, self.pass_get, summary="Pass", answers=answers),
            table.post(path, self.pass_post, summary="Pass", answers=answers),
        ]

    async def pass_get(self, request: Request, collection: str, action: str) -> Reply:
        query = request.query_string.decode()
        answer = await self.pb.send("GET", f"/api/collections/{collection}/{action}?{query}")
        return Reply(answer.status, answer.body)

    async def pass_post(self, request: Request, collection: str, action: str, body: BodyStream) -> Reply:
        whole = b"".join([chunk async for chunk in body])
        target = f"/api/collections/{collection}/{action}"
        answer = await self.pb.send("POST", target, body=whole, media_type="application/json")
        return Reply(answer.status, answer.body)


@contextmanager
def provider(account: str, redirect: str) -> Iterator[str]:
    """A provider at which everybody is this account; nobody, where that is empty. Yields its issuer."""
    client = {"client_id": "pocketbase", "client_secret": "a secret of the two", "redirect_uris": [redirect]}
    with Node().start("gateway_provider.mjs", port=free_port(), clients=[client], account=account) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line, process.stderr and process.stderr.read()
            yield json.loads(line)["issuer"]
        finally:
            process.kill()


def connect_provider(pocketbase: PocketBaseHouse, issuer: str) -> None:
    told = {
        "name": "oidc",
        "clientId": "pocketbase",
        "clientSecret": "a secret of the two",
        "authURL": f"{issuer}/auth",
        "tokenURL": f"{issuer}/token",
        "userInfoURL": f"{issuer}/me",
        "pkce": True,
    }
    pocketbase.request("PATCH", "/api/collections/users", {"oauth2": {"enabled": True, "providers": [told]}})


@pytest.mark.parametrize("prefix", ["", "/pb"])
async def test_the_all_in_one_flow_of_the_official_sdk_works_unchanged(
    new_pocketbase: NewPocketBase, prefix: str
) -> None:
    pocketbase = new_pocketbase()
    async with WithLogins(pocketbase).serving() as house:
        with provider("carol", f"{house.url}{prefix}/api/oauth2-redirect") as issuer:
            await asyncio.to_thread(connect_provider, pocketbase, issuer)
            told = await asyncio.to_thread(Node().run, "gateway_oauth2.mjs", base=house.url + prefix)
        assert told.get("record", {}).get("email") == "carol@example.test", told
        assert told["isNew"] is True
        assert told["valid"] is True
        assert told["visited"][-2:] == [f"{prefix}/api/oauth2-redirect", f"{prefix}/api/oauth2-redirect/success"]
        assert "You can go back" in told["page"]


async def test_whoever_says_no_at_the_provider_sees_so_and_the_sdk_hears_of_it(new_pocketbase: NewPocketBase) -> None:
    pocketbase = new_pocketbase()
    async with WithLogins(pocketbase).serving() as house:
        with provider("", f"{house.url}/api/oauth2-redirect") as issuer:
            await asyncio.to_thread(connect_provider, pocketbase, issuer)
            told = await asyncio.to_thread(Node().run, "gateway_oauth2.mjs", base=house.url)
        assert "access_denied" in told["error"]
        assert told["visited"][-1] == "/api/oauth2-redirect/failure"
        assert "That did not work" in told["page"]


async def come_back(house: RealtimeHouse, **parameters: str) -> Any:
    return await house.http.get(house.url + "/api/oauth2-redirect", params=parameters, headers=HERE)


async def test_the_answer_reaches_the_one_who_waits_once_and_under_his_own_state(house: RealtimeHouse) -> None:
    async with house.stream() as stream, house.stream() as other:
        await house.submit(stream, "@oauth2")
        await house.submit(other, "@oauth2")
        first = await come_back(house, state=stream.client_id, code="the code")
        again = await come_back(house, state=stream.client_id, code="another")
        told = await stream.event()
        assert (told.name, told.data) == ("@oauth2", {"state": stream.client_id, "code": "the code"})
        assert (first.status_code, first.headers["location"]) == (307, "oauth2-redirect/success")
        assert (again.status_code, again.headers["location"]) == (307, "oauth2-redirect/failure")
        assert first.headers["cache-control"] == "no-store"
        await come_back(house, state=other.client_id, error="access_denied")
        told = await other.event()
        assert told.data == {"state": other.client_id, "code": "", "error": "access_denied"}
    assert house.upstream.opened == 0


async def test_a_state_that_is_not_a_waiting_client_of_this_browser_is_refused(house: RealtimeHouse) -> None:
    async with house.stream() as waiting, house.stream() as idle, house.stream(address="192.0.2.9") as foreign:
        await house.submit(waiting, "@oauth2")
        await house.submit(idle, "notes/*")
        await house.submit(foreign, "@oauth2", address="192.0.2.9")
        for state in ("", "x", idle.client_id, foreign.client_id, waiting.client_id[:-1], "x" * 5000):
            answer = await come_back(house, state=state, code="the code")
            assert answer.headers["location"] == "oauth2-redirect/failure"
        await house.submit(waiting)
        answer = await come_back(house, state=waiting.client_id, code="the code")
        assert answer.headers["location"] == "oauth2-redirect/failure"


async def test_whoever_only_looks_uses_nothing_up(house: RealtimeHouse) -> None:
    async with house.stream() as stream:
        await house.submit(stream, "@oauth2")
        address = f"{house.url}/api/oauth2-redirect?state={stream.client_id}&code=c"
        assert (await house.http.head(address, headers=HERE)).status_code == 307
        assert (await house.http.get(address, headers=HERE)).headers["location"] == "oauth2-redirect/success"


async def test_pocketbase_sees_the_name_that_apple_posts_and_the_client_gets_the_code(house: RealtimeHouse) -> None:
    async with house.stream() as stream:
        await house.submit(stream, "@oauth2")
        form = {"state": stream.client_id, "code": "of apple", "user": '{"name":{"firstName":"A","lastName":"B"}}'}
        answer = await house.http.post(house.url + "/api/oauth2-redirect", data=form, headers=HERE)
        assert (answer.status_code, answer.headers["location"]) == (303, "oauth2-redirect/success")
        told = await stream.event()
        assert told.data == {"state": stream.client_id, "code": "of apple"}
    # It was told under the id of a stream of ours, which waited for it there.
    assert house.upstream.submitted == [["@oauth2"]]
    assert house.upstream.streams == 0


async def test_the_pages_say_what_happened_and_load_nothing(house: RealtimeHouse) -> None:
    for name, text in (("success", "You can go back"), ("failure", "That did not work")):
        page = await house.http.get(f"{house.url}/pb/api/oauth2-redirect/{name}")
        assert page.status_code == 200
        assert text in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'sha256-" in policy


async def test_the_answer_finds_a_client_at_another_worker(pocketbase: PocketBaseHouse) -> None:
    bus = MemoryBus()
    async with (
        RealtimeHouse(pocketbase, bus).serving() as one,
        RealtimeHouse(pocketbase, bus).serving() as two,
        one.stream() as stream,
    ):
        await one.submit(stream, "@oauth2")
        assert (await come_back(two, state=stream.client_id, code="c")).headers["location"].endswith("success")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await stream.event()).data["code"] == "c"
    await bus.close()
