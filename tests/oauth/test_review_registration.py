"""What a client can make people believe of it: marks that an operator gave, and a publisher that it names itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.oauth.authorize_house import authorize_house
from tests.oauth.clients_house import Workers
from tests.oauth.test_registration import PUBLIC, bearer, calling


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"client_name": "Your bank"}, False),
        ({"redirect_uris": ["https://evil.example/cb"]}, False),
        ({"redirect_uris": ["https://app.example/another"]}, True),
    ],
)
async def test_a_mark_of_the_operator_is_for_the_name_and_the_places_that_they_saw(
    workers: Workers, changes: dict[str, Any], kept: bool
) -> None:
    worker = await workers.new(registration="open")
    async with calling(worker) as http:
        made = (await http.post("/oauth/register", json=PUBLIC)).json()
        client_id, own = made["client_id"], bearer(made["registration_access_token"])
        known = await worker.clients.get(client_id)
        await worker.clients.replace(msgspec.structs.replace(known, verified=True, first_party=True))
        answer = await http.put(f"/oauth/register/{client_id}", json={**PUBLIC, **changes}, headers=own)
    assert answer.status_code == 200, answer.text
    client = await worker.clients.get(client_id)
    assert (client.verified, client.first_party) == (kept, kept)


@pytest.mark.parametrize(
    ("verified", "client_uri", "shown"),
    [
        (False, "https://bank.example/", False),
        (False, "https://app.example/about", True),
        (True, "https://bank.example/", True),
    ],
)
async def test_nobody_is_named_as_publisher_on_the_word_of_the_app_alone(
    database_url: str, tmp_path: Path, verified: bool, client_uri: str, shown: bool
) -> None:
    async with authorize_house(database_url, tmp_path) as house:
        client = await house.client(client_uri=client_uri, verified=verified)
        page = await (await house.visitor()).get(house.url(client))
        assert page.status_code == 200
        assert ("Published at" in page.text) == shown
