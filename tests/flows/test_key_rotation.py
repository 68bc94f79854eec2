"""Signing keys change under load over HTTP: no token that is alive is refused, and a revoked key's tokens are refused at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hapta.oauth.feature import OAuth
from hapta.oauth.keys.service import JWKS_SECONDS, POLL_SECONDS
from hapta.testing.clock import FakeClock
from hapta.testing.server import TestHapta
from tests.flows.identity_story import Story

TOKEN_SECONDS = 600
STEP_SECONDS = 150


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def kid_of(token: str) -> str:
    return token.partition(".")[0]


async def rotate(oauth: OAuth) -> None:
    await oauth.keys.rotate()


async def status_of(hapta: TestHapta, token: str) -> int:
    answer = await hapta.http.get("/oauth/userinfo", headers={"authorization": f"Bearer {token}"})
    return answer.status_code


async def test_no_living_token_is_refused_while_keys_rotate_under_load(tmp_path: Path, clock: FakeClock) -> None:
    async with TestHapta(tmp_path, clock=clock) as hapta:
        story = await Story(hapta).begin()
        await story.sign_in()
        await story.redeem(await story.authorize())
        oauth = hapta.app.services.oauth
        assert oauth is not None
        living: list[tuple[float, str]] = []
        heads: set[str] = set()
        for step in range(60):
            tokens = await story.refresh()
            heads.add(kid_of(tokens["access_token"]))
            living.append((clock.now() + TOKEN_SECONDS, tokens["access_token"]))
            living = [(ends, token) for ends, token in living if ends > clock.now()]
            calls = [status_of(hapta, token) for _, token in living * 2]
            rotation = asyncio.create_task(rotate(oauth) if step % 10 == 5 else asyncio.sleep(0))
            assert {*await asyncio.gather(*calls)} == {200}, step
            await rotation
            published = {key["kid"] for key in (await hapta.http.get("/oauth/jwks")).json()["keys"]}
            active = {key.kid for key in await oauth.keys.list_keys() if key.state == "active"}
            assert active <= published
            clock.advance(seconds=STEP_SECONDS)
        assert len(heads) > 3  # it did rotate
        assert JWKS_SECONDS < 60 * STEP_SECONDS


async def test_an_emergency_revocation_ends_a_keys_tokens_on_every_worker_within_two_seconds(
    tmp_path: Path, database_url: str, clock: FakeClock
) -> None:
    (tmp_path / "other").mkdir()
    environ = {"DATABASE_URL": database_url}
    async with (
        TestHapta(tmp_path, environ, clock=clock) as hapta,
        TestHapta(
            tmp_path / "other", environ, clock=clock
        ) as other,  # with a bus of its own: only the database joins them
    ):
        story = await Story(hapta).begin()
        await story.sign_in()
        tokens = await story.redeem(await story.authorize())
        bad = tokens["access_token"]
        assert await status_of(hapta, bad) == await status_of(other, bad) == 200
        keys = other.app.services.oauth
        assert keys is not None
        (active,) = [key for key in await keys.keys.list_keys() if key.state == "active" and key.alg == "ES256"]
        await keys.keys.revoke(active.kid)
        assert await status_of(other, bad) == 401
        assert POLL_SECONDS < 2
        mine = hapta.app.services.oauth
        assert mine is not None
        await mine.keys.refresh()  # what its poll does each second
        assert await status_of(hapta, bad) == 401
        fresh = await story.refresh()
        assert await status_of(hapta, fresh["access_token"]) == await status_of(other, fresh["access_token"]) == 200
        assert kid_of(fresh["access_token"]) != kid_of(bad)
