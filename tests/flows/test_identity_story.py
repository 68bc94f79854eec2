"""The whole of identity and OAuth on one server: in two databases, and without a secret in any line that is written."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from hapta.kit.logs import configure
from hapta.settings import LogSettings
from hapta.testing.server import TestHapta
from tests.flows.identity_story import EMAIL, PASSWORD, Story
from tests.identity.test_two_databases import split


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the process logs, from the lowest level on."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    stream = io.StringIO()
    configure(LogSettings(level="debug", format="json"), stream)
    of_the_client = logging.getLogger("httpx")
    of_the_client.disabled = True
    yield stream
    of_the_client.disabled = False
    root.handlers[:], root.level = handlers, level
    structlog.configure(**before)


async def test_everything_works_with_each_side_in_a_database_of_its_own(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        auth_url = f"sqlite:///{tmp_path / 'auth.db'}"
    else:
        new: Callable[[], str] = request.getfixturevalue("new_postgres_url")
        auth_url = new()
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url, "HAPTA_DATABASE_AUTH_URL": auth_url}) as hapta:
        await split(hapta.app.services.db, hapta.app.services.auth_db)
        await Story(hapta).everything()


async def test_no_secret_is_in_any_line_that_is_logged(
    tmp_path: Path, lines: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    async with TestHapta(tmp_path, {"HAPTA_LOG_ACCESS": "true"}) as hapta:
        story = Story(hapta)
        await story.everything()
        for secret in story.secrets:  # where clients should never put them, but do
            await hapta.http.get("/oauth/userinfo", params={"access_token": secret})
            await hapta.http.get("/identity/v1/me", headers={"authorization": f"Bearer {secret}"})
            await hapta.http.get("/identity/v1/me", params={"access_token": secret})
        wrong = {"identifier": EMAIL, "password": PASSWORD + "!"}
        await hapta.http.post("/identity/v1/login", json=wrong)
    written = lines.getvalue() + capfd.readouterr().err
    assert "/oauth/token" in written  # the access log is among it
    assert len(story.secrets) > 15
    for secret in story.secrets:
        assert secret not in written, secret


async def test_no_secret_and_no_address_is_in_any_event(tmp_path: Path) -> None:
    async with TestHapta(tmp_path) as hapta:
        story = Story(hapta)
        await story.everything()
        services = hapta.app.services
        audit = services.signing_in.audit
        kept = b"".join([line async for line in audit.export()]).decode()
    assert kept.count("auth.login.succeeded") == 1
    assert "auth.consent.granted" in kept
    assert EMAIL not in kept
    for secret in story.secrets:
        assert secret not in kept, secret
