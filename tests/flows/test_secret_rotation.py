"""The server's secret is replaced, server by server and under load: nobody is signed out, and nothing stored is lost.

Two servers share a database and are started anew one after the other, as an operator does it (docs/operations.md, the secret).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from hapta.db.database import WriteTx
from hapta.identity.factors.totp import STEP_SECONDS, code_at
from hapta.identity.models import Origin
from hapta.identity.webhooks.models import NewWebhook
from hapta.kit.ids import RandomIds
from hapta.kit.keyring import Keyring
from hapta.kit.tokens import ring, sign
from hapta.settings import SettingsError
from hapta.testing.clock import FakeClock
from hapta.testing.server import PASSWORD as ACCOUNT_PASSWORD
from hapta.testing.server import Account, TestHapta
from tests.flows.identity_story import EMAIL, PASSWORD, URL, Story
from tests.identity.page_house import Visitor

FIRST, SECOND, THIRD = (f"the {number} secret of this server, in tests only" for number in ("first", "second", "third"))
STEPS = [(FIRST, SECOND), (SECOND, FIRST), (SECOND, "")]
"""What an operator sets, one after the other: announce the next secret, change over, take the former one away."""
AHEAD = 12
"""So many more times than the slowest of them may each way of calling be called: a load of all of them, not of the quickest."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Front:
    """Several servers behind one address: each request goes to the next of those that serve."""

    def __init__(self, folder: Path, database_url: str, clock: FakeClock) -> None:
        self.live: list[TestHapta] = []
        self._stacks: list[AsyncExitStack] = []
        self._folder, self._url, self._clock = folder, database_url, clock
        self._turn = itertools.count()
        self._under_way: dict[int, int] = {}
        self._ended = asyncio.Event()
        transport = httpx.ASGITransport(cast(Any, self), raise_app_exceptions=True)
        self.http = httpx.AsyncClient(transport=transport, base_url=URL, timeout=120)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        server = self.live[next(self._turn) % len(self.live)]
        self._under_way[id(server)] = self._under_way.get(id(server), 0) + 1
        try:
            await server.app(scope, receive, send)
        finally:
            self._under_way[id(server)] -= 1
            self._ended.set()

    @property
    def app(self) -> Any:
        return self

    @property
    def services(self) -> Any:
        return self.live[0].app.services

    async def start(self, secret: str, previous: str = "") -> TestHapta:
        """One more server, which serves from now on."""
        environ = {"DATABASE_URL": self._url, "JWT_SECRET": secret, "JWT_SECRET_PREVIOUS": previous}
        server = TestHapta(self._folder, environ, clock=self._clock, ids=RandomIds())
        stack = AsyncExitStack()
        await stack.enter_async_context(server)
        self._stacks.append(stack)
        self.live.append(server)
        return server

    async def stop_oldest(self) -> None:
        """The server that has run longest ends, after what it was asked."""
        server, stack = self.live.pop(0), self._stacks.pop(0)
        while self._under_way.get(id(server)):
            self._ended.clear()
            await self._ended.wait()
        await stack.aclose()

    async def close(self) -> None:
        await self.http.aclose()
        while self.live:
            await self.stop_oldest()


@pytest.fixture
async def front(tmp_path: Path, database_url: str, clock: FakeClock) -> AsyncIterator[Front]:
    made = Front(tmp_path, database_url, clock)
    yield made
    await made.close()


def visitor(front: Front) -> Visitor:
    return Visitor(cast(Any, SimpleNamespace(app=front, url=URL)))


