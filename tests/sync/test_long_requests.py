"""Exports and imports end with the session that began them, wherever they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.kit.errors import InvalidToken, Unauthenticated
from hapta.testing.server import Account, TestHapta
from tests.sync.house import OTHER, USER, VAULT, House

pytestmark = pytest.mark.anyio


async def numbers(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d" % number


@pytest.mark.parametrize(("user", "session", "ends"), [
    (USER, "session of token", True),
    (USER, None, True),
    (USER, "another session", False),
    (OTHER, "session of token", False),
])  # fmt: skip
async def test_a_request_ends_with_its_own_session_alone(
    house: House, user: str, session: str | None, ends: bool
) -> None:
    requests = house.sync.long_requests
    async with requests.running(house.tokens.add("token"), "token") as running:
        chunks = running.through(numbers(3))
        assert await anext(chunks) == b"0"
        requests.on_revoked(user, session)
        if ends:
            with pytest.raises(InvalidToken):
                await anext(chunks)
        else:
            assert [chunk async for chunk in chunks] == [b"1", b"2"]


async def test_a_request_ends_when_its_token_runs_out(house: House) -> None:
    caller = house.tokens.add("token", expires_at=house.clock.now() + 60)
    async with house.sync.long_requests.running(caller, "token") as running:
        chunks = running.through(numbers(2))
        assert await anext(chunks) == b"0"
        house.clock.advance(seconds=60)
        with pytest.raises(InvalidToken):
            await anext(chunks)


async def test_a_session_that_ended_before_the_request_was_registered_is_noticed(house: House) -> None:
    caller = house.tokens.add("token")
    house.tokens.callers.clear()
    with pytest.raises(Unauthenticated):
        async with house.sync.long_requests.running(caller, "token"):
            pytest.fail("it must not begin")


def logs(count: int) -> list[dict[str, str]]:
    return [{"encryptedData": f"log {number}", "nonce": "n", "haexTimestamp": "t/1"} for number in range(count)]


@pytest.fixture
async def hapta(tmp_path: Path, database_url: str) -> AsyncIterator[TestHapta]:
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}) as running:
        yield running


async def test_an_import_is_refused_from_the_logout_on_and_keeps_what_was_committed(hapta: TestHapta) -> None:
    alice = await hapta.register("alice@example.org")
    assert (await alice.post("/sync/push", json={"vaultId": VAULT, "logs": logs(1200)})).status_code == 200
    lines = (await alice.get("/export")).content.splitlines(keepends=True)
    bob = await hapta.register("bob@example.org")

    async def body() -> AsyncIterator[bytes]:
        yield b"".join(lines[:1100])
        assert (await bob.post("/auth/logout")).status_code == 200
        yield b"".join(lines[1100:])

    answer = await bob.post("/import", content=body(), headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    again = await hapta.login("bob@example.org")
    (vault,) = (await again.get("/sync/vaults")).json()["vaults"]
    assert vault["logCount"] == 1000


async def test_an_export_breaks_off_after_the_logout(hapta: TestHapta) -> None:
    alice = await hapta.register("alice@example.org")
    assert (await alice.post("/sync/push", json={"vaultId": VAULT, "logs": logs(1200)})).status_code == 200
    received: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        received.append(message)
        if len(received) == 3:  # the start and two chunks
            assert (await alice.post("/auth/logout")).status_code == 200

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    with pytest.raises(InvalidToken):
        await hapta.app(export_scope(alice), receive, send)
    text = b"".join(message.get("body", b"") for message in received)
    kinds = [msgspec.json.decode(line)["type"] for line in text.splitlines()]
    assert kinds == ["export", "vault"]
    assert received[-1]["more_body"]


def export_scope(account: Account) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/export",
        "raw_path": b"/export",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {account.token}".encode())],
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "http_version": "1.1",
        "extensions": {},
    }
