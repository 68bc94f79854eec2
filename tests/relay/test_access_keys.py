"""Access keys over HTTP and a socket: statuses, versions, whose session and machine they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.relay.house import Guest, House

pytestmark = pytest.mark.anyio

NOT_FOUND = {"error": "Session or machine not found"}


async def path_of(guest: Guest, machine: str = "m") -> str:
    session = (await guest.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]
    assert (await guest.post("/v1/machines", json={"id": machine, "metadata": "m"})).status_code == 200
    return f"/v1/access-keys/{session['id']}/{machine}"


async def test_a_key_is_made_once_and_changed_by_who_knows_its_version(a: Guest, house: House) -> None:
    path = await path_of(a)
    assert (await a.get(path)).json() == {"accessKey": None}
    missing = await a.put(path, json={"data": "k", "expectedVersion": 0})
    assert (missing.status_code, missing.json()) == (404, {"error": "Access key not found"})

    now = house.clock.now_ms()
    first = {"data": "k1", "dataVersion": 1, "createdAt": now, "updatedAt": now}
    assert (await a.post(path, json={"data": "k1"})).json() == {"success": True, "accessKey": first}
    again = await a.post(path, json={"data": "k2"})
    assert (again.status_code, again.json()) == (409, {"error": "Access key already exists"})

    house.clock.advance(seconds=1)
    assert (await a.put(path, json={"data": "k2", "expectedVersion": 1})).json() == {"success": True, "version": 2}
    stale = await a.put(path, json={"data": "k3", "expectedVersion": 1})
    assert (stale.status_code, stale.json()) == (
        200,
        {"success": False, "error": "version-mismatch", "currentVersion": 2, "currentData": "k2"},
    )
    key = (await a.get(path)).json()["accessKey"]
    assert key == {"data": "k2", "dataVersion": 2, "createdAt": now, "updatedAt": now + 1000}


async def test_session_and_machine_must_both_be_the_callers(a: Guest, b: Guest) -> None:
    path, theirs = await path_of(a), await path_of(b, "n")
    session, machine = path.split("/")[-2:]
    their_session, their_machine = theirs.split("/")[-2:]
    await a.post(path, json={"data": "k"})
    for wrong in (
        f"/v1/access-keys/{their_session}/{machine}",
        f"/v1/access-keys/{session}/{their_machine}",
        f"/v1/access-keys/{session}/nothing",
        "/v1/access-keys/nothing/nothing",
        theirs,
    ):
        for answer in (await a.get(wrong), await a.post(wrong, json={"data": "k"})):
            assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
        assert (await a.put(wrong, json={"data": "k", "expectedVersion": 1})).status_code == 404
    for answer in (await b.get(path), await b.put(path, json={"data": "x", "expectedVersion": 1})):
        assert answer.status_code == 404
    assert (await a.get(path)).json()["accessKey"]["data"] == "k"


@pytest.mark.parametrize("body", [{}, {"data": ""}, {"data": 5}, {"data": "x" * 500_001}, []])
async def test_a_key_that_does_not_fit_is_refused(a: Guest, body: Any) -> None:
    path = await path_of(a)
    assert (await a.post(path, json=body)).status_code == 400
    assert (await a.put(path, json=body)).status_code == 400


@pytest.mark.parametrize("version", [-1, "1", None, 1.5])
async def test_a_version_that_is_none_is_refused(a: Guest, version: Any) -> None:
    path = await path_of(a)
    assert (await a.put(path, json={"data": "k", "expectedVersion": version})).status_code == 400


async def test_of_twenty_writers_one_makes_and_one_changes_a_key(a: Guest) -> None:
    path = await path_of(a)
    made = await asyncio.gather(*[a.post(path, json={"data": f"{number}"}) for number in range(20)])
    assert sorted(answer.status_code for answer in made) == [200] + [409] * 19
    changes = await asyncio.gather(
        *[a.put(path, json={"data": f"new {number}", "expectedVersion": 1}) for number in range(20)]
    )
    won = [answer.json() for answer in changes if answer.json()["success"]]
    assert won == [{"success": True, "version": 2}]
    current = (await a.get(path)).json()["accessKey"]["data"]
    assert all(answer.json()["currentData"] == current for answer in changes if not answer.json()["success"])


async def test_a_socket_reads_keys_of_its_own_account(a: Guest, b: Guest) -> None:
    path = await path_of(a)
    session, machine = path.split("/")[-2:]
    wanted = {"sessionId": session, "machineId": machine}
    async with a.socket() as socket, b.socket() as spy:
        assert await socket.emit("access-key-get", wanted, ack=True) == {"ok": True, "accessKey": None}
        stored = (await a.post(path, json={"data": "k"})).json()["accessKey"]
        assert await socket.emit("access-key-get", wanted, ack=True) == {"ok": True, "accessKey": stored}
        not_found = {"ok": False, "error": "Session or machine not found"}
        assert await spy.emit("access-key-get", wanted, ack=True) == not_found
        for wrong in (None, {}, {"sessionId": session}, {"sessionId": session, "machineId": 5}):
            assert await socket.emit("access-key-get", wrong, ack=True) == {"ok": False, "error": "Invalid parameters"}
        assert await socket.seen() == []