async def enrolled(front: Front, clock: FakeClock) -> tuple[bytes, list[str]]:
    """The seed and the recovery codes of an account that has set up a second factor."""
    body = {"email": "eve@example.org", "password": PASSWORD}
    assert (await front.http.post("/identity/v1/register", json=body)).status_code == 202
    login = {"identifier": "eve@example.org", "password": PASSWORD}
    access = (await front.http.post("/identity/v1/login", json=login)).json()["data"]["accessToken"]
    headers = {"authorization": f"Bearer {access}"}
    text = (await front.http.post("/identity/v1/mfa/totp", headers=headers)).json()["data"]["secret"]
    seed = base64.b32decode(text + "=" * (-len(text) % 8))
    code = code_at(seed, int(clock.now()) // STEP_SECONDS)
    done = await front.http.post("/identity/v1/mfa/totp/confirm", json={"code": code}, headers=headers)
    assert done.status_code == 200, done.text
    return seed, done.json()["data"]["recoveryCodes"]


async def half_done(front: Front) -> str:
    login = {"identifier": "eve@example.org", "password": PASSWORD}
    answer = await front.http.post("/identity/v1/login", json=login)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["mfaToken"]


async def second(front: Front, token: str, code: str) -> int:
    return (await front.http.post("/identity/v1/login/second", json={"mfaToken": token, "code": code})).status_code


async def test_no_request_is_refused_while_the_secret_changes_under_load(front: Front, clock: FakeClock) -> None:
    await front.start(FIRST)
    await front.start(FIRST)
    story = await Story(cast(Any, front)).begin()
    await story.sign_in()
    await story.redeem(await story.authorize())
    synced = Account(front.http, (await _registered(front, "sync@example.org")).json(), ACCOUNT_PASSWORD)
    _, codes = await enrolled(front, clock)
    login = {"identifier": EMAIL, "password": PASSWORD}
    tokens = (await front.http.post("/identity/v1/login", json=login)).json()["data"]
    page = visitor(front)

    async def use_and_refresh_session() -> None:
        body = {"refreshToken": tokens["refreshToken"]}
        answer = await front.http.post("/identity/v1/refresh", json=body)
        assert answer.status_code == 200, answer.text
        tokens.update(answer.json()["data"])
        for _ in front.live:
            me = await front.http.get("/identity/v1/me", headers={"authorization": f"Bearer {tokens['accessToken']}"})
            assert me.status_code == 200, me.text

    async def use_and_refresh_app_token() -> None:
        assert (await story.userinfo()).status_code == 200
        await story.refresh()

    async def use_sync_token() -> None:
        answer = await synced.get("/devices")
        assert answer.status_code == 200, answer.text

    async def sign_in_by_page() -> None:
        answer = await page.sign_in(EMAIL, PASSWORD)
        assert answer.status_code == 303, answer.text
        assert (await page.http.get("/identity/v1/sessions")).status_code == 200
        await page.open("/identity/logout")
        assert (await page.submit("/identity/logout")).status_code == 303

    calls: list[Callable[[], Awaitable[None]]] = [
        use_and_refresh_session,
        use_and_refresh_app_token,
        use_sync_token,
        sign_in_by_page,
    ]
    counts = [0] * len(calls)
    over, counted = asyncio.Event(), asyncio.Event()

    async def again_and_again(number: int) -> None:
        while not over.is_set():
            if counts[number] > min(counts) + AHEAD:
                counted.clear()
                await counted.wait()
                continue
            await calls[number]()
            counts[number] += 1
            counted.set()

    waiting = await half_done(front)
    async with asyncio.TaskGroup() as group:
        for number in range(len(calls)):
            group.create_task(again_and_again(number))
        for secret, previous in STEPS:
            for _ in range(2):  # one server after the other
                before = list(counts)
                await front.start(secret, previous)
                await front.stop_oldest()
                while any(now < then + 3 for now, then in zip(counts, before, strict=True)):
                    counted.clear()
                    await counted.wait()
                if previous == FIRST:
                    # Nothing renews a token of the sync dialect: an operator waits until the last one is over.
                    synced.token = (await _logged_in(front, synced.email)).token
                if previous:
                    # A login that was begun before the change is ended after it.
                    assert await second(front, waiting, codes.pop()) == 200
                    waiting = await half_done(front)
        over.set()
        counted.set()
    assert min(counts) >= 18


async def test_what_is_stored_outlives_two_changes_without_the_first_secret(front: Front, clock: FakeClock) -> None:
    await front.start(FIRST)
    seed, codes = await enrolled(front, clock)
    salt = await _salt(front)
    new = NewWebhook(url="https://hook.example/x", ed25519=True)
    issued = await front.services.signing_in.webhooks.add(new, "operator", Origin())
    story = await Story(cast(Any, front)).begin()
    await _call_by_pairs(front, story.app.client.client_id)
    await front.stop_oldest()
    await front.start(FIRST)
    subject = await _subject(front, story)
    assert len(subject) == 43
    identity = front.services.signing_in
    end = (await identity.audit.verify()).end
    steps = [(FIRST, SECOND), (SECOND, FIRST), (SECOND, ""), (THIRD, SECOND), (THIRD, "")]
    for secret, previous in steps:
        await front.stop_oldest()
        await front.start(secret, previous)
        clock.advance(seconds=2 * STEP_SECONDS)
        code = code_at(seed, int(clock.now()) // STEP_SECONDS)
        assert await second(front, await half_done(front), code) == 200
        assert await second(front, await half_done(front), codes.pop()) == 200
        assert await _salt(front) == salt
        identity = front.services.signing_in
        webhook = await identity.webhooks.get(issued.webhook.id)
        assert identity.webhooks.public_key(webhook) == issued.public_key  # it opens
        verdict = await identity.audit.verify(end)
        assert verdict.faults == []
        end = verdict.end
        assert await _subject(front, story) == subject
    await front.stop_oldest()
    for secret in (FIRST, SECOND):
        with pytest.raises(SettingsError, match=r"identity\.jwt_secret_previous"):
            await front.start(secret)


async def test_a_token_of_a_former_secret_counts_as_long_as_that_is_given(front: Front, clock: FakeClock) -> None:
    await front.start(FIRST)
    account = Account(front.http, (await _registered(front, "ada@example.org")).json(), ACCOUNT_PASSWORD)
    assert (await account.get("/devices")).status_code == 200
    await front.stop_oldest()
    await front.start(SECOND, FIRST)
    assert (await account.get("/devices")).status_code == 200
    await front.stop_oldest()
    await front.start(SECOND)
    assert (await account.get("/devices")).status_code == 401
    claims = {"sub": account.id, "type": "access", "exp": clock.now() + 60}
    made_up = sign(claims, ring(Keyring(FIRST), "access-token", "access-token-kid")[0])
    account.token = made_up
    assert (await account.get("/devices")).status_code == 401


async def _registered(front: Front, email: str) -> httpx.Response:
    answer = await front.http.post("/auth/register", json={"email": email, "password": ACCOUNT_PASSWORD})
    assert answer.status_code == 201, answer.text
    return answer


async def _logged_in(front: Front, email: str) -> Account:
    answer = await front.http.post("/auth/login", json={"email": email, "password": ACCOUNT_PASSWORD})
    assert answer.status_code == 200, answer.text
    return Account(front.http, answer.json(), ACCOUNT_PASSWORD)


async def _salt(front: Front) -> str:
    """What the server makes up for an account that is not there: it must never change, or its absence shows."""
    answer = await front.http.post("/auth/prelogin", json={"email": "nobody@example.org"})
    assert answer.status_code == 200, answer.text
    return answer.text


async def _call_by_pairs(front: Front, client_id: str) -> None:
    """Makes a client one that gets a `sub` of its own for each person."""

    async def body(tx: WriteTx) -> None:
        text = await tx.fetch_value("SELECT metadata FROM auth_clients WHERE client_id = :id", id=client_id)
        metadata = json.dumps({**json.loads(text), "subject_type": "pairwise", "sector": "app.example"})
        sql = "UPDATE auth_clients SET metadata = :metadata WHERE client_id = :id"
        await tx.execute(sql, metadata=metadata, id=client_id)

    await front.services.auth_db.write(body)


async def _subject(front: Front, story: Story) -> str:
    """What the app knows the person by, who comes with another browser each time."""
    story.browser = visitor(front)
    await story.sign_in()
    await story.redeem(await story.authorize())
    answer = await story.userinfo()
    assert answer.status_code == 200, answer.text
    return answer.json()["sub"]
